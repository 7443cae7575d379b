use std::{
    io::Write,
    process::{Command, Stdio},
};

use backupmx_relay_api::{SCHEMA, status::*};
use jiff::SignedDuration;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    conditions::{Kind, Reason, find},
    situations::*,
    *,
};
use crate::apply::{Finding, Neighbour};

/// `Kind=Status/Reason`.
fn said(status: &BackupMxStatus, kind: Kind) -> String {
    let condition = find(&status.conditions, kind);
    condition.map_or("absent".into(), |condition| format!("{}/{}", condition.status, condition.reason))
}

fn message(status: &BackupMxStatus, kind: Kind) -> &str {
    &find(&status.conditions, kind).unwrap().message
}

fn check(it: &Situation, expected: &[(Kind, &str)]) {
    let status = it.status();
    for (kind, expected) in expected {
        assert_eq!(&said(&status, *kind), expected, "{kind:?}: {:?}", find(&status.conditions, *kind));
    }
}

fn state(state: PrimaryState, reason: &'static str) -> impl Fn(&mut Status) + Copy {
    move |answer| (answer.primary.state, answer.primary.reason) = (state, reason.into())
}

fn at(seconds: i64) -> String {
    (noon() + SignedDuration::from_secs(seconds)).to_string()
}

#[test]
fn a_grace_that_ends_within_a_second_is_over_when_it_was_to_be_looked_at() {
    let silent = well().silent(1, 0).with(|it| {
        it.now += SignedDuration::from_millis(646);
        it.observed.relays[1].silent_since = Some(it.now);
    });
    let again = look_again(&silent.status(), &silent.applied, &silent.observed, silent.now).unwrap();
    assert_eq!(again, silent.now + SILENCE_GRACE);
    let later = silent.with(|it| it.now = again);
    assert!(conditions::holds(&later.status().conditions, Kind::Degraded));
}

#[test]
fn two_relays_that_are_well_say_so() {
    let mut status = well().status();
    for condition in &mut status.conditions {
        assert_eq!(condition.observed_generation, Some(3));
        assert_eq!(condition.last_transition_time.0, noon());
        condition.message.clear();
    }
    let relay = |pod: &str| {
        json!({ "pod": pod, "ready": true, "answers": true, "messages": 0, "configGeneration": 3, "version": "0.1.0",
            "cordoned": false, "problems": [] })
    };
    let condition = |kind: &str, status: &str, reason: &str| {
        json!({ "type": kind, "status": status, "reason": reason, "message": "", "observedGeneration": 3,
            "lastTransitionTime": "2026-11-27T12:00:00Z" })
    };
    let expected = json!({
        "observedGeneration": 3,
        "conditions": [
            condition("Ready", "True", "RelaysReady"),
            condition("Accepted", "True", "Valid"),
            condition("Available", "True", "SmtpAnswers"),
            condition("Progressing", "False", "Complete"),
            condition("Degraded", "False", "AsWanted"),
            condition("PrimaryReachable", "True", "Up"),
            condition("QueueEmpty", "True", "Empty"),
            condition("Draining", "False", "Idle"),
            condition("TlsReady", "False", "NotWanted"),
            condition("ScaleInBlocked", "False", "NotBlocked"),
        ],
        "primary": { "state": "Up", "since": "2026-11-27T08:00:01Z", "lastProbe": "2026-11-27T11:59:50Z",
            "reason": "mx1.example.org:25 answers" },
        "queue": { "messages": 0, "bytes": 0, "oldest": null, "held": 0 },
        "drain": { "state": "Idle", "messagesPerSecond": 0.0, "connections": 0, "estimatedEmpty": null },
        "relays": [relay("example-relay-0"), relay("example-relay-1")],
        "addresses": ["203.0.113.7"], "egressAddresses": [], "outages": [], "replicas": 2, "relaysReady": "2/2",
        "selector": "app.kubernetes.io/component=relay,backupmx.io/name=example", "warnings": [],
    });
    assert_eq!(serde_json::to_value(&status).unwrap(), expected);
}

