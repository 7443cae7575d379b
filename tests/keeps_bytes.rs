//! What arrives is what was sent, byte for byte: less the one `Received` field that the relay puts on top.

use std::{sync::Arc, time::Duration};

use backupmx_relay_api::status::{Account, PrimaryState};
use support::{
    Client, Envelope, HOSTNAME, Primary, Relay,
    chance::Chance,
    client::stuffed,
    hash::difference,
    messages::{self, Message},
    primary::Mail,
    trace_field,
};

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn every_awkward_message_survives_an_outage_unchanged() {
    let mut primary = Primary::away();
    let relay = Relay::before(primary.address()).start();
    let messages = messages::awkward();
    send_all(&relay, &messages);
    primary.return_now();
    expect_all(&primary, &messages);
    expect_account(&relay, messages.len() as u64);
}

#[test]
fn every_awkward_message_passes_unchanged_while_the_primary_is_up() {
    let primary = Primary::start();
    let relay = Relay::before(primary.address()).start();
    relay.until(LIMIT, "the primary is known to be up", |status| status.primary.state == PrimaryState::Up);
    let messages = messages::awkward();
    send_all(&relay, &messages);
    expect_all(&primary, &messages);
    expect_account(&relay, messages.len() as u64);
}

#[test]
fn every_awkward_message_survives_a_kill_unchanged() {
    let mut primary = Primary::away();
    let mut relay = Relay::before(primary.address()).start();
    let messages = messages::awkward();
    send_all(&relay, &messages);
    relay.kill9();
    relay.start_again();
    let bytes: usize = messages.iter().map(|message| message.content.len()).sum();
    let status = relay.status();
    assert_eq!(status.queue.messages, messages.len() as u64);
    // The relay's own fields may be counted or not.
    let fields_bytes_max = 1000 * messages.len() as u64;
    assert!(status.queue.bytes.abs_diff(bytes as u64) <= fields_bytes_max, "{} of {bytes} bytes", status.queue.bytes);
    primary.return_now();
    expect_all(&primary, &messages);
    expect_account(&relay, messages.len() as u64);
}

#[test]
fn it_does_not_matter_where_the_network_cuts() {
    let primary = Primary::start();
    let relay = Relay::before(primary.address()).start();
    let mut chance = Chance::new();
    let messages: Vec<_> = messages::awkward().into_iter().filter(|message| message.content.len() < 2000).collect();
    for (number, message) in messages.iter().enumerate() {
        let mut client = Client::hello(relay.smtp()).expect("the relay takes connections");
        let begun = client.begin(&envelope(number), &message.content).expect("the relay answers");
        assert_eq!(begun, Ok(()), "{}", message.name);
        let wire = stuffed(&message.content);
        let mut rest = &wire[..];
        while !rest.is_empty() {
            // Half of the pieces are a byte or two: that is where CRLF and dot are torn apart.
            let bytes_max = if chance.below(2) == 0 { 2 } else { 40 };
            let piece = rest.len().min(1 + chance.below(bytes_max) as usize);
            client.raw(&rest[..piece]).expect("the relay reads");
            rest = &rest[piece..];
        }
        let reply = client.reply().expect("the relay answers");
        assert!(reply.is("250 2.0.0"), "{}: {reply}", message.name);
    }
    expect_all(&primary, &messages);
}

#[test]
fn it_does_not_matter_in_which_parts_content_comes_by_bdat() {
    let primary = Primary::start();
    let relay = Relay::before(primary.address()).start();
    let mut chance = Chance::new();
    let messages = messages::awkward();
    let mut client = Client::hello(relay.smtp()).expect("the relay takes connections");
    for (number, message) in messages.iter().enumerate() {
        let Envelope { sender, recipients } = envelope(number);
        let to = &recipients[0];
        let body = if message.content.is_ascii() { "" } else { " BODY=8BITMIME" };
        let mut sent = format!("MAIL FROM:<{sender}>{body}\r\nRCPT TO:<{to}>\r\n").into_bytes();
        let (mut rest, mut parts) = (&message.content[..], 0);
        loop {
            let bytes_max = [3, 100, 1_000_000][chance.below(3) as usize];
            let part = if parts < 100 { rest.len().min(chance.below(bytes_max) as usize) } else { rest.len() };
            let is_last = part == rest.len();
            sent.extend(format!("BDAT {part}{}\r\n", if is_last { " LAST" } else { "" }).bytes());
            sent.extend_from_slice(&rest[..part]);
            (rest, parts) = (&rest[part..], parts + 1);
            if is_last {
                break;
            }
        }
        client.raw(&sent).expect("the relay reads");
        for _ in 0..2 + parts {
            let reply = client.reply().expect("the relay answers");
            assert!(reply.is("250"), "{}: {reply}", message.name);
        }
    }
    expect_all(&primary, &messages);
}

#[test]
fn content_without_its_last_line_end_arrives_with_one() {
    let primary = Primary::start();
    let relay = Relay::before(primary.address()).start();
    let mut client = Client::hello(relay.smtp()).expect("the relay takes connections");
    let sent = b"MAIL FROM:<>\r\nRCPT TO:<bob@example.org>\r\nBDAT 4\r\na\r\n.BDAT 1 LAST\r\nb";
    client.raw(sent).expect("the relay reads");
    for _ in 0..4 {
        let reply = client.reply().expect("the relay answers");
        assert!(reply.is("250"), "{reply}");
    }
    let mails = primary.wait_for(1, LIMIT);
    assert_eq!(trace_field::split(&mails[0].content).1, b"a\r\n.b\r\n");
}

