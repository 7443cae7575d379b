use std::{
    net::{IpAddr, Ipv4Addr},
    sync::atomic::{AtomicU64, Ordering},
};

use axum::{
    Router,
    extract::{RawQuery, State},
    response::{IntoResponse, Response},
    routing::get,
};
use backupmx_relay_api::{path, poll as keys};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch, time::timeout};

use super::*;

/// A relay on loopback that does as it is told.
#[derive(Clone)]
struct Fake {
    says: watch::Sender<Value>,
    asked: Arc<AtomicU64>,
}

impl Fake {
    async fn on(address: SocketAddr, says: Value) -> Self {
        let fake = Self { says: watch::Sender::new(says), asked: Arc::default() };
        let router = Router::new().route(path::STATUS, get(answer)).with_state(fake.clone());
        let listener = TcpListener::bind(address).await.unwrap();
        tokio::spawn(axum::serve(listener, router).into_future());
        fake
    }
}

async fn answer(State(fake): State<Fake>, RawQuery(query): RawQuery) -> Response {
    let query: HashMap<_, _> = form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned().collect();
    fake.asked.fetch_add(1, Ordering::SeqCst);
    let mut says = fake.says.subscribe();
    let is_known = |status: &Value| {
        query.get(keys::AFTER) == Some(&status["revision"].to_string())
            && query.get(keys::STARTED_AT).map(String::as_str) == status["startedAt"].as_str()
    };
    let news = says.wait_for(|status| !is_known(status)).await.unwrap().clone();
    news.as_str().map_or_else(|| axum::Json(&news).into_response(), |text| text.to_owned().into_response())
}

fn status(revision: u64) -> Value {
    let since = "2026-11-27T16:00:00Z";
    json!({
        "version": "0.1.0", "schema": 1, "hostname": "mx2.example.org", "configGeneration": 1, "revision": revision,
        "startedAt": since,
        "primary": {"state": "Up", "since": since, "lastProbe": null, "reason": "", "host": null, "egressAddress": null},
        "queue": {"messages": 0, "bytes": 0, "oldest": null, "held": 0},
        "drain": {"state": "Idle", "messagesPerSecond": 0.0, "connections": 0, "connectionsAllowed": 0, "estimatedEmpty": null,
                  "hold": null, "breaker": null},
        "spool": {"bytes": 0, "freeBytes": 1, "writable": true, "recovering": false, "quarantined": 0, "scrub": null},
        "account": {}, "sessions": 0,
        "config": {"digest": null, "loadedAt": since, "refused": null, "ignoredKeys": []},
        "clients": {"sessions": 0, "addresses": 0, "only": null}, "cordoned": false, "outages": [], "tls": [],
        "capabilities": {"size": 1, "eightBitMime": true, "smtputf8": false, "dsn": false, "seenAt": null}, "problems": [],
    })
}

/// Relays that are asked on a port of this test, and who was woken.
struct Scene {
    relays: Arc<Relays>,
    woken: tokio::sync::mpsc::UnboundedReceiver<Id>,
    address: SocketAddr,
}

async fn scene() -> Scene {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap();
    let (sender, woken) = tokio::sync::mpsc::unbounded_channel();
    let relays = Relays::new(free.port(), Metrics::new().unwrap(), move |id: &Id| sender.send(id.clone()).unwrap());
    Scene { relays, woken, address: free }
}

fn id() -> Id {
    Id { namespace: "mail".into(), name: "a".into() }
}

fn pod(ip: impl Into<IpAddr>) -> Pod {
    Pod { name: "a-relay-0".into(), uid: "u".into(), ip: Some(ip.into().to_string()), ..Pod::default() }
}

impl Scene {
    async fn report(&self) -> Report {
        ask(&self.relays, &id(), &[pod(self.address.ip())]).await.relays.remove(0)
    }

    async fn wakes(&mut self) {
        assert_eq!(timeout(Duration::from_secs(5), self.woken.recv()).await.expect("nobody was woken"), Some(id()));
    }
}

#[tokio::test]
async fn the_first_word_is_waited_for_and_news_wakes_at_once() {
    let mut scene = scene().await;
    let fake = Fake::on(scene.address, status(1)).await;
    scene.relays.follow(&id(), &pod(scene.address.ip()));
    let report = scene.report().await;
    assert_eq!((report.answer.unwrap().revision, report.answers, report.silence), (1, 1, None));
    scene.wakes().await;
    for revision in 2..4 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        fake.says.send_replace(status(revision));
        let told_at = Instant::now();
        scene.wakes().await;
        assert!(told_at.elapsed() < Duration::from_millis(300), "{:?}", told_at.elapsed());
        assert_eq!(scene.report().await.answer.unwrap().revision, revision);
    }
}

