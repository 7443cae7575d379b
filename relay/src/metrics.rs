//! What is counted, and the page that Prometheus reads. Only drivers count; pure modules return values.

use backupmx_relay_api::metric;
use jiff::Timestamp;
use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder, core::Collector, process_collector::ProcessCollector,
};

use crate::{pass_through::Why, smtp::certificates::Described, spool::Counts, status::Parts};

/// All metrics of one relay.
pub struct Metrics {
    registry: Registry,
    /// Messages answered with 250 and kept.
    pub accepted: IntCounter,
    /// Messages that the primary took while their sender waited.
    pub passed: IntCounter,
    /// Messages kept though mail passes through, by `reason` (`pass_through::Why`).
    pub pass_kept: IntCounterVec,
    /// What the primary said to mail that passes through, by `step` and `class`.
    pub pass_verdicts: IntCounterVec,
    /// Refusals that judge us.
    pub pass_judged: IntCounter,
    /// How long senders waited for the primary.
    pub pass_wait_seconds: Histogram,
    /// Messages of which the last recipient was delivered.
    pub delivered: IntCounter,
    /// Attempts after which somebody waits on.
    pub deferred: IntCounter,
    /// What was refused, by `reason` (`Reply::refused_for`, a fixed set).
    pub refused: IntCounterVec,
    /// Damaged parts found.
    pub quarantined: IntCounter,
    /// Open sessions.
    pub sessions: IntGauge,
    /// Of the config document that runs.
    pub config_generation: IntGauge,
    /// Contents of that document that could not be used.
    pub config_rejected: IntCounter,
    /// Keys in it that are not known.
    pub config_ignored_keys: IntGauge,
    /// 1 while the primary answers.
    pub primary_up: IntGauge,
    /// How long probes took.
    pub probe_seconds: Histogram,
    /// How long commits took.
    pub sync_seconds: Histogram,
    at_scrape: AtScrape,
}

/// What is asked for only when somebody looks.
struct AtScrape {
    queue_messages: IntGauge,
    queue_bytes: IntGauge,
    queue_oldest_age: Gauge,
    account_difference: IntGauge,
    spool_bytes: IntGauge,
    spool_free_bytes: IntGauge,
    drain_rate: Gauge,
    certificate_expiry: IntGaugeVec,
}

/// From an answer on the same machine to a time-out.
const PROBE_BUCKETS_SECONDS: [f64; 8] = [0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 5.0, 10.0];
/// From a primary on the same machine to one that scans for as long as we wait.
const WAIT_BUCKETS_SECONDS: [f64; 10] = [0.0005, 0.002, 0.01, 0.05, 0.2, 1.0, 5.0, 20.0, 60.0, 240.0];
/// From a fast local disk to network storage in trouble.
const SYNC_BUCKETS_SECONDS: [f64; 10] = [0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.2, 1.0, 5.0];

