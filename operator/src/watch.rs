//! Watches what belongs to `BackupMx` resources and puts it into the view; every change wakes the resource that it belongs to.
//!
//! One long-lived watch a kind. Where the metadata tells enough, nothing else is asked for: of Secrets we never see the content.

use std::{
    collections::HashSet,
    fmt::Debug,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures_util::{Stream, StreamExt};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::StatefulSet,
        core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount},
        networking::v1::NetworkPolicy,
        policy::v1::PodDisruptionBudget,
    },
};
use kube::{
    Api, Client, Resource, ResourceExt,
    core::{ApiResource, DynamicObject, PartialObjectMeta},
    runtime::{
        WatchStreamExt,
        watcher::{self, Config, Event},
    },
};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;

use crate::{
    apply, cluster,
    desired::{labels::MANAGER, stateful_set::CLAIM},
    finalize::is_relay,
    observe::Relays,
    view::{Id, Key, Kind, Live, View},
};

/// Objects in one page of a list. A page is held whole while it is read, and a StatefulSet takes 10 KB on the wire.
const PAGE_OBJECTS: u32 = 50;
/// Watches that [`Watches::start`] starts.
const WATCHES: usize = 9;

/// What the watches fill, and whom they wake.
pub struct Watches {
    client: Client,
    namespace: Option<String>,
    view: Arc<View>,
    relays: Arc<Relays>,
    wake: Box<dyn Fn(&Id) + Send + Sync>,
    /// Lists that are still to be read before the view is whole.
    missing_lists: AtomicUsize,
    whole: Notify,
}

impl Watches {
    /// Not started yet. `namespace`: the only one to look at; all if absent. `wake` is called with each resource that something
    /// happened to; it must not wait.
    pub fn new(
        client: Client,
        namespace: Option<String>,
        view: Arc<View>,
        relays: Arc<Relays>,
        wake: impl Fn(&Id) + Send + Sync + 'static,
    ) -> Arc<Self> {
        let (missing_lists, whole) = (AtomicUsize::new(WATCHES), Notify::new());
        Arc::new(Self { client, namespace, view, relays, wake: Box::new(wake), missing_lists, whole })
    }

    /// Starts them all. They end with the process.
    pub fn start(self: &Arc<Self>) {
        tokio::spawn(self.clone().objects(
            Kind::ServiceAccount,
            self.events::<PartialObjectMeta<ServiceAccount>>(),
            plain,
        ));
        tokio::spawn(self.clone().objects(Kind::ConfigMap, self.events::<PartialObjectMeta<ConfigMap>>(), plain));
        tokio::spawn(self.clone().objects(Kind::Secret, self.events::<PartialObjectMeta<Secret>>(), plain));
        tokio::spawn(self.clone().objects(
            Kind::NetworkPolicy,
            self.events::<PartialObjectMeta<NetworkPolicy>>(),
            plain,
        ));
        tokio::spawn(self.clone().objects(
            Kind::PodDisruptionBudget,
            self.events::<PartialObjectMeta<PodDisruptionBudget>>(),
            plain,
        ));
        tokio::spawn(self.clone().objects(Kind::Service, self.events::<Service>(), cluster::service));
        tokio::spawn(self.clone().objects(Kind::StatefulSet, self.events::<StatefulSet>(), cluster::stateful_set));
        tokio::spawn(self.clone().pods());
        tokio::spawn(self.clone().claims());
    }

    /// Starts the watch of a kind that a cluster need not know, now that it does.
    pub fn start_optional(self: &Arc<Self>, kind: Kind, resource: &ApiResource) {
        let api: Api<PartialObjectMeta<DynamicObject>> = self.api_with(resource);
        let stream = watcher::watcher(api, config());
        tokio::spawn(self.clone().objects(kind, stream, plain));
    }

    /// Returns when all lists were read once.
    pub async fn wait_until_whole(&self) {
        loop {
            let told = self.whole.notified();
            if self.missing_lists.load(Ordering::SeqCst) == 0 {
                return;
            }
            told.await;
        }
    }

    fn events<K>(&self) -> impl Stream<Item = watcher::Result<Event<K>>> + Send + use<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + DeserializeOwned
            + Debug
            + Send
            + 'static,
    {
        watcher::watcher(self.api::<K>(), config())
    }