#[test]
fn ready_means_that_mail_is_taken_and_kept_now() {
    let full = |answer: &mut Status| answer.spool.free_bytes = 1;
    let broken = |answer: &mut Status| answer.spool.writable = false;
    let cordoned = |answer: &mut Status| answer.cordoned = true;
    let unready = |it: Situation, relay: usize| it.with(|it| it.applied.pods[relay].ready = false);
    for (it, expected) in [
        (well().says(0, full), "True/RelaysReady"),
        (well().all_say(full), "False/VolumeFull"),
        (well().all_say(broken), "False/SpoolNotWritable"),
        (well().says(0, broken).says(1, cordoned), "False/SpoolNotWritable"),
        (well().all_say(cordoned), "False/AllCordoned"),
        (well().silent(0, 60).silent(1, 60), "Unknown/RelaysSilent"),
        (well().silent(0, 60).silent(1, 5), "True/RelaysReady"), // it answered a moment ago
        (unready(unready(well(), 0), 1), "False/NoRelayReady"),
        (unready(well().silent(0, 60), 1), "Unknown/RelaysSilent"),
        (unready(well(), 1), "True/RelaysReady"),
        (well().all_say(state(PrimaryState::Down, "timed out")), "True/RelaysReady"),
    ] {
        check(&it, &[(Kind::Ready, expected)]);
    }
}

#[test]
fn a_dead_primary_is_no_fault_of_the_relays() {
    let reason = "connect to mx1.example.org:25: connection refused";
    let it = well().all_say(state(PrimaryState::Down, reason)).all_say(|answer| answer.queue.messages = 602);
    check(
        &it,
        &[
            (Kind::PrimaryReachable, "False/Down"),
            (Kind::Ready, "True/RelaysReady"),
            (Kind::Degraded, "False/AsWanted"),
            (Kind::QueueEmpty, "False/MailWaiting"),
            (Kind::Reconciling, "absent"),
            (Kind::Stalled, "absent"),
        ],
    );
    assert!(message(&it.status(), Kind::PrimaryReachable).contains(reason));
    assert_eq!(it.status().queue.unwrap().messages, 1204);
}

#[test]
fn the_worst_view_of_the_primary_counts_and_each_is_told() {
    use PrimaryState::*;
    let breaker = |answer: &mut Status| {
        answer.drain.breaker = Some(Breaker { since: at(0), reason: "550".into(), next_test: at(600) });
        answer.primary.state = Held;
    };
    for (it, condition, word) in [
        (well().all_say(state(Sick, "421")), "False/Sick", "Sick"),
        (well().all_say(state(Held, "held by jane")), "False/Held", "Held"),
        (well().all_say(state(Maintenance, "until 14:00")), "False/Maintenance", "Maintenance"),
        (well().all_say(state(Unknown, "not probed yet")), "Unknown/NotYetKnown", "Unknown"),
        (well().says(1, state(Unknown, "not probed yet")), "True/Up", "Up"), // it has just started
        (well().says(1, state(Down, "timed out")), "False/Mixed", "Down"),
        (well().says(0, state(Sick, "421")).says(1, state(Down, "timed out")), "False/Mixed", "Down"),
        (well().says(0, breaker), "False/BreakerOpen", "Held"),
        (well().says(1, state(Down, "timed out")).silent(1, 60), "True/Up", "Up"),
        (well().silent(0, 60).silent(1, 60), "Unknown/RelaysSilent", "Unknown"),
    ] {
        check(&it, &[(Kind::PrimaryReachable, condition)]);
        assert_eq!(it.status().primary.unwrap().state, word, "{condition}");
    }
    let mixed = well().says(1, state(Down, "timed out")).status();
    let told = message(&mixed, Kind::PrimaryReachable);
    assert!(told.contains("example-relay-0: Up") && told.contains("example-relay-1: Down"), "{told}");
}

