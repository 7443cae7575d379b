//! Our replies: code, enhanced code (RFC 2034, RFC 3463), text. Why we refuse stands beside what we say. No I/O.

use std::borrow::Cow;

use crate::{delivery::answer::Answer, mail::id::MessageId};

/// Lines of the primary that a sender hears: its software keeps no more.
const FOREIGN_LINES_MAX: usize = 20;
/// Longest line of ours, with the code (RFC 5321 section 4.5.3.1.5).
const FOREIGN_CHARS_MAX: usize = 480;

/// One reply, of one line or more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    code: u16,
    /// Empty where RFC 2034 forbids one: in the greeting, after EHLO and HELO, and in 3xx.
    enhanced: &'static str,
    lines: Vec<Cow<'static, str>>,
    refusal: Option<&'static str>,
}

impl Reply {
    fn new(code: u16, enhanced: &'static str, text: impl Into<Cow<'static, str>>) -> Self {
        Self { code, enhanced, lines: vec![text.into()], refusal: None }
    }

    fn refusal(code: u16, enhanced: &'static str, reason: &'static str, text: impl Into<Cow<'static, str>>) -> Self {
        Self { refusal: Some(reason), ..Self::new(code, enhanced, text) }
    }

    /// The three digits.
    pub fn code(&self) -> u16 {
        self.code
    }

    /// Whether it answers QUIT.
    pub fn is_goodbye(&self) -> bool {
        self.code == 221
    }