impl Metrics {
    /// Registers everything, so that each metric is there from the first scrape on.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let metrics = Self {
            accepted: register(
                &registry,
                IntCounter::new(metric::MESSAGES_ACCEPTED_TOTAL, "Messages answered with 250 and kept"),
            )?,
            passed: register(
                &registry,
                IntCounter::new(
                    metric::MESSAGES_PASSED_TOTAL,
                    "Messages that the primary took while their sender waited, never kept here",
                ),
            )?,
            pass_kept: register(
                &registry,
                IntCounterVec::new(
                    Opts::new(metric::PASS_THROUGH_KEPT_TOTAL, "Messages kept though mail passes through, by why"),
                    &["reason"],
                ),
            )?,
            pass_verdicts: register(
                &registry,
                IntCounterVec::new(
                    Opts::new(
                        metric::PASS_THROUGH_VERDICTS_TOTAL,
                        "What the primary said to mail that passes through, by step and class of reply",
                    ),
                    &["step", "class"],
                ),
            )?,
            pass_judged: register(
                &registry,
                IntCounter::new(
                    metric::PASS_THROUGH_JUDGED_TOTAL,
                    "Refusals of the primary that judge this relay and not the mail; senders heard 451",
                ),
            )?,
            pass_wait_seconds: register(
                &registry,
                histogram(
                    metric::PASS_THROUGH_WAIT_SECONDS,
                    "How long senders of messages that passed waited for the primary, from RCPT to its verdict",
                    &WAIT_BUCKETS_SECONDS,
                ),
            )?,
            delivered: register(
                &registry,
                IntCounter::new(metric::MESSAGES_DELIVERED_TOTAL, "Messages of which the last recipient was delivered"),
            )?,
            deferred: register(
                &registry,
                IntCounter::new(metric::MESSAGES_DEFERRED_TOTAL, "Attempts after which a recipient waits on"),
            )?,
            refused: register(
                &registry,
                IntCounterVec::new(
                    Opts::new(metric::MESSAGES_REFUSED_TOTAL, "Messages, recipients, commands and connections refused"),
                    &["reason"],
                ),
            )?,
            quarantined: register(
                &registry,
                IntCounter::new(
                    metric::SPOOL_QUARANTINED_RECORDS_TOTAL,
                    "Damaged parts found in the spool, by a start, the scrub, or a delivery",
                ),
            )?,
            sessions: register(&registry, IntGauge::new(metric::SESSIONS, "Open SMTP sessions"))?,
            config_generation: register(
                &registry,
                IntGauge::new(metric::CONFIG_GENERATION, "Generation of the config document that runs"),
            )?,
            config_rejected: register(
                &registry,
                IntCounter::new(metric::CONFIG_REJECTED_TOTAL, "Contents of the config document that cannot be used"),
            )?,
            config_ignored_keys: register(
                &registry,
                IntGauge::new(metric::CONFIG_IGNORED_KEYS, "Keys of a newer program in the config document"),
            )?,
            primary_up: register(&registry, IntGauge::new(metric::PRIMARY_UP, "1 while the primary answers"))?,
            probe_seconds: register(
                &registry,
                histogram(metric::PRIMARY_PROBE_DURATION_SECONDS, "How long probes took", &PROBE_BUCKETS_SECONDS),
            )?,
            sync_seconds: register(
                &registry,
                histogram(
                    metric::SPOOL_SYNC_DURATION_SECONDS,
                    "How long it took to write and sync a batch",
                    &SYNC_BUCKETS_SECONDS,
                ),
            )?,
            at_scrape: AtScrape::register(&registry)?,
            registry,
        };
        for why in Why::ALL {
            metrics.pass_kept.with_label_values(&[why.label()]);
        }
        let version = Opts::new(metric::BUILD_INFO, "Always 1").const_label("version", env!("CARGO_PKG_VERSION"));
        register(&metrics.registry, IntGauge::with_opts(version))?.set(1);
        metrics.registry.register(Box::new(ProcessCollector::for_self()))?;
        Ok(metrics)
    }

    /// The page, in Prometheus' text format.
    pub fn page(&self, parts: &Parts) -> Result<Vec<u8>, prometheus::Error> {
        self.at_scrape.fill(parts);
        let mut page = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut page)?;
        Ok(page)
    }
}

impl AtScrape {
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            queue_messages: register(
                registry,
                IntGauge::new(metric::QUEUE_MESSAGES, "Messages that wait or are held"),
            )?,
            queue_bytes: register(registry, IntGauge::new(metric::QUEUE_BYTES, "Bytes of their content"))?,
            queue_oldest_age: register(
                registry,
                Gauge::new(metric::QUEUE_OLDEST_AGE_SECONDS, "Age of the oldest of them; 0 while there is none"),
            )?,
            account_difference: register(
                registry,
                IntGauge::new(
                    metric::ACCOUNT_DIFFERENCE,
                    "Accepted recipients less all that became of them; anything but 0 is a defect",
                ),
            )?,
            spool_bytes: register(registry, IntGauge::new(metric::SPOOL_BYTES, "Bytes that the spool takes"))?,
            spool_free_bytes: register(registry, IntGauge::new(metric::SPOOL_FREE_BYTES, "Bytes free on its volume"))?,
            certificate_expiry: register(
                registry,
                IntGaugeVec::new(
                    Opts::new(metric::CERTIFICATE_EXPIRY_TIMESTAMP_SECONDS, "When a certificate for STARTTLS ends"),
                    &["name"],
                ),
            )?,
            drain_rate: register(
                registry,
                Gauge::new(metric::DRAIN_MESSAGES_PER_SECOND, "Messages a second that the primary takes at present"),
            )?,
        })
    }

    fn fill(&self, parts: &Parts) {
        let Counts { messages, bytes, oldest_ms, .. } = parts.spool.counts();
        let age_ms = oldest_ms.map_or(0, |oldest| Timestamp::now().as_millisecond().saturating_sub(oldest).max(0));
        self.queue_messages.set(messages.cast_signed());
        self.queue_bytes.set(bytes.cast_signed());
        self.queue_oldest_age.set(age_ms as f64 / 1000.0);
        self.account_difference.set(parts.spool.account().difference());
        self.spool_bytes.set(parts.spool.bytes().cast_signed());
        self.spool_free_bytes.set(parts.spool.free_bytes().cast_signed());
        self.certificate_expiry.reset(); // one that was replaced is no longer of interest
        for Described { name, not_after } in parts.certificates.described() {
            self.certificate_expiry.with_label_values(&[&name]).set(not_after.as_second());
        }
        self.drain_rate.set(parts.queue.messages_per_second(std::time::Instant::now()));
    }
}

fn register<M: Collector + Clone + 'static>(
    registry: &Registry,
    metric: Result<M, prometheus::Error>,
) -> Result<M, prometheus::Error> {
    let metric = metric?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn histogram(name: &str, help: &str, buckets: &[f64]) -> Result<Histogram, prometheus::Error> {
    Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))
}