#[tokio::test]
async fn a_relay_that_waits_is_not_asked_again() {
    let scene = scene().await;
    let fake = Fake::on(scene.address, status(1)).await;
    scene.relays.follow(&id(), &pod(scene.address.ip()));
    scene.report().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(fake.asked.load(Ordering::SeqCst), 2, "once at once, once waiting");
    scene.relays.ask_again(&id(), "a-relay-0");
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(scene.report().await.answers, 2, "the same revision is an answer too");
}

#[tokio::test]
async fn silence_is_told_with_its_reason_and_the_last_answer_and_ends_with_the_next_one() {
    let mut scene = scene().await;
    scene.relays.follow(&id(), &pod(scene.address.ip()));
    scene.wakes().await;
    let report = scene.report().await;
    assert!(report.silence.as_ref().unwrap().contains("refused"), "{report:?}");
    assert!(report.silent_since.is_some());
    assert_eq!(scene.relays.count(), (1, 1));
    Fake::on(scene.address, status(7)).await;
    scene.wakes().await;
    let report = scene.report().await;
    assert_eq!((report.answer.unwrap().revision, report.silence, report.silent_since), (7, None, None));
}

#[tokio::test]
async fn what_is_no_status_is_silence_and_no_panic() {
    for (answer, words) in [
        (json!("<html>\x1b[31m"), "no status"),
        (json!({"version": 1}), "no status"),
        (json!("x".repeat(300 << 10)), "longer than"),
        (json!("[".repeat(100_000)), "no status"),
    ] {
        let scene = scene().await;
        Fake::on(scene.address, answer).await;
        scene.relays.follow(&id(), &pod(scene.address.ip()));
        let silence = scene.report().await.silence.unwrap();
        assert!(silence.contains(words) && silence.len() < 500, "{silence}");
        assert!(silence.chars().all(|character| character.is_ascii_graphic() || character == ' '), "{silence}");
    }
}

#[tokio::test]
async fn a_connection_that_ends_between_two_questions_is_no_silence() {
    let mut scene = scene().await;
    let listener = TcpListener::bind(scene.address).await.unwrap();
    scene.relays.follow(&id(), &pod(scene.address.ip()));
    for revision in 1..4 {
        // Each answer over a connection of its own, which ends without a word.
        let (mut stream, _) = listener.accept().await.unwrap();
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        assert!(stream.read(&mut [0; 2000]).await.unwrap() > 0, "it asks");
        let body = status(revision).to_string();
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes()).await.unwrap();
        drop(stream);
        scene.wakes().await;
        let report = scene.report().await;
        assert_eq!((report.answer.unwrap().revision, report.silence), (revision, None));
    }
}

#[tokio::test]
async fn an_answer_may_come_in_pieces_and_the_next_question_takes_the_same_connection() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut scene = scene().await;
    let listener = TcpListener::bind(scene.address).await.unwrap();
    scene.relays.follow(&id(), &pod(scene.address.ip()));
    let (mut stream, _) = listener.accept().await.unwrap();
    for revision in 1..4 {
        let mut question = [0; 2000];
        let length = stream.read(&mut question).await.unwrap();
        let question = std::str::from_utf8(&question[..length]).unwrap();
        let known = format!("?{}={}&", keys::AFTER, revision - 1);
        assert_eq!(question.contains(&known), revision > 1, "{question}");
        let (head, body) = ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", status(revision).to_string());
        let answer = format!("{head}{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
        for piece in answer.as_bytes().chunks(50) {
            stream.write_all(piece).await.unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        scene.wakes().await;
        let report = scene.report().await;
        assert_eq!((report.answer.unwrap().revision, report.silence), (revision, None));
    }
}

#[tokio::test]
async fn asking_ends_with_the_pod() {
    let scene = scene().await;
    let fake = Fake::on(scene.address, status(1)).await;
    scene.relays.follow(&id(), &pod(scene.address.ip()));
    scene.report().await;
    scene.relays.forget(&id(), "a-relay-0");
    let silence = scene.report().await.silence;
    assert_eq!((scene.relays.count(), silence.as_deref()), ((0, 0), Some("has no address")));
    let asked = fake.asked.load(Ordering::SeqCst);
    fake.says.send_replace(status(2));
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(fake.asked.load(Ordering::SeqCst), asked);
}
