use std::{
    io::{self, BufRead, BufReader, ErrorKind, Read, Write},
    net::Shutdown,
    time::{Duration, Instant},
};

use super::*;
use crate::{
    Client, Envelope, Primary, Reply,
    certificate::{Certificate, trust_any},
    eventually,
    hash::difference,
    load::{Comparison, Load},
    messages,
    primary::{Rule, Stage},
};

const LIMIT: Duration = Duration::from_secs(30);
/// In which nothing may come from who is held. On loopback all else comes in a hundredth of it.
const SILENCE: Duration = Duration::from_millis(150);
const DELAY: Duration = Duration::from_millis(300);
const SIDES: [Side; 4] = [Side::BeforeCommand, Side::AfterCommand, Side::BeforeReply, Side::AfterReply];
const CONTENT: &str = "Subject: x\r\n\r\nMAIL FROM:<>\r\n..\r\n\n.\r\n";

/// What a client says, a step at a time, what the server hears of it, and what it answers.
const DIALOGUE: &[(Step, u64, &str, &str)] = &[
    (Step::Greeting, 1, "", "220"),
    (Step::Ehlo, 1, "EHLO a", "250"),
    (Step::Xclient, 1, "XCLIENT NAME=a", "220"),
    (Step::Ehlo, 2, "EHLO a", "250"),
    (Step::Xforward, 1, "XFORWARD NAME=a", "250"),
    (Step::Mail, 1, "MAIL FROM:<>", "250"),
    (Step::Rcpt, 1, "RCPT TO:<a@b>", "250"),
    (Step::Rcpt, 2, "RCPT TO:<b@b>", "250"),
    (Step::Data, 1, "DATA", "354"),
    (Step::Dot, 1, ".", "250"),
    (Step::Rset, 1, "RSET", "250"),
    (Step::Bdat, 1, "BDAT 6", "250"),
    (Step::Bdat, 2, "BDAT 0 LAST", "250"),
    (Step::Other, 1, "NOOP", "250"),
    (Step::Quit, 1, "QUIT", "221"),
];
/// Behind the command that has one.
const CHUNK: &str = "QUIT\r\n";

/// A server that answers all that it hears with yes, a line at a time, and notes it.
struct Server {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Serves as many connections as come; its thread ends with the test program.
    fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (address, heard) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<String>>>::default());
        let noting = Arc::clone(&heard);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let end = converse(&stream.unwrap(), &noting).unwrap_err();
                lock(&noting).push(format!("({})", end_name(end.kind())));
            }
        });
        Self { address, heard }
    }

    /// All that it heard of one connection, once that has ended.
    fn heard(&self) -> Vec<String> {
        eventually(LIMIT, "the end at the server", || {
            lock(&self.heard).last().is_some_and(|last| last.starts_with('('))
        });
        lock(&self.heard).clone()
    }
}

fn end_name(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::UnexpectedEof => "FIN",
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => "RST",
        _ => "neither FIN nor RST",
    }
}

fn converse(mut stream: &TcpStream, heard: &Mutex<Vec<String>>) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    stream.set_nodelay(true)?;
    stream.write_all(b"220 hi\r\n")?;
    let (mut in_content, mut text) = (false, String::new());
    loop {
        let is_behind_crlf = text.ends_with("\r\n");
        text.clear();
        reader.read_line(&mut text)?;
        if text.is_empty() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let command = text.trim_end_matches("\r\n").to_owned();
        lock(heard).push(command.clone());
        let reply = match command.split(' ').next().unwrap() {
            "." if is_behind_crlf && text.ends_with("\r\n") => {
                in_content = false;
                "250 kept"
            }
            _ if in_content || !text.ends_with("\r\n") => continue,
            "DATA" => {
                in_content = true;
                "354 go on"
            }
            "BDAT" => {
                let length = command.split(' ').nth(1).unwrap().parse().unwrap();
                let mut chunk = String::new();
                let read = reader.by_ref().take(length).read_to_string(&mut chunk);
                lock(heard).extend(Some(chunk).filter(|chunk| !chunk.is_empty()));
                if (read? as u64) < length {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
                "250 kept"
            }
            "EHLO" => "250-b\r\n250-PIPELINING\r\n250 CHUNKING",
            "XCLIENT" => "220 hi again",
            "QUIT" => "221 bye",
            _ => "250 yes",
        };
        stream.write_all(format!("{reply}\r\n").as_bytes())?;
    }
}