    fn api<K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>>(&self) -> Api<K> {
        match &self.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        }
    }

    fn api_with<K>(&self, resource: &ApiResource) -> Api<K>
    where
        K: Resource<DynamicType = ApiResource, Scope = kube::core::DynamicResourceScope>,
    {
        match &self.namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, resource),
            None => Api::all_with(self.client.clone(), resource),
        }
    }

    fn listed(&self, is_first: &mut bool) {
        if std::mem::take(is_first) && self.missing_lists.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.whole.notify_waiters();
        }
    }

    fn wake(&self, ids: impl IntoIterator<Item = Id>) {
        ids.into_iter().for_each(|id| (self.wake)(&id));
    }

    /// Objects that we apply.
    async fn objects<K: ResourceExt>(
        self: Arc<Self>,
        kind: Kind,
        stream: impl Stream<Item = watcher::Result<Event<K>>>,
        read: fn(&K) -> Live,
    ) {
        let key = |object: &K| Key {
            kind,
            namespace: object.namespace().unwrap_or_default().into(),
            name: object.name_any().into(),
        };
        // What a cluster need not know, nobody waits for.
        let mut is_first = !matches!(kind, Kind::Certificate | Kind::PodMonitor);
        let mut listed = HashSet::new();
        let mut events = pin!(stream.default_backoff());
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => listed.clear(),
                Ok(Event::InitApply(object)) => {
                    listed.insert(key(&object));
                    self.wake(self.view.object_is(key(&object), read(&object)).into_iter().flatten());
                }
                Ok(Event::InitDone) => {
                    self.wake(self.view.objects_are(kind, |key| listed.contains(key)));
                    listed = HashSet::new();
                    self.listed(&mut is_first);
                }
                Ok(Event::Apply(object)) => {
                    self.wake(self.view.object_is(key(&object), read(&object)).into_iter().flatten());
                }
                Ok(Event::Delete(object)) => self.wake(self.view.object_gone(&key(&object))),
                Err(cause) => tell(kind.name(), &cause),
            }
        }
    }

    /// Pods of relays: each is asked as soon as it has an address.
    async fn pods(self: Arc<Self>) {
        let (mut listed, mut is_first) = (HashSet::new(), true);
        let mut events = pin!(self.events::<Pod>().default_backoff());
        let is = |pod: &Pod| {
            let Some(id) = Id::of(&pod.metadata).filter(|id| is_relay(&id.name, &pod.name_any())) else { return };
            let pod = cluster::pod(pod);
            self.relays.follow(&id, &pod);
            if self.view.pod_is(&id, pod) {
                self.wake([id]);
            }
        };
        let gone = |id: Id, name: &str| {
            self.relays.forget(&id, name);
            self.wake([id]);
        };
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => listed.clear(),
                Ok(Event::InitApply(pod)) => {
                    listed.extend(Id::of(&pod.metadata).map(|id| (id, pod.name_any())));
                    is(&pod);
                }
                Ok(Event::InitDone) => {
                    let listed = std::mem::take(&mut listed);
                    for (id, name) in self.view.pods_are(|id, name| listed.contains(&(id.clone(), name.to_owned()))) {
                        gone(id, &name);
                    }
                    self.listed(&mut is_first);
                }
                Ok(Event::Apply(pod)) => is(&pod),
                Ok(Event::Delete(pod)) => {
                    if let Some(id) = Id::of(&pod.metadata) {
                        self.view.pod_gone(&id, &pod.name_any());
                        gone(id, &pod.name_any());
                    }
                }
                Err(cause) => tell("Pod", &cause),
            }
        }
    }

    /// Claims of relays.
    async fn claims(self: Arc<Self>) {
        let (mut listed, mut is_first) = (HashSet::new(), true);
        let mut events = pin!(self.events::<PersistentVolumeClaim>().default_backoff());
        let is = |claim: &PersistentVolumeClaim| {
            let (id, claim) = (Id::of(&claim.metadata), cluster::claim(claim));
            // A copy of a claim, with its labels, is nothing of ours.
            let is_ours = |id: &Id| is_relay(&id.name, &claim.pod) && claim.name == format!("{CLAIM}-{}", claim.pod);
            let Some(id) = id.filter(is_ours) else { return };
            if self.view.claim_is(&id, claim) {
                self.wake([id]);
            }
        };
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => listed.clear(),
                Ok(Event::InitApply(claim)) => {
                    listed.extend(Id::of(&claim.metadata).map(|id| (id, claim.name_any())));
                    is(&claim);
                }
                Ok(Event::InitDone) => {
                    let listed = std::mem::take(&mut listed);
                    let gone = self.view.claims_are(|id, name| listed.contains(&(id.clone(), name.to_owned())));
                    self.wake(gone.into_iter().map(|(id, _)| id));
                    self.listed(&mut is_first);
                }
                Ok(Event::Apply(claim)) => is(&claim),
                Ok(Event::Delete(claim)) => {
                    if let Some(id) = Id::of(&claim.metadata) {
                        self.view.claim_gone(&id, &claim.name_any());
                        self.wake([id]);
                    }
                }
                Err(cause) => tell("PersistentVolumeClaim", &cause),
            }
        }
    }
}

/// Everything that we made, and nothing else.
fn config() -> Config {
    Config::default().labels(&format!("app.kubernetes.io/managed-by={MANAGER}")).page_size(PAGE_OBJECTS)
}

/// The watch goes on by itself, after a back-off; whether that helps is seen in `/readyz` and in what is not repaired.
fn tell(kind: &str, cause: &watcher::Error) {
    tracing::warn!(kind, cause = %apply::chain(cause), "watch");
}

fn plain<K: Resource>(object: &K) -> Live {
    Live::from_meta(object.meta())
}
