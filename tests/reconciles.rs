//! What is written in a `BackupMx` is made so, stays so, and its status tells the truth. On a real API server; pods are played.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret, Service},
    events::v1::Event,
};
use kube::{
    Api, Resource, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams},
    core::GroupVersionKind,
};
use serde_json::{Value, json};
use support::{
    FakeRelay, Kubernetes, Operator, eventually,
    fake_relay::Manner,
    kubernetes::{Namespace, from_json, pods::{Fate, Kubelet}},
    operator::{NAMESPACE, RELAY_IMAGE},
    runtime::wait,
};
use xxhash_rust::xxh3::xxh3_128;

const LIMIT: Duration = Duration::from_secs(60);

/// A cluster with an operator in it, that tests share which end neither.
struct World {
    cluster: Kubernetes,
    _operator: Operator,
}

fn world() -> &'static World {
    static WORLD: LazyLock<World> = LazyLock::new(|| {
        let cluster = Kubernetes::start();
        Operator::install(&cluster);
        let operator = Operator::acting(&cluster, &[]);
        World { cluster, _operator: operator }
    });
    &WORLD
}

/// A `BackupMx` and the relays that its pods are played by.
struct Mx<'a> {
    namespace: Namespace<'a>,
    relays: Arc<HashMap<String, FakeRelay>>,
    _kubelet: Kubelet,
}

fn kind() -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("backupmx.io", "v1alpha1", "BackupMx"), "backupmxes")
}

impl<'a> Mx<'a> {
    fn create(cluster: &'a Kubernetes, spec: Value) -> Self {
        let namespace = cluster.namespace();
        let mut whole = json!({
            "domains": ["example.org"], "hostname": "mx2.example.org",
            "primary": { "hosts": [{ "host": "mx1.example.org" }] },
        });
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let replicas = whole["replicas"].as_u64().unwrap_or(2);
        let names = (0..replicas).map(|ordinal| format!("a-relay-{ordinal}"));
        let relays: Arc<HashMap<_, _>> = Arc::new(names.map(|name| (name, FakeRelay::start())).collect());
        let played = relays.clone();
        let fate = move |pod: &Pod| Fate::Ready(played[&pod.name_any()].ip());
        let kubelet = Kubelet::play(&namespace, fate);
        let mx = Self { namespace, relays, _kubelet: kubelet };
        let object = from_json(json!({
            "apiVersion": "backupmx.io/v1alpha1", "kind": "BackupMx", "metadata": { "name": "a" }, "spec": whole,
        }));
        wait(mx.api().create(&PostParams::default(), &object)).unwrap();
        mx
    }

    fn api(&self) -> Api<DynamicObject> {
        Api::namespaced_with(self.namespace.client(), self.namespace.name(), &kind())
    }

    fn get(&self) -> Value {
        serde_json::to_value(wait(self.api().get("a")).unwrap()).unwrap()
    }

    fn condition(&self, name: &str) -> Value {
        let conditions = self.get()["status"]["conditions"].clone();
        conditions.as_array().into_iter().flatten().find(|condition| condition["type"] == name).cloned().unwrap_or_default()
    }

    fn patch(&self, patch: &Value) {
        wait(self.api().patch("a", &PatchParams::default(), &Patch::Merge(patch))).unwrap();
    }

    fn digest(&self) -> Option<String> {
        let map = wait(self.namespace.api::<ConfigMap>().get_opt("a-relay")).unwrap()?;
        let document = map.data?.into_values().next()?;
        Some(format!("{:032x}", xxh3_128(document.as_bytes())))
    }

    /// Relays read the document that is in the cluster.
    fn relays_read(&self) {
        let digest = self.digest();
        let map = wait(self.namespace.api::<ConfigMap>().get("a-relay")).unwrap();
        let document: Value = serde_json::from_str(map.data.unwrap().values().next().unwrap()).unwrap_or_default();
        for (name, relay) in self.relays.iter() {
            let cordoned = document["cordoned"].as_array().into_iter().flatten().any(|cordoned| cordoned == name.as_str());
            relay.set(|status| {
                status.config.digest.clone_from(&digest);
                status.cordoned = cordoned;
            });
        }
    }

    fn is_ready(&self) -> bool {
        self.condition("Ready")["status"] == "True"
    }

    fn until_ready(&self) {
        eventually(LIMIT, "objects", || self.digest().is_some());
        self.relays_read();
        eventually(LIMIT, "Ready", || self.is_ready());
    }
}

