//! What DNS calls a client's address: for the trace field and the log alone, so nobody waits for it.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use hickory_resolver::{TokioResolver, net::NetError, proto::rr::RData};
use tokio::{sync::Semaphore, time::timeout};
use tokio_util::task::AbortOnDropHandle;

/// A name that comes later finds the message gone.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// Look-ups at a time; clients beyond have no name, and a slow DNS server cannot pile them up.
const LOOKUPS_MAX: usize = 100;
/// For how long an answer is good: senders come again and again, and a look-up costs more than a small message.
const KEPT_FOR: Duration = Duration::from_secs(600);
/// Answers that are kept; with more clients than that, all are asked for anew.
const KEPT_MAX: usize = 10_000;
/// Names of one address that are looked at: more than one is rare, and thousands are an attack.
const NAMES_MAX: usize = 4;

/// Asks DNS.
pub struct Names {
    resolver: TokioResolver,
    places: Arc<Semaphore>,
    kept: Arc<Mutex<HashMap<IpAddr, Kept>>>,
}

/// An answer, and since when. `None`: the client has no name.
type Kept = (Instant, Option<String>);

/// The name of one client, once it is known. Dropped, the look-up ends.
pub struct ClientName {
    found: Arc<OnceLock<Option<String>>>,
    _looking: Option<AbortOnDropHandle<()>>,
}

impl Names {
    /// With the system's resolvers. `None` if it names none that can be used: then clients have no names.
    pub fn of_system() -> Option<Self> {
        let built = TokioResolver::builder_tokio().and_then(|builder| builder.build());
        let resolver =
            built.inspect_err(|cause| tracing::warn!(%cause, "read resolver configuration; clients have no names"));
        Some(Self { resolver: resolver.ok()?, places: Arc::new(Semaphore::new(LOOKUPS_MAX)), kept: Arc::default() })
    }

    /// Begins to look, unless the answer is known.
    pub fn look_up(&self, client: IpAddr) -> ClientName {
        let known = lock(&self.kept).get(&client).filter(|(since, _)| since.elapsed() < KEPT_FOR).cloned();
        if let Some((_, name)) = known {
            return ClientName { found: Arc::new(OnceLock::from(name)), _looking: None };
        }
        let found = Arc::new(OnceLock::new());
        let Ok(place) = self.places.clone().try_acquire_owned() else { return ClientName { found, _looking: None } };
        let (resolver, kept, result) = (self.resolver.clone(), self.kept.clone(), found.clone());
        let looking = tokio::spawn(async move {
            let _place = place;
            // A DNS that is in trouble has said nothing of the client.
            if let Ok(Ok(name)) = timeout(LOOKUP_TIMEOUT, confirmed(&resolver, client)).await {
                keep(&mut lock(&kept), client, name.clone());
                let _ = result.set(name);
            }
        });
        ClientName { found, _looking: Some(AbortOnDropHandle::new(looking)) }
    }
}

fn keep(kept: &mut HashMap<IpAddr, Kept>, client: IpAddr, name: Option<String>) {
    if kept.len() >= KEPT_MAX {
        kept.clear();
    }
    kept.insert(client, (Instant::now(), name));
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ClientName {
    /// Of a client that nobody looks up.
    pub fn none() -> Self {
        Self { found: Arc::default(), _looking: None }
    }

    /// What was found by now.
    pub fn get(&self) -> Option<&str> {
        self.found.get()?.as_deref()
    }
}

/// The first name that has this address: anybody can claim any name for his own.
async fn confirmed(resolver: &TokioResolver, client: IpAddr) -> Result<Option<String>, NetError> {
    let client = client.to_canonical();
    let answer = match resolver.reverse_lookup(client).await {
        Err(cause) if cause.is_no_records_found() => return Ok(None),
        other => other?,
    };
    let names = answer.answers().iter().filter_map(|record| match &record.data {
        RData::PTR(name) => Some(name.0.to_utf8()),
        _ => None,
    });
    for name in names.take(NAMES_MAX) {
        let addresses = match resolver.lookup_ip(name.as_str()).await {
            Err(cause) if cause.is_no_records_found() => continue,
            other => other?,
        };
        if addresses.iter().any(|address| address == client) {
            return Ok(Some(name.trim_end_matches('.').to_owned()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_kept_and_never_more_than_the_bound() {
        let mut kept = HashMap::new();
        for number in 0..=KEPT_MAX as u32 {
            keep(&mut kept, IpAddr::from(number.to_be_bytes()), Some("mx.example.net".into()));
            assert!(kept.len() <= KEPT_MAX);
        }
        assert_eq!(kept.len(), 1);
    }
}
