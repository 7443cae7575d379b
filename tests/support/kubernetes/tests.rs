use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{ConfigMap, PersistentVolumeClaim, Pod},
};
use kube::{ResourceExt, api::Patch, api::PatchParams};

use super::{
    pods::{Fate, Kubelet},
    *,
};
use crate::fake_relay::Fleet;

fn relays(replicas: u32) -> StatefulSet {
    from_json(json!({
        "metadata": { "name": "relay" },
        "spec": {
            "replicas": replicas, "serviceName": "relays", "podManagementPolicy": "Parallel",
            "selector": { "matchLabels": { "app": "relay" } },
            "template": {
                "metadata": { "labels": { "app": "relay" } },
                "spec": { "containers": [{ "name": "relay", "image": "relay" }], "terminationGracePeriodSeconds": 3600 },
            },
            "volumeClaimTemplates": [{
                "metadata": { "name": "spool" },
                "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } },
            }],
        },
    }))
}

fn ready_replicas(namespace: &Namespace) -> i32 {
    let set = wait(namespace.api::<StatefulSet>().get("relay")).unwrap();
    set.status.and_then(|status| status.ready_replicas).unwrap_or_default()
}

fn phase(namespace: &Namespace, claim: &str) -> Option<String> {
    let claim = wait(namespace.api::<PersistentVolumeClaim>().get_opt(claim)).unwrap();
    claim.and_then(|claim| claim.status?.phase)
}

#[test]
fn a_stateful_sets_pods_become_what_the_test_says() {
    let namespace = shared().namespace();
    let fates: Arc<Mutex<HashMap<String, Fate>>> = Arc::default();
    let (told, fleet) = (Arc::clone(&fates), Fleet::default());
    let relays_of_pods = fleet.clone();
    let kubelet = Kubelet::play(&namespace, move |pod| {
        let ready = Fate::Ready(relays_of_pods.relay(&pod.name_any()).ip());
        told.lock().unwrap().get(&pod.name_any()).cloned().unwrap_or(ready)
    });
    let tell = |pod: &str, fate: Fate| {
        fates.lock().unwrap().insert(pod.to_owned(), fate);
        kubelet.look_again();
    };
    tell("relay-1", Fate::Unschedulable);
    wait(namespace.api().create(&PostParams::default(), &relays(2))).unwrap();
    eventually(LIMIT, "one ready", || ready_replicas(&namespace) == 1);
    eventually(LIMIT, "a bound claim", || phase(&namespace, "spool-relay-0").as_deref() == Some("Bound"));
    assert_eq!(phase(&namespace, "spool-relay-1").as_deref(), Some("Pending"));
    let pods = namespace.api::<Pod>();
    let status = |pod: &str| wait(pods.get(pod)).unwrap().status.unwrap();
    assert_eq!(status("relay-0").pod_ip, Some(fleet.relay("relay-0").ip().to_string()));

    tell("relay-1", Fate::Ready(fleet.relay("relay-1").ip()));
    eventually(LIMIT, "two ready", || ready_replicas(&namespace) == 2);
    tell("relay-1", Fate::Waiting("CrashLoopBackOff"));
    eventually(LIMIT, "one ready", || ready_replicas(&namespace) == 1);
    let waiting = status("relay-1").container_statuses.unwrap().remove(0).state.unwrap().waiting.unwrap();
    assert_eq!((waiting.reason.as_deref(), status("relay-1").pod_ip), (Some("CrashLoopBackOff"), None));

    // A pod that is deleted comes back, with the claim of the old one; on a node that is cut off it stays.
    let before = wait(pods.get("relay-0")).unwrap().uid();
    wait(pods.delete("relay-0", &DeleteParams::default())).unwrap();
    let is_new = || wait(pods.get_opt("relay-0")).unwrap().is_some_and(|pod| pod.uid() != before);
    eventually(LIMIT, "another pod", is_new);
    eventually(LIMIT, "one ready", || ready_replicas(&namespace) == 1);
    tell("relay-0", Fate::Abandoned);
    wait(pods.delete("relay-0", &DeleteParams::default())).unwrap();
    assert!(wait(pods.get("relay-0")).unwrap().metadata.deletion_timestamp.is_some());
}

#[test]
fn objects_outlive_an_outage_of_the_api_server_and_controllers_go_on() {
    let cluster = Kubernetes::start();
    let namespaces: Api<NamespaceObject> = Api::all(cluster.client());
    let name = cluster.namespace().name().to_owned();
    cluster.stop_api_server();
    assert!(wait(namespaces.get(&name)).is_err());
    cluster.start_api_server();
    wait(namespaces.get(&name)).unwrap();
    // It gets its service account.
    cluster.namespace();
}

#[test]
fn who_has_written_what_is_known_and_who_has_only_read_is_counted() {
    let namespace = shared().namespace();
    let mark = namespace.mark();
    let lists = || namespace.metric("apiserver_request_total", &[("verb", "LIST"), ("resource", "configmaps")]);
    let listed = lists();
    let maps = namespace.api::<ConfigMap>();
    let map: ConfigMap = from_json(json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "mine" } }));
    wait(maps.list(&Default::default())).unwrap();
    wait(maps.patch("mine", &PatchParams::apply("test"), &Patch::Apply(&map))).unwrap();
    wait(maps.create(&PostParams::default(), &map)).unwrap_err();
    let ours = |write: &Write| write.user == "admin";
    let writes: Vec<_> = namespace.writes_since(mark).into_iter().filter(ours).collect();
    let short: Vec<_> =
        writes.iter().map(|write| (&*write.verb, &*write.resource, &*write.name, write.status)).collect();
    assert_eq!(short, [("patch", "configmaps", "mine", 201), ("create", "configmaps", "mine", 409)]);
    assert_eq!(namespace.writes_since(namespace.mark()), []);
    assert!(lists() >= listed + 1.0);
}

#[test]
fn a_service_account_may_do_what_roles_say() {
    let namespace = shared().namespace();
    let name = namespace.name();
    let account = User::ServiceAccount { namespace: name, name: "default" };
    let client = namespace.client_of(account);
    let maps: Api<ConfigMap> = Api::namespaced(client, name);
    let refused = wait(maps.list(&Default::default())).unwrap_err().to_string();
    assert!(refused.contains(&format!("system:serviceaccount:{name}:default")), "{refused}");
    let words = ["create", "rolebinding", "reads", "--clusterrole=view", "-n", name];
    let ended = namespace.kubectl(&[&words[..], &["--serviceaccount", &format!("{name}:default")]].concat());
    assert_eq!(ended.code, Some(0), "{ended}");
    eventually(LIMIT, "the role counts", || wait(maps.list(&Default::default())).is_ok());
    let map = from_json(json!({ "metadata": { "name": "mine" } }));
    wait(maps.create(&PostParams::default(), &map)).unwrap_err();
}

#[test]
fn a_dropped_cluster_leaves_no_process_and_no_folder() {
    let cluster = Kubernetes::start();
    let (folder, pids) = (cluster.folder.clone(), cluster.pids());
    assert_eq!(pids.len(), 3);
    drop(cluster);
    assert!(!folder.exists());
    for (name, pid) in pids {
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "{name} runs");
    }
}