#[test]
fn exactly_one_field_goes_on_top_and_it_says_whence_the_message_came() {
    let primary = Primary::start();
    let relay = Relay::before(primary.address()).start();
    let mut client = Client::hello(relay.smtp()).expect("the relay takes connections");
    let reply = client.send(&envelope(0), b"Subject: x\r\n\r\nbody\r\n").expect("the relay answers");
    assert!(reply.is("250 2.0.0"), "{reply}");
    let id = reply.message_id();
    assert!(id.len() == 26 && id.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase()), "{reply}");

    let mails = primary.wait_for(1, LIMIT);
    let (field, rest) = trace_field::split(&mails[0].content);
    assert_eq!(rest, b"Subject: x\r\n\r\nbody\r\n");
    let field = String::from_utf8(field.to_vec()).expect("our field is ASCII");
    let unfolded = field.replace("\r\n\t", " ").replace("\r\n ", " ");
    // What DNS calls the client stands there if the answer came in time; nobody waits for it.
    let (client, rest) = unfolded.split_once("[127.0.0.1]").expect("the client's address is there");
    assert!(client.starts_with("Received: from client.example (") && !client.contains(')'), "{field}");
    assert!(rest.starts_with(&format!(") by {HOSTNAME} (BackupMx) with ESMTP id {id} ")), "{field}");
    // RFC 5322 section 2.1.1 recommends 78.
    assert!(field.lines().all(|line| line.len() <= 78), "{field}");
    let date = unfolded.rsplit(';').next().unwrap_or_default().trim();
    // "Sun, 22 Nov 2026 12:00:00 +0000": RFC 5322 section 3.3.
    assert!(date.contains(", ") && date.contains(':') && date.contains(" +"), "{field}");
}

#[test]
fn the_envelope_arrives_as_it_was_given() {
    let mut primary = Primary::away();
    let relay = Relay::before(primary.address()).start();
    let envelopes = [
        ("", "bob@example.org"),
        ("Ann.With+Tag=x@Client.EXAMPLE", "BoB@example.org"),
        (r#""a b"@client.example"#, r#""c d"@example.org"#),
        (r#""a>\" b@x"@client.example"#, r#""> SIZE=1 "@example.org"#),
        ("a@[192.0.2.1]", "bob@EXAMPLE.org"),
        ("bounces+bob=example.org@client.example", "o'neil!#$%&*/?^`{|}~@example.org"),
    ];
    let mut client = Client::hello(relay.smtp()).expect("the relay takes connections");
    for (sender, recipient) in envelopes {
        let reply = client.send(&Envelope::new(sender, &[recipient]), b"x\r\n").expect("the relay answers");
        assert!(reply.is("250 2.0.0"), "{sender} to {recipient}: {reply}");
    }
    primary.return_now();
    let mails = primary.wait_for(envelopes.len(), LIMIT);
    for (sender, recipient) in envelopes {
        let arrived = mails.iter().find(|mail| mail.recipients == [recipient]);
        let arrived = arrived.unwrap_or_else(|| panic!("{recipient} is not in {mails:#?}"));
        assert_eq!(arrived.sender, sender);
    }
    assert_eq!(primary.violations(), [""; 0]);
}

/// By its recipient a message is known again.
fn envelope(number: usize) -> Envelope {
    Envelope::to(&format!("m{number}"))
}

fn send_all(relay: &Relay, messages: &[Message]) {
    let mut client = Client::hello(relay.smtp()).expect("the relay takes connections");
    for (number, message) in messages.iter().enumerate() {
        let reply = client.send(&envelope(number), &message.content);
        let reply = reply.unwrap_or_else(|error| panic!("{}: {error}", message.name));
        assert!(reply.is("250 2.0.0"), "{}: {reply}", message.name);
    }
}

fn expect_all(primary: &Primary, messages: &[Message]) {
    let mails = primary.wait_for(messages.len(), LIMIT);
    for (number, message) in messages.iter().enumerate() {
        let recipients = envelope(number).recipients;
        let arrived: Vec<&Arc<Mail>> = mails.iter().filter(|mail| mail.recipients == recipients).collect();
        let [arrived] = arrived[..] else { panic!("{} arrived {} times", message.name, arrived.len()) };
        let (_, content) = trace_field::split(&arrived.content);
        if let Some(difference) = difference(&message.content, content) {
            panic!("{}: {difference}", message.name);
        }
        let eight_bit = arrived.parameters.contains("BODY=8BITMIME");
        assert_eq!(eight_bit, !message.content.is_ascii(), "{}: MAIL had {:?}", message.name, arrived.parameters);
    }
    assert_eq!(primary.violations(), [""; 0]);
}

fn expect_account(relay: &Relay, messages: u64) {
    let done = relay.until(LIMIT, "nothing waits", |status| status.queue.messages == 0);
    assert_eq!(done.account, Account { accepted: messages, delivered: messages, ..Account::default() });
}
