//! Mail that passes through and mail that is drained share what the primary can bear.

use std::{thread, time::Duration};

use support::{
    Envelope, Primary,
    load::Load,
    primary::{Act, Rule, Stage},
};

use crate::scene::{CONTENT, LIMIT, Scene, passed};

#[test]
fn a_drain_leaves_connections_to_mail_whose_sender_waits_and_both_keep_to_the_limit() {
    const LIMIT_OF_CONNECTIONS: u64 = 8;
    let mut scene = Scene::with(Primary::start(), |setup| setup.config("primary: {delivery: {maxConnections: 8}}\n"));
    scene.primary.go_away();
    let load = Load { messages: 300, bytes: 1024, sessions: 8, seed: 3 };
    assert_eq!(load.send(scene.relay.smtp()).accepted.len(), 300);
    scene.primary.misbehave(Rule::act(Stage::Dot, Act::Slow(Duration::from_millis(100))));
    scene.primary.return_now();
    scene.relay.until(LIMIT, "the drain is under way", |status| status.drain.connections >= 4);
    let replies: Vec<_> = thread::scope(|scope| {
        let send = || scene.client().send(&Envelope::to("m1000"), CONTENT).expect("the session lives").to_string();
        let senders: Vec<_> = (0..4).map(|_| scope.spawn(send)).collect();
        senders.into_iter().map(|sender| sender.join().expect("it does not panic")).collect()
    });
    assert!(replies.iter().all(|reply| reply.starts_with("250 2.0.0 Passed on")), "{replies:?}");
    let account = scene.settled();
    assert_eq!((account.passed, account.delivered), (4, 300));
    // And one probe, for the moment of its goodbye.
    assert!(scene.primary.connections_open_max() <= LIMIT_OF_CONNECTIONS + 1);
}

#[test]
fn a_primary_with_one_connection_serves_one_after_the_other() {
    let scene = Scene::with(Primary::start(), |setup| setup.config("primary: {delivery: {maxConnections: 1}}\n"));
    let load = Load { messages: 50, bytes: 1024, sessions: 5, seed: 4 };
    let sent = load.send(scene.relay.smtp());
    assert_eq!((sent.accepted.len(), sent.refused.len()), (50, 0));
    assert_eq!(scene.settled(), passed(50));
    assert!(scene.primary.connections_open_max() <= 2, "one, and a probe");
}

#[test]
fn a_primary_that_closes_after_each_message_gets_each_message_once() {
    let scene = Scene::new();
    for habit in [Act::Answer("421 4.7.0 enough".into()), Act::Close] {
        scene.primary.behave();
        scene.primary.forget();
        scene.primary.misbehave(Rule::act(Stage::Mail, habit).after_messages(1));
        let mut client = scene.client();
        for _ in 0..10 {
            let reply = client.send(&Envelope::to("bob"), CONTENT).expect("the session lives");
            assert!(reply.is("250 2.0.0 Passed on"), "{reply}");
        }
        assert_eq!(scene.primary.count(), 10);
    }
    assert_eq!(scene.settled(), passed(20));
}
