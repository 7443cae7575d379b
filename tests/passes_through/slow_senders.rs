//! A sender that takes its time has no connection to the primary for itself: all of its message is offered in one go.

use std::{
    thread,
    time::{Duration, Instant},
};

use support::{
    Client, Primary, eventually,
    primary::{Rule, Stage},
    trace_field,
};

use crate::scene::{CONTENT, LIMIT, Scene, delivered, passed};

/// What a sender has from its first recipient to its final dot in these tests.
const CONFIG: &str = "passThrough: {slowAfter: 2s, freeConnection: 1s}\n";
/// That, and a bit.
const SLOW: Duration = Duration::from_secs(3);

fn scene() -> Scene {
    Scene::with(Primary::start(), |setup| setup.config(CONFIG))
}

/// Says all but the final dot, too slowly.
fn slowly(scene: &Scene, recipients: &[&str]) -> Client {
    let mut client = scene.client();
    client.say("MAIL FROM:<ann@client.example>").expect("the session lives");
    for name in recipients {
        let reply = client.say(&format!("RCPT TO:<{name}@example.org>")).expect("the session lives");
        assert_eq!(reply.code, 250, "{reply}");
    }
    assert_eq!(client.say("DATA").expect("the session lives").code, 354);
    client.raw(&CONTENT[..12]).expect("the session lives");
    thread::sleep(SLOW);
    assert_eq!(scene.primary.count(), 0);
    client.raw(&CONTENT[12..14]).expect("the session lives");
    client.raw(b"body\r\n..\r\n...dots\r\n").expect("the session lives");
    client
}

fn end(mut client: Client) -> String {
    client.raw(b".\r\n").expect("the session lives");
    client.reply().expect("the session lives").to_string()
}

#[test]
fn a_slow_message_is_offered_whole_in_the_same_session() {
    let scene = self::scene();
    let client = slowly(&scene, &["bob", "carol", "dave"]);
    let reply = end(client);
    assert!(reply.starts_with("250 2.0.0 Passed on as"), "{reply}");
    let mails = scene.primary.mails();
    assert_eq!((mails.len(), mails[0].recipients.len()), (1, 3));
    assert_eq!(trace_field::split(&mails[0].content).1, CONTENT);
    assert_eq!((scene.settled(), scene.primary.violations()), (passed(3), vec![]));
}

#[test]
fn a_recipient_that_is_refused_the_second_time_makes_it_a_451_for_all() {
    let scene = self::scene();
    let client = slowly(&scene, &["bob", "carol"]);
    scene.primary.misbehave(Rule::answer(Stage::Rcpt, "550 5.1.1 gone").about("carol"));
    let reply = end(client);
    assert!(reply.starts_with("451 4.3.0"), "{reply}");
    assert_eq!((scene.settled(), scene.primary.count()), (passed(0), 0));
}

#[test]
fn a_primary_that_went_away_meanwhile_costs_a_slow_sender_nothing() {
    let mut scene = self::scene();
    let client = slowly(&scene, &["bob", "carol"]);
    scene.primary.go_away();
    let reply = end(client);
    assert!(reply.starts_with("250 2.0.0 Kept as"), "{reply}");
    scene.primary.return_now();
    scene.primary.wait_for(1, LIMIT);
    assert_eq!(scene.settled(), delivered(2));
}

#[test]
fn slow_senders_on_all_connections_do_not_keep_others_from_the_primary() {
    let scene = self::scene();
    let begun = Instant::now();
    let slow: Vec<_> = (0..19)
        .map(|_| {
            let mut client = scene.client();
            client.say("MAIL FROM:<>").expect("the session lives");
            assert_eq!(client.say("RCPT TO:<bob@example.org>").expect("the session lives").code, 250);
            client
        })
        .collect();
    if begun.elapsed() < Duration::from_secs(1) {
        let said = scene.says(&["MAIL FROM:<>", "RCPT TO:<bob@example.org>"]);
        assert!(said[1].starts_with("451 4.3.2"), "none is free in time: {said:?}");
    }
    eventually(LIMIT, "connections are free again", || {
        scene.says(&["MAIL FROM:<>", "RCPT TO:<bob@example.org>", "RSET"])[1].starts_with("250")
    });
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    for mut client in slow {
        assert_eq!(client.say("DATA").expect("the session lives").code, 354);
        let reply = client.say("Subject: x\r\n\r\nslow\r\n.").expect("the session lives");
        assert!(reply.is("250 2.0.0 Passed on as"), "{reply}");
    }
    assert_eq!(scene.settled(), passed(19));
}
