//! What every reconcile needs, and what the operator remembers of each resource from one to the next. All of it can be lost: then
//! a few requests are made that change nothing.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use kube::{Client, runtime::events::Recorder};
use tokio::sync::Notify;

use crate::{
    apply::{Document, Looked, Obstacles, resource},
    contract::Nudges,
    finalize::Sighting,
    metrics::Metrics,
    neighbours::Neighbours,
    observe::Relays,
    plan::Defaults,
    status::Written,
    view::{Id, Kind, View},
    watch::Watches,
};

/// Handed to each reconcile.
pub struct Context {
    /// To the API server.
    pub client: Client,
    /// Settings of the operator that objects depend on.
    pub defaults: Defaults,
    /// What the watches have told.
    pub view: Arc<View>,
    /// Who asks the relays.
    pub relays: Arc<Relays>,
    /// Who serves which domains.
    pub neighbours: Neighbours,
    /// Who writes Events.
    pub recorder: Recorder,
    /// Counters.
    pub metrics: Metrics,
    /// The watches, for those that start late.
    pub watches: Arc<Watches>,
    /// Watches of kinds that a cluster need not know, as far as they run.
    pub optional: Mutex<HashSet<Kind>>,
    /// What is remembered.
    pub memories: Mutex<HashMap<Id, Memory>>,
}

/// What is remembered of one resource.
#[derive(Default)]
pub struct Memory {
    /// Objects that could not be made.
    pub obstacles: Obstacles,
    /// Objects that it only names.
    pub looked: Looked,
    /// The config document that was applied last.
    pub document: Document,
    /// Pods that were told of it.
    pub nudges: Nudges,
    /// Relays that were seen empty, for the next decision.
    pub sightings: Vec<Sighting>,
    /// What was written last into the status, and the resource version that came of it.
    pub written: Option<(Written, u64)>,
    /// Reconciles that failed one after the other.
    pub failures: u32,
}

impl Context {
    /// Reads or changes what is remembered of a resource. Not for anything that waits.
    pub fn remember<T>(&self, id: &Id, change: impl FnOnce(&mut Memory) -> T) -> T {
        let mut memories = self.memories.lock().unwrap_or_else(PoisonError::into_inner);
        match memories.get_mut(id) {
            Some(memory) => change(memory),
            None => change(memories.entry(id.clone()).or_default()),
        }
    }

    /// A resource is gone.
    pub fn forget(&self, is_gone: impl Fn(&Id) -> bool) {
        self.memories.lock().unwrap_or_else(PoisonError::into_inner).retain(|id, _| !is_gone(id));
    }

    /// The cluster turned out to know this kind: it is watched from now on.
    pub fn start_watch(&self, kind: Kind) {
        let is_optional = matches!(kind, Kind::Certificate | Kind::PodMonitor);
        if is_optional && self.optional.lock().unwrap_or_else(PoisonError::into_inner).insert(kind) {
            self.watches.start_optional(kind, &resource(kind));
        }
    }

    /// Starts the watches of those optional kinds that the cluster knows already, to find what an earlier process made.
    pub async fn start_known_watches(&self) {
        for kind in [Kind::Certificate, Kind::PodMonitor] {
            let version = resource(kind).api_version;
            match self.client.list_api_group_resources(&version).await {
                Ok(known) if known.resources.iter().any(|known| known.kind == kind.name()) => self.start_watch(kind),
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(cause) => tracing::warn!(kind = kind.name(), %cause, "ask whether the cluster knows a kind"),
            }
        }
    }
}

/// Resources that something happened to: each once, however often it happened.
#[derive(Default)]
pub struct Wakes {
    pending: Mutex<HashSet<Id>>,
    told: Notify,
}

impl Wakes {
    /// Something happened to it.
    pub fn wake(&self, id: &Id) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if !pending.contains(id) {
            pending.insert(id.clone());
        }
        self.told.notify_one();
    }

    /// The next one.
    pub async fn next(&self) -> Id {
        loop {
            {
                let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(id) = pending.iter().next().cloned() {
                    pending.remove(&id);
                    return id;
                }
            }
            self.told.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_resource_that_was_woken_often_is_taken_once() {
        let wakes = Wakes::default();
        let id = Id { namespace: "mail".into(), name: "a".into() };
        (0..3).for_each(|_| wakes.wake(&id));
        assert_eq!(wakes.next().await, id);
        assert!(tokio::time::timeout(std::time::Duration::from_millis(10), wakes.next()).await.is_err());
    }
}
