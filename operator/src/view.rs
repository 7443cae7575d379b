//! What the API server has told of the objects that belong to `BackupMx` resources: a few words of each, kept by the watches, read
//! by reconcile. No I/O.
//!
//! A thousand resources own some twelve thousand objects, most of which matter only in being there unchanged; whole ones would take
//! more memory than all the rest of the operator.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use kube::core::ObjectMeta;
use xxhash_rust::xxh3::Xxh3;

use crate::{
    apply::{Claim, Pod, Rollout},
    desired::labels::{NAME, OWNER_UID},
};

/// Which `BackupMx`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Id {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl Id {
    /// Whose this object is; none if its label was taken away.
    pub fn of(meta: &ObjectMeta) -> Option<Self> {
        let name = meta.labels.as_ref()?.get(NAME)?;
        Some(Self { namespace: meta.namespace.clone()?, name: name.clone() })
    }
}

/// Kinds of objects that we make.
#[allow(missing_docs, reason = "they are Kubernetes' own, cert-manager's and the Prometheus operator's names")]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Kind {
    ServiceAccount,
    Secret,
    ConfigMap,
    Service,
    NetworkPolicy,
    PodDisruptionBudget,
    StatefulSet,
    Certificate,
    PodMonitor,
}

impl Kind {
    /// As in `kind:` of a manifest.
    pub fn name(self) -> &'static str {
        match self {
            Self::ServiceAccount => "ServiceAccount",
            Self::Secret => "Secret",
            Self::ConfigMap => "ConfigMap",
            Self::Service => "Service",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::PodDisruptionBudget => "PodDisruptionBudget",
            Self::StatefulSet => "StatefulSet",
            Self::Certificate => "Certificate",
            Self::PodMonitor => "PodMonitor",
        }
    }
}

/// Which object.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Key {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: Box<str>,
    /// Its name.
    pub name: Box<str>,
}

/// An object as the API server last told of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Live {
    /// Its uid.
    pub uid: Box<str>,
    /// Annotation [`OWNER_UID`].
    pub owner: Option<Box<str>>,
    /// Label [`NAME`].
    pub of: Box<str>,
    /// Its resource version: news that is older than what is known is no news.
    pub version: u64,
    /// Changes when anything does that we may have to put right.
    pub stamp: u64,
    /// It is being deleted.
    pub leaving: bool,
    /// Of a Service: where a load balancer takes its traffic.
    pub addresses: Box<[String]>,
    /// Of a StatefulSet: how far it is.
    pub rollout: Option<Rollout>,
    /// What we applied last, and the stamp that came of it.
    pub applied: Option<Print>,
}

/// What was applied, and what came of it: while both are the same there is nothing to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Print {
    /// Hash of the desired object.
    pub desired: u64,
    /// [`Live::stamp`] after it was applied.
    pub stamp: u64,
}

impl Live {
    /// From the metadata. `generation` counts changes of the spec, where there is one; elsewhere every change counts.
    pub fn from_meta(meta: &ObjectMeta) -> Self {
        let mut hash = Xxh3::new();
        let version = meta.resource_version.as_deref().unwrap_or_default();
        hash.update(meta.uid.as_deref().unwrap_or_default().as_bytes());
        match meta.generation {
            Some(generation) => hash.update(&generation.to_le_bytes()),
            None => hash.update(version.as_bytes()),
        }
        for (key, value) in meta.labels.iter().flatten().chain(meta.annotations.iter().flatten()) {
            hash.update(key.as_bytes());
            hash.update(&[0]);
            hash.update(value.as_bytes());
            hash.update(&[0]);
        }
        let label = meta.labels.as_ref().and_then(|labels| labels.get(NAME));
        let owner = meta.annotations.as_ref().and_then(|annotations| annotations.get(OWNER_UID));
        Self {
            uid: meta.uid.as_deref().unwrap_or_default().into(),
            owner: owner.map(|owner| owner.as_str().into()),
            of: label.map(String::as_str).unwrap_or_default().into(),
            version: version.parse().unwrap_or(0),
            stamp: hash.digest(),
            leaving: meta.deletion_timestamp.is_some(),
            addresses: Box::default(),
            rollout: None,
            applied: None,
        }
    }
}

/// All that is known. One lock: every use is a look-up or an insertion.
#[derive(Default)]
pub struct View {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    objects: HashMap<Key, Live>,
    pods: HashMap<Id, BTreeMap<String, Pod>>,
    claims: HashMap<Id, BTreeMap<String, Claim>>,
}

impl View {
    fn known(&self) -> MutexGuard<'_, Known> {
        // Nothing in here can be half done: a panic elsewhere does not spoil it.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An object, if it is there and bears our labels.
    pub fn object(&self, key: &Key) -> Option<Live> {
        self.known().objects.get(key).cloned()
    }

