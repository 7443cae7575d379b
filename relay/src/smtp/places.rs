//! How many sessions there are, in total and of one client, and who gives way when all places are taken. No I/O.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Who has been idle for less gives way to nobody: a sender that only thinks would lose its message.
pub const IDLE_MIN: Duration = Duration::from_secs(5);

/// How many sessions at a time.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// In total.
    pub sessions_max: usize,
    /// Of one IPv4 address or one IPv6 /64.
    pub sessions_per_client_max: usize,
}

impl Bounds {
    /// With those that were told to give way and are still hearing it: 10 % more.
    pub fn with_those_leaving(self) -> usize {
        self.sessions_max + self.sessions_max.div_ceil(10)
    }

    /// From here on patience is short (docs/smtp.md): 80 %.
    fn busy_from(self) -> usize {
        (self.sessions_max * 4).div_ceil(5).max(1)
    }
}

/// All sessions.
pub struct Places {
    /// Instants are kept as milliseconds since this one.
    epoch: Instant,
    sessions: Mutex<Sessions>,
    busy: watch::Sender<bool>,
}

struct Sessions {
    bounds: Bounds,
    /// How many each client has. As large as there are sessions, since an entry goes with its last one.
    by_client: HashMap<IpAddr, usize>,
    all: HashMap<u64, Arc<Doing>>,
    /// Those of them that were told to give way. Counted, since each newcomer asks.
    leaving: usize,
    last: u64,
}

/// What one session is doing.
#[derive(Debug)]
struct Doing {
    /// Since when its client owes us something; [`BUSY`] while it does not.
    idle_since_ms: AtomicU64,
    in_transaction: AtomicBool,
    give_way: CancellationToken,
}

/// We are at work for this client.
const BUSY: u64 = u64::MAX;

impl Places {
    /// None is taken.
    pub fn new(bounds: Bounds, now: Instant) -> Arc<Self> {
        let sessions = Sessions { bounds, by_client: HashMap::new(), all: HashMap::new(), leaving: 0, last: 0 };
        Arc::new(Self { epoch: now, sessions: Mutex::new(sessions), busy: watch::Sender::new(false) })
    }

    /// From now on there are so many places. Nobody loses one that he has.
    pub fn bound(&self, bounds: Bounds) {
        let mut sessions = self.lock();
        sessions.bounds = bounds;
        self.note_busy(&sessions);
    }

    /// A place for this client, unless it has too many, or all are taken and nobody is idle.
    pub fn admit(self: &Arc<Self>, client: IpAddr, now: Instant) -> Option<Place> {
        let network = network(client);
        let mut sessions = self.lock();
        let own = sessions.by_client.get(&network).copied().unwrap_or_default();
        let Bounds { sessions_max, sessions_per_client_max } = sessions.bounds;
        if own >= sessions_per_client_max || sessions.all.len() >= sessions.bounds.with_those_leaving() {
            return None;
        }
        // Who was told to give way is as good as gone, and is not told twice.
        if sessions.all.len() - sessions.leaving >= sessions_max {
            self.longest_idle(&sessions, now)?.give_way.cancel();
            sessions.leaving += 1;
        }
        sessions.last += 1;
        let number = sessions.last;
        let doing = Arc::new(Doing {
            idle_since_ms: AtomicU64::new(BUSY),
            in_transaction: AtomicBool::new(false),
            give_way: CancellationToken::new(),
        });
        sessions.all.insert(number, doing.clone());
        sessions.by_client.insert(network, own + 1);
        self.note_busy(&sessions);
        Some(Place { places: self.clone(), network, number, doing })
    }