#[test]
fn a_resource_becomes_relays_and_its_status_says_what_they_say() {
    let mx = Mx::create(&world().cluster, json!({ "replicas": 2 }));
    mx.until_ready();
    let set = wait(mx.namespace.api::<StatefulSet>().get("a-relay")).unwrap();
    let image = &set.spec.as_ref().unwrap().template.spec.as_ref().unwrap().containers[0].image;
    assert_eq!(image.as_deref(), Some(RELAY_IMAGE));
    let secret = wait(mx.namespace.api::<Secret>().get("a-admin")).unwrap();
    assert_eq!(secret.data.unwrap().values().next().unwrap().0.len(), 64);
    eprintln!("{}", serde_json::to_string_pretty(&mx.get()["status"]).unwrap());

    let mut waits = Vec::new();
    for round in 1..=10 {
        let before = Instant::now();
        mx.relays["a-relay-0"].set(|status| status.queue.messages = round);
        mx.relays["a-relay-1"].set(|status| status.primary.reason = format!("round {round}"));
        eventually(LIMIT, "the number", || mx.get()["status"]["queue"]["messages"] == round);
        waits.push(before.elapsed());
    }
    eprintln!("numbers took {waits:?}");
    let events = wait(mx.namespace.api::<Event>().list(&ListParams::default())).unwrap();
    eprintln!("events: {:?}", events.items.iter().map(|event| (&event.reason, &event.note)).collect::<Vec<_>>());
}

#[test]
fn what_somebody_changes_or_deletes_is_put_right() {
    let mx = Mx::create(&world().cluster, json!({ "replicas": 1 }));
    mx.until_ready();
    let services = mx.namespace.api::<Service>();
    wait(services.delete("a-smtp", &DeleteParams::default())).unwrap();
    eventually(LIMIT, "the Service is back", || wait(services.get_opt("a-smtp")).unwrap().is_some());
    let token = wait(mx.namespace.api::<Secret>().get("a-admin")).unwrap().data;
    let unlabel = json!({ "metadata": { "labels": null } });
    let secrets = mx.namespace.api::<Secret>();
    wait(secrets.patch("a-admin", &PatchParams::default(), &Patch::Merge(&unlabel))).unwrap();
    eventually(LIMIT, "labels are back", || !wait(secrets.get("a-admin")).unwrap().labels().is_empty());
    assert_eq!(wait(secrets.get("a-admin")).unwrap().data, token);
    let sets = mx.namespace.api::<StatefulSet>();
    let scale = json!({ "spec": { "replicas": 5 } });
    wait(sets.patch("a-relay", &PatchParams::default(), &Patch::Merge(&scale))).unwrap();
    eventually(LIMIT, "replicas", || wait(sets.get("a-relay")).unwrap().spec.unwrap().replicas == Some(1));
    let lie = json!({ "status": { "queue": { "messages": 99, "bytes": 0, "held": 0 } } });
    wait(mx.api().patch_status("a", &PatchParams::default(), &Patch::Merge(&lie))).unwrap();
    eventually(LIMIT, "status", || mx.get()["status"]["queue"]["messages"] != 99);

    // Then all is quiet.
    std::thread::sleep(Duration::from_secs(3));
    let mark = mx.namespace.mark();
    std::thread::sleep(Duration::from_secs(20));
    let writes = mx.namespace.writes_since(mark);
    assert!(writes.is_empty(), "{writes:?}");
}

#[test]
fn a_foreign_object_is_left_alone_and_told_of() {
    let namespace_of = &world().cluster;
    let mx = Mx::create(namespace_of, json!({ "replicas": 1, "paused": true }));
    let maps = mx.namespace.api::<ConfigMap>();
    let foreign = from_json(json!({ "metadata": { "name": "a-relay" }, "data": { "mine": "yes" } }));
    wait(maps.create(&PostParams::default(), &foreign)).unwrap();
    mx.patch(&json!({ "spec": { "paused": false } }));
    eventually(LIMIT, "a finding", || mx.get()["status"].to_string().contains("a-relay"));
    eventually(LIMIT, "degraded", || mx.condition("Degraded")["status"] == "True" || mx.condition("Ready")["status"] == "False");
    eprintln!("{}", serde_json::to_string_pretty(&mx.get()["status"]).unwrap());
    assert_eq!(wait(maps.get("a-relay")).unwrap().data.unwrap()["mine"], "yes");
    wait(maps.delete("a-relay", &DeleteParams::default())).unwrap();
    mx.until_ready();
}

