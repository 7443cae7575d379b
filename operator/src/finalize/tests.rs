use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::status::situations::{DIGEST, NAME, Situation, claim, pod, report, well};

/// Pods 0 to `replicas`, all cordoned and empty.
fn emptied(replicas: i32) -> Situation {
    let it = well().with(|it| {
        it.applied.pods = (0..replicas).map(pod).collect();
        it.applied.claims = (0..replicas).map(claim).collect();
        it.observed.relays = (0..replicas).map(report).collect();
        it.applied.cordoned = (0..replicas).map(|ordinal| pod_name(NAME, ordinal)).collect();
        it.applied.rollout.as_mut().unwrap().replicas = replicas;
    });
    it.all_say(|answer| answer.cordoned = true)
}

/// Decided twice, and answered anew in between.
fn decided(mut it: Situation, wanted: i32) -> Decision {
    let first = decide(&World::of(&it.mx, wanted, 7, &it.applied, &it.observed), &[]);
    for report in &mut it.observed.relays {
        report.answers += 1;
    }
    decide(&World::of(&it.mx, wanted, 7, &it.applied, &it.observed), &first.sightings)
}

fn mark(ordinal: i32) -> Step {
    Step::MarkEmptied { claim: claim(ordinal).name, keep: None }
}

fn unmark(ordinal: i32) -> Step {
    Step::RemoveEmptiedMark(claim(ordinal).name)
}

fn marked(it: Situation, ordinals: &[usize]) -> Situation {
    it.with(|it| ordinals.iter().for_each(|ordinal| it.applied.claims[*ordinal].emptied_at = Some("then".into())))
}

#[test]
fn a_relay_is_let_go_only_after_it_was_empty_in_two_answers() {
    let it = emptied(3);
    let world = World::of(&it.mx, 2, 7, &it.applied, &it.observed);
    let first = decide(&world, &[]);
    assert_eq!(first.steps, [Step::AskAgain(pod_name(NAME, 2))]);
    assert_eq!((first.replicas, first.cordoned.as_slice()), (3, &[pod_name(NAME, 2)][..]));

    let same_answer = decide(&world, &first.sightings);
    assert_eq!(same_answer.steps, [Step::AskAgain(pod_name(NAME, 2))]);

    let second = decided(it.clone(), 2);
    assert_eq!((second.replicas, second.steps.as_slice()), (3, &[mark(2)][..]));

    let third = decided(marked(it.clone(), &[2]), 2);
    assert_eq!((third.replicas, third.steps.as_slice(), third.wait), (2, &[][..], None));

    // Another process, or another pod of that name, is a stranger.
    let mut restarted = it.clone().says(2, |answer| answer.started_at = "2026-11-27T12:00:01Z".into());
    restarted.observed.relays[2].answers = 9;
    let world = World::of(&restarted.mx, 2, 7, &restarted.applied, &restarted.observed);
    assert_eq!(decide(&world, &first.sightings).steps, [Step::AskAgain(pod_name(NAME, 2))]);
}

type Change = fn(Situation) -> Situation;

/// What a leaving relay is said to be waiting for, and what makes it so.
#[test]
fn what_is_not_known_to_be_empty_blocks_a_scale_in() {
    let cases: [(&str, Change); 8] = [
        ("keeps 14 messages", |it| it.says(2, |answer| answer.queue.messages = 14)),
        ("keeps 2 messages, 2 of them held", |it| {
            it.says(2, |answer| (answer.queue.messages, answer.queue.held) = (2, 2))
        }),
        ("keeps 1 message", |it| it.says(2, |answer| (answer.account.accepted, answer.account.queued) = (1, 1))),
        ("is off by 1 recipients", |it| it.says(2, |answer| answer.account.accepted = 1)),
        ("has 3 open sessions", |it| it.says(2, |answer| answer.sessions = 3)),
        ("has not confirmed", |it| it.says(2, |answer| answer.config.digest = Some("another".into()))),
        ("does not answer", |it| it.silent(2, 0)),
        ("has no pod", |it| {
            it.with(|it| {
                it.applied.pods.pop();
            })
        }),
    ];
    for (expected, change) in cases {
        let decision = decided(change(emptied(3)), 2);
        let message = decision.wait.unwrap().message;
        assert!(message.contains(&format!("{} {expected}", pod_name(NAME, 2))), "{expected}: {message}");
        assert_eq!((decision.replicas, decision.steps), (3, vec![]), "{expected}");
        assert_eq!(decision.cordoned, [pod_name(NAME, 2)], "{expected}");
    }
}

