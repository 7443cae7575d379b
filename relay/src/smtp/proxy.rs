//! The PROXY protocol, v1 and v2: who the client behind a load balancer is. No I/O.
//!
//! Source: "The PROXY protocol", HAProxy Technologies, versions 1 and 2. It is not guessed whether a header comes: a
//! listener demands one, or does not know the protocol.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What stands at the start of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Header {
    /// Not all of it has come.
    Incomplete,
    /// All of it.
    Complete {
        /// What follows it belongs to the conversation.
        length: usize,
        /// Whom the proxy speaks for; `None` if for itself (LOCAL, as health checks do) or for it does not know whom.
        client: Option<IpAddr>,
    },
    /// No header.
    Bad,
}

/// Longest line of v1, with its line end (section 2.1).
const V1_BYTES_MAX: usize = 107;
/// What begins every header of v2 (section 2.2).
const V2_SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const V2_FIXED_BYTES: usize = 16;
/// Addresses and what proxies add to them; the certificates of clients, which may be longer, no proxy sends by itself.
const V2_BYTES_MAX: usize = V2_FIXED_BYTES + 4096;
/// The longest header that is taken.
pub const HEADER_BYTES_MAX: usize = V2_BYTES_MAX;

/// Reads what has come so far.
pub fn read(input: &[u8]) -> Header {
    let common = input.len().min(V2_SIGNATURE.len());
    if input[..common] == V2_SIGNATURE[..common] {
        if input.len() < V2_FIXED_BYTES { Header::Incomplete } else { v2(input) }
    } else {
        v1(input)
    }
}

fn v1(input: &[u8]) -> Header {
    const START: &[u8] = b"PROXY ";
    let common = input.len().min(START.len());
    if input[..common] != START[..common] {
        return Header::Bad;
    }
    let Some(end) = memchr::memmem::find(&input[..input.len().min(V1_BYTES_MAX)], b"\r\n") else {
        return if input.len() < V1_BYTES_MAX { Header::Incomplete } else { Header::Bad };
    };
    let length = end + 2;
    let words = str::from_utf8(&input[..end]).map(|line| line.split(' ').skip(1).collect::<Vec<_>>());
    let client = match words.as_deref() {
        Ok(["UNKNOWN", ..]) => None, // what stands behind it is to be ignored
        Ok(["TCP4", source, destination, ports @ ..]) => match v1_source::<Ipv4Addr>(source, destination, ports) {
            Some(source) => Some(IpAddr::V4(source)),
            None => return Header::Bad,
        },
        Ok(["TCP6", source, destination, ports @ ..]) => match v1_source::<Ipv6Addr>(source, destination, ports) {
            Some(source) => Some(IpAddr::V6(source)),
            None => return Header::Bad,
        },
        _ => return Header::Bad,
    };
    Header::Complete { length, client }
}

fn v1_source<A: std::str::FromStr>(source: &str, destination: &str, ports: &[&str]) -> Option<A> {
    let is_port = |port: &&str| {
        port.bytes().all(|byte| byte.is_ascii_digit())
            && (*port == "0" || !port.starts_with('0'))
            && port.parse::<u16>().is_ok()
    };
    let is_good = destination.parse::<A>().is_ok() && ports.len() == 2 && ports.iter().all(is_port);
    is_good.then(|| source.parse().ok()).flatten()
}

