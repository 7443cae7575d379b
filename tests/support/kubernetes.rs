//! A real Kubernetes without nodes: etcd, API server and controllers, each cluster with certificates, ports and a folder of its
//! own. `tests/tools/kubernetes.sh` builds the programs. Pods are played, see [`pods`].
//!
//! Tests that need no outage share one cluster, each in a [`Namespace`] of its own.

use std::{
    fs,
    net::SocketAddr,
    ops::Deref,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        LazyLock, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use k8s_openapi::api::{
    authentication::v1::TokenRequest,
    core::v1::{Namespace as NamespaceObject, ServiceAccount},
};
use kube::{
    Api, Client, Config,
    api::{DeleteParams, PostParams},
    config::Kubeconfig,
};
use rustls::crypto::ring;
use serde_json::json;
use ureq::http::Request;

use crate::{
    port::Port,
    program::{self, Ended},
    runtime::wait,
    wait::eventually,
};

mod audit;
mod metrics;
mod pki;
pub mod pods;
mod programs;
#[cfg(test)]
mod tests;

pub use audit::{Mark, Write};
use pki::{API_SERVER, Authority, Proof};
use programs::Processes;

/// For each step of a start, and for what a controller does at once. Generous: the machine may be busy.
const LIMIT: Duration = Duration::from_secs(60);

/// Who may do everything.
const ADMIN: &str = "admin";
/// The API server gives this name what controllers need.
const CONTROLLERS: &str = "system:kube-controller-manager";
/// Those that a cluster of relays meets. Without nodes, what looks after nodes would remove the pods that are played.
const CONTROLLERS_RUN: &str = "clusterrole-aggregation-controller,deployment-controller,disruption-controller,\
    endpointslice-controller,garbage-collector-controller,namespace-controller,persistentvolume-binder-controller,\
    persistentvolumeclaim-protection-controller,replicaset-controller,root-ca-certificate-publisher-controller,\
    serviceaccount-controller,statefulset-controller,validatingadmissionpolicy-status-controller";

/// A cluster. Dropping it ends it; if the test fails, the ends of its logs are printed.
pub struct Kubernetes {
    folder: PathBuf,
    processes: Mutex<Processes>,
    authority: Authority,
    etcd: [Port; 2],
    api_server: Port,
    admin: PathBuf,
    client: Client,
}

/// Whose rights a client has.
#[derive(Clone, Copy, Debug)]
pub enum User<'a> {
    /// All rights.
    Admin,
    /// Those that roles give to a service account that exists.
    ServiceAccount {
        /// Its namespace.
        namespace: &'a str,
        /// Its name.
        name: &'a str,
    },
}

/// A namespace of a cluster. Dropping it has it deleted, which nobody waits for: it takes five seconds at least.
pub struct Namespace<'a> {
    cluster: &'a Kubernetes,
    name: String,
}

/// The cluster that the tests of one program share. It ends with the program.
pub fn shared() -> &'static Kubernetes {
    static SHARED: LazyLock<Kubernetes> = LazyLock::new(Kubernetes::start);
    &SHARED
}

impl Kubernetes {
    /// A new one, ready to be asked. Its controllers may still be starting.
    ///
    /// # Panics
    /// If the programs were not built, or one of them ends.
    #[track_caller]
    pub fn start() -> Self {
        // Before the first client: two crates of the tree may bring a provider, and rustls guesses none.
        let _ = ring::default_provider().install_default();
        let mut processes = Processes::prepare();
        let authority = Authority::prepare(processes.folder());
        authority.issue(ADMIN, Some("system:masters"));
        authority.issue(CONTROLLERS, None);
        fs::write(processes.folder().join("audit-policy.yaml"), audit::POLICY).expect("our folder is ours");

        let (etcd, api_server) = ([Port::reserve(), Port::reserve()], Port::reserve());
        let admin = authority.write_kubeconfig("admin", api_server.address(), &Proof::Certificate(ADMIN));
        let controllers =
            authority.write_kubeconfig("controllers", api_server.address(), &Proof::Certificate(CONTROLLERS));
        let client = client(&admin);

        processes.start("etcd", &etcd_flags(processes.folder(), &etcd));
        let (folder, processes) = (processes.folder().to_owned(), Mutex::new(processes));
        let cluster = Self { folder, processes, authority, etcd, api_server, admin, client };
        cluster.start_api_server();
        // Not before: they wait for an API server for 10 s only, and then they end.
        let flags = controllers_flags(&controllers, &cluster.authority);
        cluster.processes().start("kube-controller-manager", &flags);
        cluster
    }

