//! A namespace with an operator of its own, installed by the chart; a primary and a sender on machines beside the node.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::{LazyLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Duration,
};

use serde_json::{Value, json};
pub use support::resource::{condition, merged};
use support::{
    DOMAIN,
    cluster::{Namespace, Neighbour, cluster, repository, until},
    load::{Comparison, Load, Sent},
    netns::Network,
    postfix::Postfix,
    server::{Delivered, Duties},
};

/// For whatever takes some seconds on an idle machine.
pub const LIMIT: Duration = Duration::from_secs(120);
/// The resource of most tests.
pub const NAME: &str = "mx";
/// Where the operator of the quick start is installed.
pub const HOME: &str = "backupmx-system";

/// The operator of the quick start works for all namespaces: while it is there no other may be.
static ALL_NAMESPACES: RwLock<()> = RwLock::new(());

/// All that a test needs.
pub struct Scene {
    pub namespace: Namespace,
    /// Is where the primary is, or will be.
    pub primary: Postfix,
    pub sender: Neighbour,
    _others_wait: RwLockReadGuard<'static, ()>,
}

impl Scene {
    /// An operator that looks after this namespace alone, and a primary that runs.
    #[track_caller]
    pub fn new(prefix: &str) -> Self {
        let scene = Self::away(prefix);
        scene.primary.start();
        scene
    }

    /// The same with a primary that is away: connections are refused.
    #[track_caller]
    pub fn away(prefix: &str) -> Self {
        Self::without_operator(prefix).install("CHART")
    }

    /// With the operator of another chart.
    #[track_caller]
    pub fn installed_from(prefix: &str, chart: &Path) -> Self {
        let scene = Self::without_operator(prefix).install(&chart.to_string_lossy());
        scene.primary.start();
        scene
    }

    /// Nobody looks after it, and the primary is away.
    #[track_caller]
    pub fn without_operator(prefix: &str) -> Self {
        let others_wait = ALL_NAMESPACES.read().unwrap_or_else(PoisonError::into_inner);
        know_the_kind();
        let namespace = cluster().namespace(prefix);
        let primary = primary(&cluster().neighbour());
        Self { namespace, primary, sender: cluster().neighbour(), _others_wait: others_wait }
    }

    #[track_caller]
    fn install(self, chart: &str) -> Self {
        let name = self.name();
        // An older chart, too, gets the images that the node has.
        let version = env!("CARGO_PKG_VERSION");
        let values = format!(
            "--set watchNamespace={name} --set crds.install=false --set resources.requests.cpu=10m \
             --set image.tag={version} --set relay.image.tag={version}"
        );
        cluster().helm(&format!("install backupmx {chart} --namespace {name} {values} --wait"));
        self
    }

    /// Applies a resource of this spec, as far as it differs from [`Self::spec`].
    #[track_caller]
    pub fn apply(&self, changes: Value) {
        let spec = merged(self.spec(), changes);
        let mx = json!({
            "apiVersion": "backupmx.io/v1alpha1", "kind": "BackupMx", "metadata": { "name": NAME }, "spec": spec,
        });
        cluster().apply(self.name(), &mx.to_string());
    }

    /// The same, until mail is taken and kept by all of its relays.
    #[track_caller]
    pub fn with(self, changes: Value) -> Self {
        self.apply(changes);
        self.until_ready();
        self
    }

    #[track_caller]
    pub fn until_ready(&self) {
        self.until("all is ready", |mx| {
            let is = |kind: &str, status: &str| condition(mx, kind)["status"] == status;
            is("Ready", "True") && is("Progressing", "False") && is("Available", "True")
        });
        self.sender.until_greeted(self.smtp());
    }

    /// One relay for the domain of the tests.
    pub fn spec(&self) -> Value {
        json!({
            "domains": [DOMAIN],
            "hostname": support::HOSTNAME,
            "primary": { "hosts": [{ "host": self.primary.address().ip().to_string() }] },
            "replicas": 1,
            "storage": { "size": "1Gi" },
            // Many share one small node, and its scheduler counts what is asked for.
            "pod": { "resources": { "requests": { "cpu": "10m", "memory": "32Mi" } } },
        })
    }

    /// The namespace's name.
    pub fn name(&self) -> &str {
        self.namespace.name()
    }

    /// kubectl in the namespace, with these words.
    #[track_caller]
    pub fn kubectl(&self, words: &str) -> String {
        cluster().kubectl(&format!("--namespace {} {words}", self.name()))
    }

