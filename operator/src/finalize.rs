//! What may go, and in which order, when a `BackupMx` is deleted or has fewer relays. Pure: decides, and never acts.
//!
//! A relay goes through these states on its way out; a restart of the operator falls back one row at most:
//!
//! | state | known by | next |
//! |---|---|---|
//! | serves | it is wanted | its name comes into `cordoned` of the config document |
//! | cordoned | it says so, and runs that very document | its sessions end, its mail goes |
//! | empty | cordoned, no session, nothing queued | it is asked again |
//! | emptied | a later answer said the same | its claim bears `backupmx.io/emptied-at`, which outlives us |
//! | gone | the StatefulSet is told to have fewer pods, or everything is deleted | |
//!
//! The way back (a scale-in that was called off) begins with the mark: it goes first, then the cordon.
//! What cannot be asked is not empty. A claim that never held anything is.

use std::collections::BTreeSet;

use kube::ResourceExt;

use crate::{
    apply::{Applied, Claim, Pod},
    crd::{BackupMx, DeletionPolicy},
    observe::{Observed, Report},
};

mod standing;

pub use standing::{Obstacle, Standing};

/// Holds the resource until its mail is safe.
pub const FINALIZER: &str = "backupmx.io/mail";
/// On the resource, its name as value: with `deletionPolicy: Delete`, what waits may be destroyed.
pub const CONFIRM_DELETE: &str = "backupmx.io/confirm-delete";
/// On a claim: its relay was seen cordoned and empty, then.
pub const EMPTIED_AT: &str = "backupmx.io/emptied-at";
/// On a claim: why it stays when the rest is deleted.
pub const KEPT_BECAUSE: &str = "backupmx.io/kept-because";

/// More than a resource may have: what a name or a StatefulSet says beyond that is not believed.
const ORDINALS_MAX: i32 = 1000;

/// How a resource ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// Nothing goes before all mail is handed over. Also `Delete` as long as nobody has confirmed it.
    WhenEmpty,
    /// Everything goes at once but the claims; the mail stays on them.
    Orphan,
    /// Everything goes at once, mail included.
    Now,
}

/// How this resource ends; none while it is not deleted.
pub fn end(mx: &BackupMx) -> Option<End> {
    mx.metadata.deletion_timestamp.as_ref()?;
    let confirmed = mx.annotations().get(CONFIRM_DELETE) == Some(&mx.name_any());
    Some(match mx.spec.deletion_policy {
        DeletionPolicy::WaitForEmptyQueue => End::WhenEmpty,
        DeletionPolicy::Orphan => End::Orphan,
        DeletionPolicy::Delete if confirmed => End::Now,
        DeletionPolicy::Delete => End::WhenEmpty,
    })
}

/// What the decision rests on.
#[derive(Clone, Copy, Debug)]
pub struct World<'a> {
    /// Of the resource.
    pub name: &'a str,
    /// How it ends; none while it lives.
    pub end: Option<End>,
    /// Relays that are wanted.
    pub wanted: i32,
    /// Pods that the StatefulSet is told to have; 0 where there is none.
    pub replicas: i32,
    /// Our objects that are there, pods and claims not counted.
    pub objects: usize,
    /// Digest of the config document that is in the cluster.
    pub config_digest: &'a str,
    /// Whom that document cordons.
    pub cordoned: &'a [String],
    /// Pods of the relays.
    pub pods: &'a [Pod],
    /// Claims of the relays.
    pub claims: &'a [Claim],
    /// What the relays say.
    pub reports: &'a [Report],
}

impl<'a> World<'a> {
    /// `wanted`: relays that the plan has. `objects`: ours that are there, pods and claims not counted.
    pub fn of(
        mx: &'a BackupMx,
        wanted: i32,
        objects: usize,
        applied: &'a Applied,
        observed: &'a Observed,
    ) -> World<'a> {
        World {
            name: mx.metadata.name.as_deref().unwrap_or_default(),
            end: end(mx),
            wanted,
            replicas: applied.rollout.as_ref().map_or(0, |rollout| rollout.replicas),
            objects,
            config_digest: &applied.config_digest,
            cordoned: &applied.cordoned,
            pods: &applied.pods,
            claims: &applied.claims,
            reports: &observed.relays,
        }
    }
}

/// What is to be done, in this order, after `cordoned` and `replicas` were applied. Each may be done twice.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Ask this pod now, without waiting for a change.
    AskAgain(String),
    /// Annotate the claim with [`EMPTIED_AT`], and with [`KEPT_BECAUSE`] where there is a reason to keep it.
    MarkEmptied {
        /// Name of the claim.
        claim: String,
        /// Why it is not to be deleted.
        keep: Option<String>,
    },
    /// Take both annotations off: a relay is to use it again.
    RemoveEmptiedMark(String),
    /// Delete all our objects but the claims.
    DeleteObjects,
    /// Delete these claims.
    DeleteClaims(Vec<String>),
    /// Let the resource go.
    ReleaseFinalizer,
}

