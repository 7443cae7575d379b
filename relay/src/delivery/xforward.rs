//! What the primary may log of our client: XFORWARD, as Postfix has it (XFORWARD_README). No I/O.

use std::{fmt::Write, net::IpAddr};

use super::extensions::Attribute;
use crate::mail::envelope::Envelope;

/// Longest command, with its CRLF: what does not fit goes in another one.
const COMMAND_BYTES_MAX: usize = 512;
/// What Postfix takes of one value. A longer one is told to be unknown: half a name would be another name.
pub(super) const VALUE_BYTES_MAX: usize = 255;
pub(super) const UNKNOWN: &str = "[UNAVAILABLE]";

/// Commands that tell these of a message; none if nothing is wanted.
pub fn commands(envelope: &Envelope, wanted: &[Attribute]) -> Vec<String> {
    let mut commands: Vec<String> = Vec::new();
    for attribute in wanted {
        let told = format!(" {}={}", attribute.keyword(), xtext(&value(envelope, *attribute)));
        match commands.last_mut() {
            Some(command) if command.len() + told.len() + 2 <= COMMAND_BYTES_MAX => *command += &told,
            _ => commands.push(format!("XFORWARD{told}")),
        }
    }
    commands.iter_mut().for_each(|command| *command += "\r\n");
    commands
}

fn value(envelope: &Envelope, attribute: Attribute) -> String {
    let value = match attribute {
        Attribute::Name => UNKNOWN.to_owned(), // it is in our trace field; the envelope does not keep it
        Attribute::Addr => address(envelope.client),
        Attribute::Proto => envelope.with().to_owned(),
        Attribute::Helo => envelope.helo.clone(),
        Attribute::Port => return UNKNOWN.to_owned(), // not kept, and not told
        Attribute::Ident => envelope.id.to_string(),
        Attribute::Source => "REMOTE".to_owned(),
    };
    if (1..=VALUE_BYTES_MAX).contains(&value.len()) { value } else { UNKNOWN.to_owned() }
}

/// As XFORWARD and XCLIENT write it.
pub(super) fn address(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("IPV6:{address}"),
    }
}

/// RFC 3461 section 4: printable ASCII but `+` and `=`, all else in hexadecimal digits.
pub(super) fn xtext(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        if matches!(byte, 33..=126) && byte != b'+' && byte != b'=' {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "+{byte:02X}"); // a String takes everything
        }
        encoded
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{mail::id::MessageId, spool::field::tests::accepted};

    #[test]
    fn what_is_wanted_is_told_in_xtext_and_nothing_else() {
        let mut envelope = accepted(MessageId::new(), 1).envelope;
        (envelope.client, envelope.helo) = ("2001:db8::1".parse().unwrap(), "a+b =\r\nMAIL".into());
        let id = envelope.id;
        let all = commands(&envelope, &Attribute::FORWARDED);
        let with = envelope.with();
        let told = format!(
            "XFORWARD NAME=[UNAVAILABLE] ADDR=IPV6:2001:db8::1 PROTO={with} HELO=a+2Bb+20+3D+0D+0AMAIL IDENT={id} SOURCE=REMOTE\r\n"
        );
        assert_eq!(all, [told]);
        envelope.client = "::ffff:192.0.2.1".parse().unwrap();
        assert_eq!(commands(&envelope, &[Attribute::Addr]), ["XFORWARD ADDR=192.0.2.1\r\n"]);
        assert_eq!(commands(&envelope, &[]), [""; 0]);
    }

    #[test]
    fn no_command_is_longer_than_smtp_allows() {
        let mut envelope = accepted(MessageId::new(), 1).envelope;
        for (helo, commands_expected) in [("ü".repeat(100), 2), ("a".repeat(250), 1), ("a".repeat(256), 1)] {
            envelope.helo = helo;
            let all = commands(&envelope, &Attribute::FORWARDED);
            // One value of 200 bytes outside ASCII takes 600 alone, which cannot be helped: it goes on its own.
            assert!(all.iter().all(|command| command.len() <= 620 && command.ends_with("\r\n")), "{all:?}");
            assert!(all.len() >= commands_expected, "{all:?}");
        }
        assert!(commands(&envelope, &Attribute::FORWARDED)[0].contains("HELO=[UNAVAILABLE]"));
    }
}
