//! People see what waits and why, hold it, release it, retry it, delete it, one by one and in bulk; what they order survives a
//! crash, stands in the log, and is as docs/openapi.json describes it.

use std::time::Duration;

use backupmx_relay_api::{
    admin::{self, BreakerReset, BulkChanged, Changed, DrainHold, EventKind, Fate, HeldReason, State},
    status::{Account, PrimaryState, Status},
};
use serde_json::{Value, json};
use support::{
    Client, Envelope, Primary, Relay, eventually, openapi,
    primary::{Act, Rule, Stage},
    relay::{http, orders::DESCRIPTION},
    trace_field,
};

const LIMIT: Duration = Duration::from_secs(60);
/// Everything that the relay waits for by itself, short; but a deferred message is not tried again within a test.
const SETTINGS: &str = "
primary:
  probe: {interval: 1s, intervalWhileQueued: 1s, intervalWhileRefusingMax: 1s, timeout: 5s, failureThreshold: 1}
  delivery: {retryInterval: 10m, retryIntervalMax: 30m}
  breaker: {returnWindow: 0s}
";
const CONTENT: &[u8] = b"Subject: x\r\n\r\nbody\r\n";

fn relay(primary: &Primary) -> Relay {
    Relay::before(primary.address()).config(SETTINGS).start()
}

/// A message to these local parts. Returns its id.
#[track_caller]
fn send(relay: &Relay, recipients: &[&str], content: &[u8]) -> String {
    let mut client = Client::hello(relay.smtp()).expect("the relay takes connections");
    let recipients: Vec<_> = recipients.iter().map(|name| format!("{name}@{}", support::DOMAIN)).collect();
    let recipients: Vec<_> = recipients.iter().map(String::as_str).collect();
    let reply = client.send(&Envelope::new("ann@client.example", &recipients), content).expect("the relay answers");
    assert!(reply.is("250 2.0.0"), "{reply}");
    reply.message_id().to_owned()
}

#[track_caller]
fn send_many(relay: &Relay, count: usize, recipient: impl Fn(usize) -> String) -> Vec<String> {
    let mut client = Client::hello(relay.smtp()).expect("the relay takes connections");
    let mut ids = Vec::new();
    for number in 0..count {
        let reply = client.send(&Envelope::to(&recipient(number)), CONTENT).expect("the relay answers");
        assert!(reply.is("250 2.0.0"), "{reply}");
        ids.push(reply.message_id().to_owned());
    }
    ids
}

fn ids(messages: &[admin::Message]) -> Vec<String> {
    messages.iter().map(|message| message.id.clone()).collect()
}

fn of(path: &str, id: &str) -> String {
    path.replace("{id}", id)
}

#[test]
fn what_waits_is_listed_by_address_state_and_reason_in_pages_of_any_size() {
    let primary = Primary::away();
    let relay = relay(&primary);
    let orders = relay.orders();
    assert!(orders.list("").is_empty());
    let sent = send_many(&relay, 130, |number| format!("{}{number}", if number % 10 == 0 { "Bob" } else { "carol" }));
    for limit in ["limit=1000", "limit=100", "limit=7", ""] {
        assert_eq!(ids(&orders.list(limit)), sent, "{limit}");
    }
    let bobs: Vec<_> = sent.iter().step_by(10).cloned().collect();
    assert_eq!(ids(&orders.list("query=bOB&limit=4")), bobs);
    assert_eq!(ids(&orders.list("query=sender%40client&state=&limit=1000&cursor=")), sent);
    orders.one(admin::HOLD, &sent[20]);
    assert_eq!(ids(&orders.list("state=held")), sent[20..21]);
    assert_eq!(ids(&orders.list("heldReason=person&query=bob")), sent[20..21]);
    assert_eq!(orders.list("heldReason=undeliverable").len(), 0);
    assert_eq!(orders.list("state=waiting").len(), 129);

    let held = &orders.list("state=held")[0];
    assert_eq!((held.state, held.held_reason, &held.next_attempt), (State::Held, Some(HeldReason::Person), &None));
    assert_eq!(
        (&*held.reverse_path, &*held.recipients),
        ("sender@client.example", &["Bob20@example.org".to_owned()][..])
    );
    assert_eq!((held.size, held.recipient_count, held.open_count, held.deferrals), (CONTENT.len() as u64, 1, 1, 0));
    assert!(held.held_since.as_ref().is_some_and(|since| *since >= held.received), "{held:?}");
    let waiting = &orders.list("state=waiting&limit=1")[0];
    assert!(waiting.next_attempt.is_some() && waiting.held_since.is_none(), "{waiting:?}");
}