#[test]
fn what_a_person_should_look_at_is_degraded() {
    let pending = |pod: &mut crate::apply::Pod, seconds: i64, trouble: Option<&str>| {
        (pod.ready, pod.trouble) = (false, trouble.map(Into::into));
        pod.since = Some(noon() - SignedDuration::from_secs(seconds));
    };
    let unready = |seconds, trouble| well().with(move |it| pending(&mut it.applied.pods[1], seconds, trouble));
    let found = |finding: Finding| well().with(|it| it.applied.findings.push(finding));
    let refused = |digest: Option<&str>| {
        let digest = digest.map(ToOwned::to_owned);
        well().with(|it| {
            let answer = std::sync::Arc::make_mut(it.observed.relays[1].answer.as_mut().unwrap());
            answer.config.digest = Some("last good".into());
            answer.config.refused = Some(RefusedConfig { digest, since: at(0), reason: "domains: empty".into() });
        })
    };
    for (it, expected) in [
        (found(Finding::Foreign { kind: "Service", name: "example-smtp".into(), owner: None }), "True/ForeignObject"),
        (
            found(Finding::Missing { kind: "StorageClass", name: "fast".into(), named_by: "spec.storage" }),
            "True/ObjectMissing",
        ),
        (found(Finding::UnknownKind { kind: "Certificate" }), "True/KindUnknown"),
        (found(Finding::Refused { kind: "Pod", name: "x".into(), words: "no".into() }), "True/ObjectRefused"),
        (refused(Some(DIGEST)), "True/ConfigRejected"),
        (refused(None), "True/ConfigRejected"),
        (refused(Some("of before")), "False/AsWanted"), // it will read the newest in a moment
        (well().says(1, |answer| answer.spool.writable = false), "True/SpoolNotWritable"),
        (well().says(1, |answer| answer.spool.free_bytes = 1), "True/VolumeFull"),
        (well().says(1, |answer| answer.account.accepted = 1), "True/AccountDifference"),
        (well().says(1, |answer| answer.spool.quarantined = 1), "True/DamageFound"),
        (well().says(1, |answer| answer.problems = vec!["Look here.".into()]), "True/RelayHasProblems"),
        (well().says(1, |answer| answer.schema = SCHEMA - 1), "True/RelayTooOld"),
        (well().says(1, |answer| answer.config.ignored_keys = vec!["primary.new".into()]), "True/RelayTooOld"),
        (well().silent(1, 9), "False/AsWanted"),
        (well().silent(1, 10), "True/RelaySilent"),
        (unready(59, Some("image cannot be pulled")), "False/AsWanted"),
        (unready(60, Some("image cannot be pulled")), "True/RelayNotReady"),
        (unready(60, None), "True/RelayNotReady"),
        (unready(60, None).with(|it| it.applied.rollout.as_mut().unwrap().updated = 1), "False/AsWanted"),
    ] {
        check(&it, &[(Kind::Degraded, expected)]);
    }
    let told = refused(Some(DIGEST)).status();
    assert!(message(&told, Kind::Degraded).contains("example-relay-1 refused the newest settings"));
}

#[test]
fn a_primary_that_refuses_its_own_backup_is_told_with_its_words_and_the_cure() {
    let it = well().all_say(judges("550 5.7.23 SPF\r\nfails")).says(1, |answer| {
        answer.primary.judges.as_mut().unwrap().since = at(-90);
        answer.problems = ["PrimaryJudgesUs: the primary refuses.", "Look here."].map(Into::into).into();
    });
    check(
        &it,
        &[
            (Kind::Degraded, "True/PrimaryJudgesUs"),
            (Kind::PrimaryReachable, "True/Up"),
            (Kind::Ready, "True/RelaysReady"),
            (Kind::Stalled, "absent"),
        ],
    );
    let told = "make the primary trust the relays' addresses (docs/trust.md). Since 2026-11-27T11:58:30Z it says: \
                550 5.7.23 SPF\\r\\nfails (to example-relay-0, example-relay-1). example-relay-1 says: Look here.";
    let status = it.status();
    assert!(message(&status, Kind::Degraded).ends_with(told), "{}", message(&status, Kind::Degraded));

    let one = well().says(1, judges("554 5.7.1 blocked"));
    assert!(message(&one.status(), Kind::Degraded).ends_with("blocked (to example-relay-1)."));
    check(&one.silent(1, 60), &[(Kind::Degraded, "True/RelaySilent")]);
    let endless = well().all_say(|answer| {
        answer.primary.judges = Some(Judges { since: "yesterday".into(), reason: "no ".repeat(10_000) });
    });
    let told = message(&endless.status(), Kind::Degraded).to_owned();
    assert!(told.contains("At present it says: no no") && told.ends_with("example-relay-1)."), "{told}");
}

