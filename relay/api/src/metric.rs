//! Names of the metrics that dashboards and alerts rely on. Units stand at the end (seconds, bytes, `_total`).

/// Messages that wait or are held.
pub const QUEUE_MESSAGES: &str = "backupmx_queue_messages";
/// Their content, in bytes.
pub const QUEUE_BYTES: &str = "backupmx_queue_bytes";
/// Age of the oldest of them; 0 while none waits.
pub const QUEUE_OLDEST_AGE_SECONDS: &str = "backupmx_queue_oldest_age_seconds";
/// 1 while the primary answers, else 0.
pub const PRIMARY_UP: &str = "backupmx_primary_up";
/// How long probes took.
pub const PRIMARY_PROBE_DURATION_SECONDS: &str = "backupmx_primary_probe_duration_seconds";
/// Messages answered with 250 and kept.
pub const MESSAGES_ACCEPTED_TOTAL: &str = "backupmx_messages_accepted_total";
/// Messages that the primary took while their sender waited, and that were never kept here.
pub const MESSAGES_PASSED_TOTAL: &str = "backupmx_messages_passed_total";
/// Messages kept though mail passes through to the primary, by `reason`.
pub const PASS_THROUGH_KEPT_TOTAL: &str = "backupmx_pass_through_kept_total";
/// What the primary said to messages that pass through, by `step` (`mail`, `recipient`, `content`) and `class` (`2xx`, `4xx`, `5xx`).
pub const PASS_THROUGH_VERDICTS_TOTAL: &str = "backupmx_pass_through_verdicts_total";
/// Refusals that judge this relay and not the mail.
pub const PASS_THROUGH_JUDGED_TOTAL: &str = "backupmx_pass_through_judged_total";
/// How long the sender of a message waited for the primary, from its first recipient to the verdict on the content.
pub const PASS_THROUGH_WAIT_SECONDS: &str = "backupmx_pass_through_wait_seconds";
/// Messages of which the last recipient was delivered.
pub const MESSAGES_DELIVERED_TOTAL: &str = "backupmx_messages_delivered_total";
/// Attempts after which at least one recipient waits on.
pub const MESSAGES_DEFERRED_TOTAL: &str = "backupmx_messages_deferred_total";
/// Messages, recipients and connections refused, by `reason`.
pub const MESSAGES_REFUSED_TOTAL: &str = "backupmx_messages_refused_total";
/// Accepted recipients less all that became of them; anything but 0 is a defect.
pub const ACCOUNT_DIFFERENCE: &str = "backupmx_account_difference";
/// Bytes that the spool takes on its volume.
pub const SPOOL_BYTES: &str = "backupmx_spool_bytes";
/// Bytes free on that volume.
pub const SPOOL_FREE_BYTES: &str = "backupmx_spool_free_bytes";
/// How long syncs of the log took.
pub const SPOOL_SYNC_DURATION_SECONDS: &str = "backupmx_spool_sync_duration_seconds";
/// Damaged parts found in the spool and copied aside.
pub const SPOOL_QUARANTINED_RECORDS_TOTAL: &str = "backupmx_spool_quarantined_records_total";
/// Messages a second that the primary takes at present.
pub const DRAIN_MESSAGES_PER_SECOND: &str = "backupmx_drain_messages_per_second";
/// Open SMTP sessions.
pub const SESSIONS: &str = "backupmx_sessions";
/// Generation of the config document that runs.
pub const CONFIG_GENERATION: &str = "backupmx_config_generation";
/// Contents of the config document that could not be used.
pub const CONFIG_REJECTED_TOTAL: &str = "backupmx_config_rejected_total";
/// Keys of the document that runs which a newer program wrote and the relay does not know.
pub const CONFIG_IGNORED_KEYS: &str = "backupmx_config_ignored_keys";
/// When a certificate for STARTTLS ends, by its first `name`; absent where no TLS is offered.
pub const CERTIFICATE_EXPIRY_TIMESTAMP_SECONDS: &str = "backupmx_certificate_expiry_timestamp_seconds";
/// Always 1; the version is a label.
pub const BUILD_INFO: &str = "backupmx_build_info";