/// `input` holds the fixed part at least.
fn v2(input: &[u8]) -> Header {
    const LOCAL: u8 = 0x20;
    const PROXY: u8 = 0x21;
    let (command, family) = (input[12], input[13]);
    let length = V2_FIXED_BYTES + usize::from(u16::from_be_bytes([input[14], input[15]]));
    if !matches!(command, LOCAL | PROXY) || length > V2_BYTES_MAX {
        return Header::Bad;
    }
    let Some(rest) = input.get(V2_FIXED_BYTES..length) else { return Header::Incomplete };
    let client = match (command, family) {
        (LOCAL, _) | (_, 0x00) => None,
        // Source and destination, then their ports.
        (_, 0x11) if rest.len() >= 12 => rest.first_chunk().map(|bytes: &[u8; 4]| IpAddr::from(*bytes)),
        (_, 0x21) if rest.len() >= 36 => rest.first_chunk().map(|bytes: &[u8; 16]| IpAddr::from(*bytes)),
        _ => return Header::Bad, // datagrams, local sockets, or cut addresses: nothing that SMTP comes over
    };
    Header::Complete { length, client }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = (rest.len() as u16).to_be_bytes();
        [&V2_SIGNATURE[..], &[command, family], &length, rest].concat()
    }

    /// Checks a header whole, cut everywhere, and with a conversation behind it.
    fn check(header: &[u8], client: Option<&str>) {
        let complete =
            Header::Complete { length: header.len(), client: client.map(|address| address.parse().unwrap()) };
        assert_eq!(read(header), complete, "{}", header.escape_ascii());
        assert_eq!(read(&[header, b"EHLO x\r\n"].concat()), complete, "{}", header.escape_ascii());
        for cut in 0..header.len() {
            assert_eq!(read(&header[..cut]), Header::Incomplete, "{} cut at {cut}", header.escape_ascii());
        }
    }

    #[test]
    fn the_client_is_whom_the_header_names() {
        check(b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 25\r\n", Some("192.0.2.7"));
        check(b"PROXY TCP6 2001:db8::7 2001:db8::1 40000 25\r\n", Some("2001:db8::7"));
        check(b"PROXY UNKNOWN\r\n", None);
        check(b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", None);
        let v4 = [192, 0, 2, 7, 198, 51, 100, 1, 0x9c, 0x40, 0, 25];
        let mut v6 = [0; 36];
        (v6[0], v6[1], v6[2], v6[3], v6[15]) = (0x20, 0x01, 0x0d, 0xb8, 7);
        check(&v2(0x21, 0x11, &v4), Some("192.0.2.7"));
        check(&v2(0x21, 0x11, &[&v4[..], &[4, 0, 1, 0]].concat()), Some("192.0.2.7")); // with an addition
        check(&v2(0x21, 0x21, &v6), Some("2001:db8::7"));
        check(&v2(0x20, 0x00, &[]), None);
        check(&v2(0x20, 0x11, &v4), None);
        check(&v2(0x21, 0x00, &[]), None);
    }

    #[test]
    fn what_is_no_header_is_told() {
        for bad in [
            &b"EHLO x\r\n"[..],
            b"\r\n\r\nEHLO",
            b"PROXY\r\n",
            b"PROXY TCP4\r\n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 40000\r\n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 25 1\r\n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 65536\r\n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 +1 25\r\n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 40000  25\r\n",
            b"PROXY TCP4 2001:db8::7 2001:db8::1 40000 25\r\n",
            b"PROXY TCP4 192.0.2.7 2001:db8::1 40000 25\r\n",
            b"PROXY UDP4 192.0.2.7 198.51.100.1 40000 25\r\n",
            b"PROXY TCP4 192.0.2.777 198.51.100.1 40000 25\r\n",
            b"proxy TCP4 192.0.2.7 198.51.100.1 40000 25\r\n",
            &[&b"PROXY UNKNOWN "[..], &[b'x'; 100]].concat(),
            &[&b"PROXY UNKNOWN "[..], &[b'x'; 100], b"\r\n"].concat(),
            &v2(0x11, 0x11, &[0; 12]),
            &v2(0x22, 0x11, &[0; 12]),
            &v2(0x21, 0x12, &[0; 12]),
            &v2(0x21, 0x31, &[0; 216]),
            &v2(0x21, 0x11, &[0; 11]),
            &v2(0x21, 0x21, &[0; 35]),
            &[&V2_SIGNATURE[..], &[0x21, 0x11, 0xff, 0xff]].concat(),
        ] {
            assert_eq!(read(bad), Header::Bad, "{}", bad.escape_ascii());
        }
    }
}