#[test]
fn progress_names_what_it_waits_for_and_is_a_fault_when_it_takes_too_long() {
    let older = |answer: &mut Status| answer.config.digest = Some("older".into());
    let unready = |seconds| {
        well().with(|it| {
            it.applied.pods[1].ready = false;
            it.applied.pods[1].since = Some(noon() - SignedDuration::from_secs(seconds));
        })
    };
    let set = |change: fn(&mut crate::apply::Rollout)| well().with(|it| change(it.applied.rollout.as_mut().unwrap()));
    for (it, expected, told) in [
        (well().with(|it| it.applied.rollout = None), "True/ObjectsPending", "StatefulSet"),
        (set(|rollout| rollout.seen = false), "True/RollingOut", "template"),
        (set(|rollout| rollout.updated = 1), "True/RollingOut", "1 of 2"),
        (well().with(|it| drop(it.applied.pods.pop())), "True/RelaysStarting", "1 of 2"),
        (well().with(|it| it.observed.relays[1].answer = None), "True/RelaysStarting", "example-relay-1"),
        (unready(59), "True/RelaysStarting", "example-relay-1"),
        (unready(60), "False/Complete", "example-relay-1"),
        (well().says(1, older), "True/ConfigPending", "example-relay-1"),
        (well().spec("paused", json!(true)).says(1, older), "False/Paused", "spec.paused"),
        (well().with(|it| it.plan.replicas = 1), "True/ScalingIn", "example-relay-1"),
        (well().deleted("WaitForEmptyQueue"), "True/Deleting", "example-relay-0 has not confirmed"),
    ] {
        check(&it, &[(Kind::Progressing, expected)]);
        let status = it.status();
        assert!(message(&status, Kind::Progressing).contains(told), "{told}: {}", message(&status, Kind::Progressing));
    }
    let late = well().says(1, older).published().later(599);
    check(
        &late,
        &[(Kind::Degraded, "False/AsWanted"), (Kind::Reconciling, "True/ConfigPending"), (Kind::Stalled, "absent")],
    );
    let status = late.status();
    assert_eq!(look_again(&status, &late.applied, &late.observed, late.now), Some(noon() + PROGRESS_DEADLINE));
    let deadline = "True/ProgressDeadlineExceeded";
    check(&late.later(1), &[(Kind::Degraded, deadline), (Kind::Reconciling, "absent"), (Kind::Stalled, deadline)]);
    let leaves = well().with(|it| it.plan.replicas = 1).published().later(1_000_000);
    check(&leaves, &[(Kind::Degraded, "False/AsWanted")]);
}

#[test]
fn senders_can_reach_it_only_at_an_address() {
    let nowhere = || well().with(|it| it.applied.addresses.clear());
    check(&nowhere(), &[(Kind::Available, "False/NoAddress"), (Kind::Ready, "True/RelaysReady")]);
    check(&nowhere().spec("service", json!({ "type": "NodePort" })), &[(Kind::Available, "True/SmtpAnswers")]);
    check(&well().with(|it| it.applied.has_service = false), &[(Kind::Available, "False/NoService")]);
    let unready = well().with(|it| it.applied.pods.iter_mut().for_each(|pod| pod.ready = false));
    check(&unready, &[(Kind::Available, "False/NoRelayReady")]);
}

#[test]
fn a_queue_is_empty_only_where_everybody_says_so() {
    for (it, expected) in [
        (well().says(1, |answer| answer.queue.messages = 1), "False/MailWaiting"),
        (well().says(1, |answer| (answer.queue.messages, answer.queue.held) = (2, 2)), "False/MailHeld"),
        (well().says(1, |answer| (answer.account.accepted, answer.account.queued) = (1, 1)), "False/MailWaiting"),
        (well().silent(1, 60), "Unknown/RelaysSilent"),
        (well().says(1, |answer| answer.queue.messages = 1).silent(1, 60), "False/MailWaiting"),
        (well().with(|it| it.applied.claims.push(claim(2))), "Unknown/ClaimUnknown"),
        (well().with(|it| it.applied.pods.clear()), "Unknown/NoRelayReady"),
    ] {
        check(&it, &[(Kind::QueueEmpty, expected)]);
    }
    let silent = well().says(1, |answer| answer.queue.messages = 5).silent(1, 60).status();
    assert_eq!(
        (silent.queue.unwrap().messages, silent.relays[1].messages, silent.relays[1].answers),
        (5, Some(5), false)
    );
    // The operator has restarted, and this relay was not heard since.
    let unheard = well().says(1, |answer| answer.queue.messages = 5).published();
    let unheard = unheard.with(|it| it.observed.relays.iter_mut().for_each(|report| report.answer = None)).status();
    assert_eq!((unheard.queue.unwrap().messages, unheard.relays[1].messages), (5, Some(5)));
}