    /// For what this refuses something, as a metric label; `None` if it does not.
    pub fn refused_for(&self) -> Option<&'static str> {
        self.refusal
    }

    /// Appends the reply as it goes over the wire.
    pub fn write(&self, output: &mut Vec<u8>) {
        for (place, line) in self.lines.iter().enumerate() {
            let dash = if place + 1 < self.lines.len() { '-' } else { ' ' };
            output.extend(format!("{}{dash}", self.code).bytes());
            if !self.enhanced.is_empty() {
                output.extend(format!("{} ", self.enhanced).bytes());
            }
            output.extend_from_slice(line.as_bytes());
            output.extend_from_slice(b"\r\n");
        }
    }

    /// The greeting.
    pub fn greeting(hostname: &str) -> Self {
        Self::new(220, "", format!("{hostname} ESMTP BackupMx"))
    }

    /// Answer to EHLO: our name, and each extension with its parameters.
    pub fn extensions(hostname: &str, offered: Vec<Cow<'static, str>>) -> Self {
        let lines = [Cow::Owned(hostname.to_owned())].into_iter().chain(offered).collect();
        Self { lines, ..Self::new(250, "", "") }
    }

    /// Answer to HELO.
    pub fn hello(hostname: &str) -> Self {
        Self::new(250, "", hostname.to_owned())
    }

    /// RSET and NOOP.
    pub fn ok() -> Self {
        Self::new(250, "2.0.0", "OK")
    }

    /// MAIL was taken.
    pub fn sender_ok() -> Self {
        Self::new(250, "2.1.0", "Sender OK")
    }

    /// RCPT was taken.
    pub fn recipient_ok() -> Self {
        Self::new(250, "2.1.5", "Recipient OK")
    }

    /// DATA was taken.
    pub fn start_data() -> Self {
        Self::new(354, "", "End data with <CR><LF>.<CR><LF>")
    }

    /// A part of a message came by BDAT (RFC 3030 section 2).
    pub fn chunk_ok(bytes: u64) -> Self {
        Self::new(250, "2.0.0", format!("{bytes} octets received"))
    }

    /// The message is ours. Only `Session::kept` says this, and only for a `Receipt`.
    pub(super) fn queued_as(id: MessageId) -> Self {
        Self::new(250, "2.0.0", format!("Kept as {id}"))
    }

    /// The primary has it. Only `Session::passed` says this, and only for a `PassedOn`.
    pub(super) fn passed_on(id: MessageId, words: &str) -> Self {
        Self::new(250, "2.0.0", printable(&format!("Passed on as {id}, the primary says: {words}")))
    }

    /// A refusal of the primary, in its own words; made fit for our line, and with an enhanced code on each line (RFC 2034).
    pub fn of_primary(answer: &Answer) -> Self {
        let class = answer.code / 100;
        let has_own = answer.enhanced().is_some();
        let told = |line: &String| -> Cow<'static, str> {
            if has_own { printable(line) } else { printable(&format!("{class}.0.0 {line}")) }.into()
        };
        let lines: Vec<_> = answer.lines.iter().take(FOREIGN_LINES_MAX).map(told).collect();
        // It closes towards us, and not we towards the sender.
        let code = if answer.closes() { 451 } else { answer.code };
        Self { lines, ..Self::refusal(code, "", "primary", "") }
    }

    /// The primary refuses us, and not the mail: its sender should try the primary itself.
    pub fn primary_judges_us() -> Self {
        Self::refusal(
            451,
            "4.7.1",
            "judged",
            "The primary does not take this from its backup; try the primary, or again later",
        )
    }

    /// All connections to the primary are in use.
    pub fn primary_busy() -> Self {
        Self::refusal(451, "4.3.2", "busy", "The primary has no free connection for this; try again soon")
    }

    /// The primary refused somebody, and does not say whether it is well.
    pub fn primary_unclear() -> Self {
        Self::refusal(451, "4.3.0", "unclear", "The primary gives no clear answer; try again later")
    }

    /// A primary that took a recipient before, and does not when it is offered all of a slow message.
    pub fn recipients_changed() -> Self {
        Self::refusal(451, "4.3.0", "unclear", "The primary takes not all of these recipients any more; send it again")
    }

    /// The message needs SMTPUTF8, which was offered here and is not offered by the primary now.
    pub fn primary_lacks_smtputf8() -> Self {
        Self::refusal(451, "4.6.7", "smtputf8", "The primary offers no SMTPUTF8 any more; try again later")
    }

    /// QUIT.
    pub fn goodbye() -> Self {
        Self::new(221, "2.0.0", "Bye")
    }

    /// VRFY: a fair answer that tells nothing (RFC 5321 section 3.5.3).
    pub fn cannot_verify() -> Self {
        Self::new(252, "2.5.0", "Cannot VRFY, but will take mail for our domains")
    }

    /// EXPN: there are no lists here (RFC 5321 section 4.2.4).
    pub fn no_expn() -> Self {
        Self::refusal(502, "5.5.1", "not_offered", "EXPN is not offered: there are no lists here")
    }

    /// STARTTLS was taken.
    pub fn start_tls() -> Self {
        Self::new(220, "2.0.0", "Ready to start TLS")
    }

    /// There is no certificate (RFC 5321 section 4.2.4).
    pub fn no_tls() -> Self {
        Self::refusal(502, "5.5.1", "not_offered", "STARTTLS is not offered here")
    }

    /// There should be a certificate, but it cannot be used (RFC 3207 section 4).
    pub fn tls_unavailable() -> Self {
        Self::refusal(454, "4.7.0", "tls", "TLS is not available at the moment; go on without it, or try again later")
    }

    /// STARTTLS once more.
    pub fn tls_active() -> Self {
        Self::refusal(503, "5.5.1", "sequence", "TLS is active already")
    }

    /// ETRN was taken (RFC 1985 section 5).
    pub fn etrn_started() -> Self {
        Self::new(250, "2.0.0", "The primary is asked at once, and what waits goes to it")
    }

    /// ETRN, and nothing waits.
    pub fn etrn_nothing() -> Self {
        Self::new(251, "2.0.0", "No messages wait")
    }

    /// ETRN by somebody who may not say it.
    pub fn etrn_refused() -> Self {
        Self::refusal(459, "4.7.1", "etrn", "ETRN is for the primary, and for the networks listed in etrn.allowed")
    }

    /// ETRN for a name that is no domain of ours.
    pub fn etrn_foreign() -> Self {
        Self::refusal(459, "4.7.1", "etrn", "No mail is kept here for this domain")
    }

    /// HELP.
    pub fn help() -> Self {
        let lines = [
            "This is a backup for mail servers: it keeps mail while they are away",
            "Commands: EHLO HELO MAIL RCPT DATA BDAT RSET NOOP VRFY HELP STARTTLS ETRN QUIT",
            "If mail was refused, the text behind the code says what helps",
        ];
        Self { lines: lines.map(Cow::Borrowed).into(), ..Self::new(214, "2.0.0", "") }
    }

    /// RFC 5321 section 4.2.4.
    pub fn unknown_command() -> Self {
        Self::refusal(500, "5.5.1", "unknown_command", "Unknown command")
    }

    /// A line that cannot be a command.
    pub fn bad_line(what: &'static str) -> Self {
        Self::refusal(500, "5.5.2", "bad_line", what)
    }

    /// Arguments do not follow the grammar.
    pub fn bad_arguments(syntax: &'static str) -> Self {
        Self::refusal(501, "5.5.4", "syntax", format!("Syntax: {syntax}"))
    }

    /// EHLO or HELO without a name; replies to these have no enhanced code (RFC 2034 section 4).
    pub fn bad_hello(syntax: &'static str) -> Self {
        Self::refusal(501, "", "syntax", format!("Syntax: {syntax}"))
    }

    /// An address of bytes that no extension allows.
    pub fn not_utf8() -> Self {
        Self::refusal(553, "5.6.7", "smtputf8", "Addresses are ASCII, or with SMTPUTF8 in UTF-8; this one is neither")
    }

    /// BDAT of which nobody knows where it ends; what follows it must not be taken for commands.
    pub fn bad_chunk() -> Self {
        Self::refusal(
            501,
            "5.5.4",
            "syntax",
            "Syntax: BDAT bytes [LAST]; closing, since the next command cannot be found",
        )
    }

    /// MAIL with an address that is none.
    pub fn bad_sender() -> Self {
        Self::refusal(501, "5.1.7", "syntax", "Bad sender address: write MAIL FROM:<local@domain> or MAIL FROM:<>")
    }

    /// RCPT with an address that is none.
    pub fn bad_recipient() -> Self {
        Self::refusal(501, "5.1.3", "syntax", "Bad recipient address: write RCPT TO:<local@domain>")
    }

    /// An address outside ASCII without SMTPUTF8 (RFC 6531 section 3.5).
    pub fn needs_smtputf8(is_offered: bool) -> Self {
        let text = if is_offered {
            "Addresses outside ASCII need the parameter SMTPUTF8 behind MAIL FROM"
        } else {
            "Addresses outside ASCII need SMTPUTF8, which is not offered here"
        };
        Self::refusal(553, "5.6.7", "smtputf8", text)
    }

    /// RFC 5321 section 4.1.1.11.
    pub fn unknown_parameter() -> Self {
        Self::refusal(555, "5.5.4", "parameter", "Parameter not known; EHLO lists what is")
    }

    /// RFC 5321 section 4.1.4.
    pub fn bad_sequence(first: &'static str) -> Self {
        Self::refusal(503, "5.5.1", "sequence", format!("Bad sequence of commands: send {first} first"))
    }

    /// DATA after recipients that were all refused (RFC 5321 section 3.3).
    pub fn no_recipients() -> Self {
        Self::refusal(554, "5.5.1", "sequence", "No valid recipients")
    }

    /// RFC 5321 section 4.5.3.1.10: those already taken stay.
    pub fn too_many_recipients() -> Self {
        Self::refusal(452, "4.5.3", "recipients", "Too many recipients; send the rest in another message")
    }

    /// The same where it is memory that does not suffice.
    pub fn insufficient_memory() -> Self {
        Self::refusal(452, "4.3.1", "memory", "Too much at a time here; send the rest in another message, later")
    }

    /// RFC 1870 section 6.
    pub fn too_large() -> Self {
        Self::refusal(552, "5.3.4", "size", "Message is larger than the SIZE offered here")
    }

    /// RFC 5321 section 2.3.8: a line end that others could read differently.
    pub fn bare_line_end() -> Self {
        Self::refusal(550, "5.5.2", "bare_line_end", "CR or LF alone in the message; every line must end in CR LF")
    }

    /// Not a domain of ours.
    pub fn not_our_domain() -> Self {
        Self::refusal(550, "5.7.1", "domain", "We take no mail for this domain; check the address, or its MX records")
    }

    /// A route within a local part.
    pub fn routed() -> Self {
        Self::refusal(
            550,
            "5.7.1",
            "routed",
            "No routes here: write the recipient's own address, without % ! or a second @",
        )
    }

    /// Below the watermark. Never 552: it is our trouble, and it passes.
    pub fn insufficient_storage() -> Self {
        Self::refusal(452, "4.3.1", "full", "Insufficient storage here; try again later")
    }

    /// Too many `Received` fields, or too many of our own (RFC 5321 section 6.3).
    pub fn routing_loop() -> Self {
        Self::refusal(554, "5.4.6", "loop", "Routing loop: this message has passed here, or elsewhere, too often")
    }

    /// The primary sends back what it got from us. For now: its administrator can mend that, and then it goes its way.
    pub fn sent_back() -> Self {
        Self::refusal(
            451,
            "4.4.6",
            "sent_back",
            "You got this message from here: deliver it, and mend the route of its domain",
        )
    }

    /// The disk failed.
    pub fn local_error() -> Self {
        Self::refusal(451, "4.3.0", "disk", "Local error, nothing was kept; try again later")
    }

    /// A client that makes one mistake after the other.
    pub fn too_many_errors() -> Self {
        Self::refusal(421, "4.7.0", "errors", "Too many errors; closing")
    }

    /// A client that talks and talks, and sends nothing.
    pub fn too_much_chatter() -> Self {
        Self::refusal(421, "4.7.0", "chatter", "Too many commands without a message; closing")
    }

    /// HTTP.
    pub fn not_http() -> Self {
        Self::refusal(421, "4.7.0", "foreign_protocol", "This is a mail server and speaks SMTP; closing")
    }

    /// TLS from the first byte on.
    pub fn not_tls_yet() -> Self {
        Self::refusal(421, "4.7.0", "foreign_protocol", "TLS begins here with STARTTLS; closing")
    }

    /// More connections than we serve.
    pub fn too_many_connections() -> Self {
        Self::refusal(421, "4.7.0", "connections", "Too many connections; try again later")
    }

    /// A content that goes on far beyond the limit. For good: after a 421 its sender would send all of it again and again.
    pub fn far_too_large() -> Self {
        Self::refusal(552, "5.3.4", "size", "Message is far larger than the SIZE offered here; closing")
    }

    /// RFC 5321 section 4.5.3.2.7.
    pub fn idle() -> Self {
        Self::refusal(421, "4.4.2", "idle", "Nothing came for too long; closing")
    }

    /// All places are taken, and this client made the least of its own.
    pub fn make_room() -> Self {
        Self::refusal(421, "4.4.2", "evicted", "Others wait and nothing came from you; closing, try again soon")
    }

    /// This relay takes no more mail, for as long as its configuration says so; others of the domain may.
    pub fn cordoned() -> Self {
        Self::refusal(421, "4.3.2", "cordoned", "This server takes no mail for now; try the next one, or again later")
    }

    /// RFC 5321 section 3.8.
    pub fn shutting_down() -> Self {
        Self::new(421, "4.3.2", "Shutting down; try again soon")
    }
}

