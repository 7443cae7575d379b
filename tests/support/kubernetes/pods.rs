//! Pods without nodes: what a scheduler, a storage driver and a kubelet would do for them, played.
//!
//! Service addresses: the API server takes no 127.0.0.0/8 in an EndpointSlice, so a pod played at such an address is behind no
//! Service. Whoever asks pods by their own address does not notice.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use futures_util::{StreamExt, future, stream};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::{
    Api, Client, Error, ResourceExt,
    api::{DeleteParams, Patch, PostParams, Preconditions},
    runtime::{WatchStreamExt, watcher},
};
use serde_json::{Value, json};
use tokio::{sync::Notify, task::AbortHandle};

use super::{Namespace, from_json};
use crate::runtime::RUNTIME;

/// The node that all pods are on. There is no such object: whoever looks after nodes does not run.
pub const NODE: &str = "played";

/// Pods that are looked after at a time: a request takes milliseconds, most of them the API server's.
const CARED_FOR_MAX: usize = 16;
/// Between two tries, while the API server is away.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

/// What is to become of a pod.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It has the node, its claims are bound, it runs and is ready, at this address.
    Ready(Ipv4Addr),
    /// The same, but it is not ready.
    Unready(Ipv4Addr),
    /// It has the node and its volumes, but its containers wait for this reason, for instance `ImagePullBackOff`.
    Waiting(&'static str),
    /// No node takes it, and no volume is made for it.
    Unschedulable,
    /// Nothing, as on a node that is cut off: what was said of it stays, and if it is deleted it stays, too.
    Abandoned,
}

/// Looks after all pods of a namespace, until it is dropped.
pub struct Kubelet {
    again: Arc<Notify>,
    task: AbortHandle,
}

struct Work {
    client: Client,
    pods: Api<Pod>,
    claims: Api<PersistentVolumeClaim>,
    fate: Box<dyn Fn(&Pod) -> Fate + Send + Sync>,
}

impl Kubelet {
    /// Does for each pod, now and whenever it changes, what `fate` says. A pod that is deleted ends at once.
    pub fn play(namespace: &Namespace, fate: impl Fn(&Pod) -> Fate + Send + Sync + 'static) -> Self {
        let (client, pods, claims) = (namespace.client(), namespace.api(), namespace.api());
        let work = Work { client, pods, claims, fate: Box::new(fate) };
        let again = Arc::new(Notify::new());
        let task = RUNTIME.spawn(run(work, Arc::clone(&again))).abort_handle();
        Self { again, task }
    }

