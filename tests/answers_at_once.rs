//! Who asks a relay for its status may wait for the next change of it: states are told at once, numbers every two seconds, and where
//! nothing happens nothing is told. What the status says of the past and of clients is true, whatever happens to the relay.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use backupmx_relay_api::{
    admin::{self, DrainHold},
    path,
    status::{Clients, DrainState, Outage, PrimaryState, Status},
};
use jiff::Timestamp;
use serde_json::json;
use support::{
    Client, Envelope, Primary, Relay, eventually,
    primary::{Rule, Stage},
    relay::http::{self, Answer},
};

const LIMIT: Duration = Duration::from_secs(60);
/// From the moment in which a state stands in the document to the answer of who waited for it. The relay looks five times a second.
const AT_ONCE: Duration = Duration::from_secs(1);
/// What `wait` says where the test does not want to see its end.
const LONG: Duration = Duration::from_secs(25);
/// So many may wait.
const POLLS_MAX: usize = 32;
/// Finds out soon what becomes of the primary.
const ATTENTIVE: &str = "primary:
  probe: {interval: 300ms, intervalWhileQueued: 300ms, intervalWhileRefusingMax: 300ms, failureThreshold: 2}
";
const BEHIND_A_PROXY: &str = "proxyProtocol: {trusted: [127.0.0.1]}\n";
const CONTENT: &[u8] = b"Subject: x\r\n\r\nbody\r\n";

#[test]
fn a_state_is_told_within_a_second() {
    let mut primary = Primary::away();
    // What it refuses after its return is the last word.
    let config = format!("{ATTENTIVE}  breaker: {{returnWindow: 0s}}\n");
    let relay = Relay::before(primary.address()).config(&config).start();
    told_at_once(&relay, "the primary is down", |_| {}, |status| status.primary.state == PrimaryState::Down);
    told_at_once(&relay, "first mail", |relay| drop(send(relay)), |status| status.queue.messages == 1);
    let hold = |relay: &Relay| {
        relay.orders().post::<DrainHold>(admin::DRAIN_HOLD, &json!({ "reason": "moving house", "author": "ann" }));
    };
    told_at_once(&relay, "the drain is held", hold, |status| status.drain.hold.is_some());
    let resume = |relay: &Relay| {
        relay.orders().post::<DrainHold>(admin::DRAIN_RESUME, &json!({}));
    };
    told_at_once(&relay, "the drain goes on", resume, |status| status.drain.hold.is_none());
    told_at_once(
        &relay,
        "the primary is up",
        |_| {
            primary.return_now();
        },
        |status| status.primary.state == PrimaryState::Up,
    );
    let known = quiet(&relay);
    assert_eq!((known.queue.messages, known.drain.state), (0, DrainState::Idle));
    primary.misbehave(Rule::answer(Stage::Rcpt, "550 5.1.1 no such user").about("mallory"));
    let to_mallory = |relay: &Relay| drop(send_to(relay, "mallory"));
    told_at_once(&relay, "a message is held", to_mallory, |status| !status.problems.is_empty());
    told_at_once(
        &relay,
        "the primary is away",
        |_| primary.go_away(),
        |status| status.outages.first().is_some_and(|outage| outage.until.is_none()),
    );
}

#[test]
fn where_nothing_happens_nothing_is_told_and_a_wait_runs_out() {
    const WAIT: Duration = Duration::from_secs(6);
    let primary = Primary::start();
    let relay = Relay::before(primary.address()).config(ATTENTIVE).start();
    let known = quiet(&relay);
    let (begun, busy) = (Instant::now(), processor_seconds(&relay));
    let (answer, took) = poll(&relay, &known, WAIT);
    let busy = processor_seconds(&relay) - busy;
    println!(
        "an idle relay took {:.2} % of a processor in {:?}, probes included",
        100.0 * busy / WAIT.as_secs_f64(),
        begun.elapsed()
    );
    assert!(took >= WAIT, "answered after {took:?}: {answer:#?}, before: {known:#?}");
    assert_eq!(answer.revision, known.revision);
    assert_ne!(answer.primary.last_probe, known.primary.last_probe, "the primary was looked at, which is no news");
    assert!(busy < 0.05 * WAIT.as_secs_f64(), "{busy} s in {WAIT:?}");
}