    /// The API server tells of an object. Returns whose it is, and whose it was if its label changed.
    pub fn object_is(&self, key: Key, live: Live) -> [Option<Id>; 2] {
        let mut known = self.known();
        let id = |of: &str| (!of.is_empty()).then(|| Id { namespace: key.namespace.to_string(), name: of.to_owned() });
        let now = id(&live.of);
        let Some(before) = known.objects.get_mut(&key) else {
            known.objects.insert(key, live);
            return [now, None];
        };
        if before.uid == live.uid && live.version < before.version {
            return [None, None]; // what we applied has overtaken the watch
        }
        let was = (before.of != live.of).then(|| id(&before.of)).flatten();
        let applied = before.applied.filter(|_| before.uid == live.uid);
        *before = Live { applied, ..live };
        [now, was]
    }

    /// We have applied an object: the watch will tell the same in a moment.
    pub fn object_applied(&self, key: Key, live: Live, desired: u64) {
        let print = Print { desired, stamp: live.stamp };
        let mut known = self.known();
        let newest = match known.objects.remove(&key) {
            Some(newer) if newer.uid == live.uid && newer.version > live.version => newer,
            _ => live,
        };
        known.objects.insert(key, Live { applied: Some(print), ..newest });
    }

    /// An object is gone, or bears our labels no longer. Returns whose it was.
    pub fn object_gone(&self, key: &Key) -> Option<Id> {
        let gone = self.known().objects.remove(key)?;
        (!gone.of.is_empty()).then(|| Id { namespace: key.namespace.to_string(), name: gone.of.into() })
    }

    /// After a complete list: whatever `kind` has that it did not name is gone. Returns whose those were.
    pub fn objects_are(&self, kind: Kind, listed: impl Fn(&Key) -> bool) -> Vec<Id> {
        let gone: Vec<Key> =
            self.known().objects.keys().filter(|key| key.kind == kind && !listed(key)).cloned().collect();
        gone.iter().filter_map(|key| self.object_gone(key)).collect()
    }

    /// Objects of one resource, by what their annotation or, where it was taken away, our own memory says.
    pub fn owned(&self, id: &Id, uid: &str) -> Vec<(Key, Live)> {
        let known = self.known();
        let ours = known.objects.iter().filter(|(key, live)| {
            *key.namespace == *id.namespace && (live.owner.as_deref() == Some(uid) && *live.of == *id.name)
        });
        ours.map(|(key, live)| (key.clone(), live.clone())).collect()
    }

    /// Pods of one resource, by ordinal.
    pub fn pods(&self, id: &Id) -> Vec<Pod> {
        let mut pods: Vec<_> = self.known().pods.get(id).into_iter().flat_map(BTreeMap::values).cloned().collect();
        pods.sort_by_key(|pod| ordinal(&pod.name));
        pods
    }

    /// Claims of one resource, by ordinal of their pods.
    pub fn claims(&self, id: &Id) -> Vec<Claim> {
        let mut claims: Vec<_> = self.known().claims.get(id).into_iter().flat_map(BTreeMap::values).cloned().collect();
        claims.sort_by_key(|claim| ordinal(&claim.pod));
        claims
    }

    /// The API server tells of a pod. True if that is news.
    pub fn pod_is(&self, id: &Id, pod: Pod) -> bool {
        insert(&mut self.known().pods, id, pod.name.clone(), pod)
    }

    /// A pod is gone.
    pub fn pod_gone(&self, id: &Id, name: &str) -> bool {
        remove(&mut self.known().pods, id, name)
    }

    /// After a complete list. Returns the pods that it did not name.
    pub fn pods_are(&self, listed: impl Fn(&Id, &str) -> bool) -> Vec<(Id, String)> {
        retain(&mut self.known().pods, listed)
    }

    /// The API server tells of a claim. True if that is news.
    pub fn claim_is(&self, id: &Id, claim: Claim) -> bool {
        insert(&mut self.known().claims, id, claim.name.clone(), claim)
    }

    /// A claim is gone.
    pub fn claim_gone(&self, id: &Id, name: &str) -> bool {
        remove(&mut self.known().claims, id, name)
    }

    /// After a complete list. Returns the claims that it did not name.
    pub fn claims_are(&self, listed: impl Fn(&Id, &str) -> bool) -> Vec<(Id, String)> {
        retain(&mut self.known().claims, listed)
    }
}

type Named<T> = HashMap<Id, BTreeMap<String, T>>;

fn insert<T: PartialEq>(all: &mut Named<T>, id: &Id, name: String, value: T) -> bool {
    let named = match all.get_mut(id) {
        Some(named) => named,
        None => all.entry(id.clone()).or_default(),
    };
    if named.get(&name) == Some(&value) {
        return false;
    }
    named.insert(name, value);
    true
}

fn remove<T>(all: &mut Named<T>, id: &Id, name: &str) -> bool {
    let Some(named) = all.get_mut(id) else { return false };
    let was_there = named.remove(name).is_some();
    if named.is_empty() {
        all.remove(id);
    }
    was_there
}

