//! Commands of the client, from one line without its CRLF. Every byte of an address is kept. No I/O.

use crate::mail::{
    address::{Address, BadAddress, is_address_literal, is_domain, quoted_length},
    envelope::Body,
};

/// What the client wants.
#[derive(Clone, PartialEq, Debug)]
pub enum Command {
    /// `EHLO name`.
    Ehlo(String),
    /// `HELO name`.
    Helo(String),
    /// `MAIL FROM:<reverse-path> parameters`.
    Mail {
        /// `None` for `<>`.
        reverse_path: Option<Address>,
        /// What followed it.
        parameters: MailParameters,
    },
    /// `RCPT TO:<forward-path>`.
    Rcpt(ForwardPath),
    /// `DATA`.
    Data,
    /// `BDAT bytes [LAST]` (RFC 3030 section 2).
    Bdat {
        /// How many follow the line.
        bytes: u64,
        /// Whether the message ends with them.
        is_last: bool,
    },
    /// `RSET`.
    Rset,
    /// `NOOP anything`.
    Noop,
    /// `VRFY something`.
    Vrfy,
    /// `EXPN something`.
    Expn,
    /// `HELP anything`.
    Help,
    /// `QUIT`.
    Quit,
}

/// Whom a message is for.
#[derive(Clone, PartialEq, Debug)]
pub enum ForwardPath {
    /// An address.
    Mailbox(Address),
    /// `<Postmaster>` without a domain, in the case in which it came (RFC 5321 section 4.1.1.3).
    Postmaster(String),
}

/// Parameters of MAIL.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MailParameters {
    /// `SIZE=`, in bytes (RFC 1870).
    pub size: Option<u64>,
    /// `BODY=` (RFC 6152).
    pub body: Body,
}

/// Why a line is no command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadCommand {
    /// Not a verb we know.
    Unknown,
    /// A line end or NUL inside the line.
    ControlCharacter,
    /// The verb is known, its arguments do not follow this grammar.
    Arguments(&'static str),
    /// The reverse-path is no path.
    Sender(BadAddress),
    /// The forward-path is no path.
    Recipient(BadAddress),
    /// A parameter that we did not offer.
    Parameter,
    /// BDAT without a length that can be read: where the next command begins cannot be known.
    Chunk,
}

/// RFC 5321 section 4.5.3.1.3 asks for 256; longer ones exist, with long local parts.
const PATH_BYTES_MAX: usize = 1024;

impl Command {
    /// Reads one line.
    pub fn parse(line: &[u8]) -> Result<Self, BadCommand> {
        // NUL, and CR that somebody else could take for a line end, have no place in any command.
        if line.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n')) {
            return Err(BadCommand::ControlCharacter);
        }
        let verb_length = line.iter().position(|byte| *byte == b' ').unwrap_or(line.len());
        let (verb, rest) = line.split_at(verb_length);
        let rest = rest.trim_ascii();
        match verb.to_ascii_uppercase().as_slice() {
            b"EHLO" => client_name(rest).map(Self::Ehlo).ok_or(BadCommand::Arguments("EHLO name")),
            b"HELO" => client_name(rest).map(Self::Helo).ok_or(BadCommand::Arguments("HELO name")),
            b"MAIL" => mail(rest),
            b"RCPT" => rcpt(rest),
            b"DATA" => alone(Self::Data, rest, "DATA"),
            b"BDAT" => chunk(rest),
            b"RSET" => alone(Self::Rset, rest, "RSET"),
            b"NOOP" => Ok(Self::Noop),
            b"VRFY" if !rest.is_empty() => Ok(Self::Vrfy),
            b"VRFY" => Err(BadCommand::Arguments("VRFY address")),
            b"EXPN" => Ok(Self::Expn),
            b"HELP" => Ok(Self::Help),
            b"QUIT" => alone(Self::Quit, rest, "QUIT"),
            _ => Err(BadCommand::Unknown),
        }
    }
}

