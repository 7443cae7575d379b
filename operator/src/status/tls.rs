//! `TlsReady`: do senders get STARTTLS with a certificate that holds. Without one mail is taken all the same. Pure.

use jiff::{SignedDuration, Timestamp};

use super::{
    conditions::{Reason, Verdict},
    facts::Facts,
    text::{SENTENCE_CHARS_MAX, shown, time},
};
use crate::apply::Finding;

/// The relay warns by the same time: what renews by itself has done so before.
pub const EXPIRES_SOON: SignedDuration = SignedDuration::from_hours(7 * 24);

/// The certificate that ends first, over all relays, decides.
pub fn ready(facts: &Facts) -> Verdict {
    if facts.mx.spec.tls.is_none() {
        return Verdict::no(Reason::NotWanted, "spec.tls is not set, so senders are offered no STARTTLS.");
    }
    let missing = facts.applied.findings.iter().find_map(|finding| match finding {
        Finding::Missing { kind: "Secret", name, named_by } if named_by.starts_with("spec.tls") => Some(name),
        Finding::Missing { .. } | Finding::Foreign { .. } | Finding::UnknownKind { .. } | Finding::Refused { .. } => {
            None
        }
    });
    if let Some(name) = missing {
        let told = format!(
            "The Secret {name} is not there: make it, of type kubernetes.io/tls. Mail is taken without TLS meanwhile."
        );
        return Verdict::no(Reason::SecretMissing, told);
    }
    if facts.answers().next().is_none() {
        return Verdict::unknown(Reason::RelaysSilent, "No relay answers.");
    }
    let without: Vec<_> = facts.answers().filter(|(_, answer)| answer.tls.is_empty()).map(|(name, _)| name).collect();
    if !without.is_empty() {
        let told =
            format!("These relays offer no STARTTLS yet: {}. If it stays so, `Degraded` says why.", without.join(", "));
        return Verdict::no(Reason::CertificateNotLoaded, told);
    }
    match first_to_end(facts) {
        None => Verdict::no(Reason::CertificateNotLoaded, "No relay says until when its certificate holds."),
        Some((end, name)) if end <= facts.now => {
            let told = format!(
                "The certificate of {name} ended at {end}: renew it, the relays take the new one by themselves."
            );
            Verdict::no(Reason::CertificateExpired, told)
        }
        Some((end, name)) if end.duration_since(facts.now) < EXPIRES_SOON => {
            let told = format!(
                "The certificate of {name} holds until {end} only: renew it, the relays take the new one by themselves."
            );
            Verdict::yes(Reason::CertificateExpiring, told)
        }
        Some((end, name)) => {
            Verdict::yes(Reason::CertificateCurrent, format!("The certificate of {name} holds until {end}."))
        }
    }
}

fn first_to_end(facts: &Facts) -> Option<(Timestamp, String)> {
    let all = facts.answers().flat_map(|(_, answer)| &answer.tls);
    all.filter_map(|one| Some((time(&one.not_after)?, shown(&one.name, SENTENCE_CHARS_MAX)))).min()
}
