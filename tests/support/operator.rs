//! The operator as its users start it: the program with its flags, the rights of a service account, its signals.

use std::{
    env,
    fs::File,
    io::{Read, Seek},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use k8s_openapi::{
    api::core::v1::{Namespace, ServiceAccount},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{Api, api::PostParams};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tempfile::NamedTempFile;

use crate::{
    kubernetes::{Kubernetes, User, from_json},
    port::Port,
    program::Ended,
    relay::http,
    runtime::wait,
    wait::{eventually, within},
};

/// Where the operator is at home.
pub const NAMESPACE: &str = "backupmx-system";
/// The image that it is told to give to relays. Nobody runs it.
pub const RELAY_IMAGE: &str = "registry.example/backupmx-relay:test";
/// From start to acting. Generous: the machine may be busy.
const START_LIMIT: Duration = Duration::from_secs(60);
/// From SIGTERM to its end: what is under way is ended, the lease given away.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// An operator. Dropping it kills it; if the test fails, its log is printed.
pub struct Operator {
    process: Child,
    observe: Port,
    log: NamedTempFile,
}

impl Operator {
    /// Makes the cluster know the kind, and gives a service account the rights that an operator needs.
    #[track_caller]
    pub fn install(cluster: &Kubernetes) {
        let ended = cluster.kubectl(&["apply", "--server-side", "-f", &path("../crds/backupmx.yaml")]);
        assert_eq!(ended.code, Some(0), "{ended}");
        let namespaces: Api<Namespace> = Api::all(cluster.client());
        let namespace = from_json(json!({ "metadata": { "name": NAMESPACE } }));
        wait(namespaces.create(&PostParams::default(), &namespace)).expect("the namespace is new");
        let accounts: Api<ServiceAccount> = Api::namespaced(cluster.client(), NAMESPACE);
        let account = from_json(json!({ "metadata": { "name": "backupmx-operator" } }));
        wait(accounts.create(&PostParams::default(), &account)).expect("the account is new");
        let account = format!("--serviceaccount={NAMESPACE}:backupmx-operator");
        for arguments in [
            &["apply", "-n", NAMESPACE, "-f", &path("operator/rbac.yaml")][..],
            &["create", "clusterrolebinding", "backupmx-operator", "--clusterrole=backupmx-operator", &account],
            &["create", "rolebinding", "-n", NAMESPACE, "backupmx-operator", "--role=backupmx-operator", &account],
        ] {
            let ended = cluster.kubectl(arguments);
            assert_eq!(ended.code, Some(0), "{ended}");
        }
        let definitions: Api<CustomResourceDefinition> = Api::all(cluster.client());
        eventually(START_LIMIT, "the kind is known", || {
            let definition = wait(definitions.get("backupmxes.backupmx.io")).expect("it was applied");
            let conditions = definition.status.and_then(|status| status.conditions).unwrap_or_default();
            conditions.iter().any(|condition| condition.type_ == "Established" && condition.status == "True")
        });
    }

    /// Starts one, with its own rights and nothing but these flags besides the usual ones.
    #[track_caller]
    pub fn start(cluster: &Kubernetes, flags: &[&str]) -> Self {
        let kubeconfig =
            cluster.kubeconfig(User::ServiceAccount { namespace: NAMESPACE, name: "backupmx-operator" });
        let (observe, log) = (Port::reserve(), NamedTempFile::new().expect("a temporary file can be made"));
        let mut command = Command::new(program());
        command.env_clear().env("KUBECONFIG", kubeconfig).env("HOSTNAME", "operator");
        command.args(["--relay-image", RELAY_IMAGE, "--lease-namespace", NAMESPACE, "--log-format", "json"]);
        command.args(["--observe", &observe.address().to_string(), "--log-level", "debug"]).args(flags);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.reopen().expect("our file is ours"));
        let process = command.spawn().expect("the operator can be started");
        Self { process, observe, log }
    }

    /// Starts one, and waits until it acts.
    #[track_caller]
    pub fn acting(cluster: &Kubernetes, flags: &[&str]) -> Self {
        let operator = Self::start(cluster, flags);
        eventually(START_LIMIT, "the operator acts", || operator.log().contains("acts: all"));
        operator
    }

    /// Where it tells metrics and health.
    pub fn observe(&self) -> SocketAddr {
        self.observe.address()
    }

    /// What a page of its observe port says, with the code before it.
    pub fn page(&self, path: &str) -> String {
        let answer = http::get(self.observe(), path, None);
        format!("{} {}", answer.code, answer.body)
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        let mut file: File = self.log.reopen().expect("our file is ours");
        let mut text = String::new();
        file.rewind().and_then(|()| file.read_to_string(&mut text).map(drop)).expect("a log can be read");
        text
    }

    /// Its resident memory.
    pub fn memory_bytes(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).expect("it runs");
        let line = text.lines().find(|line| line.starts_with("VmRSS:")).expect("a process has memory");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("it is a number") << 10
    }

    /// Asks it to stop, and returns its exit code.
    #[track_caller]
    pub fn terminate(&mut self) -> Option<i32> {
        let pid = Pid::from_child(&self.process);
        kill_process(pid, Signal::TERM).expect("it runs");
        self.wait_for_end(STOP_LIMIT).code
    }

    /// Kills it.
    pub fn kill9(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait_for_end(&mut self, limit: Duration) -> Ended {
        let status = within(limit, || self.process.try_wait().expect("a child can be waited for"));
        let status = status.unwrap_or_else(|| panic!("the operator has not ended after {limit:?}"));
        Ended { code: status.code(), stdout: String::new(), stderr: self.log() }
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.kill9();
        if std::thread::panicking() {
            eprintln!("--- log of the operator\n{}", self.log());
        }
    }
}

fn path(from_tests: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(from_tests).display().to_string()
}

fn program() -> PathBuf {
    let ours = env::current_exe().expect("a program knows where it is");
    let folder = ours.parent().expect("a program is in a folder");
    let folder = if folder.ends_with("deps") { folder.parent().expect("deps is in a folder") } else { folder };
    let operator = folder.join("backupmx-operator");
    assert!(operator.is_file(), "{} is missing: run `make test`", operator.display());
    operator
}