#[test]
fn mail_that_comes_steadily_is_told_every_two_seconds() {
    for is_up in [false, true] {
        let primary = if is_up { Primary::start() } else { Primary::away() };
        let relay = Relay::before(primary.address()).config(ATTENTIVE).start();
        let state = if is_up { PrimaryState::Up } else { PrimaryState::Down };
        relay.until(LIMIT, "the primary's state is known", |status| status.primary.state == state);
        let (first, last, took) = while_mail_comes(&relay, || {
            let begun = Instant::now();
            let first = relay.status();
            let last = (0..8).fold(first.clone(), |known, _| poll(&relay, &known, LONG).0);
            (first, last, begun.elapsed())
        });
        let (grew, intervals) = (last.revision - first.revision, took.as_secs() / 2);
        println!("primary up: {is_up}, {grew} revisions in {took:?}, {} messages", last.account.accepted);
        // Of what is still news from the start, and of the first mail and its going, it is told at once.
        assert!(grew <= intervals + 5 && grew + 1 >= intervals, "{grew} revisions in {took:?}");
        assert!(intervals >= 1, "{grew} revisions in {took:?}");
    }
}

#[test]
fn who_knows_another_start_is_answered_at_once() {
    let primary = Primary::start();
    let mut relay = Relay::before(primary.address()).config(ATTENTIVE).start();
    let before = quiet(&relay);
    relay.kill9();
    relay.start_again();
    let now = quiet(&relay);
    let (answer, took) = poll(&relay, &Status { started_at: before.started_at, ..now.clone() }, LONG);
    assert!(took < AT_ONCE, "{took:?}");
    assert_eq!((&answer.started_at, answer.revision), (&now.started_at, now.revision));
    for revision in [0, now.revision + 1, u64::MAX] {
        let (answer, took) = poll(&relay, &Status { revision, ..now.clone() }, LONG);
        assert!(took < AT_ONCE, "{took:?}");
        assert_eq!(answer.revision, now.revision);
    }
}

#[test]
fn a_stop_answers_all_who_wait_and_does_not_wait_for_them() {
    let primary = Primary::start();
    let mut relay = Relay::before(primary.address()).config(ATTENTIVE).start();
    let known = quiet(&relay);
    let waiting = occupy(&relay, &known, LONG);
    let begun = Instant::now();
    assert_eq!(relay.terminate(), 0, "{}", relay.log().end());
    let took = begun.elapsed();
    println!("with {POLLS_MAX} polls the stop took {took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    let revision = format!("\"revision\":{},", known.revision);
    let answer = |mut stream: TcpStream| {
        let mut text = String::new();
        stream.read_to_string(&mut text).ok().map(|_| text)
    };
    let answered = waiting.into_iter().filter_map(answer).filter(|text| text.starts_with("HTTP/1.1 200"));
    assert_eq!(answered.filter(|text| text.contains(&revision)).count(), POLLS_MAX);
}

#[test]
fn too_many_polls_are_refused_and_those_that_go_leave_their_places() {
    let primary = Primary::start();
    let relay = Relay::before(primary.address()).config(ATTENTIVE).start();
    let known = quiet(&relay);
    let waiting = occupy(&relay, &known, Duration::from_secs(60));
    // Who need not wait needs no place.
    assert_eq!(relay.status().revision, known.revision);
    assert!(poll(&relay, &Status { revision: 0, ..known.clone() }, LONG).1 < AT_ONCE);
    assert!(relay.is_ready());
    drop(waiting);
    eventually(LIMIT, "there are places again", || !poll_is_refused(&relay, &known));
}

#[test]
fn keys_that_cannot_be_read_are_refused_with_what_to_write() {
    let relay = Relay::before(Primary::away().address()).start();
    for (query, named) in [
        ("after=17", "after and wait go together"),
        ("after=x&wait=25s", "x is no value for after"),
        ("after=17&wait=25", "25 is no value for wait"),
        ("after=17&wait=25s&startedAt=noon", "noon is no value for startedAt"),
        ("afer=17&wait=25s", "no key afer"),
        ("after=17&wait=25s&wait=1s", "wait stands twice"),
    ] {
        let answer = http::get(relay.observe(), &format!("{}?{query}", path::STATUS), None);
        assert_eq!(answer.code, 400, "{query}: {answer:?}");
        assert!(answer.body.contains(named) && answer.body.contains("after=17&startedAt="), "{query}: {answer:?}");
    }
}

