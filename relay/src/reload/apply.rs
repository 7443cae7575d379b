//! Who is told of a new configuration, and what each of them makes of it.

use std::sync::Arc;

use backupmx_relay_api::config::{AtExpiry, Document, Recipients, Retention, UnknownRecipients, WhenPrimaryUp};
use jiff::Timestamp;

use crate::{
    config::{self, Config},
    delivery::encryption::Encryption,
    running::{Origin, Refused},
    smtp::{
        connection::{Limits, Rules},
        listener::Hall,
        places::Bounds,
        session::Terms,
    },
    status::Parts,
};

/// What sessions go by.
pub fn rules(config: &Config) -> Rules {
    let document = &config.document;
    let terms = Terms {
        hostname: document.hostname.clone(),
        postmaster_domain: config::postmaster_domain(&document.domains).to_owned(),
        recipients_max: document.limits.recipients as usize,
        errors_max: document.limits.errors,
        junk_commands_max: document.limits.junk_commands,
    };
    let (domains, etrn, proxies) = (config.domains.clone(), config.etrn.clone(), config.proxies.clone());
    let passes = document.when_primary_up == WhenPrimaryUp::PassThrough;
    Rules { terms, limits: limits(config), passes, domains, etrn, proxies }
}

/// What a connection is allowed.
fn limits(config: &Config) -> Limits {
    let limits = &config.document.limits;
    Limits {
        message_bytes_max: limits.message_size.0,
        line_bytes_max: limits.command_line.0 as usize, // config.rs bounds it
        room_bytes_min: limits.free_space.0,
        idle: limits.idle_timeout.0,
        busy: limits.busy_timeout.0,
        busy_before_mail: limits.busy_timeout_before_mail.0,
    }
}

/// How many sessions there may be.
pub fn bounds(config: &Config) -> Bounds {
    let limits = &config.document.limits;
    Bounds {
        sessions_max: limits.connections as usize,
        sessions_per_client_max: limits.connections_per_client as usize,
    }
}

/// What they may hold together.
pub fn memory_bytes(config: &Config) -> usize {
    usize::try_from(config.document.limits.memory.0).unwrap_or(usize::MAX)
}

/// From now on this configuration runs. Sessions and deliveries that have begun end by the one before.
pub fn apply(config: Config, encryption: &Arc<Encryption>, origin: Origin, parts: &Parts, hall: &Hall) {
    // Each key is somebody's: one that nobody is told of does not compile.
    let Document {
        schema: _,
        generation,
        domains: _,  // rules
        hostname: _, // rules, and the primary's callers
        primary,
        when_primary_up, // rules, too
        pass_through: _, // it looks by itself
        recipients: Recipients { unknown: UnknownRecipients::Accept },
        limits: _,                                                                      // rules, places, memory
        retention: Retention { queue: _, at_expiry: AtExpiry::Hold, undeliverable: _ }, // the keeper looks by itself
        proxy_protocol: _,                                                              // rules
        etrn: _,                                                                        // rules
        cordoned: _,
    } = &config.document;
    let (generation, is_cordoned) = (*generation, config.is_cordoned);
    hall.door.rules.store(Arc::new(rules(&config)));
    hall.places.bound(bounds(&config));
    hall.door.memory.bound(memory_bytes(&config), bounds(&config).with_those_leaving());
    let is_other_primary = parts.primary.reconfigure(&config, encryption.clone());
    parts.queue.reconfigure(&primary.delivery, *when_primary_up, is_other_primary);
    let ignored_keys = origin.ignored_keys.clone();
    parts.running.replace(config, origin, Timestamp::now());
    parts.metrics.config_generation.set(generation);
    tracing::info!(generation, "a new config document runs");
    tell_ignored(&ignored_keys, parts);
    cordon(is_cordoned, hall);
}

/// What a newer program wrote and this one cannot obey.
pub fn tell_ignored(ignored_keys: &[String], parts: &Parts) {
    parts.metrics.config_ignored_keys.set(ignored_keys.len() as i64);
    if !ignored_keys.is_empty() {
        tracing::warn!(keys = ignored_keys.join(", "), "keys of a newer program are ignored");
    }
}

/// Last, so that who sees it said sees the rest done.
pub fn cordon(is_cordoned: bool, hall: &Hall) {
    if hall.door.cordoned.send_replace(is_cordoned) != is_cordoned {
        if is_cordoned {
            tracing::info!("cordoned: no more mail is taken, delivery goes on");
        } else {
            tracing::info!("cordoned no longer: mail is taken");
        }
    }
}

/// Counts and logs a content that cannot be used.
pub fn announce(refused: &Refused, parts: &Parts) {
    parts.metrics.config_rejected.inc();
    let Refused { digest, reason } = refused;
    tracing::warn!(digest, reason, "the config document cannot be used; the one before runs on");
}
