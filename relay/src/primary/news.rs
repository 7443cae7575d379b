//! What people are told of the primary besides how it is: when it was away, and from where it sees us come.

use std::time::Instant;

use backupmx_relay_api::status;
use jiff::Timestamp;

use super::{
    Primary, lock,
    outage::{Found, Presence},
};
use crate::{delivery::hop::Hop, mail::id::MessageId, spool::Spool};

impl Primary {
    /// Times in which it was away, newest first.
    pub fn outages(&self) -> Vec<status::Outage> {
        lock(&self.outages).status()
    }

    /// The relay starts: where it stopped in the middle of an outage, what came in that and is still here is counted again, since a crash
    /// may have taken the last counts.
    pub fn recount_outage(&self, spool: &Spool) {
        let Some(since) = lock(&self.outages).open_since() else { return };
        if let Some((messages, bytes, [first, last])) = spool.came_since(since.as_millisecond()) {
            lock(&self.outages).resume(Found { messages, bytes, ids: (first, last) });
        }
    }

    /// A message was answered 250: it counts for the outage, if there is one.
    pub fn kept_meanwhile(&self, id: MessageId, content_bytes: u64) {
        lock(&self.outages).taken(id, content_bytes);
    }

    /// Somebody in a message was delivered then.
    pub fn handed_over(&self, id: MessageId, at: Timestamp) {
        lock(&self.outages).handed_over(id, at);
    }

    /// Looks whether the mail of past outages has left, and writes what has changed. Cheap: it is done several times a second.
    pub fn look_at_outages(&self, spool: &Spool) {
        let is_news = lock(&self.outages).look(|ids| spool.first_waiting(ids));
        if is_news || lock(&self.outages).is_due(Instant::now()) {
            self.write_outages();
        }
    }

    /// An outage begins or ends, perhaps. Of two who found something at the same time the later one must not undo what the earlier one
    /// told, so the monitor is read with the outages locked.
    pub(super) fn note_presence(&self) {
        let now = Timestamp::now();
        let is_maintenance = self.settings.load().maintenance.is_at(now);
        let mut outages = lock(&self.outages);
        let presence = {
            let monitor = lock(&self.monitor);
            Presence::of(monitor.state, monitor.since, monitor.takes_mail(), is_maintenance)
        };
        let is_news = outages.looked(presence, now);
        drop(outages);
        if is_news {
            self.write_outages();
        }
    }

    /// Before the process ends.
    pub(super) fn write_last_outages(&self) {
        if lock(&self.outages).is_changed() {
            self.write_outages();
        }
    }

    fn write_outages(&self) {
        let (file, outages) = (self.outages_file.clone(), self.outages.clone());
        self.writes.spawn_blocking(move || file.write_or_log(|| lock(&outages).document()));
    }

    /// It has answered EHLO.
    pub(super) fn greeted_by(&self, hop: &Hop) {
        *lock(&self.seen_from) = Some((hop.name.clone(), hop.seen_from));
    }

    /// From which address this host (`host:port`) sees us come, if it said so last.
    pub(super) fn egress_address(&self, host: &str) -> Option<String> {
        let seen_from = lock(&self.seen_from);
        let (_, address) = seen_from.as_ref().filter(|(named, _)| named == host)?;
        address.map(|address| address.to_string())
    }
}
