//! What the primary offers, and so what we may offer on its behalf. No I/O, no clock.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use backupmx_relay_api::status::Capabilities;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{delivery::extensions::Extensions, mail::envelope::Offers};

/// For our trace field, which makes a message longer on its way (docs/smtp.md). The longest is under 2 KiB.
const TRACE_BYTES: u64 = 4 << 10;
/// A finding that changes nothing is noted again after this, so that its time tells how old the knowledge is.
const NOTE_AGAIN: SignedDuration = SignedDuration::from_hours(24);

/// What is kept on the volume: by `host:port`, what was offered there last.
pub type Document = BTreeMap<String, Seen>;

/// What one host offered.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Seen {
    at: Timestamp,
    /// Its limit in bytes, if it has one.
    size: Option<u64>,
    eight_bit_mime: bool,
    smtputf8: bool,
    dsn: bool,
    /// When it last offered STARTTLS.
    #[serde(default)]
    starttls_at: Option<Timestamp>,
    /// Its addresses, newcomers first.
    #[serde(default)]
    addresses: Vec<IpAddr>,
}

/// Addresses of one host that are remembered: more are rare, and an old one may be somebody else's by now.
const ADDRESSES_MAX: usize = 16;

/// What is known of all hosts.
#[derive(Debug)]
pub struct Mirror {
    /// `host:port` of each that the configuration names.
    hosts: Vec<String>,
    seen: Document,
}

impl Mirror {
    /// What was seen of hosts that are no longer named is forgotten.
    pub fn new(hosts: Vec<String>, mut seen: Document) -> Self {
        seen.retain(|host, _| hosts.contains(host));
        Self { hosts, seen }
    }

    /// Other hosts from now on. True if something is forgotten by that.
    pub fn reconfigure(&mut self, hosts: Vec<String>) -> bool {
        let known = self.seen.len();
        *self = Self::new(hosts, std::mem::take(&mut self.seen));
        self.seen.len() < known
    }

    /// Takes in an answer to EHLO. True if that is worth keeping.
    /// `is_encrypted`: it took STARTTLS before that.
    pub fn note(
        &mut self,
        host: &str,
        address: IpAddr,
        extensions: &Extensions,
        is_encrypted: bool,
        now: Timestamp,
    ) -> bool {
        if !self.hosts.iter().any(|named| named == host) {
            return false;
        }
        let Offers { eight_bit_mime, smtputf8, dsn } = extensions.parameters;
        let size = extensions.size.filter(|limit| *limit > 0);
        let known = self.seen.get(host).map_or(&[][..], |seen| &seen.addresses);
        let addresses = if known.contains(&address) {
            known.to_vec()
        } else {
            [&[address], known].concat().into_iter().take(ADDRESSES_MAX).collect()
        };
        let before = self.seen.get(host).and_then(|seen| seen.starttls_at);
        let starttls_at = if is_encrypted { Some(now) } else { before };
        let new = Seen { at: now, size, eight_bit_mime, smtputf8, dsn, starttls_at, addresses };
        let is_fresh = |old: &Seen| now.duration_since(old.at).abs() < NOTE_AGAIN;
        let is_same = |old: &Seen| {
            old.starttls_at.is_some() == starttls_at.is_some() && Seen { at: now, starttls_at, ..old.clone() } == new
        };
        let is_known = self.seen.get(host).is_some_and(|old| is_same(old) && is_fresh(old));
        if !is_known {
            self.seen.insert(host.to_owned(), new);
        }
        !is_known
    }

    /// Whether a host was met at this address.
    pub fn knows(&self, address: IpAddr) -> bool {
        self.seen.values().any(|seen| seen.addresses.contains(&address))
    }

    /// Whether a host offered STARTTLS so lately that it should do so again.
    pub fn expects_starttls(&self, host: &str, remember: Duration, now: Timestamp) -> bool {
        let at = self.seen.get(host).and_then(|seen| seen.starttls_at);
        at.is_some_and(|at| now.duration_since(at).unsigned_abs() < remember)
    }

    /// What is to be kept on the volume.
    pub fn document(&self) -> Document {
        self.seen.clone()
    }

    /// The longest message that may be offered, at most `message_bytes_max`, and parameters.
    ///
    /// Only what all hosts offer that were seen: one that was never seen must not hold up what the others can.
    pub fn offers(&self, message_bytes_max: u64) -> (u64, Offers) {
        if self.seen.is_empty() {
            // Nearly all servers have 8BITMIME, and mail without it would have to be converted by its sender.
            return (message_bytes_max, Offers { eight_bit_mime: true, smtputf8: false, dsn: false });
        }
        let all = |offers: fn(&Seen) -> bool| self.seen.values().all(offers);
        let limits = self.seen.values().filter_map(|seen| seen.size).map(|limit| limit.saturating_sub(TRACE_BYTES));
        let parameters = Offers {
            eight_bit_mime: all(|seen| seen.eight_bit_mime),
            smtputf8: all(|seen| seen.smtputf8),
            dsn: all(|seen| seen.dsn),
        };
        // 0 would mean that there is no limit (RFC 1870 section 4).
        (limits.fold(message_bytes_max, u64::min).max(1), parameters)
    }