/// What the client sends for a line of the dialogue.
fn sent(line: &str) -> String {
    match line {
        "" => String::new(),
        "." => format!("{CONTENT}.\r\n"),
        "BDAT 6" => format!("{line}\r\n{CHUNK}"),
        _ => format!("{line}\r\n"),
    }
}

/// What the server hears of the dialogue up to there.
fn commands(count: usize) -> Vec<String> {
    let mut heard = Vec::new();
    for (_, _, line, _) in &DIALOGUE[1..count.max(1)] {
        if *line == "." {
            heard.extend(content_lines());
        }
        heard.push((*line).to_owned());
        if *line == "BDAT 6" {
            heard.push(CHUNK.to_owned());
        }
    }
    heard
}

/// As the server takes them for lines.
fn content_lines() -> impl Iterator<Item = String> {
    CONTENT.split_inclusive('\n').map(|line| line.trim_end_matches("\r\n").to_owned())
}

/// Says all of the dialogue, a step at a time. Returns the codes that it heard, and how the connection ended.
fn hold_dialogue(proxy: &Proxy) -> (Vec<String>, &'static str) {
    let told = Mutex::default();
    let end = hold_dialogue_noting(proxy, &told);
    (told.into_inner().unwrap(), end)
}

fn hold_dialogue_noting(proxy: &Proxy, told: &Mutex<Vec<String>>) -> &'static str {
    let mut stream = TcpStream::connect(proxy.address()).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let mut client = BufReader::new(stream.try_clone().unwrap());
    let mut converse = || -> io::Result<()> {
        for (_, _, line, _) in DIALOGUE {
            stream.write_all(sent(line).as_bytes())?;
            let code = reply(&mut client)?;
            lock(told).push(code);
        }
        // Fails where a fault was faster.
        let _ = stream.shutdown(Shutdown::Write);
        reply(&mut client).map(drop)
    };
    end_name(converse().unwrap_err().kind())
}

/// The code of the next reply, all of whose lines have come.
fn reply(reader: &mut impl BufRead) -> io::Result<String> {
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if !line.ends_with("\r\n") {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if line.as_bytes()[3] != b'-' {
            return Ok(line[..3].to_owned());
        }
    }
}

fn codes(count: usize) -> Vec<&'static str> {
    DIALOGUE[..count].iter().map(|(_, _, _, code)| *code).collect()
}

/// Does it for each step of the dialogue and each side of it, many at a time.
fn at_each_point(test: impl Fn(usize, Step, u64, Side) + Sync) {
    thread::scope(|scope| {
        for (number, &(step, nth, _, _)) in DIALOGUE.iter().enumerate() {
            let test = &test;
            scope.spawn(move || {
                let sides = SIDES.into_iter().filter(|side| Harm::at(step, *side, Fault::Cut).fits());
                sides.for_each(|side| test(number, step, nth, side));
            });
        }
    });
}

#[test]
fn without_harm_all_is_handed_on_and_each_reply_belongs_to_its_step() {
    let server = Server::start();
    let proxy = Proxy::before(server.address);
    expect_whole_dialogue(&proxy, &server, "without harm");
    let exchanges = proxy.exchanges();
    let found: Vec<_> = exchanges.iter().map(|exchange| (exchange.step, exchange.nth, &exchange.reply[..3])).collect();
    assert_eq!(found, DIALOGUE.iter().map(|&(step, nth, _, code)| (step, nth, code)).collect::<Vec<_>>());
    assert_eq!((proxy.connections(), proxy.struck()), (1, 0));
    eventually(LIMIT, "no connection is left", || proxy.connections_open() == 0);
}

/// The dialogue, from begin to end.
#[track_caller]
fn expect_whole_dialogue(proxy: &Proxy, server: &Server, what: &str) {
    let (heard, end) = hold_dialogue(proxy);
    assert_eq!((heard, end), (owned(&codes(DIALOGUE.len())), "FIN"), "{what}");
    assert_eq!(server.heard(), whole(), "{what}");
}