#[test]
fn the_story_of_a_message_tells_how_it_came_and_what_the_primary_said_to_whom() {
    let primary = Primary::start();
    primary.misbehave(Rule::answer(Stage::Rcpt, "451 4.2.1 greylisted\u{1b}[31m").about("carol"));
    primary.misbehave(Rule::answer(Stage::Rcpt, "550 5.1.1 no such user").about("dave"));
    let relay = relay(&primary);
    let orders = relay.orders();
    let id = send(&relay, &["bob", "carol", "dave"], CONTENT);
    let recipient_states = || orders.story(&id).recipients.iter().map(|one| one.state).collect::<Vec<_>>();
    eventually(LIMIT, "an attempt", || recipient_states() == [State::Closed, State::Waiting, State::Held]);

    let story = orders.story(&id);
    assert_eq!((story.state, story.deferrals, story.events_left_out), (State::Waiting, 1, 0));
    assert_eq!(story.held_reason, Some(HeldReason::Undeliverable));
    let arrival = story.arrival.expect("it has just come");
    assert_eq!((&*arrival.client, &*arrival.helo, &*arrival.protocol), ("127.0.0.1", "client.example", "ESMTP"));
    assert_eq!(
        (arrival.tls, arrival.size, &*arrival.reverse_path),
        (false, CONTENT.len() as u64, "ann@client.example")
    );
    assert!(arrival.trace.starts_with("Received: from client.example (") && arrival.trace.contains(&id), "{arrival:?}");
    let said: Vec<_> = story.recipients.iter().filter_map(|one| one.last.as_ref()).collect();
    assert_eq!(said.iter().map(|one| one.fate).collect::<Vec<_>>(), [Fate::Delivered, Fate::Deferred, Fate::Held]);
    assert!(said.iter().all(|one| one.by == primary.address().to_string()), "{said:?}");
    assert!(said[0].words.starts_with("250 "), "{said:?}");
    assert_eq!((&*said[1].words, &*said[2].words), (r"451 4.2.1 greylisted\x1b[31m", "550 5.1.1 no such user"));
    assert_eq!(
        story.events.iter().map(|event| event.kind).collect::<Vec<_>>(),
        [EventKind::Accepted, EventKind::Attempt]
    );
    assert_eq!(story.events[1].fates[2].recipient, "dave@example.org");
    // Ten minutes and at most a quarter.
    let next = story.next_attempt.expect("carol is tried again");
    assert!(next > story.events[1].at.clone().expect("attempts have a time"), "{next}");

    let deleted = orders.ask("DELETE", &format!("{}?confirm={id}&author=eve&reason=spam", of(admin::MESSAGE, &id)), "");
    assert_eq!(deleted.code, 200, "{deleted:?}");
    let story = orders.story(&id);
    assert_eq!((story.state, story.next_attempt), (State::Closed, None), "what is closed is known for a while");
    let last = story.recipients[1].last.as_ref().expect("she was deleted");
    assert_eq!((last.fate, &*last.by, &*last.words), (Fate::Deleted, "eve", "spam"));
    assert_eq!(relay.account(), Account { accepted: 3, delivered: 1, deleted: 2, ..Account::default() });
}

#[test]
fn the_content_is_what_the_primary_gets_to_the_byte() {
    let mut primary = Primary::away();
    let relay = relay(&primary);
    let orders = relay.orders();
    let small = b"Subject: \xff\xfe\r\n\r\n<script>\x00..\r\n.\r\n".to_vec();
    let large = [b"Subject: large\r\n\r\n".to_vec(), b"\x80 line of it\r\n".repeat(60_000)].concat();
    for content in [small, large] {
        let id = send(&relay, &["bob"], &content);
        let (headers, downloaded) = orders.content(&id);
        let header = |name: &str| headers.iter().find(|(known, _)| known == name).map(|(_, value)| &**value);
        assert_eq!(header("content-type"), Some("message/rfc822"));
        assert_eq!(header("content-disposition"), Some(&*format!("attachment; filename=\"{id}.eml\"")));
        assert_eq!(header("content-length"), Some(&*downloaded.len().to_string()));
        assert_eq!((header("cache-control"), header("x-content-type-options")), (Some("no-store"), Some("nosniff")));
        let (_, after_trace) = trace_field::split(&downloaded);
        assert!(after_trace == content, "the content of {id} is altered");
        primary.return_now();
        let mails = primary.wait_for(1, LIMIT);
        assert!(mails[0].content == downloaded, "the primary got something else than was shown");
        // The primary has it a moment before the relay hears so: who goes away in between gets it again.
        relay.until(LIMIT, "its end is recorded", |status| status.queue.messages == 0);
        primary.go_away();
        primary.forget();
        orders.refused("GET", &of(admin::CONTENT, &id), "", 404);
    }
}

