//! A real Kubernetes of one node: `tests/cluster/` brings it up, in namespaces of its own, with the images that `make test` has
//! built. Tests share it, each in a namespace (of the cluster) of its own; servers and clients outside it are [`Neighbour`]s.

use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        LazyLock, OnceLock,
        atomic::{AtomicU8, AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::{
    Client, DOMAIN,
    netns::Network,
    port::Port,
    program::{self, Ended},
    tools,
    wait::{eventually, within},
};

/// For an order to kubectl or helm. Generous: both may wait for something.
const ORDER_LIMIT: Duration = Duration::from_secs(180);
/// Longer than all tests take; were this program killed without its keeper, the cluster would end itself then.
const LIFE_SECONDS: u32 = 3600;
/// Of each container, when a test fails.
const LINES_SHOWN: usize = 15;
/// Each look at an object is a program of its own, which takes a tenth of a second of a core.
const BETWEEN_LOOKS: Duration = Duration::from_millis(700);
/// SMTP.
const SMTP_PORT: u16 = 25;

/// Brings the cluster up, says so, and takes it down when nobody holds its standard input any more: also when the tests end
/// without a word. Who comes while another one is up waits for its end.
const KEEPER: &str = "trap '' HUP INT TERM
mkdir -p \"$CLUSTER_STATE\"
exec 9>\"$CLUSTER_STATE/lock\"
flock -n 9 || { echo 'Waiting until another cluster for tests has ended ...' >&2; flock 9; }
\"$1/down.sh\" >/dev/null 9>&-
\"$1/up.sh\" 9>&- || exit 1
while read -r _; do :; done
\"$1/down.sh\" >/dev/null 9>&-";

/// The cluster.
pub struct Cluster {
    scripts: PathBuf,
    environment: Vec<(&'static str, String)>,
    path: String,
    node: OnceLock<Network>,
    _keeper: Child,
}

/// A machine beside the node, with an address of its own.
#[derive(Clone, Debug)]
pub struct Neighbour {
    /// Its address.
    pub address: Ipv4Addr,
    /// Its network.
    pub network: Network,
}

/// A namespace of the cluster. Dropping it has it deleted, which nobody waits for.
pub struct Namespace {
    name: String,
}

/// The one that the tests of this program share. It ends with the program.
///
/// # Panics
/// If it does not come up: it says what is missing.
pub fn cluster() -> &'static Cluster {
    static SHARED: LazyLock<Cluster> = LazyLock::new(Cluster::start);
    &SHARED
}

impl Cluster {
    fn start() -> Self {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
        let port = Port::reserve().address().port();
        let environment = vec![
            ("CLUSTER_STATE", state().to_string_lossy().into_owned()),
            ("CLUSTER_PORT", port.to_string()),
            ("CLUSTER_TTL", LIFE_SECONDS.to_string()),
        ];
        let scripts = tests.join("cluster");
        let mut command = Command::new("bash");
        // In a group of its own, out of reach of the terminal's Ctrl-C.
        command.args(["-c", KEEPER, "keeper"]).arg(&scripts).envs(environment.clone()).process_group(0);
        let mut keeper = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("bash can be started");
        let said = keeper.stdout.take().map(BufReader::new).and_then(|lines| lines.lines().next());
        let up = said.and_then(Result::ok).unwrap_or_else(|| panic!("no cluster came up: see above"));
        println!("{up}");
        let programs = ["kubernetes.sh", "helm.sh"].map(|script| {
            let mut command = Command::new(tests.join("tools").join(script));
            let ended = program::run(command.env_remove("KUBEBUILDER_ASSETS").arg("--find"), ORDER_LIMIT);
            assert_eq!(ended.code, Some(0), "{ended}");
            ended.stdout.trim_end().to_owned()
        });
        let path = format!("{}:{}", programs.join(":"), env::var("PATH").unwrap_or_default());
        Self { scripts, environment, path, node: OnceLock::new(), _keeper: keeper }
    }

    /// A file of the cluster's state, for instance `admin.kubeconfig`.
    pub fn file(&self, name: &str) -> PathBuf {
        state().join(name)
    }

    /// Runs kubectl with these words, parted by blanks.
    #[track_caller]
    pub fn try_kubectl(&self, words: &str) -> Ended {
        program::run(self.command("kubectl").args(words.split_whitespace()), ORDER_LIMIT)
    }

    /// The same, and it must succeed. Returns what it prints.
    #[track_caller]
    pub fn kubectl(&self, words: &str) -> String {
        expect_success("kubectl", words, self.try_kubectl(words))
    }

    /// Runs kubectl with these arguments as they are.
    #[track_caller]
    pub fn kubectl_with(&self, arguments: &[&str]) -> String {
        let ended = program::run(self.command("kubectl").args(arguments), ORDER_LIMIT);
        expect_success("kubectl", &arguments.join(" "), ended)
    }

    /// Runs helm with these words, parted by blanks. `CHART` is the chart of this repository.
    #[track_caller]
    pub fn helm(&self, words: &str) -> String {
        let chart = repository().join("charts/backupmx");
        let arguments =
            words.split_whitespace().map(|word| if word == "CHART" { chart.as_os_str() } else { word.as_ref() });
        expect_success("helm", words, program::run(self.command("helm").args(arguments), ORDER_LIMIT))
    }

    /// Applies objects; those that name no namespace go into this one. Returns what kubectl prints.
    #[track_caller]
    pub fn apply(&self, namespace: &str, yaml: &str) -> String {
        let ended = self.try_apply(namespace, yaml);
        expect_success("kubectl", "apply", ended)
    }

    /// The same, and it may be refused.
    #[track_caller]
    pub fn try_apply(&self, namespace: &str, yaml: &str) -> Ended {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
        file.write_all(yaml.as_bytes()).expect("a temporary file can be written");
        let mut command = self.command("kubectl");
        command.args(["apply", "--server-side", "--namespace", namespace, "--filename"]).arg(file.path());
        program::run(&mut command, ORDER_LIMIT)
    }

    /// What `kubectl get` finds, as JSON: an object, or a list. None if there is no such object.
    #[track_caller]
    pub fn get(&self, namespace: &str, what: &str) -> Option<Value> {
        let words = format!("get --namespace {namespace} --ignore-not-found --output json {what}");
        let text = self.kubectl(&words);
        (!text.trim().is_empty()).then(|| serde_json::from_str(&text).expect("kubectl prints JSON"))
    }

    /// Runs a command in all of the node's namespaces, where containers are processes.
    #[track_caller]
    pub fn in_node(&self, arguments: &[&str]) -> Ended {
        self.enter(&[&["--all"], arguments].concat())
    }

    /// The node itself: pods, Services and its DNS at `10.200.0.1` are reached from it.
    pub fn node(&self) -> Network {
        self.node.get_or_init(|| self.network(&[])).clone()
    }

    /// Another machine beside the node.
    #[track_caller]
    pub fn neighbour(&self) -> Neighbour {
        // The first is the node's own; those above 200 are left to people.
        static NEXT: AtomicU8 = AtomicU8::new(2);
        let last = NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(last < 200, "so many neighbours are not foreseen");
        let address = Ipv4Addr::new(10, 200, 0, last);
        Neighbour { address, network: self.network(&[&address.to_string()]) }
    }

    /// An empty namespace, whose name begins like this.
    #[track_caller]
    pub fn namespace(&self, prefix: &str) -> Namespace {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let name = format!("{prefix}-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.create_namespace(&name, "restricted");
        Namespace { name }
    }

    /// A namespace whose pods are held to this level of Pod Security.
    #[track_caller]
    pub fn create_namespace(&self, name: &str, level: &str) {
        self.kubectl(&format!("create namespace {name}"));
        self.kubectl(&format!("label namespace {name} pod-security.kubernetes.io/enforce={level}"));
    }

    fn network(&self, address: &[&str]) -> Network {
        let ended = self.enter(&[&["--where"], address].concat());
        Network::of(ended.stdout.trim_end().into())
    }

    fn enter(&self, arguments: &[&str]) -> Ended {
        let mut command = Command::new(self.scripts.join("enter.sh"));
        let ended = program::run(command.envs(self.environment.clone()).args(arguments), ORDER_LIMIT);
        assert_eq!(ended.code, Some(0), "enter.sh {arguments:?}: {ended}");
        ended
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("PATH", &self.path).env("KUBECONFIG", self.file("admin.kubeconfig"));
        command.env("KUBECACHEDIR", self.file("run/kubectl-cache"));
        command
    }
}

impl Neighbour {
    /// Its port for mail.
    pub fn smtp(&self) -> Port {
        Port::reserve_at(SocketAddrV4::new(self.address, SMTP_PORT), self.network.clone())
    }

    /// Waits until a server greets it: the node's rules follow what the API server tells after a moment.
    #[track_caller]
    pub fn until_greeted(&self, smtp: SocketAddr) {
        eventually(ORDER_LIMIT, "a greeting", || self.network.enter(|| Client::hello(smtp).is_ok()));
    }
}

impl Namespace {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Namespace {
    /// What is in it, and what its pods said last, those that ended too.
    fn show(&self) {
        let kubectl = |words: &str| cluster().try_kubectl(&format!("--namespace {} {words}", self.name)).stdout;
        eprintln!("--- what is in {}\n{}", self.name, kubectl("get bmx,all,pvc,events --output wide"));
        for pod in kubectl("get pods --output name").lines() {
            for life in ["--previous", ""] {
                eprint!("{}", kubectl(&format!("logs {pod} --all-containers --prefix --tail={LINES_SHOWN} {life}")));
            }
        }
        eprintln!("---");
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if thread::panicking() {
            self.show();
        }
        cluster().try_kubectl(&format!("delete namespace {} --wait=false", self.name));
    }
}

/// What the domain of the tests would say to the whole internet, for the cluster's DNS: who its primary is.
pub fn serve_zone(mx1: Ipv4Addr) {
    let zone = format!(
        "$ORIGIN {DOMAIN}.\n@ 1 IN SOA ns.{DOMAIN}. hostmaster.{DOMAIN}. 1 1 1 1 1\n@ 1 IN NS ns.{DOMAIN}.\n\
         @ 1 IN MX 10 mx1\nmx1 1 IN A {mx1}\nns 1 IN A 10.200.0.1\n"
    );
    fs::write(state().join(format!("run/zones/{DOMAIN}.zone")), zone).expect("the folder of the zones is ours");
}

/// The folder that this repository is in.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests are in the repository").to_owned()
}

/// Waits until kubectl finds it like this. Returns it.
///
/// # Panics
/// After `limit`, with what it found last.
#[track_caller]
pub fn until(
    limit: Duration,
    what: &str,
    mut look: impl FnMut() -> Option<Value>,
    holds: impl Fn(&Value) -> bool,
) -> Value {
    let mut last = Value::Null;
    let found = within(limit, || {
        last = look().unwrap_or_default();
        let holds = holds(&last);
        if !holds {
            thread::sleep(BETWEEN_LOOKS);
        }
        holds.then_some(())
    });
    assert!(found.is_some(), "waited {limit:?} in vain: {what}; it is {last:#}");
    last
}

#[track_caller]
fn expect_success(program: &str, words: &str, ended: Ended) -> String {
    assert_eq!(ended.code, Some(0), "{program} {words}: {ended}");
    ended.stdout
}

fn state() -> PathBuf {
    tools::cache().join("test-cluster")
}
