//! Commands of the client, from one line without its CRLF. Every byte of an address is kept. No I/O.

use super::parameter::{MailParameters, RcptParameters, size_value};
use crate::mail::address::{Address, BadAddress, a_labels, is_address_literal, quoted_length};

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
    /// `RCPT TO:<forward-path> parameters`.
    Rcpt {
        /// Whom it is for.
        path: ForwardPath,
        /// What followed it.
        parameters: RcptParameters,
    },
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
    /// `STARTTLS` (RFC 3207).
    StartTls,
    /// `ETRN name` (RFC 1985): the name, without the `@` that stands for all below it.
    Etrn(String),
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

/// Why a line is no command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadCommand {
    /// Not a verb we know.
    Unknown,
    /// A control character in the line.
    ControlCharacter,
    /// The verb is known, its arguments do not follow this grammar.
    Arguments(&'static str),
    /// EHLO or HELO without a name.
    Hello(&'static str),
    /// A path of bytes that are no UTF-8.
    NotUtf8,
    /// The reverse-path is no path.
    Sender(BadAddress),
    /// The forward-path is no path.
    Recipient(BadAddress),
    /// A parameter that we did not offer.
    Parameter,
    /// Somebody speaks HTTP: a browser, or one that a page made to attack us.
    Http,
    /// BDAT without a length that can be read: where the next command begins cannot be known.
    Chunk,
}

/// RFC 5321 section 4.5.3.1.3 asks for 256; longer ones exist, with long local parts.
const PATH_BYTES_MAX: usize = 1024;

impl Command {
    /// Reads one line.
    pub fn parse(line: &[u8]) -> Result<Self, BadCommand> {
        // CR and LF could be a line end to somebody else, and the others have no place in any command.
        if line.iter().any(u8::is_ascii_control) {
            return Err(BadCommand::ControlCharacter);
        }
        let verb_length = line.iter().position(|byte| *byte == b' ').unwrap_or(line.len());
        let (verb, rest) = line.split_at(verb_length);
        let rest = rest.trim_ascii();
        match verb.to_ascii_uppercase().as_slice() {
            b"EHLO" => client_name(rest).map(Self::Ehlo).ok_or(BadCommand::Hello("EHLO name")),
            b"HELO" => client_name(rest).map(Self::Helo).ok_or(BadCommand::Hello("HELO name")),
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
            b"STARTTLS" => alone(Self::StartTls, rest, "STARTTLS"),
            b"ETRN" => etrn(rest),
            b"QUIT" => alone(Self::Quit, rest, "QUIT"),
            b"GET" | b"POST" | b"HEAD" | b"PUT" | b"PATCH" | b"DELETE" | b"CONNECT" | b"OPTIONS" | b"TRACE"
            | b"PRI" => Err(BadCommand::Http),
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

/// Anything: mail must not be refused for its client's name (RFC 5321 section 4.1.4), and machines have names in Latin-1.
fn client_name(rest: &[u8]) -> Option<String> {
    (!rest.is_empty()).then(|| String::from_utf8_lossy(rest).into_owned())
}

fn mail(rest: &[u8]) -> Result<Command, BadCommand> {
    const SYNTAX: BadCommand = BadCommand::Arguments("MAIL FROM:<address> [parameters]");
    let rest = after_keyword(rest, b"FROM:").ok_or(SYNTAX)?;
    let (path, rest) = path(rest).map_err(BadCommand::Sender)?;
    let path = str::from_utf8(path).map_err(|_| BadCommand::NotUtf8)?;
    let reverse_path = if path.is_empty() { None } else { Some(mailbox(path).map_err(BadCommand::Sender)?) };
    Ok(Command::Mail { reverse_path, parameters: MailParameters::parse(rest)? })
}

fn rcpt(rest: &[u8]) -> Result<Command, BadCommand> {
    const SYNTAX: BadCommand = BadCommand::Arguments("RCPT TO:<address>");
    let rest = after_keyword(rest, b"TO:").ok_or(SYNTAX)?;
    let (path, rest) = path(rest).map_err(BadCommand::Recipient)?;
    let path = str::from_utf8(path).map_err(|_| BadCommand::NotUtf8)?;
    let path = if path.eq_ignore_ascii_case("postmaster") {
        ForwardPath::Postmaster(path.to_owned())
    } else {
        ForwardPath::Mailbox(mailbox(path).map_err(BadCommand::Recipient)?)
    };
    Ok(Command::Rcpt { path, parameters: RcptParameters::parse(rest)? })
}

fn etrn(rest: &[u8]) -> Result<Command, BadCommand> {
    let name = str::from_utf8(rest).ok().filter(|name| !name.is_empty() && !name.contains(' '));
    let name = name.ok_or(BadCommand::Arguments("ETRN domain"))?;
    Ok(Command::Etrn(name.strip_prefix('@').unwrap_or(name).to_owned()))
}

/// Some clients put a space behind the colon, against the grammar but without harm.
fn after_keyword<'a>(rest: &'a [u8], keyword: &[u8]) -> Option<&'a [u8]> {
    let (head, rest) = rest.split_at_checked(keyword.len())?;
    head.eq_ignore_ascii_case(keyword).then(|| rest.trim_ascii_start())
}

/// What stands between `<` and its `>`, where a `>` within quotes is not the end, and what follows.
fn path(text: &[u8]) -> Result<(&[u8], &[u8]), BadAddress> {
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
    Ok((path, rest))
}

/// A source route before the address is read over (RFC 5321 section 4.1.1.3): only the last domain counts.
fn mailbox(path: &str) -> Result<Address, BadAddress> {
    let Some(route) = path.strip_prefix('@') else { return Address::parse(path) };
    let (hops, address) = route.split_once(':').ok_or(BadAddress::Syntax)?;
    let mut hops = hops.split(',').map(|hop| hop.trim_start_matches('@'));
    if hops.all(|hop| a_labels(hop).is_some() || is_address_literal(hop)) {
        Address::parse(address)
    } else {
        Err(BadAddress::Syntax)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::envelope::Body;

    fn mail(path: &str, size: Option<u64>, body: Body) -> Result<Command, BadCommand> {
        let reverse_path = (!path.is_empty()).then(|| Address::parse(path).unwrap());
        Ok(Command::Mail { reverse_path, parameters: MailParameters { size, body, ..MailParameters::default() } })
    }

    fn rcpt(path: &str) -> Result<Command, BadCommand> {
        Ok(to(ForwardPath::Mailbox(Address::parse(path).unwrap())))
    }

    fn to(path: ForwardPath) -> Command {
        Command::Rcpt { path, parameters: RcptParameters::default() }
    }

    #[test]
    fn commands_are_read_as_clients_write_them() {
        for (line, expected) in [
            ("EHLO mail.example.net", Ok(Command::Ehlo("mail.example.net".into()))),
            ("ehlo [192.0.2.1]", Ok(Command::Ehlo("[192.0.2.1]".into()))),
            ("EHLO BÜRO-PC", Ok(Command::Ehlo("BÜRO-PC".into()))),
            ("HELO odd name", Ok(Command::Helo("odd name".into()))),
            ("MAIL FROM:<a@b.example>", mail("a@b.example", None, Body::Unsaid)),
            ("mail from: <a@b.example> size=1000 body=8bitmime", mail("a@b.example", Some(1000), Body::EightBitMime)),
            ("MAIL FROM:<> BODY=7BIT", mail("", None, Body::SevenBit)),
            ("MAIL FROM:<a@b.example> SIZE=99999999999999999999", mail("a@b.example", Some(u64::MAX), Body::Unsaid)),
            (r#"MAIL FROM:<"a>SIZE=1 b"@b.example>"#, mail(r#""a>SIZE=1 b"@b.example"#, None, Body::Unsaid)),
            ("RCPT TO:<A@B.example>", rcpt("A@B.example")),
            ("RCPT TO:<@x.example,@y.example:a@b.example>", rcpt("a@b.example")),
            ("RCPT TO:<jürgen@bücher.example>", rcpt("jürgen@bücher.example")),
            ("RCPT TO:<a%c.example@b.example>", rcpt("a%c.example@b.example")),
            ("RCPT TO:<PostMaster>", Ok(to(ForwardPath::Postmaster("PostMaster".into())))),
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
            ("starttls", Ok(Command::StartTls)),
            ("ETRN Example.org", Ok(Command::Etrn("Example.org".into()))),
            ("ETRN @example.org", Ok(Command::Etrn("example.org".into()))),
            ("QUIT", Ok(Command::Quit)),
        ] {
            assert_eq!(Command::parse(line.as_bytes()), expected, "{line}");
        }
    }

    #[test]
    fn what_is_no_command_is_refused_with_its_reason() {
        use BadCommand::{
            Arguments, Chunk, ControlCharacter, Hello, Http, NotUtf8, Parameter, Recipient, Sender, Unknown,
        };
        const SYNTAX: BadAddress = BadAddress::Syntax;
        for (line, expected) in [
            (&b""[..], Unknown),
            (b"GET / HTTP/1.1", Http),
            (b"post /x HTTP/1.0", Http),
            (b"NOOP\x01", ControlCharacter),
            (b"NOOP\tx", ControlCharacter),
            (b"STARTTLS now", Arguments("STARTTLS")),
            (b"ETRN", Arguments("ETRN domain")),
            (b"ETRN a b", Arguments("ETRN domain")),
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
            (b"EHLO", Hello("EHLO name")),
            (b"VRFY", Arguments("VRFY address")),
            (b"MAIL", Arguments("MAIL FROM:<address> [parameters]")),
            (b"MAIL TO:<a@b.example>", Arguments("MAIL FROM:<address> [parameters]")),
            (b"MAIL FROM:a@b.example", Sender(SYNTAX)),
            (b"MAIL FROM:<a@b.example", Sender(SYNTAX)),
            (b"MAIL FROM:<a@b.example>SIZE=1", Sender(SYNTAX)),
            (b"MAIL FROM:<\"a@b.example>", Sender(SYNTAX)),
            (b"MAIL FROM:<\xff@b.example>", NotUtf8),
            (b"MAIL FROM:<a@b.example> SIZE=", Arguments("SIZE=number of bytes")),
            (b"MAIL FROM:<a@b.example> BODY=BINARYMIME", Parameter),
            (b"RCPT TO:<>", Recipient(SYNTAX)),
            (b"RCPT TO:<a>", Recipient(SYNTAX)),
            (b"RCPT TO:<@x.example>", Recipient(SYNTAX)),
            (b"RCPT TO:<@x y:a@b.example>", Recipient(SYNTAX)),
            (b"RCPT TO:<a@b.example> SIZE=1", Parameter),
            (b"RCPT TO:<\xffrgen@b.example>", NotUtf8),
        ] {
            assert_eq!(Command::parse(line), Err(expected), "{}", line.escape_ascii());
        }
    }
}