fn chunk(rest: &[u8]) -> Result<Command, BadCommand> {
    let mut words = rest.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
    let bytes = words.next().and_then(size_value).ok_or(BadCommand::Chunk)?;
    match (words.next(), words.next()) {
        (None, _) => Ok(Command::Bdat { bytes, is_last: false }),
        (Some(word), None) if word.eq_ignore_ascii_case(b"LAST") => Ok(Command::Bdat { bytes, is_last: true }),
        _ => Err(BadCommand::Chunk),
    }
}

fn alone(command: Command, rest: &[u8], syntax: &'static str) -> Result<Command, BadCommand> {
    if rest.is_empty() { Ok(command) } else { Err(BadCommand::Arguments(syntax)) }
}

/// Anything printable: mail must not be refused for its client's name (RFC 5321 section 4.1.4).
fn client_name(rest: &[u8]) -> Option<String> {
    let printable = !rest.is_empty() && rest.iter().all(|byte| (32..127).contains(byte));
    printable.then(|| String::from_utf8_lossy(rest).into_owned())
}

fn mail(rest: &[u8]) -> Result<Command, BadCommand> {
    const SYNTAX: BadCommand = BadCommand::Arguments("MAIL FROM:<address> [parameters]");
    let rest = after_keyword(rest, b"FROM:").ok_or(SYNTAX)?;
    let (path, rest) = path(rest).map_err(BadCommand::Sender)?;
    let reverse_path = if path.is_empty() { None } else { Some(mailbox(path).map_err(BadCommand::Sender)?) };
    Ok(Command::Mail { reverse_path, parameters: mail_parameters(rest)? })
}

fn rcpt(rest: &[u8]) -> Result<Command, BadCommand> {
    const SYNTAX: BadCommand = BadCommand::Arguments("RCPT TO:<address>");
    let rest = after_keyword(rest, b"TO:").ok_or(SYNTAX)?;
    let (path, rest) = path(rest).map_err(BadCommand::Recipient)?;
    if !rest.trim_ascii().is_empty() {
        return Err(BadCommand::Parameter);
    }
    if path.eq_ignore_ascii_case("postmaster") {
        return Ok(Command::Rcpt(ForwardPath::Postmaster(path.to_owned())));
    }
    mailbox(path).map(|address| Command::Rcpt(ForwardPath::Mailbox(address))).map_err(BadCommand::Recipient)
}

/// Some clients put a space behind the colon, against the grammar but without harm.
fn after_keyword<'a>(rest: &'a [u8], keyword: &[u8]) -> Option<&'a [u8]> {
    let (head, rest) = rest.split_at_checked(keyword.len())?;
    head.eq_ignore_ascii_case(keyword).then(|| rest.trim_ascii_start())
}

/// What stands between `<` and its `>`, where a `>` within quotes is not the end, and what follows.
fn path(text: &[u8]) -> Result<(&str, &[u8]), BadAddress> {
    let inside = text.strip_prefix(b"<").ok_or(BadAddress::Syntax)?;
    let mut position = 0;
    loop {
        match inside.get(position).ok_or(BadAddress::Syntax)? {
            b'>' => break,
            b'"' => position += quoted_length(&inside[position..]).ok_or(BadAddress::Syntax)?,
            _ => position += 1,
        }
    }
    let (path, rest) = (&inside[..position], &inside[position + 1..]);
    if rest.first().is_some_and(|byte| *byte != b' ') {
        return Err(BadAddress::Syntax);
    }
    if path.len() > PATH_BYTES_MAX {
        return Err(BadAddress::TooLong);
    }
    // What is not even UTF-8 needs SMTPUTF8 no less.
    Ok((str::from_utf8(path).map_err(|_| BadAddress::NotAscii)?, rest))
}