    /// Where the API server is.
    pub fn address(&self) -> SocketAddr {
        self.api_server.address()
    }

    /// A client with all rights.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// A client with a user's rights.
    #[track_caller]
    pub fn client_of(&self, user: User) -> Client {
        client(&self.kubeconfig(user))
    }

    /// A kubeconfig for a program that is to have a user's rights.
    #[track_caller]
    pub fn kubeconfig(&self, user: User) -> PathBuf {
        static WRITTEN: AtomicU64 = AtomicU64::new(0);
        let User::ServiceAccount { namespace, name } = user else { return self.admin.clone() };
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client(), namespace);
        let request: TokenRequest = from_json(json!({ "spec": { "audiences": [], "expirationSeconds": 24 * 3600 } }));
        let token = wait(accounts.create_token_request(name, &PostParams::default(), &request));
        let token = token.unwrap_or_else(|error| panic!("ask for a token of {namespace}/{name}: {error}"));
        let token = token.status.expect("who is given a token is told it").token;
        let file = format!("{namespace}-{name}-{}", WRITTEN.fetch_add(1, Ordering::Relaxed));
        self.authority.write_kubeconfig(&file, self.address(), &Proof::Token(&token))
    }

    /// A new namespace, in which pods can be made.
    #[track_caller]
    pub fn namespace(&self) -> Namespace<'_> {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let name = format!("test-{}", MADE.fetch_add(1, Ordering::Relaxed));
        let object = from_json(json!({ "metadata": { "name": name } }));
        let namespaces: Api<NamespaceObject> = Api::all(self.client());
        let made = wait(namespaces.create(&PostParams::default(), &object));
        made.unwrap_or_else(|error| panic!("create namespace {name}: {error}"));
        let namespace = Namespace { cluster: self, name };
        // Without it the API server refuses all pods. A controller makes it.
        let accounts = namespace.api::<ServiceAccount>();
        eventually(LIMIT, "the default service account", || wait(accounts.get("default")).is_ok());
        namespace
    }

    /// Ends the API server: an outage that cuts connections and then refuses them. Objects stay.
    #[track_caller]
    pub fn stop_api_server(&self) {
        self.processes().kill("kube-apiserver");
    }

    /// Starts the API server again, at the same address, and waits until it is ready.
    #[track_caller]
    pub fn start_api_server(&self) {
        let flags = api_server_flags(self);
        self.processes().start("kube-apiserver", &flags);
        let client = self.client();
        self.processes().until("the API server is ready", || wait(ask(&client, "/readyz")).is_ok());
    }

    /// Runs `kubectl` with all rights.
    #[track_caller]
    pub fn kubectl(&self, arguments: &[&str]) -> Ended {
        let program = programs::folder().join("kubectl");
        assert!(program.is_file(), "{} is missing: unset KUBEBUILDER_ASSETS, or put it there", program.display());
        let mut command = Command::new(program);
        // It remembers what kinds an address serves, for hours: another cluster may have that address by then.
        command.env_clear().env("KUBECONFIG", &self.admin).env("KUBECACHEDIR", self.folder.join("kubectl"));
        program::run(command.args(arguments), LIMIT)
    }

    /// The sum of a metric of the API server, over all samples that have these labels. 0 if it has not yet been counted.
    #[track_caller]
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let text = wait(ask(&self.client, "/metrics")).unwrap_or_else(|error| panic!("ask for metrics: {error}"));
        metrics::sum(&text, name, labels)
    }

    /// The end of the audit log.
    pub fn mark(&self) -> Mark {
        Mark(fs::metadata(self.audit_log()).map(|file| file.len()).unwrap_or_default())
    }

    /// Requests that were answered since then and may have changed something, whoever sent them.
    #[track_caller]
    pub fn writes_since(&self, mark: Mark) -> Vec<Write> {
        audit::writes_since(&self.audit_log(), mark)
    }

    /// Numbers of the processes by name.
    pub fn pids(&self) -> Vec<(&'static str, u32)> {
        self.processes().pids()
    }

    fn processes(&self) -> MutexGuard<'_, Processes> {
        // A test that panicked with it in hand has failed already; the others go on.
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn audit_log(&self) -> PathBuf {
        self.folder.join("audit.log")
    }
}