#[test]
fn an_outage_is_told_with_all_that_came_in_it_whatever_happens_to_the_relay() {
    let mut primary = Primary::away();
    let mut relay = Relay::before(primary.address()).config(ATTENTIVE).start();
    let began = relay.until(LIMIT, "the outage is told", |status| status.outages.len() == 1);
    assert_eq!(began.primary.since, began.outages[0].from);
    (0..3).for_each(|_| drop(send(&relay)));
    // Nothing was written of the last ones: they are found in the spool.
    relay.kill9();
    relay.start_again();
    let Outage { from, until, messages, bytes, last_delivered } = only(&relay.status());
    assert_eq!((from, until, last_delivered), (began.outages[0].from.clone(), None, None));
    assert_eq!((messages, bytes), (3, 3 * CONTENT.len() as u64));
    relay.until(LIMIT, "the primary is still away", |status| status.primary.state == PrimaryState::Down);
    (0..2).for_each(|_| drop(send(&relay)));
    assert_eq!(relay.terminate(), 0);
    relay.start_again();
    let deleted = send(&relay);
    let path = admin::MESSAGE.replace("{id}", &deleted);
    assert_eq!(relay.orders().ask("DELETE", &format!("{path}?confirm={deleted}&reason=spam"), "").code, 200);
    assert_eq!(only(&relay.status()).messages, 6, "it was taken, whatever became of it");
    let before_return = Timestamp::now();
    primary.return_now();
    primary.wait_for(5, LIMIT);
    let ended = relay.until(LIMIT, "all has left", |status| only(status).last_delivered.is_some());
    let outage = only(&ended);
    let (until, last) = (time(outage.until.as_deref()), time(outage.last_delivered.as_deref()));
    assert!(before_return <= until && until <= last && last <= Timestamp::now(), "{outage:?}");
    assert_eq!((outage.messages, outage.bytes), (6, 6 * CONTENT.len() as u64));
    send(&relay);
    primary.wait_for(6, LIMIT);
    relay.kill9();
    relay.start_again();
    assert_eq!(only(&relay.status()), outage, "what came afterwards is no part of it");

    primary.go_away();
    let again = relay.until(LIMIT, "the next one is told", |status| status.outages.len() == 2);
    assert_eq!((&again.outages[1], again.outages[0].until.as_ref(), again.outages[0].messages), (&outage, None, 0));
}

#[test]
fn who_connects_is_counted_and_a_proxy_that_hides_all_clients_is_told() {
    let primary = Primary::away();
    let relay =
        Relay::before(primary.address()).flags(&["--listen-proxy", "127.0.0.1:0"]).config(BEHIND_A_PROXY).start();
    let come = |header: &str, says: &[&str]| {
        let mut client = Client::connect(relay.smtp_proxy()).expect("the port is open");
        client.raw(header.as_bytes()).expect("it reads");
        let greeting = client.reply().expect("it greets");
        assert!(greeting.is("220"), "{greeting}");
        for line in says {
            client.say(line).expect("it answers");
        }
    };
    let from = |address: &str| format!("PROXY TCP4 {address} 198.51.100.1 40000 25\r\n");
    let hello = ["EHLO client.example", "NOOP", "EHLO client.example"];
    // Health checks, a proxy on its own behalf, and the primary.
    come(&from("192.0.2.1"), &[]);
    come(&from("192.0.2.1"), &["QUIT"]);
    come("PROXY UNKNOWN\r\n", &hello);
    come(&from("127.0.0.1"), &hello);
    drop(Client::hello(relay.smtp()).expect("the relay takes connections"));
    assert_eq!(relay.status().clients, Clients::default());
    eventually(LIMIT, "one address alone is suspicious", || {
        // Not as fast as they can: a sender that empties its queue is no proxy.
        (0..2).for_each(|_| come(&from("192.0.2.7"), &hello));
        relay.status().clients.only.is_some()
    });
    let status = relay.status();
    assert_eq!((status.clients.addresses, status.clients.only.as_deref()), (1, Some("192.0.2.7")));
    come(&from("192.0.2.8"), &hello);
    let Clients { sessions, addresses, only } = relay.status().clients;
    assert_eq!((sessions, addresses, only), (status.clients.sessions + 1, 2, None));
}

#[test]
fn the_address_is_told_from_which_the_primary_sees_us() {
    let primary = Primary::start();
    let relay = Relay::before(primary.address()).config(ATTENTIVE).start();
    let status = relay.until(LIMIT, "the primary is up", |status| status.primary.state == PrimaryState::Up);
    assert_eq!(status.primary.egress_address, None);
    for (greeting, address) in [
        ("Hello mx2.example.org [203.0.113.9]", Some("203.0.113.9")),
        ("Hello mx2.example.org [IPv6:2001:db8::9], pleased to meet you", Some("2001:db8::9")),
        ("Hello mx2.example.org", None),
    ] {
        primary.behave();
        primary.misbehave(Rule::answer(Stage::Hello, &format!("250 primary.example.org {greeting}")));
        relay.until(LIMIT, greeting, |status| status.primary.egress_address.as_deref() == address);
    }
}

