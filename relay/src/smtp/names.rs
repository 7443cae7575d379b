//! What DNS calls a client's address: for the trace field and the log alone, so nobody waits for it.

use std::{
    net::IpAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use hickory_resolver::{TokioResolver, proto::rr::RData};
use tokio::{sync::Semaphore, time::timeout};
use tokio_util::task::AbortOnDropHandle;

/// A name that comes later finds the message gone.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// Look-ups at a time; clients beyond have no name, and a slow DNS server cannot pile them up.
const LOOKUPS_MAX: usize = 100;
/// Names of one address that are looked at: more than one is rare, and thousands are an attack.
const NAMES_MAX: usize = 4;

/// Asks DNS.
pub struct Names {
    resolver: TokioResolver,
    places: Arc<Semaphore>,
}

/// The name of one client, once it is known. Dropped, the look-up ends.
pub struct ClientName {
    found: Arc<OnceLock<String>>,
    _looking: Option<AbortOnDropHandle<()>>,
}

impl Names {
    /// With the system's resolvers. `None` if it names none that can be used: then clients have no names.
    pub fn of_system() -> Option<Self> {
        let built = TokioResolver::builder_tokio().and_then(|builder| builder.build());
        let resolver =
            built.inspect_err(|cause| tracing::warn!(%cause, "read resolver configuration; clients have no names"));
        Some(Self { resolver: resolver.ok()?, places: Arc::new(Semaphore::new(LOOKUPS_MAX)) })
    }

    /// Begins to look.
    pub fn look_up(&self, client: IpAddr) -> ClientName {
        let found = Arc::new(OnceLock::new());
        let Ok(place) = self.places.clone().try_acquire_owned() else { return ClientName { found, _looking: None } };
        let (resolver, result) = (self.resolver.clone(), found.clone());
        let looking = tokio::spawn(async move {
            let _place = place;
            if let Ok(Some(name)) = timeout(LOOKUP_TIMEOUT, confirmed(&resolver, client)).await {
                let _ = result.set(name);
            }
        });
        ClientName { found, _looking: Some(AbortOnDropHandle::new(looking)) }
    }
}

impl ClientName {
    /// Of a client that nobody looks up.
    pub fn none() -> Self {
        Self { found: Arc::default(), _looking: None }
    }

    /// What was found by now.
    pub fn get(&self) -> Option<&str> {
        self.found.get().map(String::as_str)
    }
}

/// The first name that has this address: anybody can claim any name for his own.
async fn confirmed(resolver: &TokioResolver, client: IpAddr) -> Option<String> {
    let client = client.to_canonical();
    let answer = resolver.reverse_lookup(client).await.ok()?;
    let names = answer.answers().iter().filter_map(|record| match &record.data {
        RData::PTR(name) => Some(name.0.to_utf8()),
        _ => None,
    });
    for name in names.take(NAMES_MAX) {
        let addresses = resolver.lookup_ip(name.as_str()).await;
        if addresses.is_ok_and(|addresses| addresses.iter().any(|address| address == client)) {
            return Some(name.trim_end_matches('.').to_owned());
        }
    }
    None
}