impl Namespace<'_> {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Objects of one kind in it, with all rights.
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.cluster.client(), &self.name)
    }

    /// Requests since then that were about it, whoever sent them.
    #[track_caller]
    pub fn writes_since(&self, mark: Mark) -> Vec<Write> {
        let mut writes = self.cluster.writes_since(mark);
        writes.retain(|write| write.namespace == self.name);
        writes
    }
}

impl Deref for Namespace<'_> {
    type Target = Kubernetes;

    fn deref(&self) -> &Kubernetes {
        self.cluster
    }
}

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            eprint!("{}", self.cluster.processes().ends_of_logs());
        }
        let namespaces: Api<NamespaceObject> = Api::all(self.cluster.client());
        // Fails if the API server is away, and then nobody needs it.
        let _ = wait(namespaces.delete(&self.name, &DeleteParams::default()));
    }
}

/// An object from its JSON.
///
/// # Panics
/// If it is not of that kind.
#[track_caller]
pub fn from_json<K: serde::de::DeserializeOwned>(json: serde_json::Value) -> K {
    serde_json::from_value(json).unwrap_or_else(|error| panic!("no {}: {error}", std::any::type_name::<K>()))
}

async fn ask(client: &Client, path: &str) -> Result<String, kube::Error> {
    client.request_text(Request::get(path).body(Vec::new()).expect("it is a path")).await
}

fn client(kubeconfig: &Path) -> Client {
    let config = Kubeconfig::read_from(kubeconfig).expect("our kubeconfig is one");
    wait(async {
        let config = Config::from_custom_kubeconfig(config, &Default::default()).await;
        Client::try_from(config.expect("our kubeconfig is one")).expect("our certificates are such")
    })
}

fn etcd_flags(folder: &Path, [clients, peers]: &[Port; 2]) -> Vec<String> {
    let (clients, peers) = (clients.address(), peers.address());
    vec![
        "--name=only".to_owned(),
        format!("--data-dir={}", folder.join("etcd").display()),
        // Nothing here must outlive the machine, and nine syncs of ten would wait for the disk of the other tests.
        "--unsafe-no-fsync".to_owned(),
        format!("--listen-client-urls=http://{clients}"),
        format!("--advertise-client-urls=http://{clients}"),
        format!("--listen-peer-urls=http://{peers}"),
        format!("--initial-advertise-peer-urls=http://{peers}"),
        format!("--initial-cluster=only=http://{peers}"),
        "--log-level=warn".to_owned(),
    ]
}

fn api_server_flags(cluster: &Kubernetes) -> Vec<String> {
    let folder = cluster.folder.display();
    let authority = cluster.authority.certificate();
    let [checks_tokens, signs_tokens] = cluster.authority.token_keys();
    let [certificate, key] = cluster.authority.issued(API_SERVER);
    vec![
        "--bind-address=127.0.0.1".to_owned(),
        format!("--secure-port={}", cluster.address().port()),
        format!("--etcd-servers=http://{}", cluster.etcd[0].address()),
        "--authorization-mode=RBAC".to_owned(),
        "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
        "--external-hostname=127.0.0.1".to_owned(),
        // Nobody reaches it through a Service.
        "--endpoint-reconciler-type=none".to_owned(),
        format!("--client-ca-file={}", authority.display()),
        format!("--tls-cert-file={}", certificate.display()),
        format!("--tls-private-key-file={}", key.display()),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
        format!("--service-account-key-file={}", checks_tokens.display()),
        format!("--service-account-signing-key-file={}", signs_tokens.display()),
        format!("--audit-policy-file={folder}/audit-policy.yaml"),
        format!("--audit-log-path={folder}/audit.log"),
        // Otherwise a write may be answered before it is logged.
        "--audit-log-mode=blocking".to_owned(),
    ]
}

fn controllers_flags(kubeconfig: &Path, authority: &Authority) -> Vec<String> {
    vec![
        format!("--kubeconfig={}", kubeconfig.display()),
        format!("--controllers={CONTROLLERS_RUN}"),
        format!("--root-ca-file={}", authority.certificate().display()),
        // Each controller with the rights that it has in real clusters, and a name of its own in the audit log.
        "--use-service-account-credentials=true".to_owned(),
        // There is only one: no waiting for a lease.
        "--leader-elect=false".to_owned(),
        // It serves nobody.
        "--secure-port=0".to_owned(),
        // The defaults, 20 and 30 a second, delay tests that make many objects.
        "--kube-api-qps=300".to_owned(),
        "--kube-api-burst=600".to_owned(),
    ]
}
