//! What the operator counts of its own work. Only drivers count.

use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
    process_collector::ProcessCollector,
};

/// A reconcile takes a millisecond where nothing changed, and some twenty requests where everything is new.
const DURATION_BUCKETS_SECONDS: &[f64] = &[0.001, 0.005, 0.025, 0.1, 0.5, 2.0, 10.0, 60.0];

/// The counters. Cheap to clone: all clones are the same ones.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    reconciles: IntCounterVec,
    duration: Histogram,
    errors: IntCounterVec,
    applied: IntCounterVec,
    statuses: IntCounter,
    polls: IntCounterVec,
    relays: IntGauge,
    silent: IntGauge,
    leader: IntGauge,
}

impl Metrics {
    /// All at zero. Fails only on a name that is given twice, which the test below would find.
    pub fn new() -> Result<Self, prometheus::Error> {
        let counters = |name: &str, help: &str, label: &str| {
            IntCounterVec::new(Opts::new(format!("backupmx_operator_{name}"), help), &[label])
        };
        let gauge = |name: &str, help: &str| IntGauge::new(format!("backupmx_operator_{name}"), help);
        let duration =
            HistogramOpts::new("backupmx_operator_reconcile_duration_seconds", "Time that a reconcile took.")
                .buckets(DURATION_BUCKETS_SECONDS.to_vec());
        let metrics = Self {
            registry: Registry::new(),
            reconciles: counters("reconciles_total", "Reconciles, by how they ended.", "result")?,
            duration: Histogram::with_opts(duration)?,
            errors: counters("errors_total", "Errors that were retried, by the step that failed.", "step")?,
            applied: counters("applied_total", "Objects that were applied, by kind.", "kind")?,
            statuses: IntCounter::new("backupmx_operator_statuses_written_total", "Statuses that were written.")?,
            polls: counters("relay_polls_total", "Questions to relays, by what came of them.", "outcome")?,
            relays: gauge("relays", "Relays that are asked.")?,
            silent: gauge("relays_silent", "Relays among them that do not answer.")?,
            leader: gauge("leader", "1 while this process is the one that acts.")?,
        };
        let Self { registry, reconciles, duration, errors, applied, statuses, polls, relays, silent, leader } =
            &metrics;
        for counters in [reconciles, errors, applied, polls] {
            registry.register(Box::new(counters.clone()))?;
        }
        for gauge in [relays, silent, leader] {
            registry.register(Box::new(gauge.clone()))?;
        }
        registry.register(Box::new(statuses.clone()))?;
        registry.register(Box::new(duration.clone()))?;
        registry.register(Box::new(ProcessCollector::for_self()))?;
        Ok(metrics)
    }

    /// A reconcile has ended: `ok`, `paused`, `refused`, `error`.
    pub fn reconciled(&self, result: &str, seconds: f64) {
        self.reconciles.with_label_values(&[result]).inc();
        self.duration.observe(seconds);
    }

    /// A step has failed and will be tried again.
    pub fn failed(&self, step: &str) {
        self.errors.with_label_values(&[step]).inc();
    }

    /// An object was applied.
    pub fn applied(&self, kind: &str) {
        self.applied.with_label_values(&[kind]).inc();
    }

    /// A status was written.
    pub fn wrote_status(&self) {
        self.statuses.inc();
    }

    /// A relay was asked: `news`, `no news`, `unreachable`, `broken`, `unreadable`.
    pub fn poll(&self, outcome: &str) {
        self.polls.with_label_values(&[outcome]).inc();
    }

    /// Relays that are asked, and those among them that are silent.
    pub fn relays(&self, (asked, silent): (usize, usize)) {
        self.relays.set(asked.try_into().unwrap_or(i64::MAX));
        self.silent.set(silent.try_into().unwrap_or(i64::MAX));
    }

    /// Whether this process is the one that acts.
    pub fn leads(&self, leads: bool) {
        self.leader.set(leads.into());
    }

    /// The page for Prometheus.
    pub fn page(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut page = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut page)?;
        Ok(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_what_was_counted() {
        let metrics = Metrics::new().unwrap();
        metrics.reconciled("ok", 0.002);
        metrics.relays((2, 1));
        let page = String::from_utf8(metrics.page().unwrap()).unwrap();
        for line in ["backupmx_operator_reconciles_total{result=\"ok\"} 1", "backupmx_operator_relays_silent 1"] {
            assert!(page.contains(line), "{line} is missing in {page}");
        }
    }
}