    /// The same for people.
    pub fn capabilities(&self, message_bytes_max: u64) -> Capabilities {
        let (size, Offers { eight_bit_mime, smtputf8, dsn }) = self.offers(message_bytes_max);
        let seen_at = self.seen.values().map(|seen| seen.at).max().map(|at| at.to_string());
        Capabilities { size, eight_bit_mime, smtputf8, dsn, seen_at }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    const NOON: &str = "2026-11-22T12:00:00Z";

    fn extensions(size: Option<u64>, smtputf8: bool) -> Extensions {
        let parameters = Offers { eight_bit_mime: true, smtputf8, dsn: true };
        Extensions { size, parameters, ..Extensions::default() }
    }

    fn mirror(seen: &[(&str, Extensions)]) -> Mirror {
        let mut mirror = Mirror::new(vec!["mx1:25".into(), "mx3:25".into()], Document::new());
        seen.iter().for_each(|(host, extensions)| {
            mirror.note(host, HERE, extensions, false, NOON.parse().unwrap());
        });
        mirror
    }

    #[test]
    fn only_what_every_host_offers_is_offered() {
        let utf8 = |smtputf8| Offers { eight_bit_mime: true, smtputf8, dsn: true };
        for (seen, offered) in [
            (vec![], (1000, Offers { eight_bit_mime: true, smtputf8: false, dsn: false })),
            (vec![("mx1:25", extensions(None, true))], (1000, utf8(true))),
            (vec![("mx1:25", extensions(Some(0), true))], (1000, utf8(true))),
            (vec![("mx1:25", extensions(Some(4996), true))], (900, utf8(true))),
            (
                vec![("mx1:25", extensions(Some(9000), true)), ("mx3:25", extensions(Some(4196), false))],
                (100, utf8(false)),
            ),
            (vec![("mx1:25", extensions(Some(10), true))], (1, utf8(true))),
            (
                vec![("elsewhere:25", extensions(Some(1), false))],
                (1000, Offers { eight_bit_mime: true, ..Offers::default() }),
            ),
            // The last word counts.
            (vec![("mx1:25", extensions(None, true)), ("mx1:25", extensions(None, false))], (1000, utf8(false))),
        ] {
            assert_eq!(mirror(&seen).offers(1000), offered, "{seen:?}");
        }
    }

    #[test]
    fn what_is_known_survives_and_is_noted_again_only_when_it_changed_or_is_old() {
        let at = |time: &str| format!("2026-11-{time}:00:00Z").parse().unwrap();
        let mut mirror = mirror(&[("mx1:25", extensions(Some(9000), true))]);
        assert!(!mirror.note("mx1:25", HERE, &extensions(Some(9000), true), false, at("23T11")));
        assert!(mirror.note("mx1:25", HERE, &extensions(Some(9000), true), false, at("23T12")));
        assert!(mirror.note("mx1:25", HERE, &extensions(Some(9000), false), false, at("23T13")));
        let text = serde_json::to_string(&mirror.document()).unwrap();
        let hosts = vec!["mx1:25".to_owned()];
        let again = Mirror::new(hosts.clone(), serde_json::from_str(&text).unwrap());
        assert_eq!(again.capabilities(100_000), mirror.capabilities(100_000));
        assert_eq!(again.capabilities(1).seen_at.as_deref(), Some("2026-11-23T13:00:00Z"));
        let moved = Mirror::new(vec!["mx9:25".into()], again.document());
        assert_eq!(moved.capabilities(1).seen_at, None, "a primary of another name is another primary");
        assert!(!mirror.reconfigure(vec!["mx0:25".into(), "mx1:25".into()]));
        assert!(mirror.reconfigure(vec!["mx0:25".into()]) && mirror.capabilities(1).seen_at.is_none());
    }

    #[test]
    fn starttls_is_expected_for_a_time_after_it_was_offered() {
        let (now, week) = (NOON.parse::<Timestamp>().unwrap(), Duration::from_secs(7 * 24 * 3600));
        let mut mirror = mirror(&[]);
        assert!(!mirror.expects_starttls("mx1:25", week, now));
        assert!(mirror.note("mx1:25", HERE, &extensions(None, true), true, now));
        assert!(!mirror.note("mx1:25", HERE, &extensions(None, true), false, now + SignedDuration::from_hours(1)));
        for (hours, expected) in [(0, true), (7 * 24 - 1, true), (7 * 24, false)] {
            let later = now + SignedDuration::from_hours(hours);
            assert_eq!(mirror.expects_starttls("mx1:25", week, later), expected, "{hours} h");
        }
    }

    #[test]
    fn the_last_addresses_of_a_host_are_known_also_to_the_next_process() {
        let now = NOON.parse().unwrap();
        let mut mirror = mirror(&[]);
        let address = |last: u8| IpAddr::from([192, 0, 2, last]);
        for last in 1..=17 {
            assert!(mirror.note("mx1:25", address(last), &extensions(None, true), false, now));
        }
        assert!(!mirror.note("mx1:25", address(2), &extensions(None, true), false, now));
        let again = Mirror::new(vec!["mx1:25".into()], mirror.document());
        assert_eq!([1, 2, 17, 99].map(|last| again.knows(address(last))), [false, true, true, false]);
    }
}
