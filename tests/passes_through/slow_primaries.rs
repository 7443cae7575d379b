//! A primary that takes its time: its sender does not wait for ever, and what the primary says later counts.

use std::time::Duration;

use support::{
    Client, Envelope, Primary,
    primary::{Act, Rule, Stage},
};

use crate::scene::{CONTENT, LIMIT, Scene, delivered};

/// The primary's time for its last answer in these tests, where it is 4 minutes else.
const CONFIG: &str = "passThrough: {finalDot: 1s, stall: 1s}\n";

fn scene() -> Scene {
    Scene::with(Primary::start(), |setup| setup.config(CONFIG))
}

#[test]
fn an_answer_that_comes_too_late_for_the_sender_is_the_delivery_and_nothing_comes_twice() {
    let scene = self::scene();
    scene.primary.misbehave(Rule::act(Stage::Dot, Act::Slow(Duration::from_secs(3))).times(1));
    let reply = scene.client().send(&Envelope::new("", &["bob@example.org", "carol@example.org"]), CONTENT);
    let reply = reply.expect("the session lives");
    assert!(reply.is("250 2.0.0 Kept as"), "{reply}");
    assert_eq!(scene.relay.account().queued, 2, "it waits for what the primary says");
    assert_eq!(scene.settled(), delivered(2));
    assert_eq!(scene.primary.count(), 1);
    let story =
        scene.relay.log().find("the primary had all of it, and answers late or not at all").expect("it is told");
    assert_eq!(story["is_delivered"], true, "{story}");
    assert_eq!(scene.metric("backupmx_pass_through_kept_total{reason=\"maybe_delivered\"}"), 1.0);
}

#[test]
fn a_primary_that_falls_silent_costs_its_senders_no_more_than_the_stall_and_no_mail() {
    for stage in [Stage::Mail, Stage::Rcpt, Stage::Data, Stage::Dot] {
        let scene = self::scene();
        scene.primary.misbehave(Rule::act(stage, Act::Stall).times(1));
        let reply = Client::hello(scene.relay.smtp()).and_then(|mut client| client.send(&Envelope::to("bob"), CONTENT));
        let reply = reply.expect("the session lives");
        assert!(reply.is("250 2.0.0 Kept as"), "{stage:?}: {reply}");
        if stage == Stage::Dot {
            // Its answer may still come, for six minutes: until then it is not sent again.
            assert_eq!(scene.relay.account().queued, 1);
            continue;
        }
        scene.primary.wait_for(1, LIMIT);
        assert_eq!(scene.settled(), delivered(1), "{stage:?}");
    }
}
