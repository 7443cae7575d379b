//! Whose mail the primary is to judge: XCLIENT, as Postfix has it (XCLIENT_README). No I/O.

use std::net::IpAddr;

use super::{
    extensions::Attribute,
    xforward::{UNKNOWN, VALUE_BYTES_MAX, address, xtext},
};

/// The client that brings the mail.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Client {
    /// Where it connects from.
    pub address: IpAddr,
    /// From which port, where that is known.
    pub port: Option<u16>,
    /// What DNS calls it, where that is known.
    pub name: Option<String>,
    /// What it called itself.
    pub helo: String,
    /// Whether it said EHLO.
    pub is_esmtp: bool,
}

/// The command that tells what is wanted of it.
pub fn command(client: &Client, wanted: &[Attribute]) -> String {
    let told = wanted.iter().map(|attribute| format!(" {}={}", attribute.keyword(), xtext(&value(client, *attribute))));
    format!("XCLIENT{}\r\n", told.collect::<String>())
}

/// The name to say in EHLO on its behalf: its own, if that can be said.
pub fn helo(client: &Client) -> String {
    let may_be_said =
        (1..=VALUE_BYTES_MAX).contains(&client.helo.len()) && client.helo.bytes().all(|byte| byte.is_ascii_graphic());
    match (may_be_said, client.address.to_canonical()) {
        (true, _) => client.helo.clone(),
        (false, IpAddr::V4(address)) => format!("[{address}]"),
        (false, IpAddr::V6(address)) => format!("[IPv6:{address}]"),
    }
}

fn value(client: &Client, attribute: Attribute) -> String {
    let value = match attribute {
        Attribute::Name => client.name.clone().unwrap_or_default(),
        Attribute::Addr => address(client.address),
        Attribute::Port => client.port.map_or_else(String::new, |port| port.to_string()),
        Attribute::Proto => if client.is_esmtp { "ESMTP" } else { "SMTP" }.to_owned(),
        Attribute::Helo => client.helo.clone(),
        Attribute::Ident | Attribute::Source => String::new(), // XFORWARD's alone
    };
    if (1..=VALUE_BYTES_MAX).contains(&value.len()) { value } else { UNKNOWN.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client() -> Client {
        let (name, helo) = (Some("mail.example.net".to_owned()), "mail".to_owned());
        Client { address: "192.0.2.1".parse().unwrap(), port: Some(4711), name, helo, is_esmtp: true }
    }

    #[test]
    fn what_is_wanted_is_told_in_xtext_and_what_is_not_known_is_said_to_be_so() {
        let all = command(&client(), &Attribute::OF_CLIENT);
        assert_eq!(all, "XCLIENT NAME=mail.example.net ADDR=192.0.2.1 PORT=4711 PROTO=ESMTP HELO=mail\r\n");
        let (address, helo) = ("2001:db8::1".parse().unwrap(), "a b\r\nMAIL FROM:<>".to_owned());
        let odd = Client { address, port: None, name: None, helo, is_esmtp: false };
        let told = "XCLIENT NAME=[UNAVAILABLE] ADDR=IPV6:2001:db8::1 PORT=[UNAVAILABLE] PROTO=SMTP HELO=a+20b+0D+0AMAIL+20FROM:<>\r\n";
        assert_eq!(command(&odd, &Attribute::OF_CLIENT), told);
        assert_eq!(command(&client(), &[Attribute::Addr]), "XCLIENT ADDR=192.0.2.1\r\n");
    }

    #[test]
    fn the_command_is_never_longer_than_a_line_of_postfix() {
        let long = || "\u{fc}".repeat(127);
        let told = command(&Client { name: Some(long()), helo: long(), ..client() }, &Attribute::OF_CLIENT);
        assert!(told.len() < 2048, "{}", told.len());
    }

    #[test]
    fn a_name_that_cannot_be_said_is_not_said() {
        assert_eq!(helo(&client()), "mail");
        for odd in ["", "a b", "a\r\nb", "b\u{fc}cher", &"a".repeat(256)] {
            assert_eq!(helo(&Client { helo: odd.into(), ..client() }), "[192.0.2.1]");
        }
    }
}
