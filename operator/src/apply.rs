//! Brings the objects of the cluster into the desired state, by server-side apply; the only writer of owned objects.
//!
//! A request is made only where the desired object or the live one is another than when it was last applied.

mod named;
mod remove;
mod resources;

use std::{collections::HashMap, fmt::Debug, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{Secret, Service},
};
use kube::{
    Api, Resource, ResourceExt,
    api::{Patch, PatchParams},
    core::{DynamicObject, ObjectMeta},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_64;

pub use self::{
    named::{Looked, missing},
    remove::{mark_emptied, remove_all, remove_claims, remove_mark},
    resources::of as resource,
};
use crate::{
    chance, cluster,
    context::Context,
    crd::BackupMx,
    desired::{
        self, Circumstances, Desired,
        labels::{self, MANAGER, OWNER_UID},
    },
    foreign::shown,
    plan::Plan,
    view::{Id, Key, Kind, Live, Print},
};

/// What stands in an object's way is looked at again after this, if nothing else wakes its resource.
pub const OBSTACLE_TIME: Duration = Duration::from_secs(30);
/// One request, with the client's own retries where the API server asks for patience (429, 503). It answers most in milliseconds.
const REQUEST_MAX: Duration = Duration::from_secs(20);

/// What is there after it.
#[derive(Clone, Debug, Default)]
pub struct Applied {
    /// Digest of the config document in the ConfigMap.
    pub config_digest: String,
    /// Whom that document cordons.
    pub cordoned: Vec<String>,
    /// The StatefulSet of the relays; absent while there is none.
    pub rollout: Option<Rollout>,
    /// Pods of the relays, by ordinal.
    pub pods: Vec<Pod>,
    /// Claims of the relays.
    pub claims: Vec<Claim>,
    /// Whether the Service for senders is there.
    pub has_service: bool,
    /// Where the load balancer takes mail.
    pub addresses: Vec<String>,
    /// What could not be made, a finding each.
    pub findings: Vec<Finding>,
    /// Others that serve one of our domains.
    pub neighbours: Vec<Neighbour>,
}

/// How far the StatefulSet's controller is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rollout {
    /// Pods that it is told to have.
    pub replicas: i32,
    /// Whether its controller has seen the newest of what it is told.
    pub seen: bool,
    /// Pods that are made from the newest template.
    pub updated: i32,
}

/// Another `BackupMx` that serves one of our domains.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Neighbour {
    /// Where it is.
    pub namespace: String,
    /// How it is called.
    pub name: String,
    /// The domain.
    pub domain: String,
}

/// A relay's pod, as far as it matters.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Pod {
    /// Its name, which is the relay's.
    pub name: String,
    /// Changes when it is made anew under the same name.
    pub uid: String,
    /// Its address, once it has one.
    pub ip: Option<String>,
    /// Whether the kubelet says that it is ready.
    pub ready: bool,
    /// Since when `ready` is what it is: the last transition of its condition, or else when the pod was made.
    pub since: Option<Timestamp>,
    /// Whether it is being deleted.
    pub leaving: bool,
    /// Why it does not run, in the cluster's words: unschedulable, image pull, crash loop.
    pub trouble: Option<String>,
}

/// A relay's claim.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Claim {
    /// Its name.
    pub name: String,
    /// The pod whose mail is on it.
    pub pod: String,
    /// Whether it has a volume. One that never had is empty.
    pub bound: bool,
    /// `backupmx.io/emptied-at`: its relay was seen cordoned and empty.
    pub emptied_at: Option<String>,
    /// `backupmx.io/kept-because`: it is not deleted with the rest, though no mail waits on it.
    pub kept_because: Option<String>,
    /// Why it is not bound, where the cluster tells.
    pub trouble: Option<String>,
}