#[test]
fn a_drain_tells_its_speed_and_its_end() {
    let drains = |rate: f64, end: i64| {
        move |answer: &mut Status| {
            answer.drain.state = DrainState::Draining;
            (answer.drain.messages_per_second, answer.drain.connections) = (rate, 10);
            answer.drain.estimated_empty = Some(at(end));
        }
    };
    let it = well().says(0, drains(20.04, 60)).says(1, drains(10.0, 90));
    check(&it, &[(Kind::Draining, "True/HandingOver")]);
    let drain = it.status().drain.unwrap();
    assert_eq!((drain.messages_per_second, drain.connections, drain.estimated_empty), (30.0, 20, Some(at(90))));

    let unsure = it.says(1, |answer| answer.drain.estimated_empty = None).says(0, drains(f64::NAN, 60));
    let drain = unsure.status().drain.unwrap();
    assert_eq!((drain.messages_per_second, drain.estimated_empty), (10.0, None));

    let waits = |answer: &mut Status| answer.drain.state = DrainState::Waiting;
    check(&well().says(0, waits), &[(Kind::Draining, "False/Waiting")]);
    let hold = |answer: &mut Status| {
        answer.drain.hold = Some(Hold { since: at(0), by: "jane".into(), reason: "looks odd".into() });
    };
    check(&well().says(0, waits).says(1, hold), &[(Kind::Draining, "False/Held")]);
}

#[test]
fn the_certificate_that_ends_first_decides() {
    let with = |it: Situation| it.spec("tls", json!({ "secretName": "mx2-tls" }));
    let holds = |days: i64| {
        move |answer: &mut Status| {
            answer.tls = vec![Certificate { name: "mx2.example.org".into(), not_after: at(days * 86_400) }];
        }
    };
    let missing = Finding::Missing { kind: "Secret", name: "mx2-tls".into(), named_by: "spec.tls.secretName" };
    for (it, expected) in [
        (with(well().all_say(holds(60))), "True/CertificateCurrent"),
        (with(well().all_say(holds(60)).says(1, holds(6))), "True/CertificateExpiring"),
        (with(well().all_say(holds(60)).says(1, holds(0))), "False/CertificateExpired"),
        (with(well().says(1, holds(60))), "False/CertificateNotLoaded"),
        (with(well().with(|it| it.applied.findings.push(missing))), "False/SecretMissing"),
        (with(well().silent(0, 60).silent(1, 60)), "Unknown/RelaysSilent"),
    ] {
        check(&it, &[(Kind::TlsReady, expected)]);
    }
}

#[test]
fn a_scale_in_is_blocked_by_mail_and_by_what_cannot_be_asked() {
    let to_one = |it: Situation| it.with(|it| it.plan.replicas = 1);
    for (it, expected) in [
        (to_one(well()), "False/NotBlocked"),
        (to_one(well().says(1, |answer| answer.queue.messages = 14)), "True/MailWaiting"),
        (to_one(well().says(1, |answer| answer.cordoned = true).silent(1, 0)), "True/RelaysSilent"),
        (to_one(well().with(|it| drop(it.applied.pods.pop()))), "True/ClaimUnknown"),
        (well().deleted("WaitForEmptyQueue"), "False/NotBlocked"),
    ] {
        check(&it, &[(Kind::ScaleInBlocked, expected)]);
    }
    let blocked = to_one(well().says(1, |answer| answer.queue.messages = 14)).status();
    assert!(message(&blocked, Kind::ScaleInBlocked).contains("example-relay-1 keeps 14 messages"));
}