/// Lets something happen, and checks that who waits hears of it soon after the relay knows.
#[track_caller]
fn told_at_once(relay: &Relay, what: &str, happen: impl FnOnce(&Relay), holds: impl Fn(&Status) -> bool + Sync) {
    let known = relay.status();
    assert!(!holds(&known), "{what} already");
    let (told_at, known_at) = thread::scope(|scope| {
        let told = scope.spawn(|| {
            let mut known = known;
            while !holds(&known) {
                (known, _) = poll(relay, &known, LONG);
            }
            Instant::now()
        });
        happen(relay);
        // Some states pass by before anybody looks.
        eventually(LIMIT, what, || told.is_finished() || holds(&relay.status()));
        let known_at = Instant::now();
        (told.join().expect("it was told"), known_at)
    });
    let took = told_at.saturating_duration_since(known_at);
    println!("{what}: told after {took:?}");
    assert!(took < AT_ONCE, "{what}: told after {took:?}");
}

/// The status once nothing changes any more.
#[track_caller]
fn quiet(relay: &Relay) -> Status {
    const WAIT: Duration = Duration::from_secs(3);
    let begun = Instant::now();
    let mut known = relay.status();
    loop {
        let (answer, took) = poll(relay, &known, WAIT);
        if answer.revision == known.revision && took >= WAIT {
            return answer;
        }
        assert!(begun.elapsed() < LIMIT, "it does not come to rest: {answer:#?}, before: {known:#?}");
        known = answer;
    }
}

/// Asks for what is newer than this. Returns how long that took, too.
#[track_caller]
fn poll(relay: &Relay, known: &Status, wait: Duration) -> (Status, Duration) {
    let begun = Instant::now();
    let answer = http::get(relay.observe(), &format!("{}?{}", path::STATUS, query(known, wait)), None);
    (status_of(&answer), begun.elapsed())
}

fn query(known: &Status, wait: Duration) -> String {
    format!("after={}&startedAt={}&wait={}ms", known.revision, known.started_at, wait.as_millis())
}

#[track_caller]
fn status_of(answer: &Answer) -> Status {
    assert_eq!(answer.code, 200, "{answer:?}");
    serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("no status document: {error}: {}", answer.body))
}

/// Whether a poll that would have to wait is refused.
#[track_caller]
fn poll_is_refused(relay: &Relay, known: &Status) -> bool {
    let answer =
        http::get(relay.observe(), &format!("{}?{}", path::STATUS, query(known, Duration::from_millis(1))), None);
    match answer.code {
        200 => false,
        503 => {
            assert!(answer.body.contains("32 polls wait already"), "{answer:?}");
            true
        }
        _ => panic!("neither yes nor no: {answer:?}"),
    }
}

/// Polls in all places. A few more may have been refused: who looks whether there is a place takes it for a moment.
#[track_caller]
fn occupy(relay: &Relay, known: &Status, wait: Duration) -> Vec<TcpStream> {
    let request = format!("GET {}?{} HTTP/1.1\r\nHost: relay\r\n\r\n", path::STATUS, query(known, wait));
    let mut waiting = Vec::new();
    eventually(LIMIT, "all places are taken", || {
        let is_full = poll_is_refused(relay, known);
        if !is_full {
            let mut stream = TcpStream::connect(relay.observe()).expect("the relay takes connections");
            stream.write_all(request.as_bytes()).expect("the relay reads");
            waiting.push(stream);
        }
        is_full
    });
    waiting
}

/// Does it while mail comes, a message after the other.
fn while_mail_comes<T: Send>(relay: &Relay, doing: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let done = scope.spawn(doing);
        while !done.is_finished() {
            send(relay);
        }
        done.join().expect("it does not panic")
    })
}

/// What its process has taken of processors so far, in seconds.
fn processor_seconds(relay: &Relay) -> f64 {
    /// Of the kernel's interface, whatever it counts in itself (proc(5)).
    const TICKS_PER_SECOND: f64 = 100.0;
    let file = format!("/proc/{}/stat", relay.pid());
    let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("read {file}: {error}"));
    let (_, behind_name) = text.rsplit_once(')').expect("the name stands in brackets");
    let ticks: f64 =
        behind_name.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    ticks / TICKS_PER_SECOND
}

#[track_caller]
fn only(status: &Status) -> Outage {
    let [outage] = &status.outages[..] else { panic!("there was one: {:?}", status.outages) };
    outage.clone()
}

#[track_caller]
fn time(text: Option<&str>) -> Timestamp {
    text.expect("it is there").parse().expect("a time")
}

#[track_caller]
fn send(relay: &Relay) -> String {
    send_to(relay, "bob")
}

/// A message to this local part. Returns its id.
#[track_caller]
fn send_to(relay: &Relay, to: &str) -> String {
    let mut client = Client::hello(relay.smtp()).expect("the relay takes connections");
    let reply = client.send(&Envelope::to(to), CONTENT).expect("the relay answers");
    assert!(reply.is("250 2.0.0"), "{reply}");
    reply.message_id().to_owned()
}