    /// Those without a transaction first, then by how long they have been idle.
    fn longest_idle<'a>(&self, sessions: &'a Sessions, now: Instant) -> Option<&'a Doing> {
        let idle_before_ms = self.ms(now).checked_sub(IDLE_MIN.as_millis() as u64)?;
        let idle = sessions.all.values().filter_map(|doing| {
            let since_ms = doing.idle_since_ms.load(Ordering::Relaxed);
            let may_go = since_ms <= idle_before_ms && !doing.give_way.is_cancelled();
            may_go.then(|| (doing.in_transaction.load(Ordering::Relaxed), since_ms, doing))
        });
        idle.min_by_key(|(in_transaction, since_ms, _)| (*in_transaction, *since_ms)).map(|(_, _, doing)| &**doing)
    }

    fn note_busy(&self, sessions: &Sessions) {
        let is_busy = sessions.all.len() >= sessions.bounds.busy_from();
        self.busy.send_if_modified(|busy| std::mem::replace(busy, is_busy) != is_busy);
    }

    fn ms(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.epoch).as_millis() as u64
    }

    fn lock(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One session's place; dropped, it is free again.
pub struct Place {
    places: Arc<Places>,
    network: IpAddr,
    number: u64,
    doing: Arc<Doing>,
}

impl Place {
    /// From now on its client owes us something.
    pub fn waits(&self, now: Instant, in_transaction: bool) {
        self.doing.in_transaction.store(in_transaction, Ordering::Relaxed);
        self.doing.idle_since_ms.store(self.places.ms(now), Ordering::Relaxed);
    }

    /// Its client said something.
    pub fn works(&self) {
        self.doing.idle_since_ms.store(BUSY, Ordering::Relaxed);
    }

    /// Returns when somebody else needs this place.
    pub async fn must_give_way(&self) {
        self.doing.give_way.cancelled().await;
    }

    /// Whether places are scarce, and how to hear of it.
    pub fn busy(&self) -> watch::Receiver<bool> {
        self.places.busy.subscribe()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut sessions = self.places.lock();
        sessions.all.remove(&self.number);
        sessions.leaving -= usize::from(self.doing.give_way.is_cancelled());
        if let Some(own) = sessions.by_client.get_mut(&self.network) {
            *own -= 1;
            if *own == 0 {
                sessions.by_client.remove(&self.network);
            }
        }
        self.places.note_busy(&sessions);
    }
}

/// What counts as one client: an IPv6 customer has a /64 at least, and could use a new address each time.
fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() & !u128::from(u64::MAX)).into()),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn places(sessions_max: usize, sessions_per_client_max: usize) -> (Arc<Places>, Instant) {
        let now = Instant::now();
        (Places::new(Bounds { sessions_max, sessions_per_client_max }, now), now)
    }

    fn admit(places: &Arc<Places>, client: &str, now: Instant) -> Option<Place> {
        places.admit(client.parse().unwrap(), now)
    }

    fn gives_way(place: &Place) -> bool {
        place.doing.give_way.is_cancelled()
    }

    #[test]
    fn sessions_are_bounded_in_total_and_per_client_and_places_come_back() {
        let (places, now) = places(3, 2);
        let first = admit(&places, "2001:db8::1", now).unwrap();
        let _second = admit(&places, "2001:db8::2", now).unwrap();
        assert!(admit(&places, "2001:db8::3", now).is_none(), "a third one of one /64");
        let _third = admit(&places, "192.0.2.1", now).unwrap();
        assert!(admit(&places, "192.0.2.2", now).is_none(), "a fourth one in total");
        drop(first);
        assert!(admit(&places, "2001:db8::3", now).is_some());
    }

    #[test]
    fn who_has_been_idle_longest_gives_way_and_one_outside_a_transaction_first() {
        let (places, now) = places(4, 4);
        let [busy, sending, new, old] = [1, 2, 3, 4].map(|n| admit(&places, &format!("192.0.2.{n}"), now).unwrap());
        busy.works();
        sending.waits(now, true);
        old.waits(now + SECOND, false);
        new.waits(now + 2 * SECOND, false);
        assert!(admit(&places, "192.0.2.9", now + 4 * SECOND).is_none(), "nobody has been idle for 5 s outside");
        let mut newcomers = Vec::new();
        for told in [old, new, sending] {
            newcomers.push(admit(&places, "192.0.2.9", now + 7 * SECOND).unwrap());
            assert!(gives_way(&told));
            assert!(admit(&places, "192.0.2.8", now + 7 * SECOND).is_none(), "it has not gone yet");
        }
        assert!(!gives_way(&busy));
        assert!(admit(&places, "192.0.2.10", now + 60 * SECOND).is_none(), "all others are at work");
    }

    #[test]
    fn it_is_known_when_places_are_scarce() {
        let (places, now) = places(5, 5);
        let mut taken: Vec<_> = (0..3).map(|_| admit(&places, "192.0.2.1", now).unwrap()).collect();
        let busy = taken[0].busy();
        assert!(!*busy.borrow());
        taken.push(admit(&places, "192.0.2.1", now).unwrap());
        assert!(*busy.borrow(), "four of five");
        taken.pop();
        assert!(!*busy.borrow());
    }

    #[test]
    fn new_bounds_hold_for_newcomers_and_nobody_has_to_go_for_them() {
        let (places, now) = places(5, 5);
        let taken: Vec<_> = (0..3).map(|_| admit(&places, "192.0.2.1", now).unwrap()).collect();
        places.bound(Bounds { sessions_max: 2, sessions_per_client_max: 2 });
        assert!(*taken[0].busy().borrow() && !taken.iter().any(gives_way));
        assert!(admit(&places, "192.0.2.2", now + 60 * SECOND).is_none());
        places.bound(Bounds { sessions_max: 9, sessions_per_client_max: 4 });
        assert!(!*taken[0].busy().borrow());
        let _fourth = admit(&places, "192.0.2.1", now).unwrap();
        assert!(admit(&places, "192.0.2.1", now).is_none());
    }

    #[test]
    fn an_ipv4_client_is_the_same_on_an_ipv6_socket() {
        assert_eq!(network("::ffff:192.0.2.1".parse().unwrap()), network("192.0.2.1".parse().unwrap()));
    }
}