#[test]
fn outages_that_overlap_are_one_and_the_last_five_are_told() {
    let outage = |from: i64, until: Option<i64>, messages: u64, last: Option<i64>| Outage {
        from: at(from),
        until: until.map(at),
        messages,
        bytes: messages * 10,
        last_delivered: last.map(at),
    };
    let it = well()
        .says(0, |answer| answer.outages = vec![outage(1000, None, 1, None), outage(0, Some(100), 4, Some(110))])
        .says(1, |answer| {
            answer.outages = vec![outage(1005, Some(1100), 2, Some(1110)), outage(5, Some(101), 6, Some(120))]
        });
    let told = |from, until, messages, last| crate::crd::OutageStatus {
        from: at(from),
        until,
        messages,
        bytes: messages * 10,
        last_delivered: last,
    };
    let expected = [told(1000, None, 3, None), told(0, Some(at(101)), 10, Some(at(120)))];
    assert_eq!(it.status().outages, expected);

    let waits = it.says(0, |answer| answer.outages[1].last_delivered = None);
    assert_eq!(waits.status().outages[1].last_delivered, None, "one relay still waits for what it took");

    let many = well().says(0, |answer| {
        answer.outages = (0..5).map(|nth| outage(nth * 100, Some(nth * 100 + 10), 0, None)).collect();
    });
    let many = many.says(1, |answer| answer.outages = vec![outage(950, Some(960), 0, None)]).status().outages;
    assert_eq!(
        many.iter().map(|outage| &outage.from).collect::<Vec<_>>(),
        [&at(950), &at(400), &at(300), &at(200), &at(100)]
    );
}

#[test]
fn warnings_tell_what_is_odd() {
    let warnings = well()
        .says(1, |answer| answer.clients.only = Some("10.0.0.1".into()))
        .with(|it| {
            it.applied.neighbours.push(Neighbour {
                namespace: "b".into(),
                name: "c".into(),
                domain: "example.org".into(),
            })
        })
        .with(|it| it.applied.claims.push(claim(7)))
        .status()
        .warnings;
    let expected =
        ["All senders seem to come from 10.0.0.1", "No relay serves the claim", "The BackupMx b/c serves example.org"];
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    for (warning, expected) in warnings.iter().zip(expected) {
        assert!(warning.starts_with(expected), "{warning}");
    }
}

#[test]
fn what_relays_say_cannot_flood_the_status_nor_move_a_cursor() {
    let it = well().all_say(|answer| {
        answer.problems = vec!["\u{1b}[2J".repeat(10_000); 1000];
        answer.primary.judges = Some(Judges { since: at(0), reason: "\u{202e}550".repeat(10_000) });
        answer.primary.reason = "\r\nevil".repeat(10_000);
        answer.version = "9".repeat(10_000);
        answer.primary.state = PrimaryState::Down;
    });
    let status = it.status();
    let length = serde_json::to_string(&status).unwrap().len();
    assert!(length < 20_000, "{length}");
    let messages = status.conditions.iter().map(|condition| &condition.message);
    let problems = status.relays.iter().flat_map(|relay| &relay.problems);
    for text in messages.chain(problems).chain([&status.primary.unwrap().reason]) {
        assert!(!text.contains(char::is_control), "{text:?}");
    }
}

#[test]
fn a_transition_keeps_its_time_until_the_status_changes() {
    let time = |status: &BackupMxStatus, kind| find(&status.conditions, kind).unwrap().last_transition_time.0;
    let later = well().published().later(60).all_say(state(PrimaryState::Down, "timed out"));
    let status = later.status();
    assert_eq!(time(&status, Kind::Ready), noon());
    assert_eq!(time(&status, Kind::PrimaryReachable), later.now);
}

#[test]
fn a_resource_that_cannot_be_used_is_refused_and_its_relays_are_not_forgotten() {
    let refusal = Refusal { reason: "NextHopIsOurselves", message: "primary.hosts: name another host".into() };
    let it = well().all_say(|answer| answer.queue.messages = 3).published().later(60);
    let status = refused(&it.mx, &refusal, it.now);
    for (kind, expected) in [
        (Kind::Accepted, "False/NextHopIsOurselves"),
        (Kind::Stalled, "True/NextHopIsOurselves"),
        (Kind::Ready, "False/NotAccepted"),
        (Kind::Progressing, "False/NotAccepted"),
        (Kind::PrimaryReachable, "True/Up"),
    ] {
        assert_eq!(said(&status, kind), expected);
    }
    assert_eq!((status.observed_generation, status.queue.unwrap().messages), (Some(3), 6));
    let new = refused(&well().mx, &refusal, noon());
    assert_eq!(said(&new, Kind::QueueEmpty), "Unknown/NotAccepted");
    assert!(Kind::ALL.len() == new.conditions.len() + 1);
}

