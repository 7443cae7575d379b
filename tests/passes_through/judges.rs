//! A primary that refuses the mail because we bring it: never the sender's fault, and somebody hears of it.

use support::{
    Envelope, Primary,
    primary::{Rule, Stage},
};

use crate::scene::{CONTENT, LIMIT, Scene, delivered, passed, tells};

const JUDGED: &str = "451 4.7.1";

#[test]
fn a_refusal_of_us_is_a_451_and_an_alarm() {
    for (stage, words) in [
        (Stage::Rcpt, "554 5.7.1 <mx2.example.org>: Client host rejected: blocked"),
        (Stage::Rcpt, "550 5.7.23 SPF says no"),
        (Stage::Dot, "550 5.7.23 SPF says no"),
        (Stage::Dot, "550 5.7.26 DMARC says no"),
    ] {
        let scene = Scene::new();
        scene.primary.misbehave(Rule::answer(stage, words).times(1));
        let reply = scene.client().send(&Envelope::to("bob"), CONTENT).expect("the session lives");
        assert!(reply.is(JUDGED), "{words}: {reply}");
        let status = scene.relay.status();
        assert!(tells(&status, "PrimaryJudgesUs") && tells(&status, &words[4..]), "{:?}", status.problems);
        let judges = status.primary.judges.expect("it is told");
        assert!(judges.reason.starts_with(words), "{judges:?}");
        assert_eq!(scene.metric("backupmx_pass_through_judged_total"), 1.0);
        // The next message is none the worse for it.
        let reply = scene.client().send(&Envelope::to("bob"), CONTENT).expect("the session lives");
        assert!(reply.is("250 2.0.0 Passed on"), "{words}: {reply}");
        assert_eq!(scene.settled(), passed(1));
    }
}

#[test]
fn a_primary_that_refuses_every_sender_is_asked_once_and_then_counts_as_broken() {
    let scene = Scene::new();
    scene.primary.misbehave(Rule::answer(Stage::Mail, "550 5.7.1 go away"));
    let send = || scene.client().send(&Envelope::to("bob"), CONTENT).expect("the session lives");
    let reply = send();
    assert!(reply.is(JUDGED), "{reply}");
    assert!(tells(&scene.relay.status(), "The breaker is open"));
    // From now on nothing goes there, so what comes is kept; and it is delivered when the primary is mended.
    let reply = send();
    assert!(reply.is("250 2.0.0 Kept as"), "{reply}");
    scene.primary.behave();
    assert_eq!(scene.relay.orders().ask("POST", "/api/v1/breaker/reset", "").code, 200);
    scene.primary.wait_for(1, LIMIT);
    assert_eq!(scene.settled(), delivered(1));
}

#[test]
fn a_sender_that_is_refused_alone_hears_so() {
    let scene = Scene::new();
    scene.primary.misbehave(Rule::answer(Stage::Mail, "550 5.1.8 unknown sender domain").about("sender@"));
    for _ in 0..2 {
        let reply = scene.client().send(&Envelope::to("bob"), CONTENT).expect("the session lives");
        assert_eq!(reply.to_string(), "550 5.1.8 unknown sender domain");
    }
    let other = Envelope::new("", &["bob@example.org"]);
    let reply = scene.client().send(&other, CONTENT).expect("the session lives");
    assert!(reply.is("250 2.0.0 Passed on"), "{reply}");
    assert_eq!(scene.relay.status().primary.judges, None);
}

#[test]
fn a_primary_that_refuses_us_at_the_greeting_bounces_nothing() {
    // It turns on us between two probes.
    let scene = Scene::with(Primary::start(), |setup| {
        setup.config("primary: {probe: {interval: 1h, renewForClientAfter: 1h, failureThreshold: 100}}\n")
    });
    scene.primary.misbehave(Rule::answer(Stage::Greeting, "554 5.7.1 you are listed"));
    let reply = scene.client().send(&Envelope::to("bob"), CONTENT).expect("the session lives");
    assert!(reply.is(JUDGED), "{reply}");
    assert!(tells(&scene.relay.status(), "PrimaryJudgesUs"));
    let reply = scene.client().send(&Envelope::to("bob"), CONTENT).expect("the session lives");
    assert!(reply.is("250 2.0.0 Kept as"), "{reply}");
}