/// What stands in the way of an object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Finding {
    /// One of this name is there, and not ours.
    Foreign {
        /// Of the object.
        kind: &'static str,
        /// Of the object.
        name: String,
        /// Uid of the resource that it says it belongs to.
        owner: Option<String>,
    },
    /// A Secret or StorageClass that the resource names is not there.
    Missing {
        /// Of the object.
        kind: &'static str,
        /// Of the object.
        name: String,
        /// The field of the resource that names it.
        named_by: &'static str,
    },
    /// The cluster does not know this kind (cert-manager, the Prometheus operator).
    UnknownKind {
        /// Which.
        kind: &'static str,
    },
    /// The API server refused it.
    Refused {
        /// Of the object.
        kind: &'static str,
        /// Of the object.
        name: String,
        /// What the API server said.
        words: String,
    },
}

/// What may be better in a moment: the API server is away, has too much to do, or something changed while we looked.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "kind and name are the object's, source is what the API server said")]
pub enum Error {
    /// Whether it is there.
    #[error("look up {kind} {name}")]
    LookUp { kind: &'static str, name: String, source: kube::Error },
    /// Make or mend it.
    #[error("apply {kind} {name}")]
    Apply { kind: &'static str, name: String, source: kube::Error },
    /// Remove it.
    #[error("delete {kind} {name}")]
    Delete { kind: &'static str, name: String, source: kube::Error },
    /// Write a note on it.
    #[error("annotate {kind} {name}")]
    Annotate { kind: &'static str, name: String, source: kube::Error },
    /// The system has no randomness to give.
    #[error("make a token for Secret {0}")]
    Token(String, #[source] getrandom::Error),
}

impl Error {
    /// For metrics.
    pub fn step(&self) -> &'static str {
        match self {
            Self::LookUp { .. } => "look up",
            Self::Apply { .. } => "apply",
            Self::Delete { .. } => "delete",
            Self::Annotate { .. } => "annotate",
            Self::Token(..) => "token",
        }
    }

    /// The API server's own.
    pub fn api(&self) -> Option<&kube::Error> {
        match self {
            Self::LookUp { source, .. }
            | Self::Apply { source, .. }
            | Self::Delete { source, .. }
            | Self::Annotate { source, .. } => Some(source),
            Self::Token(..) => None,
        }
    }
}

/// An object that could not be made: it is not tried again before its time, or before it is another.
#[derive(Clone, Debug)]
pub struct Obstacle {
    desired: u64,
    until: Instant,
    finding: Finding,
}

/// Obstacles of one resource.
pub type Obstacles = HashMap<(Kind, String), Obstacle>;

/// What is there now, without a change. What the config document says is known only once it was applied by this process.
///
/// `uid`: of the resource. A StatefulSet of somebody else says nothing of ours.
pub fn look(ctx: &Context, id: &Id, uid: &str) -> Applied {
    let live = |kind, name: String| ctx.view.object(&key(id, kind, &name));
    let service = live(Kind::Service, labels::smtp_name(&id.name)).map(|service| service.addresses.into_vec());
    let set = live(Kind::StatefulSet, labels::relay_name(&id.name));
    let rollout = set.filter(|set| set.owner.as_deref().is_none_or(|owner| owner == uid)).and_then(|set| set.rollout);
    let document = ctx.remember(id, |memory| memory.document.clone());
    Applied {
        config_digest: document.digest,
        cordoned: document.cordoned,
        rollout,
        pods: ctx.view.pods(id),
        claims: ctx.view.claims(id),
        has_service: service.is_some(),
        addresses: service.unwrap_or_default(),
        findings: Vec::new(),
        neighbours: ctx.neighbours.of(id),
    }
}

/// The config document that was applied last.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Document {
    /// Its digest; empty if none was applied.
    pub digest: String,
    /// Whom it cordons.
    pub cordoned: Vec<String>,
}

/// Makes it so.
pub async fn apply(ctx: &Context, mx: &BackupMx, plan: &Plan, around: &Circumstances) -> Result<Applied, Error> {
    let Desired {
        service_account,
        config_map,
        smtp_service,
        relays_service,
        stateful_set,
        disruption_budget,
        network_policy,
        certificate,
        pod_monitor,
    } = desired::build(plan, around);
    let document = config_map.data.iter().flatten().map(|(_, document)| document.as_str()).next();
    let digest = desired::digest(document.unwrap_or_default());
    let document = Document { digest, cordoned: around.cordoned.clone() };
    let id = Id { namespace: plan.namespace.clone(), name: plan.name.clone() };
    let mut work = Work { ctx, id: &id, plan, findings: missing(ctx, mx, &id).await? };
    work.put(Kind::ServiceAccount, service_account).await?; // pods name it
    work.put_admin_secret().await?; // pods mount it
    if work.put(Kind::ConfigMap, config_map).await? {
        ctx.remember(&id, |memory| memory.document = document); // pods mount it
    }
    work.put(Kind::NetworkPolicy, network_policy).await?; // it must hold before a pod can be reached
    work.put(Kind::PodDisruptionBudget, disruption_budget).await?; // likewise before one can be evicted
    work.put(Kind::Service, relays_service).await?; // pods get their names from it
    work.put_or_remove(Kind::Certificate, &labels::relay_name(&plan.name), certificate).await?; // cert-manager takes a while to issue it
    work.put(Kind::StatefulSet, stateful_set).await?;
    work.put(Kind::Service, smtp_service).await?; // senders come when there is somebody to receive them
    work.put_or_remove(Kind::PodMonitor, &labels::relay_name(&plan.name), pod_monitor).await?;
    let findings = work.findings;
    Ok(Applied { findings, ..look(ctx, &id, &plan.uid) })
}

struct Work<'a> {
    ctx: &'a Context,
    id: &'a Id,
    plan: &'a Plan,
    findings: Vec<Finding>,
}

impl Work<'_> {
    /// Applies one object, or finds what is in its way. Returns whether it now is as wanted.
    async fn put<K>(&mut self, kind: Kind, object: K) -> Result<bool, Error>
    where
        K: Resource + Serialize + DeserializeOwned + Clone + Debug,
    {
        let desired = hash(&object);
        self.put_if_changed(kind, desired, object).await
    }

    async fn put_if_changed<K>(&mut self, kind: Kind, desired: u64, mut object: K) -> Result<bool, Error>
    where
        K: Resource + Serialize + DeserializeOwned + Clone + Debug,
    {
        let name = object.name_any();
        let key = key(self.id, kind, &name);
        match self.standing(&key, desired).await? {
            Standing::AsApplied => return Ok(true),
            Standing::InTheWay(finding) => {
                self.stop(kind, name, desired, finding);
                return Ok(false);
            }
            Standing::Absent => {}
            // With its uid a request cannot touch another object that took its name a moment ago.
            Standing::Ours { uid } => object.meta_mut().uid = Some(uid),
        }
        match self.request(kind, &name, &object).await {
            Ok(live) => {
                self.ctx.metrics.applied(kind.name());
                self.ctx.view.object_applied(key, live, desired);
                self.ctx.remember(self.id, |memory| memory.obstacles.remove(&(kind, name)));
                self.ctx.start_watch(kind);
                Ok(true)
            }
            Err(source) => match verdict(kind, &name, &source) {
                Some(finding) => {
                    self.stop(kind, name, desired, finding);
                    Ok(false)
                }
                None => Err(Error::Apply { kind: kind.name(), name, source }),
            },
        }
    }

    /// How the object of this name stands to us.
    async fn standing(&self, key: &Key, desired: u64) -> Result<Standing, Error> {
        let (kind, name) = (key.kind, &*key.name);
        let obstacle = self.ctx.remember(self.id, |memory| memory.obstacles.get(&(kind, name.to_owned())).cloned());
        if let Some(Obstacle { finding, .. }) =
            obstacle.filter(|obstacle| obstacle.desired == desired && obstacle.until > Instant::now())
        {
            return Ok(Standing::InTheWay(finding));
        }
        if let Some(live) = self.ctx.view.object(key) {
            return Ok(seen(&live, &self.plan.uid, desired, kind, name));
        }
        let found = match request(self.ctx.api(kind, &self.id.namespace).get_metadata_opt(name)).await {
            Ok(found) => found,
            Err(source) => {
                let finding = verdict(kind, name, &source);
                let failed = || Error::LookUp { kind: kind.name(), name: name.to_owned(), source };
                return finding.map(Standing::InTheWay).ok_or_else(failed);
            }
        };
        // The client takes every 404 for an absent object, that of an absent kind too: the request will tell.
        Ok(found.map_or(Standing::Absent, |found| judge(&found.metadata, &self.plan.uid, kind, name)))
    }

    async fn request<K: Serialize + Debug>(&self, kind: Kind, name: &str, object: &K) -> kube::Result<Live> {
        let (params, patch) = (PatchParams::apply(MANAGER).force(), Patch::Apply(object));
        if kind == Kind::StatefulSet {
            // How many pods it is told to have must be known at once: on it rests which of them may go.
            let sets: Api<StatefulSet> = Api::namespaced(self.ctx.client.clone(), &self.id.namespace);
            return request(sets.patch(name, &params, &patch)).await.map(|set| cluster::stateful_set(&set));
        }
        if kind == Kind::Service {
            let services: Api<Service> = Api::namespaced(self.ctx.client.clone(), &self.id.namespace);
            return request(services.patch(name, &params, &patch)).await.map(|service| cluster::service(&service));
        }
        let api = self.ctx.api(kind, &self.id.namespace);
        let applied = request(api.patch_metadata(name, &params, &patch)).await?;
        Ok(Live::from_meta(&applied.metadata))
    }

    /// The token is made once. While the Secret has one it stays, whoever wrote it; it is read only to be written again.
    async fn put_admin_secret(&mut self) -> Result<bool, Error> {
        let shape = desired::admin_secret(self.plan, "");
        let (name, desired) = (shape.name_any(), hash(&shape));
        let key = key(self.id, Kind::Secret, &name);
        match self.standing(&key, desired).await? {
            Standing::AsApplied => return Ok(true),
            Standing::InTheWay(finding) => {
                self.stop(Kind::Secret, name, desired, finding);
                return Ok(false);
            }
            Standing::Absent | Standing::Ours { .. } => {}
        }
        let secrets: Api<Secret> = Api::namespaced(self.ctx.client.clone(), &self.id.namespace);
        let look_up = |source| Error::LookUp { kind: "Secret", name: name.clone(), source };
        let live = request(secrets.get_opt(&name)).await.map_err(look_up)?;
        let token = match live.and_then(|secret| token_in(&shape, secret)) {
            Some(token) => token,
            None => chance::token().map_err(|cause| Error::Token(name.clone(), cause))?,
        };
        self.put_if_changed(Kind::Secret, desired, desired::admin_secret(self.plan, &token)).await
    }

    /// An object that only some resources have.
    async fn put_or_remove(&mut self, kind: Kind, name: &str, object: Option<DynamicObject>) -> Result<(), Error> {
        if let Some(object) = object {
            self.put(kind, object).await?;
            return Ok(());
        }
        self.ctx.remember(self.id, |memory| memory.obstacles.remove(&(kind, name.to_owned())));
        let key = key(self.id, kind, name);
        match self.ctx.view.object(&key).filter(|live| live.owner.as_deref() == Some(&self.plan.uid)) {
            Some(live) if !live.leaving => remove::remove(self.ctx, &key, &live).await,
            _ => Ok(()),
        }
    }

    fn stop(&mut self, kind: Kind, name: String, desired: u64, finding: Finding) {
        let obstacle = Obstacle { desired, until: Instant::now() + OBSTACLE_TIME, finding: finding.clone() };
        self.ctx.remember(self.id, |memory| {
            let known = memory.obstacles.get(&(kind, name.clone()));
            if known.is_none_or(|known| known.desired != desired || known.until <= Instant::now()) {
                memory.obstacles.insert((kind, name), obstacle);
            }
        });
        self.findings.push(finding);
    }
}

fn key(id: &Id, kind: Kind, name: &str) -> Key {
    Key { kind, namespace: id.namespace.as_str().into(), name: name.into() }
}

enum Standing {
    /// Both it and what is wanted are as they were after the last request.
    AsApplied,
    /// There is none.
    Absent,
    /// It is ours, and has to be looked after.
    Ours {
        uid: String,
    },
    InTheWay(Finding),
}

/// Of an object that the watch has told of.
fn seen(live: &Live, owner: &str, desired: u64, kind: Kind, name: &str) -> Standing {
    let print = Print { desired, stamp: live.stamp };
    // What we applied is ours, even if somebody takes the annotation away.
    let ours = live.owner.as_deref() == Some(owner) || (live.owner.is_none() && live.applied.is_some());
    if !ours {
        let owner = live.owner.as_deref().map(shown);
        return Standing::InTheWay(Finding::Foreign { kind: kind.name(), name: name.to_owned(), owner });
    }
    // One that is being deleted cannot be mended: when it is gone, the watch tells.
    if live.applied == Some(print) || live.leaving {
        return Standing::AsApplied;
    }
    Standing::Ours { uid: live.uid.to_string() }
}

/// Of an object that the watch does not see: it is foreign, or somebody took our labels away.
fn judge(meta: &ObjectMeta, uid: &str, kind: Kind, name: &str) -> Standing {
    let owner = meta.annotations.as_ref().and_then(|annotations| annotations.get(OWNER_UID));
    if owner.is_some_and(|owner| owner == uid) {
        return Standing::Ours { uid: meta.uid.clone().unwrap_or_default() };
    }
    Standing::InTheWay(Finding::Foreign { kind: kind.name(), name: name.to_owned(), owner: owner.map(shown) })
}

/// An error that will stay until somebody changes something is a finding.
fn verdict(kind: Kind, name: &str, cause: &kube::Error) -> Option<Finding> {
    let kube::Error::Api(status) = cause else { return None };
    match status.code {
        404 if matches!(kind, Kind::Certificate | Kind::PodMonitor)
            && status.details.as_ref().is_none_or(|details| details.name.is_empty()) =>
        {
            Some(Finding::UnknownKind { kind: kind.name() })
        }
        400 | 403 | 404 | 413 | 422 => {
            Some(Finding::Refused { kind: kind.name(), name: name.to_owned(), words: shown(&status.message) })
        }
        _ => None,
    }
}

fn token_in(shape: &Secret, secret: Secret) -> Option<String> {
    let keys =
        shape.data.iter().flatten().map(|(key, _)| key).chain(shape.string_data.iter().flatten().map(|(key, _)| key));
    let data = secret.data?;
    let token = keys.filter_map(|key| data.get(key)).next()?;
    String::from_utf8(token.0.clone()).ok().filter(|token| !token.is_empty())
}

/// The same for the same JSON.
pub fn hash<K: Serialize>(object: &K) -> u64 {
    // What cannot be written at all has no bytes; the request will fail and say so.
    xxh3_64(&serde_json::to_vec(object).unwrap_or_default())
}

/// A request with a limit: a hung API server must not hold a reconcile for ever.
pub async fn request<T>(request: impl Future<Output = kube::Result<T>>) -> kube::Result<T> {
    match tokio::time::timeout(REQUEST_MAX, request).await {
        Ok(done) => done,
        Err(_) => {
            let words = format!("the API server has not answered within {} s", REQUEST_MAX.as_secs());
            Err(kube::Error::Service(words.into()))
        }
    }
}

/// An error with its causes, as a path: `apply ConfigMap a-relay: connect: refused`.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let next_words = next.to_string();
        if !words.contains(&next_words) {
            words += &format!(": {next_words}");
        }
        cause = next.source();
    }
    shown(words)
}

#[cfg(test)]
mod tests;
