use std::{net::TcpStream, sync::atomic::AtomicUsize, thread, time::Instant};

use super::*;
use crate::{is_soak, relay::http};

fn get(relay: &FakeRelay, target: &str) -> http::Answer {
    http::get((relay.ip(), port::OBSERVE).into(), target, None)
}

fn status(answer: &http::Answer) -> Status {
    serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
}

/// As the operator asks who knows this.
fn poll_target(known: &Status, wait: &str) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair(poll::AFTER, &known.revision.to_string()).append_pair(poll::STARTED_AT, &known.started_at);
    format!("{}?{}", path::STATUS, query.append_pair(poll::WAIT, wait).finish())
}

#[test]
fn a_poll_is_answered_by_a_change_or_when_its_wait_is_over() {
    let relay = FakeRelay::start();
    let first = status(&get(&relay, path::STATUS));
    assert_eq!((first.revision, relay.status()), (1, first.clone()));
    assert_eq!(status(&get(&relay, &poll_target(&first, "50ms"))), first);
    thread::scope(|scope| {
        let polling = scope.spawn(|| status(&get(&relay, &poll_target(&first, "25s"))));
        eventually(LIMIT, "the poll is open", || relay.polls_open() == 1);
        relay.set(|status| status.queue.messages = 7);
        let second = polling.join().unwrap();
        assert_eq!((second.revision, second.queue.messages), (2, 7));
    });
    // What is no longer known is answered at once, be it by a number or by another start.
    relay.restart();
    let begun = Instant::now();
    assert_eq!(status(&get(&relay, &poll_target(&first, "25s"))).revision, 1);
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert_eq!((relay.polls_open(), relay.polls_open_max()), (0, 1));
}

#[test]
fn a_poll_whose_client_has_left_is_not_open() {
    let relay = FakeRelay::start();
    let mut client = TcpStream::connect((relay.ip(), port::OBSERVE)).unwrap();
    let request = format!("GET {} HTTP/1.1\r\n\r\n", poll_target(&relay.status(), "25s"));
    io::Write::write_all(&mut client, request.as_bytes()).unwrap();
    eventually(LIMIT, "the poll is open", || relay.polls_open() == 1);
    drop(client);
    eventually(LIMIT, "the poll is closed", || relay.polls_open() == 0);
}

#[test]
fn a_relay_answers_as_it_is_told() {
    let relay = FakeRelay::start();
    assert_eq!([path::HEALTHZ, path::READYZ, "/none"].map(|path| get(&relay, path).code), [200, 200, 404]);
    relay.set(|status| status.cordoned = true);
    assert_eq!([path::HEALTHZ, path::READYZ].map(|path| get(&relay, path).code), [200, 503]);

    relay.behave(Manner::Failing(500));
    assert_eq!(get(&relay, path::STATUS).code, 500);
    relay.behave(Manner::Garbage);
    assert!(serde_json::from_str::<Value>(&get(&relay, path::STATUS).body).is_err());
    relay.behave(Manner::Old);
    let old: Value = serde_json::from_str(&get(&relay, path::STATUS).body).unwrap();
    assert_eq!((&old["schema"], old.get("revision")), (&json!(0), None));
    relay.behave(Manner::Huge);
    let mut client = TcpStream::connect((relay.ip(), port::OBSERVE)).unwrap();
    io::Write::write_all(&mut client, b"GET /status HTTP/1.1\r\n\r\n").unwrap();
    let read = io::copy(&mut io::Read::take(&mut client, HUGE_BYTES as u64), &mut io::sink());
    assert_eq!(read.unwrap(), HUGE_BYTES as u64);

    relay.behave(Manner::Silent);
    let (asked, before) = (AtomicUsize::new(0), relay.requests());
    thread::scope(|scope| {
        scope.spawn(|| asked.store(get(&relay, path::HEALTHZ).code.into(), Ordering::Relaxed));
        eventually(LIMIT, "the request is read", || relay.requests() > before);
        assert_eq!(asked.load(Ordering::Relaxed), 0);
        relay.behave(Manner::Well);
    });
    assert_eq!(asked.load(Ordering::Relaxed), 200);

    relay.behave(Manner::Gone);
    let connect = || TcpStream::connect((relay.ip(), port::OBSERVE));
    assert_eq!(connect().unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    relay.behave(Manner::Well);
    assert!(connect().is_ok());
}

#[test]
fn thousands_of_relays_fit_into_one_process() {
    raise_file_limit();
    let count = if is_soak() { 5000 } else { 2000 };
    let relays: Vec<_> = (0..count).map(|_| FakeRelay::start()).collect();
    let mut clients: Vec<_> =
        relays.iter().map(|relay| TcpStream::connect((relay.ip(), port::OBSERVE)).unwrap()).collect();
    for (client, relay) in clients.iter_mut().zip(&relays) {
        let request = format!("GET {} HTTP/1.1\r\n\r\n", poll_target(&relay.status(), "60s"));
        io::Write::write_all(client, request.as_bytes()).unwrap();
    }
    eventually(LIMIT, "all polls are open", || relays.iter().all(|relay| relay.polls_open() == 1));
    for (client, relay) in clients.iter_mut().zip(&relays) {
        relay.set(|status| status.queue.messages = 1);
        let mut answer = [0; 4096];
        let length = io::Read::read(client, &mut answer).unwrap();
        assert!(answer[..length].starts_with(b"HTTP/1.1 200"));
    }
}