#[test]
fn a_state_is_written_at_once_numbers_seldom_and_a_probe_never() {
    let it = well().published();
    let found = it.mx.status.clone();
    let written = it.written();
    let due = |it: &Situation| publish_due(found.as_ref(), &it.status(), Some(&written), it.now);
    let after = |seconds: i64| Publish::At(noon() + SignedDuration::from_secs(seconds));
    let probe = |answer: &mut Status| answer.primary.last_probe = Some(at(30));
    let mail = |answer: &mut Status| answer.queue.messages = 5;
    let down = state(PrimaryState::Down, "timed out");
    let judged = judges("550 5.7.1 no");

    assert_eq!(due(&it), Publish::No);
    assert_eq!(due(&it.clone().later(100).all_say(probe)), Publish::No);
    assert_eq!(due(&it.clone().later(1).all_say(down)), Publish::Now);
    assert_eq!(due(&it.clone().later(1).says(0, judged)), Publish::Now);
    assert_eq!(due(&it.clone().all_say(down)), after(1), "nothing is written more often");
    assert_eq!(due(&it.clone().later(3).all_say(mail)), after(10), "while it is up, the queue is a number");
    assert_eq!(due(&it.clone().later(10).all_say(mail)), Publish::Now);
    assert_eq!(publish_due(None, &it.status(), None, it.now), Publish::Now);

    let away = it.clone().all_say(down).published();
    let (found, written) = (away.mx.status.clone(), away.written());
    let first_mail = away.later(2).all_say(mail);
    assert_eq!(publish_due(found.as_ref(), &first_mail.status(), Some(&written), first_mail.now), Publish::Now);
}

#[test]
fn what_somebody_wrote_over_the_status_is_put_right_without_a_race() {
    let it = well().published().later(60);
    let mut vandalised = it.mx.status.clone();
    vandalised.as_mut().unwrap().conditions.clear();
    let due = |written: Option<&Written>, now| publish_due(vandalised.as_ref(), &it.status(), written, now);
    assert_eq!(due(None, it.now), Publish::Now);
    let mut written = it.written();
    assert_eq!(
        due(Some(&written), it.now),
        Publish::At(it.now + NUMBERS_INTERVAL),
        "or it is our own echo that is late"
    );
    written.at -= NUMBERS_INTERVAL;
    assert_eq!(due(Some(&written), it.now), Publish::Now);
    // Put right, it is right.
    let again = it.clone().with(|it| it.mx.status = Some(it.status()));
    assert_eq!(publish_due(again.mx.status.as_ref(), &again.status(), Some(&written), it.now), Publish::No);
}

/// Name, situation, what kstatus says, what Argo CD says.
fn judgements() -> Vec<(&'static str, Situation, &'static str, &'static str)> {
    let down = state(PrimaryState::Down, "timed out");
    let older = |answer: &mut Status| answer.config.digest = Some("older".into());
    let foreign = Finding::Foreign { kind: "Service", name: "example-smtp".into(), owner: None };
    let problem = |answer: &mut Status| answer.problems = vec!["Look here.".into()];
    let mail = |answer: &mut Status| answer.queue.messages = 1;
    let stale = |it: Situation| it.published().with(|it| it.mx.metadata.generation = Some(4));
    vec![
        ("all is well", well().published(), "Current", "Healthy"),
        ("the primary is away", well().all_say(down).all_say(mail).published(), "Current", "Healthy"),
        ("nobody has looked yet", well(), "InProgress", "Progressing"),
        ("a newer generation", stale(well()), "InProgress", "Progressing"),
        ("pods start", well().with(|it| it.applied.pods.clear()).published(), "InProgress", "Progressing"),
        ("settings are on their way", well().says(1, older).published(), "InProgress", "Progressing"),
        (
            "somebody else's object",
            well().with(|it| it.applied.findings.push(foreign)).published(),
            "Failed",
            "Degraded",
        ),
        ("a relay has a problem", well().says(1, problem).published(), "Current", "Degraded"),
        ("the primary judges us", well().all_say(judges("550 5.7.1 no")).published(), "Current", "Degraded"),
        ("nobody answers", well().silent(0, 60).silent(1, 60).published(), "InProgress", "Degraded"),
        ("no address yet", well().with(|it| it.applied.addresses.clear()).published(), "Current", "Progressing"),
        (
            "a scale-in waits",
            well().says(1, mail).with(|it| it.plan.replicas = 1).published(),
            "InProgress",
            "Progressing",
        ),
        ("it is paused", well().spec("paused", json!(true)).published(), "Current", "Suspended"),
        ("it is being deleted", well().deleted("Delete").all_say(mail).published(), "Terminating", "Progressing"),
        (
            "it cannot be used",
            well().with(|it| {
                let refusal = Refusal { reason: "Invalid", message: "no".into() };
                it.mx.status = Some(refused(&it.mx, &refusal, it.now));
            }),
            "Failed",
            "Degraded",
        ),
    ]
}