/// What the server hears of all the dialogue.
fn whole() -> Vec<String> {
    [commands(DIALOGUE.len()), owned(&["(FIN)"])].concat()
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

/// How many steps the client hears a reply to, and of how many the server hears the command, where it ends at this one.
fn reached(number: usize, side: Side) -> (usize, usize) {
    let replies = if side == Side::AfterReply { number + 1 } else { number };
    let commands = if side == Side::BeforeCommand { number } else { number + 1 };
    (replies, commands)
}

#[test]
fn a_connection_ends_at_the_step_and_the_side_that_was_told_and_as_told() {
    at_each_point(|number, step, nth, side| {
        for (fault, end) in [(Fault::Cut, "FIN"), (Fault::Reset, "RST")] {
            let what = format!("{fault:?} at {step:?} {nth}, {side:?}");
            let server = Server::start();
            let proxy = Proxy::before(server.address);
            let struck = proxy.harm(Harm::at(step, side, fault).nth(nth));
            let (replies, heard) = reached(number, side);
            let mut expected = commands(heard);
            if step == Step::Dot && side == Side::BeforeCommand {
                expected.extend(content_lines());
            }
            expected.push(format!("({end})"));
            assert_eq!(hold_dialogue(&proxy), (owned(&codes(replies)), end), "{what}");
            assert_eq!(server.heard(), expected, "{what}");
            assert_eq!((struck.count(), proxy.struck()), (1, 1), "{what}");
        }
    });
}

#[test]
fn a_connection_can_end_before_the_server_has_heard_of_it_or_just_then() {
    for (fault, end) in [(Fault::Cut, "FIN"), (Fault::Reset, "RST")] {
        for side in [Side::BeforeCommand, Side::AfterCommand] {
            let server = Server::start();
            let proxy = Proxy::before(server.address);
            proxy.harm(Harm::at(Step::Connect, side, Fault::Delay(DELAY)));
            proxy.harm(Harm::at(Step::Connect, side, fault.clone()));
            let begun = Instant::now();
            assert_eq!(hold_dialogue(&proxy), (Vec::new(), end), "{fault:?}, {side:?}");
            assert!(begun.elapsed() >= DELAY);
            if side == Side::AfterCommand {
                assert_eq!(server.heard().len(), 1, "{fault:?}, {side:?}");
            } else {
                assert_eq!(*lock(&server.heard), [""; 0], "{fault:?}, {side:?}");
            }
        }
    }
}

#[test]
fn who_is_held_hears_nothing_until_released_and_then_all() {
    at_each_point(|number, step, nth, side| {
        let what = format!("held at {step:?} {nth}, {side:?}");
        let server = Server::start();
        let proxy = Proxy::before(server.address);
        let struck = proxy.harm(Harm::at(step, side, Fault::Hold).nth(nth).times(1));
        let told = Mutex::default();
        thread::scope(|scope| {
            let client = scope.spawn(|| hold_dialogue_noting(&proxy, &told));
            eventually(LIMIT, &what, || struck.count() == 1);
            thread::sleep(SILENCE);
            let (replies, heard) = reached(number, side);
            let mut expected = commands(heard);
            if step == Step::Dot && side == Side::BeforeCommand {
                expected.extend(content_lines());
            }
            assert_eq!(
                (lock(&told).clone(), lock(&server.heard).clone()),
                (owned(&codes(replies)), expected),
                "{what}"
            );
            proxy.release();
            assert_eq!(client.join().unwrap(), "FIN", "{what}");
        });
        assert_eq!(told.into_inner().unwrap(), owned(&codes(DIALOGUE.len())), "{what}");
        assert_eq!(server.heard(), whole(), "{what}");
    });
}

#[test]
fn who_is_delayed_hears_all_so_much_later() {
    at_each_point(|_, step, nth, side| {
        let server = Server::start();
        let proxy = Proxy::before(server.address);
        proxy.harm(Harm::at(step, side, Fault::Delay(DELAY)).nth(nth));
        let begun = Instant::now();
        expect_whole_dialogue(&proxy, &server, &format!("delayed at {step:?} {nth}, {side:?}"));
        assert!(begun.elapsed() >= DELAY, "{step:?} {nth}, {side:?}: after {:?}", begun.elapsed());
    });
}

#[test]
fn what_goes_byte_by_byte_is_the_same() {
    let server = Server::start();
    let proxy = Proxy::before(server.address);
    let all =
        DIALOGUE.iter().flat_map(|(step, nth, ..)| SIDES.map(|side| Harm::at(*step, side, Fault::Fragment).nth(*nth)));
    let content = [Harm::within_content(Fault::Fragment).after_bytes(3)];
    for harm in all.filter(Harm::fits).chain(content) {
        proxy.harm(harm);
    }
    let begun = Instant::now();
    expect_whole_dialogue(&proxy, &server, "fragmented");
    assert!(begun.elapsed() > Duration::from_millis(200), "not byte by byte: {:?}", begun.elapsed());
    // Each reply, each command, which the greeting has not, and both messages' content.
    assert_eq!(proxy.struck(), 15 + 14 + 2);
}

#[test]
fn half_of_a_command_goes_on_and_then_the_connection_is_cut() {
    let halves = [
        (Step::Ehlo, 2, "EHLO"),
        (Step::Mail, 1, "MAIL FR"),
        (Step::Rcpt, 2, "RCPT TO"),
        (Step::Data, 1, "DAT"),
        (Step::Dot, 1, "."),
        (Step::Bdat, 1, "QUI"),
        (Step::Bdat, 2, "BDAT 0"),
        (Step::Quit, 1, "QUI"),
    ];
    for (step, nth, half) in halves {
        let server = Server::start();
        let proxy = Proxy::before(server.address);
        proxy.harm(Harm::at(step, Side::BeforeCommand, Fault::Truncate).nth(nth));
        let number = DIALOGUE.iter().position(|entry| (entry.0, entry.1) == (step, nth)).unwrap();
        assert_eq!(hold_dialogue(&proxy), (owned(&codes(number)), "FIN"), "{step:?}");
        let mut expected = commands(number);
        match step {
            Step::Dot => expected.extend(content_lines()),
            Step::Bdat if nth == 1 => expected.push("BDAT 6".to_owned()),
            _ => {}
        }
        assert_eq!(server.heard(), [expected, owned(&[half, "(FIN)"])].concat(), "{step:?}");
    }
}

#[test]
fn replies_are_halved_doubled_and_replaced() {
    let primary = Primary::start();
    let proxy = Proxy::before(primary.address());
    let harms = [
        (Step::Greeting, Fault::Truncate, "220 primary.exa"),
        (Step::Ehlo, Fault::Duplicate, "250 ENHANCEDSTATUSCODES\r\n250-primary.example.org\r\n"),
        (Step::Mail, Fault::Replace("450 4.7.1 greylisted".to_owned()), "\r\n450 4.7.1 greylisted\r\n"),
        (Step::Mail, Fault::Truncate, "\r\n250 2.1."),
        (
            Step::Dot,
            Fault::Replace("452-4.3.1 no\r\n452 4.3.1 room".to_owned()),
            "\r\n452-4.3.1 no\r\n452 4.3.1 room\r\n",
        ),
        (Step::Quit, Fault::Duplicate, "\r\n221 2.0.0 bye\r\n221 2.0.0 bye\r\n"),
    ];
    for (step, fault, expected) in harms {
        let is_cut = fault == Fault::Truncate;
        proxy.harm(Harm::at(step, Side::BeforeReply, fault.clone()).times(1));
        let mut stream = TcpStream::connect(proxy.address()).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let mut heard = String::new();
        for line in ["", "EHLO a", "MAIL FROM:<>", "RCPT TO:<bob@example.org>", "DATA", ".", "QUIT"] {
            let seen = heard.len();
            // Fails once it is cut.
            let _ = stream.write_all(sent(line).as_bytes());
            let mut bytes = [0; 1024];
            while !heard[seen..].ends_with("\r\n") || heard[seen..].lines().last().unwrap().as_bytes()[3] == b'-' {
                let count = stream.read(&mut bytes).unwrap();
                heard.push_str(str::from_utf8(&bytes[..count]).unwrap());
                if count == 0 {
                    break;
                }
            }
        }
        stream.read_to_string(&mut heard).unwrap();
        assert!(heard.contains(expected), "{step:?}, {fault:?}: {heard}");
        assert!(!is_cut || heard.ends_with(expected), "{step:?}, {fault:?}: {heard}");
    }
}

#[test]
fn a_command_that_the_proxy_answers_is_not_heard_by_the_server() {
    for side in [Side::BeforeCommand, Side::BeforeReply] {
        let primary = Primary::start();
        let proxy = Proxy::before(primary.address());
        let rcpt = proxy.harm(Harm::at(Step::Rcpt, side, replace("550 5.1.1 no")).nth(2).times(1));
        let data = proxy.harm(Harm::at(Step::Data, side, replace("451 4.3.0 no")).nth(2).times(1));
        let mut client = Client::hello(proxy.address()).unwrap();
        let envelope = Envelope::new("a@client.example", &["bob@example.org", "carol@example.org", "dave@example.org"]);
        assert!(client.send(&envelope, b"1\r\n").unwrap().is("250 2.0.0"));
        assert!(client.send(&envelope, b"2\r\n").unwrap().is("451 4.3.0 no"));
        // The server has not heard of DATA, so it is still in a transaction.
        assert!(client.say("RSET").unwrap().is("250"));
        assert!(client.send(&envelope, b"3\r\n").unwrap().is("250 2.0.0"));
        let recipients: Vec<_> = primary.mails().iter().map(|mail| mail.recipients.len()).collect();
        // A refusal by the reply alone is known to the client only.
        assert_eq!(recipients, if side == Side::BeforeCommand { [2, 3] } else { [3, 3] });
        assert_eq!((rcpt.count(), data.count(), primary.violations()), (1, 1, Vec::new()));
    }
}

#[test]
fn pipelined_commands_are_told_apart_and_what_was_answered_before_the_fault_is_heard() {
    let group = "MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nRCPT TO:<b@b>\r\nRCPT TO:<c@b>\r\nDATA\r\n";
    for side in SIDES {
        let server = Server::start();
        let proxy = Proxy::before(server.address);
        proxy.harm(Harm::at(Step::Rcpt, side, Fault::Cut).nth(2));
        let mut stream = TcpStream::connect(proxy.address()).unwrap();
        stream.write_all(group.as_bytes()).unwrap();
        let mut heard = String::new();
        stream.read_to_string(&mut heard).unwrap();
        let replies = if side == Side::AfterReply { 3 } else { 2 };
        assert_eq!(heard, ["220 hi\r\n", &"250 yes\r\n".repeat(replies)].concat(), "{side:?}");
        let heard = server.heard();
        let at_least = if side == Side::BeforeCommand { 2 } else { 3 };
        assert!(heard.len() > at_least, "{side:?}: {heard:?}");
        if matches!(side, Side::BeforeCommand | Side::AfterCommand) {
            assert_eq!(heard.len() - 1, at_least, "{side:?}: {heard:?}");
        }
    }
}

#[test]
fn several_messages_of_several_kinds_keep_their_bytes_and_their_places() {
    let primary = Primary::start();
    primary.offer(&["PIPELINING", "CHUNKING", "8BITMIME"]);
    primary.misbehave(Rule::answer(Stage::Rcpt, "550-5.1.1 no\r\n550 5.1.1 nobody").about("nobody"));
    let proxy = Proxy::before(primary.address());
    let mut client = Client::hello(proxy.address()).unwrap();
    let envelope = Envelope::new("a@client.example", &["nobody@example.org", "bob@example.org"]);
    let lookalikes = b"..\r\n.\r\n\n.\r\nQUIT\r\n.x\r\n".as_slice();
    for _ in 0..2 {
        assert!(client.send(&envelope, lookalikes).unwrap().is("250 2.0.0"));
    }
    let (first, second) = ("QUIT\r\nDATA\r\n.\r\n", "BDAT 7 LAST\r\n.\r\n");
    let parts =
        [format!("BDAT {}\r\n{first}", first.len()), format!("BDAT {} LAST\r\n{second}", second.len())].concat();
    let group = format!("MAIL FROM:<>\r\nRCPT TO:<bob@example.org>\r\n{parts}NOOP\r\nQUIT\r\n");
    client.raw(group.as_bytes()).unwrap();
    let codes: Vec<_> = (0..6).map(|_| client.reply().unwrap().code).collect();
    assert_eq!(codes, [250, 250, 250, 250, 250, 221]);
    assert!(client.is_closed());
    let contents: Vec<_> = primary.mails().iter().map(|mail| mail.content.clone()).collect();
    assert_eq!(contents, [lookalikes, lookalikes, [first, second].concat().as_bytes()]);
    let steps: Vec<_> = proxy.exchanges().iter().map(|exchange| (exchange.step, exchange.nth)).collect();
    let message = |number| {
        let rcpts = [(Step::Rcpt, 2 * number - 1), (Step::Rcpt, 2 * number)];
        [&[(Step::Mail, number)], &rcpts[..], &[(Step::Data, number), (Step::Dot, number)]].concat()
    };
    let parts = [(Step::Mail, 3), (Step::Rcpt, 5), (Step::Bdat, 1), (Step::Bdat, 2), (Step::Other, 1), (Step::Quit, 1)];
    let begin = [(Step::Greeting, 1), (Step::Ehlo, 1)];
    assert_eq!(steps, [&begin[..], &message(1), &message(2), &parts].concat());
}

#[test]
fn many_messages_on_many_connections_keep_their_bytes() {
    let primary = Primary::start();
    let proxy = Proxy::before(primary.address());
    let load = Load { messages: 500, bytes: 8192, sessions: 16, seed: 1 };
    let sent = load.send(proxy.address());
    assert_eq!(sent.accepted.len(), 500);
    let mails = primary.mails();
    let arrived = mails.iter().map(|mail| (&*mail.recipients[0], &*mail.content));
    assert_eq!(load.compare(&sent, arrived), Comparison::default());
    assert_eq!(proxy.connections(), primary.connections());
    let mut client = Client::hello(proxy.address()).unwrap();
    for message in messages::awkward() {
        let reply = client.send(&Envelope::to("bob"), &message.content).unwrap();
        assert_eq!(reply.code, 250, "{}: {reply}", message.name);
        let kept = primary.mails().pop().unwrap();
        assert_eq!(difference(&message.content, &kept.content), None, "{}", message.name);
    }
}

#[test]
fn content_is_cut_after_as_many_bytes_as_told_and_what_is_shorter_is_spared() {
    let in_chunks = "BDAT 20\r\n12345678\r\n12345678\r\nBDAT 20 LAST\r\nabcdefgh\r\nabcdefgh\r\n";
    let in_data = "DATA\r\n12345678\r\n12345678\r\nabcdefgh\r\nabcdefgh\r\n.\r\n";
    for (is_in_chunks, message) in [(true, in_chunks), (false, in_data)] {
        for bytes in [0, 7, 20, 25, 39, 40, 100] {
            let server = Server::start();
            let proxy = Proxy::before(server.address);
            let struck = proxy.harm(Harm::within_content(Fault::Cut).after_bytes(bytes));
            let mut stream = TcpStream::connect(proxy.address()).unwrap();
            stream.write_all(message.as_bytes()).unwrap();
            let is_spared = bytes >= 40;
            if is_spared {
                stream.shutdown(Shutdown::Write).unwrap();
            }
            let mut told = String::new();
            stream.read_to_string(&mut told).unwrap();
            let heard: Vec<_> =
                server.heard().into_iter().filter(|line| !line.starts_with(['D', 'B', '.', '('])).collect();
            // The server leaves out the line ends of what it does not take for a chunk.
            let content: String = heard.iter().flat_map(|line| line.split("\r\n")).collect();
            let wire = "12345678\r\n12345678\r\nabcdefgh\r\nabcdefgh\r\n";
            let expected = wire[..wire.len().min(usize::try_from(bytes).unwrap())].replace("\r\n", "");
            assert_eq!(content, expected, "{bytes}, in chunks: {is_in_chunks}");
            assert_eq!(
                (struck.count(), told.contains("kept")),
                (u64::from(!is_spared), is_spared || (is_in_chunks && bytes >= 20))
            );
        }
    }
}

#[test]
fn harm_is_done_as_often_as_told_and_no_more_once_healed() {
    let primary = Primary::start();
    let proxy = Proxy::before(primary.address());
    let twice = proxy.harm(Harm::at(Step::Mail, Side::BeforeCommand, Fault::Cut).times(2));
    let then = proxy.harm(Harm::at(Step::Dot, Side::BeforeReply, replace("451 4.3.0 later")));
    let send = || Client::hello(proxy.address()).unwrap().send(&Envelope::to("bob"), b"");
    assert!(send().is_err());
    assert!(send().is_err());
    for _ in 0..3 {
        assert!(send().unwrap().is("451 4.3.0 later"));
    }
    assert_eq!((twice.count(), then.count(), proxy.struck()), (2, 3, 5));
    proxy.heal();
    assert!(send().unwrap().is("250"));
    // Set while a connection is open, and several at one point.
    let mut client = Client::hello(proxy.address()).unwrap();
    proxy.harm(Harm::at(Step::Other, Side::BeforeReply, replace("421 4.3.2 closing")));
    proxy.harm(Harm::at(Step::Other, Side::BeforeReply, Fault::Delay(DELAY)));
    proxy.harm(Harm::at(Step::Other, Side::AfterReply, Fault::Cut));
    let never = proxy.harm(Harm::at(Step::Other, Side::AfterReply, Fault::Hold));
    let begun = Instant::now();
    assert!(client.say("NOOP").unwrap().is("421 4.3.2 closing"));
    assert!(begun.elapsed() >= DELAY);
    assert!(client.is_closed());
    assert_eq!(never.count(), 0);
}

#[test]
fn who_goes_on_sending_after_a_cut_is_not_reset() {
    let server = Server::start();
    let proxy = Proxy::before(server.address);
    proxy.harm(Harm::within_content(Fault::Cut).after_bytes(5));
    let mut stream = TcpStream::connect(proxy.address()).unwrap();
    stream.write_all(b"DATA\r\n123456").unwrap();
    assert_eq!(server.heard(), ["DATA", "12345", "(FIN)"]);
    for _ in 0..4 {
        thread::sleep(SILENCE);
        stream.write_all(b"more\r\n").unwrap();
    }
    let mut heard = String::new();
    stream.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "220 hi\r\n354 go on\r\n");
}