    /// Asks for each pod's fate again: it depends on something that has changed.
    pub fn look_again(&self) {
        self.again.notify_one();
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(work: Work, again: Arc<Notify>) {
    let changed = watcher(work.pods.clone(), watcher::Config::default()).default_backoff().applied_objects();
    // While the API server is away the watch tries again by itself.
    let changed = changed.filter_map(|pod| future::ready(pod.ok()));
    let all = stream::unfold(again, async |again| {
        again.notified().await;
        Some(((), again))
    });
    let all = all.filter_map(|()| async { work.pods.list(&Default::default()).await.ok() });
    let all = all.flat_map(|pods| stream::iter(pods.items));
    stream::select(changed, all).for_each_concurrent(CARED_FOR_MAX, |pod| work.care(pod)).await;
}

impl Work {
    /// What is gone or has changed meanwhile comes again by itself; what fails otherwise is tried again.
    async fn care(&self, mut pod: Pod) {
        loop {
            match self.care_once(&pod).await {
                Ok(()) => return,
                Err(Error::Api(status)) if matches!(status.code, 404 | 409) => return,
                Err(_) => tokio::time::sleep(RETRY_INTERVAL).await,
            }
            match self.pods.get_opt(&pod.name_any()).await {
                Ok(Some(newer)) => pod = newer,
                Ok(None) => return,
                Err(_) => {}
            }
        }
    }

    async fn care_once(&self, pod: &Pod) -> Result<(), Error> {
        let fate = (self.fate)(pod);
        if fate == Fate::Abandoned {
            return Ok(());
        }
        let name = pod.name_any();
        if pod.metadata.deletion_timestamp.is_some() {
            let this = Preconditions { uid: pod.uid(), resource_version: None };
            let at_once = DeleteParams::default().grace_period(0).preconditions(this);
            return self.pods.delete(&name, &at_once).await.map(|_| ());
        }
        let is_scheduled = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
        if fate != Fate::Unschedulable && !is_scheduled {
            self.provide_volumes(pod).await?;
            let binding = json!({
                "metadata": { "name": name }, "target": { "apiVersion": "v1", "kind": "Node", "name": NODE },
            });
            self.pods.create_subresource::<Value, Value>("binding", &name, &PostParams::default(), &binding).await?;
        }
        let (wanted, found) = (status(pod, &fate), serde_json::to_value(&pod.status).map_err(Error::SerdeError)?);
        if is_within(&wanted, &found) {
            return Ok(());
        }
        let patch = Patch::Merge(json!({ "metadata": { "uid": pod.uid() }, "status": wanted }));
        self.pods.patch_status(&name, &Default::default(), &patch).await.map(|_| ())
    }

    /// A volume for each claim that has none; a real controller then binds them.
    async fn provide_volumes(&self, pod: &Pod) -> Result<(), Error> {
        let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        for claim in volumes.filter_map(|volume| volume.persistent_volume_claim.as_ref()) {
            let claim = self.claims.get(&claim.claim_name).await?;
            let Some(spec) = claim.spec.as_ref().filter(|spec| spec.volume_name.is_none()) else { continue };
            let volume = json!({
                "metadata": { "name": format!("played-{}", claim.uid().unwrap_or_default()) },
                "spec": {
                    "accessModes": spec.access_modes,
                    "capacity": spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()),
                    "claimRef": {
                        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
                        "namespace": claim.namespace(), "name": claim.name_any(), "uid": claim.uid(),
                    },
                    // Never touched: only a kubelet would.
                    "hostPath": { "path": "/nonexistent" },
                    "persistentVolumeReclaimPolicy": "Retain",
                    "storageClassName": spec.storage_class_name.as_deref().unwrap_or_default(),
                },
            });
            let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
            match volumes.create(&PostParams::default(), &from_json(volume)).await {
                Err(Error::Api(status)) if status.code == 409 => {}
                other => other.map(|_| ())?,
            }
        }
        Ok(())
    }
}

/// The status of a pod, as a merge patch. Its times are the pod's own, so that the same fate leads to the same status.
fn status(pod: &Pod, fate: &Fate) -> Value {
    let since = &pod.metadata.creation_timestamp;
    let condition = |kind: &str, holds: bool, reason: Option<&str>| {
        let status = if holds { "True" } else { "False" };
        let mut condition = json!({ "type": kind, "status": status, "lastTransitionTime": since });
        if let Some(reason) = reason {
            condition["reason"] = reason.into();
        }
        condition
    };
    let (address, is_ready, waits) = match fate {
        Fate::Ready(address) => (Some(address), true, None),
        Fate::Unready(address) => (Some(address), false, None),
        Fate::Waiting(reason) => (None, false, Some(*reason)),
        Fate::Unschedulable | Fate::Abandoned => {
            let conditions = [condition("PodScheduled", false, Some("Unschedulable"))];
            return json!({ "phase": "Pending", "conditions": conditions });
        }
    };
    let unready = (!is_ready).then_some("ContainersNotReady");
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers).map(|container| {
        let state = match waits {
            Some(reason) => json!({ "waiting": { "reason": reason } }),
            None => json!({ "running": { "startedAt": since } }),
        };
        json!({
            "name": container.name, "image": container.image.as_deref().unwrap_or_default(), "imageID": "",
            "ready": is_ready, "started": waits.is_none(), "restartCount": 0, "state": state,
        })
    });
    json!({
        "phase": if waits.is_some() { "Pending" } else { "Running" },
        "conditions": [
            condition("PodScheduled", true, None),
            condition("Initialized", true, None),
            condition("ContainersReady", is_ready, unready),
            condition("Ready", is_ready, unready),
        ],
        "podIP": address,
        "podIPs": address.map(|address| json!([{ "ip": address }])),
        "startTime": since,
        "containerStatuses": containers.collect::<Vec<_>>(),
    })
}

/// Whether a merge patch would change nothing.
fn is_within(wanted: &Value, found: &Value) -> bool {
    match (wanted, found) {
        (Value::Object(wanted), Value::Object(_)) => wanted.iter().all(|(key, value)| is_within(value, &found[key])),
        (Value::Array(wanted), Value::Array(found)) => {
            wanted.len() == found.len() && wanted.iter().zip(found).all(|(wanted, found)| is_within(wanted, found))
        }
        _ => wanted == found,
    }
}