#[test]
fn what_a_person_orders_of_a_message_is_done_and_survives_a_crash() {
    let mut primary = Primary::away();
    let mut relay = relay(&primary);
    let [held, deleted, released, goes] =
        ["held", "deleted", "released", "goes"].map(|name| send(&relay, &[name], CONTENT));
    let orders = relay.orders();
    for id in [&held, &released] {
        assert_eq!(orders.one(admin::HOLD, id), Changed { id: id.clone(), recipients: 1 });
        assert_eq!(orders.one(admin::HOLD, id).recipients, 0, "it is held already");
    }
    assert_eq!(orders.one(admin::RETRY, &held).recipients, 0, "a retry does not undo a person's hold");
    assert_eq!(orders.one(admin::RELEASE, &goes).recipients, 0, "it waits anyway");
    assert_eq!(orders.one(admin::RELEASE, &released).recipients, 1);
    let path = of(admin::MESSAGE, &deleted);
    for confirm in ["", "?confirm=", "?confirm=yes", &format!("?confirm={held}")] {
        let detail = orders.refused("DELETE", &format!("{path}{confirm}"), "", 428);
        assert!(detail.contains(&format!("confirm={deleted}")), "{detail}");
    }
    assert_eq!(orders.ask("DELETE", &format!("{path}?confirm={deleted}"), "").code, 200);
    orders.refused("DELETE", &format!("{path}?confirm={deleted}"), "", 404);
    for order in [admin::HOLD, admin::RELEASE, admin::RETRY] {
        orders.refused("POST", &of(order, &deleted), r#"{"reason":"too late"}"#, 404);
    }

    relay.kill9();
    relay.start_again();
    let orders = relay.orders();
    assert_eq!(ids(&orders.list("")), [held.clone(), released.clone(), goes.clone()]);
    assert_eq!(ids(&orders.list("heldReason=person")), std::slice::from_ref(&held));
    let story = orders.story(&held);
    let last = story.recipients[0].last.as_ref().expect("it was held");
    assert_eq!((last.fate, &*last.by, &*last.words), (Fate::Held, "tester", "a test wants it"));
    assert_eq!(story.events.last().map(|event| event.held_reason), Some(Some(HeldReason::Person)));

    primary.return_now();
    let arrived = primary.wait_for(2, LIMIT);
    assert!(arrived.iter().all(|mail| !mail.recipients[0].starts_with("held")), "what is held does not go");
    relay.until(LIMIT, "the rest is held", |status| status.queue.messages == 1 && status.queue.held == 1);
    assert_eq!(orders.one(admin::RELEASE, &held).recipients, 1);
    primary.wait_for(3, LIMIT);
    relay.until(LIMIT, "nothing is left", |status| status.queue.messages == 0);
    assert_eq!(relay.account(), Account { accepted: 4, delivered: 3, deleted: 1, ..Account::default() });
}

#[test]
fn what_is_being_handed_over_is_not_touched() {
    let primary = Primary::start();
    primary.misbehave(Rule::act(Stage::Dot, Act::Stall).times(1));
    let relay = relay(&primary);
    let id = send(&relay, &["bob"], CONTENT);
    eventually(LIMIT, "it stands at its final dot", || primary.misbehaved() == 1);
    let orders = relay.orders();
    for order in [admin::HOLD, admin::RELEASE, admin::RETRY] {
        let detail = orders.refused("POST", &of(order, &id), r#"{"reason":"x"}"#, 409);
        assert!(detail.contains("ask again"), "{detail}");
    }
    orders.refused("DELETE", &format!("{}?confirm={id}", of(admin::MESSAGE, &id)), "", 409);
    let done = orders.all(admin::HOLD_ALL, "", None, None);
    assert_eq!(done, BulkChanged { found: 1, changed: 0, busy: 1, failed: 0, cursor: None });
    assert_eq!(orders.story(&id).events.len(), 1);
    assert_eq!(orders.story(&id).next_attempt, None);
}

#[test]
fn one_bulk_retry_delivers_all_that_a_broken_primary_refused_but_what_a_person_holds() {
    let primary = Primary::start();
    primary.misbehave(Rule::answer(Stage::Rcpt, "550 5.1.1 no such user").about("bob"));
    primary.misbehave(Rule::answer(Stage::Rcpt, "451 4.2.1 later").about("carol"));
    let relay = relay(&primary);
    let orders = relay.orders();
    let sent = send_many(&relay, 300, |number| format!("{}{number}", ["bob", "carol", "Dave"][number % 3]));
    let refused = |status: &Status| status.queue.held == 100 && status.account.delivered == 100;
    relay.until(LIMIT, "100 are held, 100 delivered, 100 deferred", refused);
    eventually(LIMIT, "the last is deferred", || {
        orders.list("state=waiting").iter().filter(|message| message.deferrals == 1).count() == 100
    });

    let held = orders.all(admin::HOLD_ALL, "bob0@", Some(State::Held), Some(HeldReason::Undeliverable));
    assert_eq!((held.found, held.changed), (1, 1));
    primary.behave();
    let again = orders.all(admin::HOLD_ALL, "bob0@", None, None);
    assert_eq!((again.found, again.changed), (1, 0));
    let retried = orders.all(admin::RETRY_ALL, "", None, None);
    assert_eq!((retried.found, retried.changed + retried.busy, retried.failed), (200, 199, 0));
    relay.until(LIMIT, "one is left", |status| status.queue.messages == 1);
    assert_eq!(ids(&orders.list("")), sent[..1]);
    assert_eq!(orders.all(admin::RELEASE_ALL, "", None, Some(HeldReason::Person)).changed, 1);
    relay.until(LIMIT, "none is left", |status| status.queue.messages == 0);
    assert_eq!(relay.account(), Account { accepted: 300, delivered: 300, ..Account::default() });
}

#[test]
fn a_bulk_hold_stops_all_that_it_means_and_survives_a_crash() {
    let mut primary = Primary::away();
    let mut relay = relay(&primary);
    send_many(&relay, 1200, |number| format!("{}{number}", if number % 2 == 0 { "bob" } else { "carol" }));
    let done = relay.orders().all(admin::HOLD_ALL, "bob", Some(State::Waiting), None);
    assert_eq!(done, BulkChanged { found: 600, changed: 600, busy: 0, failed: 0, cursor: None });
    relay.kill9();
    relay.start_again();
    primary.return_now();
    relay.until(LIMIT, "600 are delivered", |status| status.queue.messages == 600 && status.queue.held == 600);
    let orders = relay.orders();
    assert_eq!(orders.list("heldReason=person&limit=1000").len(), 600);
    assert_eq!(orders.all(admin::RETRY_ALL, "", None, None).changed, 0);
    assert_eq!(orders.all(admin::RELEASE_ALL, "", Some(State::Held), None).changed, 600);
    relay.until(LIMIT, "nothing is left", |status| status.queue.messages == 0);
    assert_eq!(relay.account(), Account { accepted: 1200, delivered: 1200, ..Account::default() });
}

#[test]
fn the_drain_is_held_and_resumed() {
    let primary = Primary::start();
    let relay = relay(&primary);
    let orders = relay.orders();
    relay.until(LIMIT, "the primary answers", |status| status.primary.state == PrimaryState::Up);
    let held: DrainHold = orders.post(admin::DRAIN_HOLD, &json!({ "reason": "moving house", "author": "ann" }));
    assert!(held.changed && held.hold.as_ref().is_some_and(|hold| hold.reason == "moving house"), "{held:?}");
    send(&relay, &["bob"], CONTENT);
    let status: Status = orders.get(admin::STATUS);
    assert_eq!((status.primary.state, status.queue.messages, primary.count()), (PrimaryState::Held, 1, 0));
    assert_eq!(status.drain.hold, held.hold);
    let resumed: DrainHold = orders.post(admin::DRAIN_RESUME, &json!({}));
    assert_eq!(resumed, DrainHold { changed: true, hold: None });
    primary.wait_for(1, LIMIT);
    assert_eq!(orders.ask("POST", admin::DRAIN_RESUME, "").body, r#"{"changed":false,"hold":null}"#);
    assert_eq!(orders.post::<BreakerReset>(admin::BREAKER_RESET, &json!({})), BreakerReset { was_open: false });
}

#[test]
fn rubbish_is_refused_with_what_is_wrong_and_changes_nothing() {
    let primary = Primary::away();
    let relay = relay(&primary);
    let orders = relay.orders();
    let id = send(&relay, &["bob"], CONTENT);
    for bad in ["x", "01", &id.to_lowercase(), &format!("{id}0"), &"8".repeat(26), "..%2f..%2fetc%2fpasswd", "%ff%00"] {
        for (verb, path) in [
            ("GET", admin::MESSAGE),
            ("GET", admin::CONTENT),
            ("DELETE", admin::MESSAGE),
            ("POST", admin::HOLD),
            ("POST", admin::RELEASE),
            ("POST", admin::RETRY),
        ] {
            orders.refused(verb, &of(path, bad), r#"{"reason":"x"}"#, 400);
        }
    }
    for parameters in [
        "limit=0",
        "limit=1001",
        "limit=x",
        "state=closed",
        "state=Held",
        "heldReason=bored",
        "x=1",
        "query=a&query=b",
        "cursor=1",
        "cursor=../../x",
        &format!("cursor=2{}", "0".repeat(24)),
        &format!("query={}", "a".repeat(400)),
    ] {
        orders.refused("GET", &format!("{}?{parameters}", admin::MESSAGES), "", 400);
    }
    let long = format!(r#"{{"reason":"{}"}}"#, "x".repeat(501));
    let huge = format!(r#"{{"reason":"{}"}}"#, "x".repeat(70_000));
    for (body, code, says) in [
        ("", 400, "line 1"),
        ("{", 400, "line 1"),
        ("\u{0}", 400, "line 1"),
        ("[]", 422, "object"),
        (r#"["x"]"#, 422, "object"),
        ("{}", 422, "reason"),
        (r#"{"reason":""}"#, 422, "reason"),
        (r#"{"reason":7}"#, 422, "line 1 column"),
        (r#"{"reason":"x","reson":"y"}"#, 422, "reson"),
        (r#"{"reason":"a\nb"}"#, 422, "one line"),
        (&*long, 422, "500"),
        (&*huge, 413, "65536"),
    ] {
        let shown = &body[..body.len().min(40)];
        for path in [of(admin::HOLD, &id), admin::DRAIN_HOLD.to_owned()] {
            let detail = orders.refused("POST", &path, body, code);
            assert!(detail.contains(says), "{shown}: {detail}");
        }
    }
    for body in [
        "{}",
        r#"{"query":"","state":"closed"}"#,
        r#"{"query":"","state":"sleeping"}"#,
        r#"{"query":"","heldReason":"bored"}"#,
        r#"{"query":null}"#,
        r#"{"query":"","limit":1}"#,
    ] {
        let answer = orders.ask("POST", admin::RETRY_ALL, body);
        assert!(matches!(answer.code, 400 | 422), "{body}: {answer:?}");
    }
    orders.refused("POST", admin::HOLD_ALL, r#"{"query":""}"#, 422);
    orders.refused("POST", admin::HOLD_ALL, r#"{"query":"","reason":"x","cursor":"soon"}"#, 400);
    let stranger = "0".repeat(26);
    orders.refused("GET", &of(admin::MESSAGE, &stranger), "", 404);
    orders.refused("POST", &of(admin::RETRY, &stranger), "", 404);
    let message = &orders.list("")[0];
    assert_eq!(
        (message.state, &message.id, relay.log().audit().len()),
        (State::Waiting, &id, 1),
        "the stranger's retry"
    );
}

#[test]
fn every_call_asks_for_the_token_and_no_other_method_or_path_is_known() {
    let primary = Primary::away();
    let relay = relay(&primary);
    let id = send(&relay, &["bob"], CONTENT);
    let (console, token) = (relay.console(), relay.token());
    let description: Value = serde_json::from_str(DESCRIPTION).expect("the description is JSON");
    for (template, operations) in description["paths"].as_object().expect("there are paths") {
        let path = of(template, &id);
        for verb in ["GET", "POST", "DELETE", "PUT", "PATCH"] {
            for wrong in [None, Some(""), Some("x"), Some(&token[1..]), Some(&*token.to_uppercase())] {
                let answer = http::send(verb, console, &path, wrong, "");
                assert_eq!((answer.code, &*answer.kind), (401, "application/problem+json"), "{verb} {path} {wrong:?}");
            }
            let is_described = operations.get(verb.to_lowercase()).is_some();
            if !is_described {
                let answer = http::send(verb, console, &path, Some(&token), "");
                assert_eq!((answer.code, &*answer.kind), (405, "application/problem+json"), "{verb} {path}");
            }
        }
    }
    for path in ["/", "/api", "/api/v1", "/api/v1/messages/", "/api/v2/status", "/api/v1/messages/x/y/z"] {
        assert_eq!(http::send("GET", console, path, None, "").code, 401, "{path}");
        assert_eq!(http::send("GET", console, path, Some(&token), "").code, 404, "{path}");
    }
}

#[test]
fn each_order_leaves_one_line_in_the_log() {
    let primary = Primary::away();
    let relay = relay(&primary);
    let orders = relay.orders();
    let id = send(&relay, &["bob"], CONTENT);
    let hostile = json!({ "reason": "because \u{202e}of this", "author": "Jürgen" });
    orders.post::<Changed>(&of(admin::HOLD, &id), &hostile);
    orders.one(admin::RELEASE, &id);
    orders.all(admin::RETRY_ALL, "BOB@", Some(State::Waiting), None);
    orders.content(&id);
    relay.flush();
    orders.post::<DrainHold>(admin::DRAIN_HOLD, &hostile);
    orders.ask("POST", admin::DRAIN_RESUME, "");
    orders.ask("POST", admin::BREAKER_RESET, "");
    orders.ask("DELETE", &format!("{}?confirm={id}", of(admin::MESSAGE, &id)), "");
    orders.refused("POST", &of(admin::RELEASE, &id), "", 404);
    let line = |action: &str, id: Option<&str>, author: &str, result: &str| {
        (action.to_owned(), id.map(str::to_owned), author.to_owned(), result.to_owned())
    };
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let expected = [
        line("hold", Some(&id), r"J\xc3\xbcrgen", "changed 1 recipients"),
        line("release", Some(&id), "tester", "changed 1 recipients"),
        line("retry-all", None, "tester", "changed 1 of 1, busy 0, failed 0"),
        line("content", Some(&id), "admin", &format!("read {} bytes", CONTENT.len())),
        line("flush", None, "admin", "1 messages are due"),
        line("drain-hold", None, r"J\xc3\xbcrgen", "held"),
        line("drain-resume", None, "admin", "resumed"),
        line("breaker-reset", None, "admin", "it was not open"),
        line("delete", Some(&id), "admin", "changed 1 recipients"),
        line("release", Some(&id), "admin", "refused: 404"),
    ];
    eventually(LIMIT, "all lines", || relay.log().audit().len() == expected.len());
    let audit = relay.log().audit();
    let lines: Vec<_> = audit
        .iter()
        .map(|line| {
            let [action, author, result] =
                ["action", "author", "result"].map(|name| text(&line[name]).unwrap_or_default());
            (action, text(&line["id"]), author, result)
        })
        .collect();
    assert_eq!(lines, expected);
    assert_eq!(audit[0]["reason"], r"because \xe2\x80\xaeof this");
    assert_eq!(audit[2]["query"], "'BOB@', waiting");
    assert!(audit.iter().all(|line| line["peer"].as_str().is_some_and(|peer| peer.starts_with("127.0.0.1:"))));
}

#[test]
fn the_description_is_current_and_served() {
    let committed: Value = serde_json::from_str(DESCRIPTION).expect("the description is JSON");
    assert_eq!(committed, openapi::generated(), "run `make generate`");
    let primary = Primary::away();
    let relay = relay(&primary);
    let served = relay.orders().ask("GET", admin::OPENAPI, "");
    assert_eq!((served.code, &*served.kind), (200, "application/json"));
    assert_eq!(serde_json::from_str::<Value>(&served.body).expect("it is JSON"), committed);
}