#[test]
fn a_relay_that_has_not_read_the_document_has_its_pod_annotated_until_it_has() {
    let mx = Mx::create(&world().cluster, json!({ "replicas": 1 }));
    mx.until_ready();
    mx.patch(&json!({ "spec": { "domains": ["example.org", "example.com"] } }));
    let annotation = || {
        let pod = wait(mx.namespace.api::<Pod>().get("a-relay-0")).unwrap();
        pod.annotations().get("backupmx.io/config-digest").cloned().unwrap_or_default()
    };
    let digest = mx.digest().unwrap();
    eventually(LIMIT, "the document", || mx.digest().unwrap() != digest);
    let digest = mx.digest().unwrap();
    eventually(LIMIT, "first", || annotation() == format!("{digest} 1"));
    eventually(LIMIT, "third", || annotation() == format!("{digest} 3"));
    assert_eq!(mx.condition("Progressing")["status"], "True");
    mx.relays_read();
    eventually(LIMIT, "it is known", || mx.condition("Progressing")["status"] == "False");
}

#[test]
fn a_resource_goes_when_its_relays_are_empty_and_not_before() {
    let mx = Mx::create(&world().cluster, json!({ "replicas": 2 }));
    mx.until_ready();
    mx.relays["a-relay-1"].set(|status| {
        status.queue.messages = 3;
        status.account.accepted = 3;
        status.account.queued = 3;
    });
    wait(mx.api().delete("a", &DeleteParams::foreground())).unwrap();
    eventually(LIMIT, "cordon", || {
        mx.relays_read();
        mx.relays["a-relay-1"].status().cordoned
    });
    eventually(LIMIT, "it says what it waits for", || mx.get()["status"].to_string().contains("3 messages"));
    assert!(wait(mx.namespace.api::<StatefulSet>().get_opt("a-relay")).unwrap().is_some());
    mx.relays["a-relay-1"].behave(Manner::Gone);
    mx.relays["a-relay-1"].set(|status| {
        status.queue.messages = 0;
        status.account.queued = 0;
        status.account.delivered = 3;
    });
    std::thread::sleep(Duration::from_secs(3));
    assert!(wait(mx.api().get_opt("a")).unwrap().is_some(), "who is silent is not empty");
    mx.relays["a-relay-1"].behave(Manner::Well);
    eventually(LIMIT, "it is gone", || wait(mx.api().get_opt("a")).unwrap().is_none());
    fn none_left<K>(mx: &Mx) -> bool
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
    {
        let left = wait(mx.namespace.api::<K>().list(&ListParams::default().labels("backupmx.io/name=a"))).unwrap();
        left.items.is_empty()
    }
    assert!(none_left::<StatefulSet>(&mx) && none_left::<Secret>(&mx) && none_left::<ConfigMap>(&mx));
    assert!(none_left::<Service>(&mx) && none_left::<PersistentVolumeClaim>(&mx));
}

#[test]
fn the_operator_bears_an_outage_of_the_api_server_and_a_second_one_takes_over_when_it_ends() {
    let mut cluster = Kubernetes::start();
    Operator::install(&cluster);
    let mut first = Operator::acting(&cluster, &[]);
    let mut second = Operator::start(&cluster, &[]);
    eventually(LIMIT, "the second one waits", || second.page("/readyz").contains("another"));
    assert_eq!(first.page("/readyz"), "200 ok\n");
    {
        let mx = Mx::create(&cluster, json!({ "replicas": 1 }));
        mx.until_ready();
        std::mem::forget(mx.namespace);
    }
    cluster.stop_api_server();
    std::thread::sleep(Duration::from_secs(20));
    cluster.start_api_server();
    eventually(LIMIT, "the first one still leads", || first.page("/metrics").contains("backupmx_operator_leader 1"));
    assert!(!second.log().contains("acts: all"));
    let asked = Instant::now();
    assert_eq!(first.terminate(), Some(0));
    eprintln!("stopped within {:?}", asked.elapsed());
    eventually(Duration::from_secs(15), "the second one acts", || second.log().contains("acts: all"));
    let leases: Api<k8s_openapi::api::coordination::v1::Lease> = Api::namespaced(cluster.client(), NAMESPACE);
    let steal = json!({ "spec": { "holderIdentity": "thief" } });
    wait(leases.patch("backupmx-operator", &PatchParams::default(), &Patch::Merge(&steal))).unwrap();
    let ended = second.wait_for_end(Duration::from_secs(20));
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("thief"), "{ended}");
}