    /// What kubectl finds in it; null if there is none.
    #[track_caller]
    pub fn get(&self, what: &str) -> Value {
        cluster().get(self.name(), what).unwrap_or_default()
    }

    /// The resource; null if it is gone.
    #[track_caller]
    pub fn mx(&self) -> Value {
        self.get(&format!("backupmx/{NAME}"))
    }

    /// Waits until the resource is as wanted. Returns it.
    #[track_caller]
    pub fn until(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        until(LIMIT, what, || Some(self.mx()), holds)
    }

    /// Waits until a condition has this status, or this reason. Returns its message.
    #[track_caller]
    pub fn until_condition(&self, kind: &str, wanted: &str) -> String {
        let mx = self.until(&format!("{kind} is {wanted}"), |mx| {
            let condition = condition(mx, kind);
            condition["status"] == wanted || condition["reason"] == wanted
        });
        condition(&mx, kind)["message"].as_str().unwrap_or_default().to_owned()
    }

    /// Where senders reach the relays: the load balancer.
    #[track_caller]
    pub fn smtp(&self) -> SocketAddr {
        balancer(&self.mx())
    }

    /// Sends this load from outside the cluster.
    #[track_caller]
    pub fn send(&self, load: Load) -> Sent {
        let to = self.smtp();
        self.sender.network.enter(|| load.send(to))
    }

    /// How what the primary has got compares with what was sent.
    #[track_caller]
    pub fn compare(&self, load: &Load, sent: &Sent) -> Comparison {
        load.compare(sent, self.primary.mailbox().iter().map(Delivered::relayed))
    }

    /// Waits until the primary has all that was accepted, as it was sent. Some may have come twice.
    #[track_caller]
    pub fn until_delivered(&self, load: &Load, sent: &Sent) -> Comparison {
        let all = support::wait::within(LIMIT, || {
            let comparison = self.compare(load, sent);
            std::thread::sleep(Duration::from_millis(500));
            comparison.missing.is_empty().then_some(comparison)
        });
        let comparison =
            all.unwrap_or_else(|| panic!("not delivered: {:?}; {:#}", self.compare(load, sent), self.mx()));
        assert_eq!(comparison.altered, Vec::<u64>::new());
        comparison
    }

    /// The network of the node, from which pods can be asked.
    pub fn node(&self) -> Network {
        cluster().node()
    }

    /// What a relay says of itself at `/status`.
    #[track_caller]
    pub fn relay_status(&self, ordinal: usize) -> Value {
        let pod = self.get(&format!("pod/{NAME}-relay-{ordinal}"));
        let page = self.node().enter(|| support::relay::http::get((ip_of(&pod), 9125).into(), "/status", None));
        serde_json::from_str(&page.body).expect("a status is JSON")
    }
}

/// Nobody else is there meanwhile.
pub fn alone() -> RwLockWriteGuard<'static, ()> {
    ALL_NAMESPACES.write().unwrap_or_else(PoisonError::into_inner)
}

/// A Postfix on a machine of its own, which does not run yet.
#[track_caller]
pub fn primary(place: &Neighbour) -> Postfix {
    Postfix::prepare_at(place.smtp(), &Duties::default())
}

/// The address of a pod.
#[track_caller]
pub fn ip_of(pod: &Value) -> IpAddr {
    pod["status"]["podIP"].as_str().and_then(|ip| ip.parse().ok()).expect("the pod has an address")
}

/// Where the load balancer of this resource takes mail.
#[track_caller]
pub fn balancer(mx: &Value) -> SocketAddr {
    let address = mx["status"]["addresses"][0].as_str().and_then(|address| address.parse::<IpAddr>().ok());
    (address.unwrap_or_else(|| panic!("no address in {:#}", mx["status"])), 25).into()
}

/// Makes the cluster know the kind, as an earlier installation that was removed has left it. The quick start finds it so, too, if it is
/// not the first.
fn know_the_kind() {
    static KNOWN: LazyLock<()> = LazyLock::new(|| {
        let cluster = cluster();
        let text = std::fs::read_to_string(repository().join("crds/backupmx.yaml")).expect("the repository has it");
        cluster.apply("default", &text);
        let definition = "crd/backupmxes.backupmx.io";
        cluster.kubectl(&format!("label --overwrite {definition} app.kubernetes.io/managed-by=Helm"));
        cluster.kubectl(&format!(
            "annotate --overwrite {definition} meta.helm.sh/release-name=backupmx meta.helm.sh/release-namespace={HOME}"
        ));
        cluster.kubectl(&format!("wait --for=condition=Established --timeout=60s {definition}"));
    });
    *KNOWN
}