/// A source route before the address is read over (RFC 5321 section 4.1.1.3): only the last domain counts.
fn mailbox(path: &str) -> Result<Address, BadAddress> {
    let Some(route) = path.strip_prefix('@') else { return Address::parse(path) };
    let (hops, address) = route.split_once(':').ok_or(BadAddress::Syntax)?;
    let mut hops = hops.split(',').map(|hop| hop.trim_start_matches('@'));
    if hops.all(|hop| is_domain(hop) || is_address_literal(hop)) {
        Address::parse(address)
    } else {
        Err(BadAddress::Syntax)
    }
}

fn mail_parameters(rest: &[u8]) -> Result<MailParameters, BadCommand> {
    const DOUBLED: BadCommand = BadCommand::Arguments("each MAIL parameter once");
    let (mut size, mut body) = (None, None);
    for word in rest.split(|byte| *byte == b' ').filter(|word| !word.is_empty()) {
        let word = word.to_ascii_uppercase();
        if let Some(digits) = word.strip_prefix(b"SIZE=") {
            let first =
                size.replace(size_value(digits).ok_or(BadCommand::Arguments("SIZE=number of bytes"))?).is_none();
            first.then_some(()).ok_or(DOUBLED)?;
        } else if let Some(kind) = word.strip_prefix(b"BODY=") {
            let kind = match kind {
                b"7BIT" => Body::SevenBit,
                b"8BITMIME" => Body::EightBitMime,
                _ => return Err(BadCommand::Parameter), // BINARYMIME is not offered
            };
            body.replace(kind).is_none().then_some(()).ok_or(DOUBLED)?;
        } else {
            return Err(BadCommand::Parameter);
        }
    }
    Ok(MailParameters { size, body: body.unwrap_or_default() })
}