#[test]
fn only_the_last_relays_leave_and_one_that_cannot_keeps_those_before_it() {
    let it = marked(emptied(4), &[1, 3]).says(2, |answer| answer.queue.messages = 1);
    let decision = decided(it, 1);
    assert_eq!(decision.replicas, 3, "3 is empty and goes, 2 is not, so 1 has to stay");
    assert_eq!(decision.cordoned, [1, 2, 3].map(|ordinal| pod_name(NAME, ordinal)));
}

#[test]
fn a_claim_that_was_never_bound_holds_nothing() {
    let unbound = emptied(3).with(|it| {
        it.applied.claims[2].bound = false;
        it.observed.relays[2].answer = None;
    });
    assert_eq!(decided(unbound.clone(), 2).replicas, 2);
    let uncordoned = unbound.with(|it| it.applied.cordoned.clear());
    assert_eq!(decided(uncordoned, 2).replicas, 3, "it may come up and take mail before it hears of the cordon");
}

#[test]
fn a_scale_in_that_is_called_off_takes_the_mark_away_before_the_cordon() {
    let it = marked(emptied(3), &[2]);
    let decision = decided(it, 3);
    assert_eq!((decision.steps.as_slice(), decision.replicas), (&[unmark(2)][..], 3));
    assert_eq!(decision.cordoned, [pod_name(NAME, 2)]);
    assert_eq!(decided(emptied(3), 3), Decision { replicas: 3, ..Decision::default() });
}

#[test]
fn a_scale_out_waits_until_the_mark_is_off_the_claim() {
    let it = marked(emptied(3), &[2]).with(|it| {
        it.applied.pods.truncate(2);
        it.observed.relays.truncate(2);
        it.applied.rollout.as_mut().unwrap().replicas = 2;
    });
    let decision = decided(it.clone(), 4);
    assert_eq!((decision.steps.as_slice(), decision.replicas), (&[unmark(2)][..], 2));
    let unmarked = it.with(|it| it.applied.claims[2].emptied_at = None);
    assert_eq!(decided(unmarked, 4).replicas, 4);
}

#[test]
fn a_mark_that_a_relay_contradicts_is_taken_away() {
    let mail = marked(emptied(3), &[2]).says(2, |answer| answer.queue.messages = 1);
    assert_eq!((decided(mail.clone(), 2).steps, decided(mail, 2).replicas), (vec![unmark(2)], 3));
    let uncordoned = marked(emptied(3), &[2]).says(2, |answer| answer.cordoned = false);
    assert_eq!(decided(uncordoned, 2).steps, [unmark(2)]);
    // It stops after the mark, while settings change: it is still the one that was empty.
    let stops = marked(emptied(3), &[2]).says(2, |answer| answer.config.digest = Some("older".into())).silent(2, 60);
    assert_eq!(decided(stops, 2).replicas, 2);
}

#[test]
fn a_deletion_waits_for_every_relay_and_names_the_ways_out() {
    let it = emptied(2).deleted("WaitForEmptyQueue").says(1, |answer| answer.queue.messages = 12);
    let decision = decided(it, 2);
    assert_eq!((decision.steps.as_slice(), decision.replicas), (&[mark(0)][..], 2));
    assert_eq!(decision.cordoned, [0, 1].map(|ordinal| pod_name(NAME, ordinal)));
    let wait = decision.wait.unwrap();
    assert_eq!(wait.reason, "MailWaits");
    for part in ["example-relay-1 keeps 12 messages", "Orphan", "backupmx.io/confirm-delete=example"] {
        assert!(wait.message.contains(part), "{part}: {}", wait.message);
    }
}

#[test]
fn a_deletion_removes_objects_then_claims_then_the_finalizer() {
    let it = marked(emptied(2), &[0, 1]).deleted("WaitForEmptyQueue");
    let at = |it: &Situation, objects| decide(&World::of(&it.mx, 2, objects, &it.applied, &it.observed), &[]);
    let removes_objects = at(&it, 7);
    assert_eq!(removes_objects.steps, [Step::DeleteObjects]);
    assert!(removes_objects.removes());

    let no_set = it.clone().with(|it| it.applied.rollout = None);
    assert_eq!(at(&no_set, 0).steps, [Step::DeleteObjects], "pods are still there");

    let no_pods = no_set.with(|it| it.applied.pods.clear());
    assert_eq!(at(&no_pods, 0).steps, [Step::DeleteClaims(vec![claim(0).name, claim(1).name])]);

    let kept = no_pods.clone().with(|it| it.applied.claims[0].kept_because = Some("quarantine".into()));
    assert_eq!(at(&kept, 0).steps, [Step::DeleteClaims(vec![claim(1).name])]);

    let nothing = kept.with(|it| {
        it.applied.claims.pop();
    });
    let last = at(&nothing, 0);
    assert_eq!((last.steps.as_slice(), last.wait), (&[Step::ReleaseFinalizer][..], None));
}