/// An answer by which a relay was empty. Kept in memory from one decision to the next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sighting {
    /// Name of the pod.
    pub pod: String,
    /// Its uid.
    pub uid: String,
    /// Start of the process.
    pub started_at: String,
    /// Which of its answers.
    pub answers: u64,
}

/// Why it does not go on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wait {
    /// Fixed, for conditions and Events.
    pub reason: &'static str,
    /// For people, with the cure.
    pub message: String,
}

/// What follows.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Decision {
    /// Pods that take no more mail.
    pub cordoned: Vec<String>,
    /// Pods that the StatefulSet is to have.
    pub replicas: i32,
    /// What else is to be done.
    pub steps: Vec<Step>,
    /// To be handed to the next decision.
    pub sightings: Vec<Sighting>,
    /// What it waits for; none where it is done with this decision.
    pub wait: Option<Wait>,
}

impl Decision {
    /// Whether objects go with it. Then nothing may be applied any more: it would come back.
    pub fn removes(&self) -> bool {
        self.steps.iter().any(|step| match step {
            Step::DeleteObjects | Step::DeleteClaims(_) | Step::ReleaseFinalizer => true,
            Step::AskAgain(_) | Step::MarkEmptied { .. } | Step::RemoveEmptiedMark(_) => false,
        })
    }
}

/// Decides. `seen`: the sightings of the decision before; none after a restart.
pub fn decide(world: &World, seen: &[Sighting]) -> Decision {
    match world.end {
        None => live(world, seen),
        Some(End::WhenEmpty) => end_when_empty(world, seen),
        Some(End::Orphan) => remove(world, at_once(world), |_| false),
        Some(End::Now) => remove(world, at_once(world), |_| true),
    }
}

fn at_once(world: &World) -> Decision {
    Decision { cordoned: everybody(world), replicas: world.replicas, ..Decision::default() }
}

/// The relays that are on their way out, or that should be, and how far each is.
pub fn leaving(world: &World, seen: &[Sighting]) -> Vec<(String, Standing)> {
    let names = match world.end {
        None => (world.wanted.max(0)..highest(world)).map(|ordinal| pod_name(world.name, ordinal)).collect(),
        Some(_) => everybody(world),
    };
    names.into_iter().map(|pod| (pod.clone(), standing::of(world, &pod, seen))).collect()
}

/// Claims behind the last relay that is there: nobody serves them, and nobody knows what is on them.
pub fn stray_claims<'a>(world: &World<'a>) -> Vec<&'a Claim> {
    let top = highest(world).max(world.wanted);
    let is_stray = |claim: &&Claim| ordinal(&claim.pod).is_none_or(|ordinal| ordinal >= top);
    world.claims.iter().filter(is_stray).filter(|claim| claim.bound && claim.emptied_at.is_none()).collect()
}

/// Scale-in and scale-out of a resource that lives.
fn live(world: &World, seen: &[Sighting]) -> Decision {
    let leaving = leaving(world, seen);
    let mut decision = Decision::default();
    follow(world, &leaving, &mut decision);

    // Who is wanted again, or anew, must not stand on a claim that is said to be empty: the mark goes before the cordon does.
    let is_wanted = |pod: &str| ordinal(pod).is_some_and(|ordinal| ordinal < world.wanted);
    let returning = world.claims.iter().filter(|claim| claim.emptied_at.is_some() && is_wanted(&claim.pod));
    let returning: Vec<_> = returning.collect();
    decision.steps.extend(returning.iter().map(|claim| Step::RemoveEmptiedMark(claim.name.clone())));
    decision.cordoned.extend(leaving.iter().map(|(pod, _)| pod.clone()));
    decision.cordoned.extend(returning.iter().map(|claim| claim.pod.clone()));
    sort(&mut decision.cordoned);

    let stays = leaving.iter().filter(|(_, standing)| !standing.may_go()).filter_map(|(pod, _)| ordinal(pod)).max();
    let held_back =
        returning.iter().filter_map(|claim| ordinal(&claim.pod)).filter(|ordinal| *ordinal >= world.replicas).min();
    decision.replicas = match (stays, held_back) {
        (Some(stays), _) => (stays + 1).max(world.wanted),
        (None, Some(ordinal)) => ordinal.min(world.wanted),
        (None, None) => world.wanted,
    };
    if let Some(obstacles) = obstacles(&leaving) {
        decision.wait = Some(Wait {
            reason: "ScaleInBlocked",
            message: format!(
                "{obstacles} They leave when they are empty. To keep them, set spec.replicas back to {}.",
                highest(world)
            ),
        });
    }
    decision
}

