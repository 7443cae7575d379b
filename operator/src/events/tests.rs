use backupmx_relay_api::status::*;

use super::*;
use crate::{
    plan::Refusal,
    status::{
        refused,
        situations::{Situation, judges, noon, well},
    },
};

/// What happened on the way from one situation to the next.
fn told(from: &Situation, to: &Situation) -> Vec<String> {
    between(Some(&from.status()), &to.status()).into_iter().map(|event| event.reason).collect()
}

fn primary(state: PrimaryState) -> impl Fn(&mut Status) + Copy {
    move |answer| answer.primary.state = state
}

fn mail(messages: u64) -> impl Fn(&mut Status) + Copy {
    move |answer| answer.queue.messages = messages
}

fn outage(until: Option<&'static str>, last: Option<&'static str>) -> impl Fn(&mut Status) + Copy {
    move |answer| {
        answer.outages = vec![Outage {
            from: "2026-11-27T11:00:00Z".into(),
            until: until.map(Into::into),
            messages: 5,
            bytes: 500,
            last_delivered: last.map(Into::into),
        }];
    }
}

#[test]
fn an_outage_is_told_from_its_begin_to_the_last_message() {
    let (back, last) = (Some("2026-11-27T12:00:00Z"), Some("2026-11-27T12:01:00Z"));
    let one_sees_it = well().says(0, primary(PrimaryState::Down));
    let down = well().all_say(primary(PrimaryState::Down)).all_say(outage(None, None));
    let first = down.clone().says(0, mail(1));
    let more = down.clone().all_say(mail(100));
    let returned = well().all_say(mail(100)).all_say(outage(back, None));
    let drained = well().all_say(outage(back, last));
    let later = |answer: &mut Status| answer.outages[0].from = "2026-11-27T11:00:09Z".into();
    let noticed_later = more.clone().all_say(later);
    for (from, to, expected) in [
        (&well(), &one_sees_it, vec!["PrimaryDown"]),
        (&one_sees_it, &down, vec![]),
        (&down, &first, vec!["FirstMailQueued"]),
        (&first, &more, vec![]),
        (&more, &returned, vec!["PrimaryUp", "DrainStarted"]),
        (&returned, &returned.clone().all_say(mail(50)), vec![]),
        (&returned, &drained, vec!["DrainFinished"]),
        (&drained, &well(), vec![]),
        (&noticed_later, &drained, vec!["PrimaryUp", "DrainFinished"]),
    ] {
        assert_eq!(told(from, to), expected);
    }
}

#[test]
fn mail_that_passes_while_the_primary_is_up_is_no_news() {
    assert_eq!(told(&well(), &well().all_say(mail(1))), [""; 0]);
    assert_eq!(told(&well().all_say(mail(1)), &well()), [""; 0]);
}

#[test]
fn a_maintenance_is_told_without_alarm() {
    let away = well().all_say(primary(PrimaryState::Maintenance));
    let events = between(Some(&well().status()), &away.status());
    assert!(
        matches!(&events[..], [Event { severity: Severity::Normal, reason, .. }] if reason == "PrimaryInMaintenance")
    );
    assert_eq!(told(&away, &well()), ["PrimaryUp"]);
}

#[test]
fn each_trouble_is_told_once_and_so_is_its_end() {
    let breaker = |answer: &mut Status| {
        answer.primary.state = PrimaryState::Held;
        answer.drain.breaker = Some(Breaker { since: "x".into(), reason: "550".into(), next_test: "y".into() });
    };
    let problem = |answer: &mut Status| answer.problems = vec!["Look here.".into()];
    let refuse = |answer: &mut Status| {
        answer.config.digest = None;
        answer.config.refused = Some(RefusedConfig { digest: None, since: "x".into(), reason: "domains".into() });
    };
    for (trouble, expected, end) in [
        (well().all_say(breaker), "BreakerOpen", "BreakerClosed"),
        (well().says(0, problem), "RelayHasProblems", "Recovered"),
        (well().says(0, refuse), "ConfigRejected", "Recovered"),
        (well().all_say(judges("550 5.7.1 no")), "PrimaryJudgesUs", "Recovered"),
        (well().silent(0, 60), "RelaySilent", "Recovered"),
    ] {
        assert_eq!(told(&well(), &trouble), [expected]);
        assert_eq!(told(&trouble, &trouble.clone().later(60)), [""; 0]);
        assert_eq!(told(&trouble, &well()), [end]);
    }
}

#[test]
fn a_certificate_a_scale_in_and_a_deletion_are_told() {
    let tls = |until: &'static str| {
        let it = well().spec("tls", serde_json::json!({ "secretName": "mx2-tls" }));
        it.all_say(move |answer| answer.tls = vec![Certificate { name: "mx2".into(), not_after: until.into() }])
    };
    assert_eq!(told(&tls("2027-01-01T00:00:00Z"), &tls("2026-11-29T00:00:00Z")), ["CertificateExpiring"]);
    let smaller = |messages| well().says(1, mail(messages)).with(|it| it.plan.replicas = 1);
    assert_eq!(told(&well(), &smaller(3)), ["ScaleInBlocked"]);
    assert_eq!(told(&smaller(3), &smaller(2)), [""; 0]);
    assert_eq!(told(&well(), &well().deleted("WaitForEmptyQueue")), ["Deleting"]);
}

#[test]
fn a_refusal_is_told_and_its_end_too() {
    let refusal = Refusal { reason: "Invalid", message: "no ".repeat(1000) };
    let bad = refused(&well().mx, &refusal, noon());
    let events = between(None, &bad);
    let refusals: Vec<_> = events.iter().filter(|event| event.reason == "Invalid").collect();
    assert!(refusals.len() == 1 && refusals[0].note.len() <= 1000, "{events:?}");
    assert_eq!(between(Some(&bad), &bad), []);
    assert_eq!(between(Some(&bad), &well().status())[0].reason, "Accepted");
}
