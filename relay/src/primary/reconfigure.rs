//! A new configuration for a primary that is watched: what is known of it stays, unless it is another one.

use std::sync::Arc;

use backupmx_relay_api::config;

use super::{
    Primary, Settings,
    judged::Judged,
    lock,
    monitor::{Moment, Monitor},
};
use crate::{
    config::Config,
    delivery::{breaker::Breaker, encryption::Encryption},
};

impl Primary {
    /// From now on it is as this configuration says. What is known of hosts that are named no longer is forgotten, new ones
    /// are looked at at once, and what is under way to one that is gone comes to its end. True if it is another primary
    /// now, of which nothing is known.
    pub fn reconfigure(&self, config: &Config, encryption: Arc<Encryption>) -> bool {
        let (config::Primary { probe, delivery, breaker, .. }, now) = (&config.document.primary, Moment::now());
        let old = self.settings.load_full();
        let caller = old.caller.reconfigured(config.document.hostname.clone(), encryption);
        let new = Settings::of(config, caller);
        let (before, names) = (old.names(), new.names());
        let mut monitor = lock(&self.monitor);
        let is_other = !monitor.holds_for(&names, &before);
        // Whoever sees the new hosts must not see what is known of the old ones.
        self.settings.store(Arc::new(new));
        if is_other {
            if !monitor.takes_mail() {
                // What hangs on a connection to a host that was away goes to the new one, unless it may be delivered.
                self.returns.send_modify(|returns| *returns += 1);
            }
            *monitor = Monitor::new(probe.clone(), now.clock);
        }
        monitor.reconfigure(probe.clone());
        if names != before {
            monitor.probe_at_once();
        }
        drop(monitor);
        if names != before {
            self.moved.notify_waiters();
        }
        if is_other {
            self.metrics.primary_up.set(0);
            *lock(&self.breaker) = Breaker::new(breaker.clone());
            lock(&self.hold).forget_primary();
            *lock(&self.judged) = Judged::default();
        }
        lock(&self.breaker).reconfigure(breaker.clone(), now.at);
        lock(&self.hold).configure(delivery.hold, now.clock);
        lock(&self.alarms).retain(|host, _| names.contains(host));
        lock(&self.xclient_refused).clear(); // whoever still does not take it is found out at the next message
        if lock(&self.mirror).reconfigure(names) {
            self.keep_offers();
        }
        self.replan.notify_one();
        is_other
    }
}
