//! Of several operators one acts: the one whose name stands in a Lease. It writes the Lease anew every few seconds; who sees it
//! unchanged for its whole duration may take it.
//!
//! Whether it is unchanged is judged by our own clock, from when we first saw it so: clocks of two nodes need not agree.
//! Every write names the version that it replaces, so that of two who take it at once one is refused.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{Api, Client, api::PostParams, core::ObjectMeta};
use tokio::time::{Instant, sleep, timeout};

use crate::{apply::chain, chance};

/// Written anew so often.
const RENEW_INTERVAL: Duration = Duration::from_secs(4);
/// One request. Shorter than the interval, so that a hanging API server costs no more than one turn.
const REQUEST_MAX: Duration = Duration::from_secs(4);
/// Not renewed for so long, we stop acting. An API server that restarts within 20 s is borne.
const GIVE_UP_AFTER: Duration = Duration::from_secs(28);
/// Not renewed for so long, others may act. Longer than we go on by 12 s, of which a pause and two requests may be over before we notice: what we have sent by then has been answered or timed out.
const DURATION: Duration = Duration::from_secs(40);
/// Who waits for the Lease looks at it so often.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Why a leader is none any more. The process ends then: whatever it was about to write, another may have decided otherwise.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// By whom.
    #[error("another operator, {0}, has taken the lease")]
    Taken(String),
    /// Why.
    #[error("the lease could not be renewed for {seconds} s: {0}", seconds = GIVE_UP_AFTER.as_secs())]
    NotRenewed(String),
}

/// The Lease.
pub struct Election {
    leases: Api<Lease>,
    name: String,
    identity: String,
}

/// Proof that we lead, as long as it is renewed.
pub struct Leadership {
    election: Election,
    lease: Lease,
    renewed_at: Instant,
}

impl Election {
    /// `identity` says who we are: to people, and to tell us apart.
    pub fn new(client: Client, namespace: &str, name: &str, identity: String) -> Self {
        Self { leases: Api::namespaced(client, namespace), name: name.to_owned(), identity }
    }

    /// Waits until we lead. `standing_by` is called when it is known that another one does.
    pub async fn win(self, standing_by: impl Fn()) -> Leadership {
        let mut seen: Option<(LeaseSpec, Instant)> = None;
        let mut told = String::new();
        loop {
            let asked_at = Instant::now();
            match self.try_once(&mut seen).await {
                Ok(Some(lease)) => return Leadership { election: self, lease, renewed_at: asked_at },
                Ok(None) => {
                    let leader = seen.as_ref().and_then(|(spec, _)| spec.holder_identity.clone()).unwrap_or_default();
                    if told != leader {
                        tracing::info!(leader, "another operator leads; waiting for its lease");
                        told = leader;
                    }
                    standing_by();
                }
                Err(cause) => tracing::warn!(cause = %chain(&cause), lease = self.name, "ask for the lease"),
            }
            sleep(chance::spread(LOOK_INTERVAL)).await;
        }
    }

    /// Takes the Lease if it is free. None while another one has it.
    async fn try_once(&self, seen: &mut Option<(LeaseSpec, Instant)>) -> kube::Result<Option<Lease>> {
        let taken = match limited(self.leases.get_opt(&self.name)).await? {
            None => {
                let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
                let lease = Lease { metadata, spec: Some(self.spec(0)) };
                limited(self.leases.create(&PostParams::default(), &lease)).await
            }
            Some(lease) => {
                let spec = lease.spec.clone().unwrap_or_default();
                if !self.is_free(&spec, seen) {
                    return Ok(None);
                }
                let lease = Lease { spec: Some(self.spec(spec.lease_transitions.unwrap_or(0) + 1)), ..lease };
                limited(self.leases.replace(&self.name, &PostParams::default(), &lease)).await
            }
        };
        match taken {
            Ok(lease) => Ok(Some(lease)),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(None), // another one was faster
            Err(cause) => Err(cause),
        }
    }

    fn is_free(&self, spec: &LeaseSpec, seen: &mut Option<(LeaseSpec, Instant)>) -> bool {
        if spec.holder_identity.as_ref().is_none_or(String::is_empty) {
            return true;
        }
        let since = match seen {
            Some((known, since)) if known == spec => *since,
            _ => seen.insert((spec.clone(), Instant::now())).1,
        };
        let seconds = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        since.elapsed() >= seconds.map_or(DURATION, Duration::from_secs)
    }

    fn spec(&self, transitions: i32) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }
}

impl Leadership {
    /// Renews the Lease for as long as that works. May be dropped between two renewals, before [`Leadership::release`].
    pub async fn keep(&mut self) -> Lost {
        loop {
            sleep(RENEW_INTERVAL).await;
            if let Err(lost) = self.renew().await {
                return lost;
            }
        }
    }

    async fn renew(&mut self) -> Result<(), Lost> {
        let Election { leases, name, identity } = &self.election;
        let asked_at = Instant::now();
        let mut lease = self.lease.clone();
        if let Some(spec) = &mut lease.spec {
            spec.renew_time = Some(MicroTime(Timestamp::now()));
        }
        let cause = match limited(leases.replace(name, &PostParams::default(), &lease)).await {
            Ok(renewed) => {
                (self.lease, self.renewed_at) = (renewed, asked_at);
                return Ok(());
            }
            Err(cause) => cause,
        };
        // A conflict may be an answer of our own that was lost on the way, or a label that somebody put on it.
        if let Ok(Some(found)) = limited(leases.get_opt(name)).await {
            let holder = found.spec.as_ref().and_then(|spec| spec.holder_identity.clone()).unwrap_or_default();
            if holder != *identity {
                return Err(Lost::Taken(if holder.is_empty() { "none".into() } else { holder }));
            }
            self.lease = found;
        }
        if self.renewed_at.elapsed() >= GIVE_UP_AFTER {
            return Err(Lost::NotRenewed(chain(&cause)));
        }
        tracing::warn!(cause = %chain(&cause), lease = name, "renew the lease");
        Ok(())
    }

    /// Gives the Lease away, so that another one need not wait.
    pub async fn release(self) -> kube::Result<()> {
        let Election { leases, name, identity } = &self.election;
        let Some(mut lease) = limited(leases.get_opt(name)).await? else { return Ok(()) };
        let Some(spec) = lease.spec.as_mut().filter(|spec| spec.holder_identity.as_ref() == Some(identity)) else {
            return Ok(());
        };
        (spec.holder_identity, spec.lease_duration_seconds) = (None, Some(1));
        limited(leases.replace(name, &PostParams::default(), &lease)).await.map(|_| ())
    }
}

async fn limited<T>(request: impl Future<Output = kube::Result<T>>) -> kube::Result<T> {
    let too_long = || kube::Error::Service(format!("no answer within {} s", REQUEST_MAX.as_secs()).into());
    timeout(REQUEST_MAX, request).await.unwrap_or_else(|_| Err(too_long()))
}

const _: () = assert!(
    GIVE_UP_AFTER.as_secs() + RENEW_INTERVAL.as_secs() + 2 * REQUEST_MAX.as_secs() <= DURATION.as_secs(),
    "we stop before another begins"
);
