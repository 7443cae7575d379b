//! The one field that we put on top of a message: `Received:` (RFC 5321 section 4.4). No I/O.

use std::net::IpAddr;

use jiff::{Zoned, tz::TimeZone};

use super::envelope::Envelope;

/// What is known of a connection besides the envelope, for this field and the log alone.
#[derive(Clone, Copy, Debug, Default)]
pub struct Circumstances<'a> {
    /// What DNS calls the client's address.
    pub client_name: Option<&'a str>,
    /// IANA's name for the cipher suite, in TLS.
    pub cipher: Option<&'a str>,
}

/// Our field for a message, folded, with its last CRLF. `by` is our own name.
pub fn received_field(envelope: &Envelope, by: &str, circumstances: Circumstances<'_>) -> String {
    let helo = harmless(&envelope.helo);
    let name = circumstances.client_name.map_or_else(String::new, |name| harmless(name) + " ");
    let client = address_literal(envelope.client);
    // One path at most, and none if there are several: each would learn of the others (RFC 5321 section 7.2).
    let recipient = match envelope.recipients.as_slice() {
        [only] => format!("for <{}>", only.address),
        _ => String::new(),
    };
    let tls = circumstances.cipher.map_or_else(String::new, |cipher| format!("tls {cipher}")); // RFC 8314 section 7.4
    let clauses = [recipient, tls].into_iter().filter(|clause| !clause.is_empty()).collect::<Vec<_>>().join("\r\n\t");
    let clauses = if clauses.is_empty() { clauses } else { format!("\r\n\t{clauses}") };
    let date = date(&envelope.received_at.to_zoned(TimeZone::UTC));
    let (mark, with, id) = (mark(by), envelope.with(), envelope.id);
    format!("Received: from {helo} ({name}{client})\r\n\t{mark}{with} id {id}{clauses};\r\n\t{date}\r\n")
}

/// What stands in each of our fields, and in those of nobody else, each fold a blank. `by` is our own name.
pub fn mark(by: &str) -> String {
    format!("by {by} (BackupMx) with ")
}

/// The EHLO name is foreign text in a structured field: what could end a token or open a comment becomes `?`.
fn harmless(helo: &str) -> String {
    const HELO_BYTES_MAX: usize = 255; // the longest domain, RFC 5321 section 4.5.3.1.2
    let harmless = |c: char| if c.is_ascii_alphanumeric() || ".-_[]:".contains(c) { c } else { '?' };
    helo.chars().take(HELO_BYTES_MAX).map(harmless).collect()
}

/// RFC 5321 section 4.1.3.
fn address_literal(client: IpAddr) -> String {
    match client.to_canonical() {
        IpAddr::V4(address) => format!("[{address}]"),
        IpAddr::V6(address) => format!("[IPv6:{address}]"),
    }
}

/// With a numeric offset, as RFC 5321 section 4.4 wants it.
fn date(at: &Zoned) -> String {
    at.strftime("%a, %d %b %Y %H:%M:%S +0000").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::{
        address::Address,
        envelope::{Body, Protocol},
        id::MessageId,
    };

    fn envelope() -> Envelope {
        Envelope {
            id: MessageId::from_bytes([1; 16]),
            received_at: "2026-11-22T14:53:47Z".parse().unwrap(),
            client: "192.0.2.1".parse().unwrap(),
            helo: "mail.example.net".into(),
            protocol: Protocol::Esmtp,
            reverse_path: None,
            recipients: vec![Address::parse("a@example.org").unwrap().into()],
            body: Body::Unsaid,
            smtputf8: false,
            ret: None,
            envid: None,
        }
    }

    #[test]
    fn the_field_names_client_relay_protocol_id_recipient_and_time() {
        assert_eq!(
            received_field(&envelope(), "mx2.example.org", Circumstances::default()),
            "Received: from mail.example.net ([192.0.2.1])\r\n\
             \tby mx2.example.org (BackupMx) with ESMTP id 01040G2081040G2081040G2081\r\n\
             \tfor <a@example.org>;\r\n\
             \tSun, 22 Nov 2026 14:53:47 +0000\r\n"
        );
    }

    #[test]
    fn no_recipient_learns_of_another() {
        let mut several = envelope();
        several.recipients.push(Address::parse("b@example.org").unwrap().into());
        assert!(!received_field(&several, "mx2.example.org", Circumstances::default()).contains("example.org>"));
    }

    #[test]
    fn a_hostile_helo_name_cannot_leave_its_place() {
        let hostile = Envelope { helo: "x) by (y\r\nSubject: z;".into(), ..envelope() };
        assert!(
            received_field(&hostile, "mx2", Circumstances::default())
                .starts_with("Received: from x??by??y??Subject:?z? ([192.0.2.1])\r\n\tby mx2")
        );
    }

    #[test]
    fn an_ipv6_client_is_written_as_a_literal() {
        let over_ipv6 = Envelope { client: "2001:db8::1".parse().unwrap(), ..envelope() };
        assert!(received_field(&over_ipv6, "mx2", Circumstances::default()).contains("([IPv6:2001:db8::1])"));
        let mapped = Envelope { client: "::ffff:192.0.2.7".parse().unwrap(), ..envelope() };
        assert!(received_field(&mapped, "mx2", Circumstances::default()).contains("([192.0.2.7])"));
    }

    #[test]
    fn what_dns_calls_the_client_and_the_cipher_stand_in_the_field() {
        let envelope = Envelope { protocol: Protocol::Esmtps, smtputf8: true, ..envelope() };
        let known = Circumstances { client_name: Some("mx.example.net"), cipher: Some("TLS_AES_128_GCM_SHA256") };
        assert!(received_field(&envelope, "mx2", known).starts_with(
            "Received: from mail.example.net (mx.example.net [192.0.2.1])\r\n\
             \tby mx2 (BackupMx) with UTF8SMTPS id 01040G2081040G2081040G2081\r\n\
             \tfor <a@example.org>\r\n\ttls TLS_AES_128_GCM_SHA256;\r\n"
        ));
    }
}