fn end_when_empty(world: &World, seen: &[Sighting]) -> Decision {
    let leaving = leaving(world, seen);
    let mut decision =
        Decision { cordoned: everybody(world), replicas: world.replicas.max(world.wanted), ..Decision::default() };
    follow(world, &leaving, &mut decision);
    if let Some(obstacles) = obstacles(&leaving) {
        let name = world.name;
        decision.wait = Some(Wait {
            reason: "MailWaits",
            message: format!(
                "Deleted when all mail is handed over. {obstacles} To keep the mail on its volumes instead, set spec.deletionPolicy \
                 to Orphan; to destroy it, set Delete and annotate {CONFIRM_DELETE}={name}."
            ),
        });
        return decision;
    }
    if !decision.steps.is_empty() {
        return decision; // marks first: they tell the next operator that nothing was lost
    }
    decision.replicas = world.replicas;
    remove(world, decision, |claim| claim.kept_because.is_none())
}

/// Steps and sightings of relays on their way out.
fn follow(world: &World, leaving: &[(String, Standing)], decision: &mut Decision) {
    for (pod, standing) in leaving {
        match standing {
            Standing::Empty { sighting, again, claim, keep } => {
                decision.sightings.push(sighting.clone());
                if !again {
                    decision.steps.push(Step::AskAgain(pod.clone()));
                } else if let Some(claim) = claim.clone() {
                    decision.steps.push(Step::MarkEmptied { claim, keep: keep.clone() });
                }
            }
            Standing::Waits { marked: true, .. } => {
                let claim = claim_of(world, pod).map(|claim| claim.name.clone());
                decision.steps.extend(claim.map(Step::RemoveEmptiedMark));
            }
            Standing::Waits { marked: false, .. } | Standing::Emptied | Standing::Vacant => {}
        }
    }
}

/// Removes everything, the claims for which `goes` last; each only once what stood on it is gone.
fn remove(world: &World, mut decision: Decision, goes: fn(&Claim) -> bool) -> Decision {
    let claims: Vec<_> = world.claims.iter().filter(|claim| goes(claim)).map(|claim| claim.name.clone()).collect();
    let (step, wait) = if world.objects > 0 || !world.pods.is_empty() {
        let message = match world.pods.len() {
            0 => "Its objects are being removed.".to_owned(),
            pods => format!("{pods} pods of relays are still stopping."),
        };
        (Step::DeleteObjects, Some(("RelaysStop", message)))
    } else if !claims.is_empty() {
        let message = format!("{} are still being deleted; their finalizers say who holds them.", claims.join(", "));
        (Step::DeleteClaims(claims), Some(("ClaimsGo", message)))
    } else {
        (Step::ReleaseFinalizer, None)
    };
    decision.steps.push(step);
    decision.wait = wait.map(|(reason, message)| Wait { reason, message });
    decision
}

/// What stands in the way of each, a clause a relay.
fn obstacles(leaving: &[(String, Standing)]) -> Option<String> {
    let clauses: Vec<_> = leaving
        .iter()
        .filter_map(|(pod, standing)| match standing {
            Standing::Waits { obstacle, .. } => Some(format!("{pod} {obstacle}")),
            Standing::Empty { again: false, .. } => Some(format!("{pod} says that it is empty and is asked again")),
            Standing::Empty { again: true, .. } | Standing::Emptied | Standing::Vacant => None,
        })
        .collect();
    (!clauses.is_empty()).then(|| format!("{}.", clauses.join("; ")))
}

/// All pods that are there, or may come, or have left a claim behind.
fn everybody(world: &World) -> Vec<String> {
    let expected = (0..world.replicas.max(world.wanted)).map(|ordinal| pod_name(world.name, ordinal));
    let there = world.pods.iter().map(|pod| pod.name.clone());
    let were = world.claims.iter().map(|claim| claim.pod.clone());
    let all: BTreeSet<_> = expected.chain(there).chain(were).collect();
    let mut all: Vec<_> = all.into_iter().collect();
    sort(&mut all);
    all
}

/// One more than the last relay's ordinal.
fn highest(world: &World) -> i32 {
    let there = world.pods.iter().filter_map(|pod| ordinal(&pod.name)).max();
    world.replicas.max(there.map_or(0, |ordinal| ordinal + 1)).min(ORDINALS_MAX)
}

fn claim_of<'a>(world: &World<'a>, pod: &str) -> Option<&'a Claim> {
    world.claims.iter().find(|claim| claim.pod == pod)
}

/// By ordinal, so that the list and with it the config document is the same whatever order things were found in.
fn sort(pods: &mut Vec<String>) {
    pods.sort_by_key(|pod| (ordinal(pod), pod.clone()));
    pods.dedup();
}

/// The pod with this ordinal.
pub fn pod_name(name: &str, ordinal: i32) -> String {
    format!("{name}-relay-{ordinal}")
}

/// Whether a pod of this name is a relay of that resource: somebody may give our labels to others.
pub fn is_relay(name: &str, pod: &str) -> bool {
    ordinal(pod).is_some_and(|ordinal| pod == pod_name(name, ordinal))
}

/// The ordinal in a pod's name.
pub fn ordinal(pod: &str) -> Option<i32> {
    pod.rsplit_once('-')?.1.parse().ok().filter(|ordinal| (0..ORDINALS_MAX).contains(ordinal))
}

#[cfg(test)]
mod tests;
