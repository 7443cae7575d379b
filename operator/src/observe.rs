//! Asks the relays: one long poll to each, the newest answer held. A silent relay is a finding, not an error.

mod poll;

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use backupmx_relay_api::status::Status;
use jiff::Timestamp;
use tokio::{
    sync::{Notify, Semaphore, watch},
    time::Instant,
};
use tokio_util::task::AbortOnDropHandle;

use crate::{apply::Pod, metrics::Metrics, view::Id};

/// Connections that are being opened at a time: when a network comes back, a thousand relays must not be asked in one instant.
const CONNECTING_MAX: usize = 50;
/// For so long a reconcile waits for a relay that was never heard, so that its first status already says what the relay says.
const FIRST_WORD_MAX: Duration = Duration::from_secs(2);

/// What the relays say.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// By ordinal, one for each pod of `Applied`.
    pub relays: Vec<Report>,
}

/// What one relay says.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Its name.
    pub pod: String,
    /// Its newest answer, even if it is silent since.
    pub answer: Option<Arc<Status>>,
    /// How many times this pod has answered; grows with each answer, also with one that says nothing new.
    pub answers: u64,
    /// Why it cannot be asked at present; absent while it answers.
    pub silence: Option<String>,
    /// Since when; absent while it answers.
    pub silent_since: Option<Timestamp>,
}

/// The relays that are asked: a task each, from the moment its pod has an address until the pod is gone.
pub struct Relays {
    asked: Mutex<HashMap<Id, HashMap<String, Asked>>>,
    connecting: Semaphore,
    port: u16,
    metrics: Metrics,
    wake: Box<dyn Fn(&Id) + Send + Sync>,
}

struct Asked {
    uid: String,
    ready: bool,
    address: SocketAddr,
    since: Instant,
    held: watch::Receiver<Held>,
    again: Arc<Notify>,
    _task: AbortOnDropHandle<()>,
}

/// What is known from one relay.
#[derive(Clone, Debug, Default)]
struct Held {
    answer: Option<Arc<Status>>,
    answers: u64,
    silence: Option<String>,
    silent_since: Option<Timestamp>,
}

impl Held {
    fn is_heard(&self) -> bool {
        self.answer.is_some() || self.silence.is_some()
    }
}

impl Relays {
    /// `port`: where relays answer. `wake` is called when one of them has news; it must not wait.
    pub fn new(port: u16, metrics: Metrics, wake: impl Fn(&Id) + Send + Sync + 'static) -> Arc<Self> {
        let (asked, connecting) = (Mutex::default(), Semaphore::new(CONNECTING_MAX));
        Arc::new(Self { asked, connecting, port, metrics, wake: Box::new(wake) })
    }

    /// A pod is there: it is asked from now on, if it has an address and is not asked already.
    pub fn follow(self: &Arc<Self>, id: &Id, pod: &Pod) {
        let Some(ip) = pod.ip.as_deref().and_then(|ip| ip.parse::<IpAddr>().ok()) else {
            return self.forget(id, &pod.name);
        };
        let address = SocketAddr::new(ip, self.port);
        let mut asked = self.asked();
        let relays = asked.entry(id.clone()).or_default();
        let known = relays.get_mut(&pod.name).filter(|relay| relay.uid == pod.uid && relay.address == address);
        if let Some(relay) = known {
            // It has just come up: the pause that its failures have earned is over.
            if pod.ready && !relay.ready {
                relay.again.notify_one();
            }
            relay.ready = pod.ready;
            return;
        }
        let (sender, held) = watch::channel(Held::default());
        let again = Arc::new(Notify::new());
        let task = tokio::spawn(poll::ask_for_ever(self.clone(), id.clone(), address, sender, again.clone()));
        let relay = Asked {
            uid: pod.uid.clone(),
            ready: pod.ready,
            address,
            since: Instant::now(),
            held,
            again,
            _task: AbortOnDropHandle::new(task),
        };
        relays.insert(pod.name.clone(), relay);
    }

    /// A pod is gone.
    pub fn forget(&self, id: &Id, pod: &str) {
        let mut asked = self.asked();
        let Some(relays) = asked.get_mut(id) else { return };
        relays.remove(pod);
        if relays.is_empty() {
            asked.remove(id);
        }
    }

    /// A relay is to be asked now, without waiting for a change; whatever it answers wakes its resource.
    pub fn ask_again(&self, id: &Id, pod: &str) {
        if let Some(relay) = self.asked().get(id).and_then(|relays| relays.get(pod)) {
            relay.again.notify_one();
        }
    }

    /// How many are asked, and how many of them do not answer.
    pub fn count(&self) -> (usize, usize) {
        let asked = self.asked();
        let silent = asked.values().flat_map(HashMap::values).filter(|relay| relay.held.borrow().silence.is_some());
        (asked.values().map(HashMap::len).sum(), silent.count())
    }

    fn asked(&self) -> MutexGuard<'_, HashMap<Id, HashMap<String, Asked>>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn heard(&self, id: &Id, pod: &Pod) -> Option<(watch::Receiver<Held>, Instant)> {
        let asked = self.asked();
        let relay = asked.get(id)?.get(&pod.name).filter(|relay| relay.uid == pod.uid)?;
        Some((relay.held.clone(), relay.since + FIRST_WORD_MAX))
    }
}

/// What the relays of these pods say. Reads what is held; waits only for those that have just begun to be asked.
pub async fn ask(relays: &Relays, id: &Id, pods: &[Pod]) -> Observed {
    let mut observed = Observed::default();
    for pod in pods {
        let report = Report { pod: pod.name.clone(), ..Report::default() };
        let Some((mut held, until)) = relays.heard(id, pod) else {
            observed.relays.push(Report { silence: Some("has no address".into()), ..report });
            continue;
        };
        // Its first word, or none in time: both are told below.
        let _ = tokio::time::timeout_at(until, held.wait_for(Held::is_heard)).await;
        let Held { answer, answers, silence, silent_since } = held.borrow().clone();
        let silence = silence.or_else(|| answer.is_none().then(|| "has not answered yet".into()));
        observed.relays.push(Report { answer, answers, silence, silent_since, ..report });
    }
    observed
}

#[cfg(test)]
mod tests;
