//! A namespace of its own in the shared cluster, an operator that looks after it, and relays that are played.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use backupmx_relay_api::{config::Document, status::Status};
use k8s_openapi::{
    api::core::v1::{ConfigMap, Pod, Service, ServiceAccount},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
pub use support::resource::{condition, merged};
use support::{
    fake_relay::{FakeRelay, Fleet, raise_file_limit},
    kubernetes::{
        self, Kubernetes, Mark, Namespace, User, Write, from_json,
        pods::{Fate, Kubelet},
    },
    operator::{Operator, Setup},
    runtime::{spawn, wait},
    wait::{eventually, within},
};

/// For whatever takes a few seconds on an idle machine.
pub const LIMIT: Duration = Duration::from_secs(90);
/// The resource of most tests.
pub const NAME: &str = "mx";
/// How the operator calls itself in the cluster.
const ACCOUNT: &str = "backupmx-operator";
const RBAC: &str = include_str!("../operator/rbac.yaml");
/// Between two looks of the played mounts at the ConfigMap.
const MOUNTS_LOOK: Duration = Duration::from_millis(100);
/// Where the played load balancer takes mail.
pub const BALANCER: &str = "203.0.113.7";
/// Between two looks of it at the Services.
const BALANCER_LOOK: Duration = Duration::from_millis(500);

/// All that a test needs.
pub struct Scene {
    pub namespace: Namespace<'static>,
    pub relays: Arc<Relays>,
    pub kubelet: Kubelet,
    pub setup: Setup,
    pub operator: Option<Operator>,
}

/// The relays of a namespace, one for each pod that there ever was: its volume, so to say.
#[derive(Default)]
pub struct Relays {
    fleet: Fleet,
    fates: Mutex<BTreeMap<String, Fate>>,
    mounts_stale: AtomicBool,
    folder: Mutex<Option<PathBuf>>,
}

impl Scene {
    /// Nobody looks after its namespace.
    #[track_caller]
    pub fn without_operator() -> Self {
        Self { operator: None, ..Self::empty() }
    }

    /// An operator that looks after an empty namespace.
    #[track_caller]
    pub fn empty() -> Self {
        Self::in_cluster(kubernetes::shared())
    }

    /// The same with a resource of this spec, as far as it differs from [`spec`], whose relays report that they run it.
    #[track_caller]
    pub fn with(changes: Value) -> Self {
        let scene = Self::empty();
        scene.create(NAME, merged(spec(), changes));
        scene.until_condition("Ready", "True");
        scene
    }

    /// In this cluster, by an operator that has its rights in this one namespace only.
    #[track_caller]
    pub fn in_cluster(cluster: &'static Kubernetes) -> Self {
        let namespace = prepared(cluster);
        let kubeconfig = account(&namespace, "Role");
        let home = namespace.name().to_owned();
        Self::start(namespace, &kubeconfig, &home)
    }

    /// By an operator at home in another namespace, with rights in all.
    #[track_caller]
    pub fn from(home: &Namespace) -> Self {
        let kubeconfig = account(home, "ClusterRole");
        Self::start(prepared(kubernetes::shared()), &kubeconfig, home.name())
    }

    #[track_caller]
    fn start(namespace: Namespace<'static>, kubeconfig: &Path, home: &str) -> Self {
        let name = namespace.name().to_owned();
        let setup = Setup::new(kubeconfig.to_owned()).flags(&["--namespace", &name, "--lease-namespace", home]);
        let setup = setup.flags(&["--relay-image", "localhost/backupmx-relay:test"]);
        let relays = Arc::new(Relays::default());
        let playing = Arc::clone(&relays);
        let kubelet = Kubelet::play(&namespace, move |pod| playing.fate(pod));
        spawn(mount(namespace.api(), Arc::downgrade(&relays)));
        spawn(balance(namespace.api(), Arc::downgrade(&relays)));
        let operator = Some(setup.start());
        Self { namespace, relays, kubelet, setup, operator }
    }

    pub fn operator(&self) -> &Operator {
        self.operator.as_ref().expect("the operator was started")
    }

    /// Objects of the custom resource.
    pub fn resources(&self) -> Api<DynamicObject> {
        Api::namespaced_with(self.namespace.client(), self.namespace.name(), &resource())
    }

    #[track_caller]
    pub fn create(&self, name: &str, spec: Value) {
        self.try_create(name, spec).unwrap_or_else(|words| panic!("create {name}: {words}"));
    }

    /// What the API server says against it, if it does.
    pub fn try_create(&self, name: &str, spec: Value) -> Result<(), String> {
        let object = from_json(json!({
            "apiVersion": "backupmx.io/v1alpha1", "kind": "BackupMx", "metadata": { "name": name }, "spec": spec,
        }));
        wait(self.resources().create(&PostParams::default(), &object)).map(drop).map_err(|cause| cause.to_string())
    }

    /// Changes it by a merge patch.
    #[track_caller]
    pub fn patch(&self, name: &str, patch: Value) {
        self.try_patch(name, patch).unwrap_or_else(|words| panic!("patch {name}: {words}"));
    }

    pub fn try_patch(&self, name: &str, patch: Value) -> Result<(), String> {
        let patched = wait(self.resources().patch(name, &PatchParams::default(), &Patch::Merge(patch)));
        patched.map(drop).map_err(|cause| cause.to_string())
    }

    #[track_caller]
    pub fn delete(&self, name: &str, how: DeleteParams) {
        let deleted = wait(self.resources().delete(name, &how));
        deleted.unwrap_or_else(|cause| panic!("delete {name}: {cause}"));
    }

    /// The resource as it is; none if it is gone.
    #[track_caller]
    pub fn get(&self, name: &str) -> Option<Value> {
        let found = wait(self.resources().get_opt(name)).unwrap_or_else(|cause| panic!("get {name}: {cause}"));
        found.map(|object| serde_json::to_value(object).expect("an object is JSON"))
    }

    /// Waits until the resource is as wanted.
    #[track_caller]
    pub fn until(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let found = within(LIMIT, || self.get(NAME).filter(&holds));
        found.unwrap_or_else(|| {
            let now = self.get(NAME).unwrap_or_default();
            panic!("waited {LIMIT:?} in vain: {what}; the status is {:#}", now["status"])
        })
    }

    /// Waits until a condition has this status, or this reason. Returns its message.
    #[track_caller]
    pub fn until_condition(&self, kind: &str, wanted: &str) -> String {
        let what = format!("{kind} is {wanted}");
        let mx = self.until(&what, |mx| {
            let condition = condition(mx, kind);
            condition["status"] == wanted || condition["reason"] == wanted
        });
        condition(&mx, kind)["message"].as_str().unwrap_or_default().to_owned()
    }

    #[track_caller]
    pub fn until_gone(&self) {
        let gone = within(LIMIT, || self.get(NAME).is_none().then_some(()));
        gone.unwrap_or_else(|| panic!("it is still there: {:#}", self.get(NAME).unwrap_or_default()));
    }

    /// An object of a kind, as JSON.
    #[track_caller]
    pub fn object(&self, kind: &str, name: &str) -> Option<Value> {
        let found = wait(self.objects(kind).get_opt(name)).unwrap_or_else(|cause| panic!("get {kind} {name}: {cause}"));
        found.map(|object| serde_json::to_value(object).expect("an object is JSON"))
    }

    /// Objects of a kind that the operator makes.
    pub fn objects(&self, kind: &str) -> Api<DynamicObject> {
        let (group, version) = match kind {
            "StatefulSet" => ("apps", "v1"),
            "PodDisruptionBudget" => ("policy", "v1"),
            "NetworkPolicy" => ("networking.k8s.io", "v1"),
            _ => ("", "v1"),
        };
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        Api::namespaced_with(self.namespace.client(), self.namespace.name(), &resource)
    }

    /// Names of the objects of a kind that bear the operator's label, for instance `mx-relay`.
    #[track_caller]
    pub fn names(&self, kind: &str) -> Vec<String> {
        let ours = kube::api::ListParams::default().labels("app.kubernetes.io/managed-by=backupmx-operator");
        let found = wait(self.objects(kind).list(&ours)).unwrap_or_else(|cause| panic!("list {kind}: {cause}"));
        found.items.iter().map(ResourceExt::name_any).collect()
    }

    /// The relay of a pod, once there is one.
    #[track_caller]
    pub fn relay(&self, ordinal: usize) -> Arc<FakeRelay> {
        self.relays.of(&format!("{NAME}-relay-{ordinal}"))
    }

    /// What the operator has written since, but for its lease. Controllers write as well, and try again what played addresses do
    /// not allow them.
    #[track_caller]
    pub fn written_since(&self, mark: Mark) -> Vec<Write> {
        let mut writes = self.namespace.writes_since(mark);
        writes.retain(|write| write.user.ends_with(ACCOUNT) && write.resource != "leases");
        writes
    }

    /// Waits until the operator writes nothing for a while.
    #[track_caller]
    pub fn until_quiet(&self) {
        const QUIET: Duration = Duration::from_secs(2);
        eventually(LIMIT, "nothing is written", || {
            let mark = self.namespace.mark();
            std::thread::sleep(QUIET);
            self.written_since(mark).is_empty()
        });
    }
}

impl Relays {
    /// The relay of this pod; made when it is first asked for.
    pub fn of(&self, pod: &str) -> Arc<FakeRelay> {
        self.fleet.relay(pod)
    }

    /// From now on, another fate for this pod.
    pub fn let_be(&self, pod: &str, fate: Fate) {
        self.fates.lock().expect("nobody panics with it in hand").insert(pod.to_owned(), fate);
    }

    /// Whether the relays' mounts stand still, as on a node whose kubelet is stuck.
    pub fn hold_mounts(&self, are_stale: bool) {
        self.mounts_stale.store(are_stale, Ordering::Relaxed);
    }

    /// Where the documents appear as files, for relays that read them.
    pub fn mount_into(&self, folder: &Path) {
        *self.folder.lock().expect("nobody panics with it in hand") = Some(folder.to_owned());
    }

    fn write(&self, name: &str, text: &str) {
        let folder = self.folder.lock().expect("nobody panics with it in hand").clone();
        let Some(folder) = folder else { return };
        let file = folder.join(name);
        if std::fs::read_to_string(&file).is_ok_and(|there| there == text) {
            return;
        }
        // In one step, as a kubelet does it. Both fail once the test is over, and the folder is gone.
        let next = folder.join(".next");
        let _ = std::fs::write(&next, text).and_then(|()| std::fs::rename(next, file));
    }

    fn fate(&self, pod: &Pod) -> Fate {
        let name = pod.name_any();
        let told = self.fates.lock().expect("nobody panics with it in hand").get(&name).cloned();
        told.unwrap_or_else(|| Fate::Ready(self.of(&name).ip()))
    }

    /// What a kubelet and a relay do together: the document arrives in the mount, and runs.
    fn take(&self, owner: &str, digest: &str, document: &Document) {
        for (pod, relay) in self.fleet.all().iter().filter(|(pod, _)| pod.starts_with(owner)) {
            let takes = |status: &mut Status| {
                status.config.digest = Some(digest.to_owned());
                status.config_generation = document.generation;
                status.cordoned = document.cordoned.contains(pod);
            };
            let mut now = relay.status();
            takes(&mut now);
            if now != relay.status() {
                relay.set(takes);
            }
        }
    }
}

async fn mount(configs: Api<ConfigMap>, relays: Weak<Relays>) {
    while let Some(relays) = relays.upgrade() {
        let began = Instant::now();
        let configs = configs.list(&Default::default()).await.map(|list| list.items).unwrap_or_default();
        for config in configs.iter().filter(|_| !relays.mounts_stale.load(Ordering::Relaxed)) {
            let Some(text) =
                config.data.iter().flatten().find_map(|(name, text)| name.starts_with("relay.").then_some(text))
            else {
                continue;
            };
            relays.write("relay.yaml", text);
            let document =
                serde_json::from_str(text).unwrap_or_else(|cause| panic!("no config document: {cause}: {text}"));
            relays.take(&config.name_any(), &support::hash::xxh3(text), &document);
        }
        drop(relays);
        // A list of a thousand documents is work for a busy server: it gets nine times as long for all else.
        tokio::time::sleep(MOUNTS_LOOK.max(9 * began.elapsed())).await;
    }
}

/// What a load balancer does: it has an address for each Service that asks for one.
async fn balance(services: Api<Service>, relays: Weak<Relays>) {
    let address = json!({ "status": { "loadBalancer": { "ingress": [{ "ip": BALANCER }] } } });
    while relays.strong_count() > 0 {
        let began = Instant::now();
        let found = services.list(&Default::default()).await.map(|list| list.items).unwrap_or_default();
        let looking = began.elapsed();
        let asks = |service: &&Service| {
            let is_wanted = service.spec.as_ref().is_some_and(|spec| spec.type_.as_deref() == Some("LoadBalancer"));
            let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
            is_wanted && balancer.is_none_or(|balancer| balancer.ingress.is_none())
        };
        for service in found.iter().filter(asks) {
            // One that is gone meanwhile needs none.
            let _ = services.patch_status(&service.name_any(), &PatchParams::default(), &Patch::Merge(&address)).await;
        }
        tokio::time::sleep(BALANCER_LOOK.max(9 * looking)).await;
    }
}

/// What most tests want: two relays for `example.org`.
pub fn spec() -> Value {
    json!({
        "domains": ["example.org"],
        "hostname": "mx2.example.org",
        "primary": { "hosts": [{ "host": "mx1.example.org" }] },
        "replicas": 2,
        "storage": { "size": "2Gi" },
    })
}

fn resource() -> ApiResource {
    let kind = GroupVersionKind::gvk("backupmx.io", "v1alpha1", "BackupMx");
    ApiResource::from_gvk_with_plural(&kind, "backupmxes")
}

/// The definition that the program prints, once a cluster.
#[track_caller]
fn install(cluster: &Kubernetes) {
    static INSTALLED: Mutex<Vec<std::net::SocketAddr>> = Mutex::new(Vec::new());
    let mut installed = INSTALLED.lock().expect("nobody panics with it in hand");
    if installed.contains(&cluster.address()) {
        return;
    }
    raise_file_limit();
    apply_definition(cluster);
    installed.push(cluster.address());
}

/// Installs the definition, or brings an older one up to date, as `kubectl apply --server-side` does.
#[track_caller]
pub fn apply_definition(cluster: &Kubernetes) {
    let printed = Operator::run(&["crd"]);
    printed.expect_exit(0, &[]);
    let definition: Value = serde_saphyr::from_str(&printed.stdout).expect("it prints YAML");
    let definitions: Api<CustomResourceDefinition> = Api::all(cluster.client());
    let name = definition["metadata"]["name"].as_str().expect("it has a name").to_owned();
    let params = PatchParams::apply("tests").force();
    let applied = wait(definitions.patch(&name, &params, &Patch::Apply(&definition)));
    applied.unwrap_or_else(|cause| panic!("apply the definition: {cause}"));
    eventually(LIMIT, "the definition is established", || {
        let found = wait(definitions.get_status(&name)).ok().and_then(|found| found.status);
        let conditions = found.and_then(|status| status.conditions).unwrap_or_default();
        conditions.iter().any(|condition| condition.type_ == "Established" && condition.status == "True")
    });
}

#[track_caller]
fn prepared(cluster: &'static Kubernetes) -> Namespace<'static> {
    install(cluster);
    cluster.namespace()
}

/// A service account in this namespace with the operator's rights and no others, by a `Role` here or a `ClusterRole`. Returns its
/// kubeconfig.
#[track_caller]
fn account(home: &Namespace, role: &str) -> PathBuf {
    let binding = format!("{role}Binding");
    let make = |kind: &str, object: Value| {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("rbac.authorization.k8s.io", "v1", kind));
        let api: Api<DynamicObject> = match kind {
            "Role" | "RoleBinding" => Api::namespaced_with(home.client(), home.name(), &resource),
            _ => Api::all_with(home.client(), &resource),
        };
        wait(api.create(&PostParams::default(), &from_json(object))).expect("admin may give rights");
    };
    let account: ServiceAccount = from_json(json!({ "metadata": { "name": ACCOUNT } }));
    wait(home.api().create(&PostParams::default(), &account)).expect("admin may make accounts");
    for (number, document) in RBAC.split("\n---\n").enumerate() {
        let rules: Value = serde_saphyr::from_str(document).expect("rbac.yaml is YAML");
        let name = format!("{ACCOUNT}-{}-{number}", home.name());
        make(role, json!({ "metadata": { "name": name }, "rules": rules["rules"] }));
        let subject = json!({ "kind": "ServiceAccount", "name": ACCOUNT, "namespace": home.name() });
        let role = json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": role, "name": name });
        make(&binding, json!({ "metadata": { "name": name }, "roleRef": role, "subjects": [subject] }));
    }
    home.kubeconfig(User::ServiceAccount { namespace: home.name(), name: ACCOUNT })
}
