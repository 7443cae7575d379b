//! What the verdicts look at: each relay's pod beside its newest answer, and who is silent. Pure.

use backupmx_relay_api::status::Status;
use jiff::{SignedDuration, Timestamp};

use crate::{
    apply::{Applied, Pod},
    crd::{BackupMx, BackupMxStatus},
    finalize::{Standing, World, leaving, ordinal},
    observe::{Observed, Report},
    plan::Plan,
};

/// A relay that answered a moment ago still counts as answering: a broken connection is made anew within a second or two, and
/// whoever watches conditions should not see them flap.
pub const SILENCE_GRACE: SignedDuration = SignedDuration::from_secs(10);
/// A pod may be not ready for so long before a person should look: a restart on the same node takes less.
pub const READY_GRACE: SignedDuration = SignedDuration::from_secs(60);
/// What is wanted should run after that, as for Deployments.
pub const PROGRESS_DEADLINE: SignedDuration = SignedDuration::from_mins(10);

/// All of it.
pub struct Facts<'a> {
    pub mx: &'a BackupMx,
    pub plan: &'a Plan,
    pub applied: &'a Applied,
    pub relays: Vec<Relay<'a>>,
    pub world: World<'a>,
    /// Relays on their way out, and how far each is.
    pub leaving: Vec<(String, Standing)>,
    pub now: Timestamp,
}

/// One relay.
pub struct Relay<'a> {
    pub pod: &'a Pod,
    /// Its newest answer, even if it is silent since.
    pub answer: Option<&'a Status>,
    /// Why it counts as silent.
    pub silence: Option<String>,
    /// Whether it is to go: above `spec.replicas`, or all of them in a deletion.
    pub leaves: bool,
}

impl<'a> Facts<'a> {
    pub fn new(mx: &'a BackupMx, plan: &'a Plan, applied: &'a Applied, observed: &'a Observed, now: Timestamp) -> Self {
        let world = World::of(mx, plan.replicas, 1, applied, observed);
        let relay = |pod: &'a Pod| {
            let report = observed.relays.iter().find(|report| report.pod == pod.name);
            Relay {
                pod,
                answer: report.and_then(|report| report.answer.as_deref()),
                silence: silence(report, now),
                leaves: world.end.is_some() || ordinal(&pod.name).is_none_or(|ordinal| ordinal >= plan.replicas),
            }
        };
        let relays = applied.pods.iter().map(relay).collect();
        Self { mx, plan, applied, relays, leaving: leaving(&world, &[]), world, now }
    }

    /// What stood in the status.
    pub fn before(&self) -> Option<&'a BackupMxStatus> {
        self.mx.status.as_ref()
    }

    /// What they say who answer.
    pub fn answers(&self) -> impl Iterator<Item = (&'a str, &'a Status)> + '_ {
        self.relays.iter().filter_map(|relay| Some((relay.name(), relay.fresh()?)))
    }

    /// What was heard last of all, silent ones included.
    pub fn last_answers(&self) -> impl Iterator<Item = &'a Status> + '_ {
        self.relays.iter().filter_map(|relay| relay.answer)
    }

    /// Those who do not answer, named; none if all do.
    pub fn silent(&self) -> Option<String> {
        let silent: Vec<_> = self.relays.iter().filter(|relay| relay.silence.is_some()).map(Relay::name).collect();
        (!silent.is_empty()).then(|| silent.join(", "))
    }

    /// Those that are to stay.
    pub fn wanted(&self) -> impl Iterator<Item = &Relay<'a>> {
        self.relays.iter().filter(|relay| !relay.leaves && !relay.pod.leaving)
    }
}

impl<'a> Relay<'a> {
    pub fn name(&self) -> &'a str {
        &self.pod.name
    }

    /// Its answer, unless it is silent since.
    pub fn fresh(&self) -> Option<&'a Status> {
        self.answer.filter(|_| self.silence.is_none())
    }

    /// Whether its pod is not ready and has had no time to become so.
    pub fn is_starting(&self, now: Timestamp) -> bool {
        !self.pod.ready && self.pod.since.is_some_and(|since| !is_over(since, READY_GRACE, now))
    }

    /// Whether it runs the document with this digest, as far as it ever said.
    pub fn runs(&self, digest: &str) -> bool {
        self.answer.is_some_and(|answer| answer.config.digest.as_deref() == Some(digest))
    }

    /// Whether it refused that document. A file that cannot be read has no digest: it counts as this one.
    pub fn rejects(&self, digest: &str) -> Option<&'a str> {
        let refused = self.answer?.config.refused.as_ref()?;
        refused.digest.as_deref().is_none_or(|refused| refused == digest).then_some(refused.reason.as_str())
    }
}

/// Why it counts as silent. Without a time, silence has lasted long enough.
fn silence(report: Option<&Report>, now: Timestamp) -> Option<String> {
    let Some(report) = report else {
        return Some("it has not been asked yet".into());
    };
    match (&report.silence, &report.answer) {
        (None, Some(_)) => None,
        (None, None) => Some("it has not answered yet".into()),
        (Some(why), None) => Some(why.clone()),
        (Some(why), Some(_)) => {
            let lasted = report.silent_since.is_none_or(|since| is_over(since, SILENCE_GRACE, now));
            lasted.then(|| why.clone())
        }
    }
}

/// Whether a time that began then has passed.
pub fn is_over(since: Timestamp, grace: SignedDuration, now: Timestamp) -> bool {
    now.duration_since(since) >= grace
}