fn retain<T>(all: &mut Named<T>, listed: impl Fn(&Id, &str) -> bool) -> Vec<(Id, String)> {
    let names = all.iter().flat_map(|(id, named)| named.keys().map(move |name| (id, name)));
    let gone: Vec<_> =
        names.filter(|(id, name)| !listed(id, name)).map(|(id, name)| (id.clone(), name.clone())).collect();
    for (id, name) in &gone {
        remove(all, id, name);
    }
    gone
}

/// `example-relay-10` comes after `example-relay-9`. A name without a number is none of a StatefulSet, and comes last.
fn ordinal(pod: &str) -> (u32, String) {
    let number = pod.rsplit('-').next().and_then(|digits| digits.parse().ok());
    (number.unwrap_or(u32::MAX), pod.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key { kind: Kind::ConfigMap, namespace: "mail".into(), name: "a-relay".into() }
    }

    fn live(version: u64, stamp: u64) -> Live {
        let (uid, of, owner) = ("u".into(), "a".into(), Some("o".into()));
        Live { uid, owner, of, version, stamp, leaving: false, addresses: Box::default(), rollout: None, applied: None }
    }

    fn a() -> Id {
        Id { namespace: "mail".into(), name: "a".into() }
    }

    #[test]
    fn what_we_applied_is_not_undone_by_older_news_and_what_it_was_is_remembered_until_the_object_is_another() {
        let view = View::default();
        assert_eq!(view.object_is(key(), live(1, 1)), [Some(a()), None]);
        view.object_applied(key(), live(3, 3), 77);
        assert_eq!(view.object_is(key(), live(2, 2)), [None, None]);
        let known = view.object(&key()).unwrap();
        assert_eq!((known.version, known.applied), (3, Some(Print { desired: 77, stamp: 3 })));
        view.object_is(key(), live(4, 4));
        assert_eq!(view.object(&key()).unwrap().applied, Some(Print { desired: 77, stamp: 3 }), "drift is seen by it");
        view.object_is(key(), Live { uid: "other".into(), ..live(5, 5) });
        assert_eq!(view.object(&key()).unwrap().applied, None);
    }

    #[test]
    fn news_that_the_watch_brought_first_stays_when_the_answer_to_our_request_comes() {
        let view = View::default();
        view.object_is(key(), Live { addresses: ["192.0.2.1".to_owned()].into(), ..live(5, 5) });
        view.object_applied(key(), live(4, 4), 77);
        let known = view.object(&key()).unwrap();
        assert_eq!((known.version, known.stamp, known.addresses.len()), (5, 5, 1));
        assert_eq!(known.applied, Some(Print { desired: 77, stamp: 4 }), "so it is looked at again");
    }

    #[test]
    fn a_changed_label_wakes_both_and_a_list_tells_who_is_gone() {
        let view = View::default();
        view.object_is(key(), live(1, 1));
        let b = Id { namespace: "mail".into(), name: "b".into() };
        assert_eq!(view.object_is(key(), Live { of: "b".into(), ..live(2, 2) }), [Some(b.clone()), Some(a())]);
        assert_eq!(view.objects_are(Kind::Secret, |_| false), []);
        assert_eq!(view.objects_are(Kind::ConfigMap, |_| false), [b]);
    }

    #[test]
    fn pods_come_by_ordinal_and_only_news_is_news() {
        let view = View::default();
        let pod = |name: &str| Pod { name: name.into(), ..Pod::default() };
        for name in ["a-relay-10", "a-relay-9", "a-relay-0"] {
            assert!(view.pod_is(&a(), pod(name)));
            assert!(!view.pod_is(&a(), pod(name)));
        }
        let names: Vec<_> = view.pods(&a()).into_iter().map(|pod| pod.name).collect();
        assert_eq!(names, ["a-relay-0", "a-relay-9", "a-relay-10"]);
        assert_eq!(view.pods_are(|_, name| name != "a-relay-9"), [(a(), "a-relay-9".to_owned())]);
        assert!(!view.pod_gone(&a(), "a-relay-9"));
    }

    #[test]
    fn the_stamp_changes_with_the_spec_and_the_labels_and_not_with_the_status() {
        let meta = ObjectMeta { uid: Some("u".into()), generation: Some(1), ..ObjectMeta::default() };
        let stamp = |meta: &ObjectMeta| Live::from_meta(meta).stamp;
        let newer = ObjectMeta { resource_version: Some("2".into()), ..meta.clone() };
        assert_eq!(stamp(&meta), stamp(&newer));
        assert_ne!(stamp(&meta), stamp(&ObjectMeta { generation: Some(2), ..meta.clone() }));
        let labelled = ObjectMeta { labels: Some([("a".to_owned(), "b".to_owned())].into()), ..meta.clone() };
        assert_ne!(stamp(&meta), stamp(&labelled));
        let plain = ObjectMeta { generation: None, ..meta };
        assert_ne!(stamp(&plain), stamp(&ObjectMeta { resource_version: Some("2".into()), ..plain.clone() }));
    }
}