/// At most 20 digits (RFC 1870 section 3); one that does not fit is larger than all limits.
fn size_value(digits: &[u8]) -> Option<u64> {
    let fits = !digits.is_empty() && digits.len() <= 20 && digits.iter().all(u8::is_ascii_digit);
    fits.then(|| str::from_utf8(digits).ok()?.parse().ok().or(Some(u64::MAX))).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mail(path: &str, size: Option<u64>, body: Body) -> Result<Command, BadCommand> {
        let reverse_path = (!path.is_empty()).then(|| Address::parse(path).unwrap());
        Ok(Command::Mail { reverse_path, parameters: MailParameters { size, body } })
    }

    fn rcpt(path: &str) -> Result<Command, BadCommand> {
        Ok(Command::Rcpt(ForwardPath::Mailbox(Address::parse(path).unwrap())))
    }

    #[test]
    fn commands_are_read_as_clients_write_them() {
        for (line, expected) in [
            ("EHLO mail.example.net", Ok(Command::Ehlo("mail.example.net".into()))),
            ("ehlo [192.0.2.1]", Ok(Command::Ehlo("[192.0.2.1]".into()))),
            ("HELO odd name", Ok(Command::Helo("odd name".into()))),
            ("MAIL FROM:<a@b.example>", mail("a@b.example", None, Body::Unsaid)),
            ("mail from: <a@b.example> size=1000 body=8bitmime", mail("a@b.example", Some(1000), Body::EightBitMime)),
            ("MAIL FROM:<> BODY=7BIT", mail("", None, Body::SevenBit)),
            ("MAIL FROM:<a@b.example> SIZE=99999999999999999999", mail("a@b.example", Some(u64::MAX), Body::Unsaid)),
            (r#"MAIL FROM:<"a>SIZE=1 b"@b.example>"#, mail(r#""a>SIZE=1 b"@b.example"#, None, Body::Unsaid)),
            ("RCPT TO:<A@B.example>", rcpt("A@B.example")),
            ("RCPT TO:<@x.example,@y.example:a@b.example>", rcpt("a@b.example")),
            ("RCPT TO:<a%c.example@b.example>", rcpt("a%c.example@b.example")),
            ("RCPT TO:<PostMaster>", Ok(Command::Rcpt(ForwardPath::Postmaster("PostMaster".into())))),
            ("DATA", Ok(Command::Data)),
            ("data ", Ok(Command::Data)),
            ("BDAT 0", Ok(Command::Bdat { bytes: 0, is_last: false })),
            ("bdat 1000  last", Ok(Command::Bdat { bytes: 1000, is_last: true })),
            ("BDAT 99999999999999999999", Ok(Command::Bdat { bytes: u64::MAX, is_last: false })),
            ("RSET", Ok(Command::Rset)),
            ("NOOP whatever", Ok(Command::Noop)),
            ("VRFY a", Ok(Command::Vrfy)),
            ("EXPN staff", Ok(Command::Expn)),
            ("help DATA", Ok(Command::Help)),
            ("QUIT", Ok(Command::Quit)),
        ] {
            assert_eq!(Command::parse(line.as_bytes()), expected, "{line}");
        }
    }

    #[test]
    fn what_is_no_command_is_refused_with_its_reason() {
        use BadCommand::{Arguments, Chunk, ControlCharacter, Parameter, Recipient, Sender, Unknown};
        const SYNTAX: BadAddress = BadAddress::Syntax;
        for (line, expected) in [
            (&b""[..], Unknown),
            (b"GET / HTTP/1.1", Unknown),
            (b"DATAX", Unknown),
            (b"DA\rTA", ControlCharacter),
            (b"NOOP\0", ControlCharacter),
            (b"DATA now", Arguments("DATA")),
            (b"QUIT now", Arguments("QUIT")),
            (b"BDAT", Chunk),
            (b"BDAT LAST", Chunk),
            (b"BDAT -1", Chunk),
            (b"BDAT 5 FIRST", Chunk),
            (b"BDAT 5 LAST LAST", Chunk),
            (b"BDAT 0x10", Chunk),
            (b"EHLO", Arguments("EHLO name")),
            (b"EHLO \xff", Arguments("EHLO name")),
            (b"VRFY", Arguments("VRFY address")),
            (b"MAIL", Arguments("MAIL FROM:<address> [parameters]")),
            (b"MAIL TO:<a@b.example>", Arguments("MAIL FROM:<address> [parameters]")),
            (b"MAIL FROM:a@b.example", Sender(SYNTAX)),
            (b"MAIL FROM:<a@b.example", Sender(SYNTAX)),
            (b"MAIL FROM:<a@b.example>SIZE=1", Sender(SYNTAX)),
            (b"MAIL FROM:<\"a@b.example>", Sender(SYNTAX)),
            (b"MAIL FROM:<\xff@b.example>", Sender(BadAddress::NotAscii)),
            (b"MAIL FROM:<a@b.example> SIZE=", Arguments("SIZE=number of bytes")),
            (b"MAIL FROM:<a@b.example> SIZE=-1", Arguments("SIZE=number of bytes")),
            (b"MAIL FROM:<a@b.example> SIZE=1 SIZE=2", Arguments("each MAIL parameter once")),
            (b"MAIL FROM:<a@b.example> BODY=BINARYMIME", Parameter),
            (b"MAIL FROM:<a@b.example> SMTPUTF8", Parameter),
            (b"RCPT TO:<>", Recipient(SYNTAX)),
            (b"RCPT TO:<a>", Recipient(SYNTAX)),
            (b"RCPT TO:<@x.example>", Recipient(SYNTAX)),
            (b"RCPT TO:<@x y:a@b.example>", Recipient(SYNTAX)),
            (b"RCPT TO:<a@b.example> NOTIFY=NEVER", Parameter),
            ("RCPT TO:<jürgen@b.example>".as_bytes(), Recipient(BadAddress::NotAscii)),
        ] {
            assert_eq!(Command::parse(line), Err(expected), "{}", line.escape_ascii());
        }
    }
}