/// Foreign words for one line: what is not printable ASCII would be another line, or no reply at all.
fn printable(text: &str) -> String {
    text.chars().take(FOREIGN_CHARS_MAX).map(|c| if matches!(c, ' '..='~') { c } else { '?' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(reply: &Reply) -> String {
        let mut output = Vec::new();
        reply.write(&mut output);
        String::from_utf8(output).unwrap()
    }

    #[test]
    fn one_line_and_several_are_written_as_rfc_5321_section_4_2_1_says() {
        assert_eq!(written(&Reply::ok()), "250 2.0.0 OK\r\n");
        assert_eq!(
            written(&Reply::extensions("mx2.example.org", vec!["PIPELINING".into(), "SIZE 1000".into()])),
            "250-mx2.example.org\r\n250-PIPELINING\r\n250 SIZE 1000\r\n"
        );
    }

    #[test]
    fn the_primarys_words_stay_and_cannot_become_another_line() {
        let answer = |code, lines: &[&str]| Answer { code, lines: lines.iter().map(ToString::to_string).collect() };
        for (code, lines, expected) in [
            (550, &["5.1.1 <x@example.org>: unknown"][..], "550 5.1.1 <x@example.org>: unknown\r\n"),
            (550, &["no such user"], "550 5.0.0 no such user\r\n"),
            (450, &["4.2.1 later,", "4.2.1 really"], "450-4.2.1 later,\r\n450 4.2.1 really\r\n"),
            (550, &["5.1.1 a\rb\0\u{fc}"], "550 5.1.1 a?b??\r\n"),
        ] {
            assert_eq!(written(&Reply::of_primary(&answer(code, lines))), expected);
        }
        let long = written(&Reply::of_primary(&answer(550, &vec!["x".repeat(4000).as_str(); 128])));
        assert!(long.lines().count() == FOREIGN_LINES_MAX && long.lines().all(|line| line.len() < 510), "{long}");
        assert!(written(&Reply::passed_on(MessageId::new(), &"x".repeat(600))).len() < 512);
    }

    #[test]
    fn greeting_ehlo_helo_and_354_carry_no_enhanced_code() {
        for reply in
            [Reply::greeting("mx2"), Reply::extensions("mx2", Vec::new()), Reply::hello("mx2"), Reply::start_data()]
        {
            let text = written(&reply);
            let words = text.split_whitespace().nth(1).unwrap();
            assert!(!words.contains('.'), "{text}");
        }
    }
}