#[test]
fn a_volume_with_damaged_mail_outlives_the_resource() {
    let it = emptied(1).deleted("WaitForEmptyQueue").says(0, |answer| answer.spool.quarantined = 2);
    let [Step::MarkEmptied { keep: Some(why), .. }] = &decided(it, 1).steps[..] else { panic!("not kept") };
    assert!(why.contains("2 damaged parts"), "{why}");
}

#[test]
fn a_claim_without_a_pod_holds_a_deletion_until_a_relay_has_served_it() {
    let it = marked(emptied(2), &[0, 1]).deleted("WaitForEmptyQueue").with(|it| it.applied.claims.push(claim(2)));
    let decision = decided(it.clone(), 2);
    assert!(decision.wait.unwrap().message.contains("example-relay-2 has no pod"));
    assert!(decision.steps.is_empty());
    assert_eq!(decided(it, 3).replicas, 3, "spec.replicas can be raised while it is being deleted");
}

/// In a namespace that goes, pods and claims vanish under us, and nothing can be made.
#[test]
fn a_namespace_that_goes_is_not_held_once_everything_in_it_is_gone() {
    let it = well().deleted("WaitForEmptyQueue").with(|it| {
        it.applied = Applied::default();
        it.observed = Observed::default();
    });
    assert_eq!(decide(&World::of(&it.mx, 2, 0, &it.applied, &it.observed), &[]).steps, [Step::ReleaseFinalizer]);
}

#[test]
fn delete_needs_its_confirmation_and_orphan_keeps_the_claims() {
    let full = || well().all_say(|answer| answer.queue.messages = 1);
    let confirm = |it: Situation, name: &str| {
        it.with(|it| {
            it.mx.annotations_mut().insert(CONFIRM_DELETE.into(), name.into());
        })
    };
    let gone = |it: Situation| {
        it.with(|it| {
            it.applied.pods.clear();
            it.applied.rollout = None;
        })
    };
    let steps = |it: &Situation, objects| decide(&World::of(&it.mx, 2, objects, &it.applied, &it.observed), &[]).steps;

    assert_eq!(steps(&full().deleted("Delete"), 7), []);
    assert_eq!(steps(&confirm(full().deleted("Delete"), "another"), 7), []);
    assert_eq!(steps(&confirm(full().deleted("WaitForEmptyQueue"), NAME), 7), []);
    let confirmed = confirm(full().deleted("Delete"), NAME);
    assert_eq!(steps(&confirmed, 7), [Step::DeleteObjects]);
    assert_eq!(steps(&gone(confirmed), 0), [Step::DeleteClaims(vec![claim(0).name, claim(1).name])]);

    let orphan = full().deleted("Orphan");
    assert_eq!(steps(&orphan, 7), [Step::DeleteObjects]);
    assert_eq!(steps(&gone(orphan), 0), [Step::ReleaseFinalizer]);
}

#[derive(Clone, Debug)]
struct Relay {
    pod: bool,
    claim: Option<(bool, bool, bool)>,
    answer: Option<(bool, bool, u64, u64, u64)>,
    silent: bool,
    listed: bool,
    seen: Option<u64>,
}

fn relays() -> impl Strategy<Value = Vec<Relay>> {
    let claim = proptest::option::weighted(0.8, any::<(bool, bool, bool)>());
    let answer = proptest::option::weighted(0.8, (any::<bool>(), any::<bool>(), 0..2u64, 0..2u64, 0..2u64));
    let relay = (any::<bool>(), claim, answer, any::<bool>(), any::<bool>(), proptest::option::of(0..3u64));
    let relay =
        relay.prop_map(|(pod, claim, answer, silent, listed, seen)| Relay { pod, claim, answer, silent, listed, seen });
    proptest::collection::vec(relay, 0..5)
}

/// A world in which anything may be there, or not, and say anything.
fn world(relays: &[Relay], replicas: i32) -> (Situation, Vec<Sighting>) {
    let mut sightings = Vec::new();
    let it = well().with(|it| {
        it.applied = Applied { config_digest: DIGEST.into(), ..Applied::default() };
        it.applied.rollout = Some(crate::apply::Rollout { replicas, seen: true, updated: replicas });
        it.observed = Observed::default();
        for (ordinal, relay) in (0..).zip(relays) {
            if relay.pod {
                it.applied.pods.push(pod(ordinal));
            }
            if let Some((bound, emptied, kept)) = relay.claim {
                let emptied_at = emptied.then(|| "then".into());
                let kept_because = kept.then(|| "quarantine".into());
                it.applied.claims.push(Claim { bound, emptied_at, kept_because, ..claim(ordinal) });
            }
            if relay.listed {
                it.applied.cordoned.push(pod_name(NAME, ordinal));
            }
            let mut told = report(ordinal);
            told.silence = relay.silent.then(|| "silent".into());
            match relay.answer {
                None => told.answer = None,
                Some((cordoned, current, messages, queued, sessions)) => {
                    let answer = Arc::make_mut(told.answer.as_mut().unwrap());
                    (answer.cordoned, answer.sessions) = (cordoned, sessions);
                    (answer.queue.messages, answer.account.queued, answer.account.accepted) =
                        (messages, queued, queued);
                    answer.config.digest = current.then(|| DIGEST.into());
                    sightings.extend(relay.seen.map(|answers| Sighting {
                        pod: told.pod.clone(),
                        uid: pod(ordinal).uid,
                        started_at: answer.started_at.clone(),
                        answers,
                    }));
                }
            }
            it.observed.relays.push(told);
        }
    });
    (it, sightings)
}