/// The rules of kstatus for resources that it does not know: sigs.k8s.io/cli-utils, pkg/kstatus/status, `GetStatus` and
/// `checkGenericProperties`. No status at all it would take for Current; nobody has looked then, and so does Flux wait.
fn kstatus(resource: &Value) -> &'static str {
    let status = &resource["status"];
    let holds = |kind: &str, word: &str| {
        let conditions = status["conditions"].as_array().map_or(&[][..], Vec::as_slice);
        conditions.iter().any(|condition| condition["type"] == kind && condition["status"] == word)
    };
    let generation = &resource["metadata"]["generation"];
    if !resource["metadata"]["deletionTimestamp"].is_null() {
        "Terminating"
    } else if status.is_null() || status["observedGeneration"] != *generation {
        "InProgress"
    } else if holds("Stalled", "True") {
        "Failed"
    } else if holds("Reconciling", "True") || holds("Ready", "False") || holds("Ready", "Unknown") {
        "InProgress"
    } else {
        "Current"
    }
}

#[test]
fn kstatus_understands_every_situation() {
    for (name, it, expected, _) in judgements() {
        assert_eq!(kstatus(&serde_json::to_value(&it.mx).unwrap()), expected, "{name}: {:#?}", it.mx.status);
    }
}

#[test]
fn argo_cd_understands_every_situation() {
    for (name, it, _, expected) in judgements() {
        let script = include_str!("../../../examples/argocd/health.lua");
        let resource = lua(&serde_json::to_value(&it.mx).unwrap());
        let program = format!(
            "obj = {resource}\nlocal function health()\n{script}\nend\nlocal it = health()\nio.write(it.status, '\\n', it.message)"
        );
        let said = run_lua(&program);
        let (status, message) = said.split_once('\n').unwrap();
        assert_eq!(status, expected, "{name}: {message}");
        assert!(!message.is_empty(), "{name}");
    }
}

fn run_lua(program: &str) -> String {
    let child = Command::new("lua5.4").arg("-").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = child.expect("lua5.4 is needed: `make test` installs it, or apt-get install lua5.4");
    child.stdin.take().unwrap().write_all(program.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{program}");
    String::from_utf8(output.stdout).unwrap()
}

/// A JSON value as Lua writes it; null is a key that is absent.
fn lua(value: &Value) -> String {
    match value {
        Value::Null => "nil".into(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) => format!("[==[{text}]==]"),
        Value::Array(items) => format!("{{{}}}", items.iter().map(lua).collect::<Vec<_>>().join(",")),
        Value::Object(keys) => {
            let keys: Vec<_> = keys.iter().map(|(key, value)| format!("[{key:?}]={}", lua(value))).collect();
            format!("{{{}}}", keys.join(","))
        }
    }
}

#[test]
fn every_condition_and_every_reason_is_documented() {
    let page = include_str!("../../../docs/conditions.md");
    let words = Kind::ALL.iter().map(|kind| kind.word()).chain(Reason::ALL.iter().map(|reason| reason.word()));
    let missing: Vec<_> = words.filter(|word| !page.contains(&format!("`{word}`"))).collect();
    assert_eq!(missing, [""; 0]);
}

proptest! {
    /// A controller that reads back what it wrote has nothing to write.
    #[test]
    fn deriving_again_changes_nothing(
        messages in 0..3u64, silent in 0..30i64, state in 0..6usize, replicas in 1..3i32, seconds in 0..1000i64,
    ) {
        use PrimaryState::*;
        let state = [Unknown, Up, Down, Sick, Held, Maintenance][state];
        let it = well().says(0, |answer| answer.queue.messages = messages).says(1, |answer| answer.primary.state = state);
        let it = it.silent(1, silent).with(|it| it.plan.replicas = replicas).later(seconds).published();
        prop_assert_eq!(publish_due(it.mx.status.as_ref(), &it.status(), None, it.now), Publish::No);
        prop_assert_eq!(it.mx.status.as_ref(), Some(&it.status()));
    }
}