#[test]
fn what_a_server_says_unasked_is_handed_on_and_what_is_no_reply_too() {
    let said = ["220 hi\r\n421 4.4.2 idle\r\nnonsense\n", &"250-x\r\n".repeat(100_000), "250 half a li"].concat();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let proxy = Proxy::before(listener.local_addr().unwrap());
    let mut stream = TcpStream::connect(proxy.address()).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| listener.accept().unwrap().0.write_all(said.as_bytes()).unwrap());
        let mut heard = String::new();
        stream.read_to_string(&mut heard).unwrap();
        assert!(heard == said, "{} of {} bytes", heard.len(), said.len());
    });
    assert_eq!(proxy.exchanges().len(), 1);
}

#[test]
fn a_slow_client_takes_its_time() {
    let primary = Primary::start();
    let proxy = Proxy::before(primary.address());
    let content = "0123456789abcde\r\n".repeat(600);
    for (speed, at_least) in [(Some(20_000), Duration::from_millis(450)), (None, Duration::ZERO)] {
        proxy.slow_down(speed);
        let begun = Instant::now();
        let mut client = Client::hello(proxy.address()).unwrap();
        assert!(client.send(&Envelope::to("bob"), content.as_bytes()).unwrap().is("250"));
        assert!(begun.elapsed() >= at_least, "{speed:?}: {:?}", begun.elapsed());
    }
    assert_eq!(primary.mails()[0].content, content.as_bytes());
    proxy.slow_down(Some(10));
    let begun = Instant::now();
    let mut stream = TcpStream::connect(proxy.address()).unwrap();
    stream.write_all(b"NOOP\r\nQUIT\r\n").unwrap();
    stream.read_to_string(&mut String::new()).unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[test]
fn a_handshake_passes_and_can_be_broken_at_each_point() {
    let certificate = Certificate::of(&["primary.example.org"]);
    let primary = Primary::start();
    primary.offer_tls(&certificate);
    let proxy = Proxy::before(primary.address());
    let encrypted = || -> io::Result<Reply> {
        let mut client = Client::hello(proxy.address())?;
        let reply = client.say("STARTTLS")?;
        if reply.code != 220 {
            return Ok(reply);
        }
        client.start_tls("primary.example.org", trust_any())?;
        client.say("EHLO client.example")?;
        client.send(&Envelope::to("bob"), b"MAIL\r\n.\r\n")
    };
    assert!(encrypted().unwrap().is("250"));
    assert!(primary.mails()[0].encrypted);
    let steps = [Step::Greeting, Step::Ehlo, Step::StartTls, Step::Handshake];
    assert_eq!(proxy.exchanges().iter().map(|exchange| exchange.step).collect::<Vec<_>>(), steps);

    let before = [Fault::Cut, Fault::Reset, Fault::Truncate].map(|fault| (Side::BeforeCommand, fault));
    let after = [Fault::Cut, Fault::Reset].map(|fault| (Side::AfterCommand, fault));
    let reply = [Fault::Cut, Fault::Truncate, Fault::Duplicate, replace("454 4.7.0 no")]
        .map(|fault| (Side::BeforeReply, fault));
    let behind = [(Side::AfterReply, Fault::Cut)];
    for (side, fault) in before.into_iter().chain(after).chain(reply).chain(behind) {
        let struck = proxy.harm(Harm::at(Step::Handshake, side, fault.clone()).times(1));
        assert!(encrypted().is_err(), "{side:?}, {fault:?}");
        assert_eq!(struck.count(), 1, "{side:?}, {fault:?}");
    }
    for (side, fault) in [(Side::BeforeCommand, Fault::Fragment), (Side::BeforeReply, Fault::Fragment)] {
        let struck = proxy.harm(Harm::at(Step::Handshake, side, fault).times(1));
        assert!(encrypted().unwrap().is("250"), "{side:?}");
        assert_eq!(struck.count(), 1, "{side:?}");
    }
    proxy.harm(Harm::at(Step::StartTls, Side::BeforeReply, replace("454 4.7.0 not now")).times(1));
    assert!(encrypted().unwrap().is("454 4.7.0 not now"));
    assert!(encrypted().unwrap().is("250"));
    assert_eq!((primary.count(), primary.violations()), (4, Vec::new()));
}

#[test]
fn an_end_on_one_side_is_an_end_on_the_other() {
    let server = Server::start();
    let proxy = Proxy::before(server.address);
    Client::hello(proxy.address()).unwrap().vanish().unwrap();
    assert_eq!(server.heard(), ["EHLO client.example", "(RST)"]);
    drop(Client::hello(proxy.address()).unwrap());
    eventually(LIMIT, "the end at the server", || lock(&server.heard).len() == 4);
    assert_eq!(lock(&server.heard)[3], "(FIN)");

    let mut primary = Primary::start();
    let proxy = Proxy::before(primary.address());
    let mut client = Client::hello(proxy.address()).unwrap();
    primary.go_away();
    assert!(client.is_closed());
    let refused = Client::connect(proxy.address()).and_then(|mut client| client.reply()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionReset);
    eventually(LIMIT, "no connection is left", || proxy.connections_open() <= 1);
}

#[test]
fn a_proxy_that_is_dropped_ends_all_at_once_whatever_goes_on() {
    let primary = Primary::start();
    let begun = Instant::now();
    for fault in [Fault::Hold, Fault::Delay(LIMIT)] {
        for side in SIDES {
            let proxy = Proxy::before(primary.address());
            let address = proxy.address();
            let struck = proxy.harm(Harm::at(Step::Mail, side, fault.clone()));
            let mut client = Client::hello(address).unwrap();
            client.raw(b"MAIL FROM:<>\r\n").unwrap();
            eventually(LIMIT, "the harm", || struck.count() == 1);
            drop(proxy);
            assert!(client.is_closed_at_last(), "{side:?}");
            assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        }
    }
    assert!(begun.elapsed() < LIMIT, "{:?}", begun.elapsed());
}

#[test]
fn harm_that_there_is_not_is_not_taken() {
    let none = [
        Harm::at(Step::Greeting, Side::BeforeCommand, Fault::Cut),
        Harm::at(Step::Connect, Side::BeforeReply, Fault::Cut),
        Harm::at(Step::Connect, Side::BeforeCommand, Fault::Truncate),
        Harm::at(Step::Mail, Side::BeforeCommand, Fault::Duplicate),
        Harm::at(Step::Mail, Side::AfterCommand, Fault::Fragment),
        Harm::at(Step::Dot, Side::BeforeCommand, replace("452 4.3.1 full")),
        Harm::at(Step::Data, Side::BeforeCommand, replace("354 go on")),
        Harm::within_content(Fault::Truncate),
    ];
    assert_eq!(none.into_iter().find(Harm::fits), None);
}

fn replace(reply: &str) -> Fault {
    Fault::Replace(reply.to_owned())
}