/// By the rules as docs/operations.md tells them, and not as the code does.
fn is_known_empty(relay: &Relay) -> bool {
    let Some((bound, emptied, _)) = relay.claim else {
        let (cordoned, current, messages, queued, sessions) = relay.answer.unwrap_or_default();
        let empty_twice = relay.seen == Some(0) && cordoned && current && messages + queued + sessions == 0;
        return !relay.pod || (empty_twice && !relay.silent);
    };
    match (relay.pod, relay.answer) {
        (false, _) => emptied || !bound,
        (true, None) => emptied || (!bound && relay.listed),
        (true, Some((cordoned, _, messages, queued, _))) => emptied && cordoned && messages + queued == 0,
    }
}

proptest! {
    #[test]
    fn nothing_goes_that_is_not_known_to_be_empty(
        relays in relays(), replicas in 0..5i32, wanted in 0..5i32, objects in 0..2usize,
        policy in proptest::sample::select(vec!["", "WaitForEmptyQueue", "Orphan", "Delete", "confirmed"]),
    ) {
        let (it, sightings) = world(&relays, replicas);
        let it = match policy {
            "" => it,
            "confirmed" => it.deleted("Delete").with(|it| {
                it.mx.annotations_mut().insert(CONFIRM_DELETE.into(), NAME.into());
            }),
            policy => it.deleted(policy),
        };
        let decision = decide(&World::of(&it.mx, wanted, objects, &it.applied, &it.observed), &sightings);
        let (orphan, confirmed) = (policy == "Orphan", policy == "confirmed");
        let nothing = Relay { pod: false, claim: None, answer: None, silent: true, listed: false, seen: None };
        let at = |ordinal: i32| relays.get(ordinal as usize).unwrap_or(&nothing);

        for step in &decision.steps {
            match step {
                Step::DeleteObjects => {
                    prop_assert!(orphan || confirmed || (!policy.is_empty() && relays.iter().all(is_known_empty)));
                }
                Step::DeleteClaims(names) => for ordinal in (0..5).filter(|ordinal| names.contains(&claim(*ordinal).name)) {
                    let kept = at(ordinal).claim.is_some_and(|(_, _, kept)| kept);
                    prop_assert!(confirmed || (!policy.is_empty() && !orphan && is_known_empty(at(ordinal)) && !kept));
                },
                Step::MarkEmptied { claim: name, .. } => {
                    let ordinal = (0..5).find(|ordinal| claim(*ordinal).name == *name).unwrap();
                    let (relay, it_is) = (at(ordinal), at(ordinal).answer.unwrap_or_default());
                    prop_assert!(relay.pod && !relay.silent && relay.seen == Some(0) && it_is == (true, true, 0, 0, 0));
                    prop_assert!(decision.cordoned.contains(&pod_name(NAME, ordinal)));
                }
                Step::ReleaseFinalizer => {
                    prop_assert!(!policy.is_empty() && objects == 0 && it.applied.pods.is_empty());
                    prop_assert!(orphan || relays.iter().all(is_known_empty));
                }
                Step::AskAgain(_) | Step::RemoveEmptiedMark(_) => {}
            }
        }
        for ordinal in decision.replicas..replicas {
            prop_assert!(is_known_empty(at(ordinal)), "the pod {ordinal} goes");
        }
        for (ordinal, relay) in (0..).zip(&relays) {
            let marked = relay.claim.is_some_and(|(_, emptied, _)| emptied);
            let served = ordinal < decision.replicas && !decision.cordoned.contains(&pod_name(NAME, ordinal));
            prop_assert!(!(marked && served), "{ordinal} would take mail on a claim that is said to be empty");
        }
        if !policy.is_empty() {
            prop_assert!(!decision.steps.is_empty() || decision.wait.is_some(), "a deletion that neither acts nor says why");
        }
    }
}
