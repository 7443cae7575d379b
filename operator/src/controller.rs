//! The sentence that the steps form: what happens when something has happened to a `BackupMx`, or to what belongs to it.

mod publish;

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use kube::{
    Api, Resource, ResourceExt,
    api::{Patch, PatchParams},
    core::error_boundary::{DeserializeGuard, InvalidObject},
    runtime::{
        Controller, WatchStreamExt,
        controller::{Action, Config},
        reflector::{self, ObjectRef, Store},
        watcher::{self, Event, watcher},
    },
};
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info_span};

use crate::{
    apply::{self, Applied, chain, request},
    chance,
    context::{Context, Wakes},
    contract,
    crd::BackupMx,
    desired::Circumstances,
    desired::labels::MANAGER,
    finalize::{self, Decision, FINALIZER, Step, World},
    foreign::shown,
    observe::{self, Observed},
    plan, status,
    view::Id,
};

/// Resources that are worked on at a time. Each waits for the API server most of the time, which answers some hundred requests a
/// second; more at a time would only make it queue them.
const RECONCILES_MAX: u16 = 16;
/// Resources in one page of a list.
const PAGE_RESOURCES: u32 = 50;
/// A resource that nothing happens to is looked at again after this: not for what is watched, but for what is only named.
const LOOK_AGAIN: Duration = Duration::from_secs(600);
/// After a change of the config document the next step may be possible already.
const DECIDE_AGAIN: Duration = Duration::from_millis(100);
/// First back-off after a failed reconcile; doubles with each further one.
const BACK_OFF_MIN: Duration = Duration::from_secs(1);
/// Where the doubling ends.
const BACK_OFF_MAX: Duration = Duration::from_secs(60);

/// A step that failed, and is tried again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Objects.
    #[error("{0}")]
    Apply(#[from] apply::Error),
    /// What holds the resource.
    #[error("change the finalizer")]
    Finalizer(#[source] kube::Error),
    /// What the resource says.
    #[error("publish status")]
    Publish(#[source] kube::Error),
}

impl Error {
    fn step(&self) -> &'static str {
        match self {
            Self::Apply(cause) => cause.step(),
            Self::Finalizer(_) => "finalizer",
            Self::Publish(_) => "publish",
        }
    }

    /// How long the API server asks us to wait.
    fn retry_after(&self) -> Duration {
        let cause = match self {
            Self::Apply(cause) => cause.api(),
            Self::Finalizer(cause) | Self::Publish(cause) => Some(cause),
        };
        let Some(kube::Error::Api(status)) = cause else { return Duration::ZERO };
        let seconds = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
        Duration::from_secs(seconds.into())
    }
}

/// Works until it is told to stop, and then until what was begun is done.
pub async fn run(
    ctx: Arc<Context>,
    resources: Api<DeserializeGuard<BackupMx>>,
    wakes: Arc<Wakes>,
    stop: CancellationToken,
) {
    let (reader, writer) = reflector::store();
    let note = {
        let (ctx, wakes, reader) = (ctx.clone(), wakes.clone(), reader.clone());
        move |event: &watcher::Result<Event<BackupMx>>| note(&ctx, &wakes, &reader, event)
    };
    let changed = watcher(resources, watcher::Config::default().page_size(PAGE_RESOURCES))
        .default_backoff()
        .filter_map(async |event| readable(event))
        .modify(trim)
        .reflect(writer)
        .inspect(note)
        .applied_objects()
        // Told above. The controller would hold back everything else after an error, and the watch goes on by itself.
        .filter_map(async |changed| changed.ok().map(Ok));
    let woken = stream::unfold(wakes, |wakes| async move {
        let id = wakes.next().await;
        Some((ObjectRef::new(&id.name).within(&id.namespace), wakes))
    });
    Controller::for_stream(changed, reader)
        .with_config(Config::default().concurrency(RECONCILES_MAX))
        .reconcile_on(woken)
        .graceful_shutdown_on(async move { stop.cancelled().await })
        .run(reconcile, |mx, error, ctx| Action::requeue(back_off(&ctx, &id_of(&mx), error)), ctx)
        // Each has told what it did; a resource that is gone needs nothing.
        .for_each(|_| async {})
        .await;
}

/// One resource that cannot be read, for instance because a newer definition knows more words, must not hold up the others.
fn readable(event: watcher::Result<Event<DeserializeGuard<BackupMx>>>) -> Option<watcher::Result<Event<BackupMx>>> {
    let read = |DeserializeGuard(read): DeserializeGuard<BackupMx>| {
        let tell = |invalid: &InvalidObject| {
            let (namespace, name) = (invalid.metadata.namespace.clone(), invalid.metadata.name.clone());
            let object = format!("{}/{}", namespace.unwrap_or_default(), name.unwrap_or_default());
            tracing::error!(
                object,
                cause = shown(&invalid.error),
                "a BackupMx that this operator cannot read is left as it is"
            );
        };
        read.inspect_err(tell).ok()
    };
    match event {
        Ok(Event::Apply(mx)) => read(mx).map(|mx| Ok(Event::Apply(mx))),
        Ok(Event::InitApply(mx)) => read(mx).map(|mx| Ok(Event::InitApply(mx))),
        Ok(Event::Delete(mx)) => read(mx).map(|mx| Ok(Event::Delete(mx))),
        Ok(Event::Init) => Some(Ok(Event::Init)),
        Ok(Event::InitDone) => Some(Ok(Event::InitDone)),
        Err(cause) => Some(Err(cause)),
    }
}

/// What nobody here reads need not be kept, room for it neither.
fn trim(mx: &mut BackupMx) {
    mx.meta_mut().managed_fields = None;
    mx.annotations_mut().remove("kubectl.kubernetes.io/last-applied-configuration");
}

/// Neighbours learn of each other, and what is gone is forgotten.
fn note(ctx: &Context, wakes: &Wakes, reader: &Store<BackupMx>, event: &watcher::Result<Event<BackupMx>>) {
    let serve = |id: &Id, domains: &[String]| ctx.neighbours.serve(id, domains).iter().for_each(|id| wakes.wake(id));
    match event {
        Ok(Event::Apply(mx) | Event::InitApply(mx)) => serve(&id_of(mx), &mx.spec.domains),
        Ok(Event::Delete(mx)) => {
            let gone = id_of(mx);
            serve(&gone, &[]);
            ctx.forget(|id| *id == gone);
        }
        Ok(Event::Init) => {}
        Ok(Event::InitDone) => {
            let is_gone = |id: &Id| reader.get(&ObjectRef::new(&id.name).within(&id.namespace)).is_none();
            ctx.neighbours.ids().iter().filter(|id| is_gone(id)).for_each(|id| serve(id, &[]));
            ctx.forget(is_gone);
        }
        Err(cause) => tracing::warn!(kind = "BackupMx", cause = %chain(cause), "watch"),
    }
}

fn id_of(mx: &BackupMx) -> Id {
    Id { namespace: mx.namespace().unwrap_or_default(), name: mx.name_any() }
}

/// Drives one reconcile: counts, logs, and says when to come back.
async fn reconcile(mx: Arc<BackupMx>, ctx: Arc<Context>) -> Result<Action, Error> {
    let id = id_of(&mx);
    let span = info_span!("reconcile", object = %id);
    async {
        let began = Instant::now();
        let done = bring_about(&ctx, &mx, &id).await;
        let seconds = began.elapsed().as_secs_f64();
        match &done {
            Ok(next) => {
                ctx.remember(&id, |memory| memory.failures = 0);
                ctx.metrics.reconciled("ok", seconds);
                tracing::debug!(seconds, next_seconds = next.as_secs_f64(), "reconciled");
            }
            Err(error) => {
                ctx.metrics.reconciled("error", seconds);
                ctx.metrics.failed(error.step());
                tracing::warn!(cause = %chain(error), "reconcile");
            }
        }
        done.map(Action::requeue)
    }
    .instrument(span)
    .await
}

fn back_off(ctx: &Context, id: &Id, error: &Error) -> Duration {
    let failures = ctx.remember(id, |memory| {
        memory.failures = memory.failures.saturating_add(1);
        memory.failures
    });
    chance::back_off(failures - 1, BACK_OFF_MIN, BACK_OFF_MAX).max(error.retry_after())
}

/// The sentence. Returns when to come back if nothing happens before.
async fn bring_about(ctx: &Context, mx: &BackupMx, id: &Id) -> Result<Duration, Error> {
    let observed = observe::ask(&ctx.relays, id, &ctx.view.pods(id)).await; // a silent relay is a finding, not an error
    let found = apply::look(ctx, id, &mx.uid().unwrap_or_default());
    let plan = plan::resolve(mx, &ctx.defaults); // pure
    let wanted = plan.as_ref().map_or(mx.spec.replicas, |plan| plan.replicas);
    let decision = decide(ctx, mx, id, wanted, &found, &observed); // pure
    let now = Timestamp::now();
    let plan = match plan {
        Ok(plan) => plan,
        Err(refusal) => {
            if !mx.spec.paused && finalize::end(mx).is_some() {
                carry_out(ctx, mx, id, &decision.steps, now).await?; // what cannot be made can still be deleted
            }
            let due = publish::publish(ctx, mx, id, status::refused(mx, &refusal, now), now).await?;
            return Ok(soonest([due, None, None, None, None])); // no retry: only an edit helps
        }
    };
    if mx.spec.paused {
        let status = status::derive(mx, &plan, &found, &observed, now);
        let again = status::look_again(&status, &found, &observed, now).map(|then| publish::until(then, now));
        let due = publish::publish(ctx, mx, id, status, now).await?;
        return Ok(soonest([again, due, None, None, None]));
    }
    hold(ctx, mx, id).await?; // before there is anything that must not vanish with the resource
    let (digest, cordoned) = (found.config_digest.clone(), found.cordoned.clone());
    let applied = if decision.removes() {
        found
    } else {
        let Decision { cordoned, replicas, .. } = &decision;
        let schema = contract::schema(&observed);
        let around = Circumstances { schema, cordoned: cordoned.clone(), replicas: *replicas };
        apply::apply(ctx, mx, &plan, &around).await?
    };
    carry_out(ctx, mx, id, &decision.steps, now).await?;
    let nudge = contract::nudge(ctx, id, &applied, &observed).await; // whether it worked is told after the status
    let status = status::derive(mx, &plan, &applied, &observed, now); // pure
    let again = status::look_again(&status, &applied, &observed, now).map(|then| publish::until(then, now));
    let due = publish::publish(ctx, mx, id, status, now).await?;
    let nudge = nudge?;
    let obstacle = (!applied.findings.is_empty()).then_some(apply::OBSTACLE_TIME);
    // The decision rested on another document than the one that is there now.
    let decide_again = (digest, cordoned) != (applied.config_digest, applied.cordoned);
    Ok(soonest([nudge, again, due, obstacle, decide_again.then_some(DECIDE_AGAIN)]))
}

fn soonest(times: [Option<Duration>; 5]) -> Duration {
    times.into_iter().flatten().min().unwrap_or_else(|| chance::spread(LOOK_AGAIN))
}

fn decide(ctx: &Context, mx: &BackupMx, id: &Id, wanted: i32, found: &Applied, observed: &Observed) -> Decision {
    let uid = mx.uid().unwrap_or_default();
    // Counting them is work, and only an end asks for it.
    let objects = if finalize::end(mx).is_some() { ctx.view.owned(id, &uid).len() } else { 0 };
    let seen = ctx.remember(id, |memory| std::mem::take(&mut memory.sightings));
    let decision = finalize::decide(&World::of(mx, wanted, objects, found, observed), &seen);
    ctx.remember(id, |memory| memory.sightings.clone_from(&decision.sightings));
    decision
}

async fn carry_out(ctx: &Context, mx: &BackupMx, id: &Id, steps: &[Step], now: Timestamp) -> Result<(), Error> {
    for step in steps {
        match step {
            Step::AskAgain(pod) => ctx.relays.ask_again(id, pod),
            Step::MarkEmptied { claim, keep } => apply::mark_emptied(ctx, id, claim, now, keep.as_deref()).await?,
            Step::RemoveEmptiedMark(claim) => apply::remove_mark(ctx, id, claim).await?,
            Step::DeleteObjects => apply::remove_all(ctx, id, &mx.uid().unwrap_or_default()).await?,
            Step::DeleteClaims(claims) => apply::remove_claims(ctx, id, claims).await?,
            Step::ReleaseFinalizer => release(ctx, mx, id).await?,
        }
    }
    Ok(())
}

/// Nothing is made for a resource that could vanish without asking us.
async fn hold(ctx: &Context, mx: &BackupMx, id: &Id) -> Result<(), Error> {
    let finalizers = mx.finalizers();
    if mx.meta().deletion_timestamp.is_some() || finalizers.iter().any(|held| held == FINALIZER) {
        return Ok(());
    }
    set_finalizers(ctx, mx, id, finalizers.iter().map(String::as_str).chain([FINALIZER]).collect()).await
}

async fn release(ctx: &Context, mx: &BackupMx, id: &Id) -> Result<(), Error> {
    let others: Vec<_> = mx.finalizers().iter().map(String::as_str).filter(|held| *held != FINALIZER).collect();
    if others.len() == mx.finalizers().len() {
        return Ok(());
    }
    set_finalizers(ctx, mx, id, others).await
}

/// With the resource version that we have seen, so that another finalizer, set meanwhile, is not lost.
async fn set_finalizers(ctx: &Context, mx: &BackupMx, id: &Id, finalizers: Vec<&str>) -> Result<(), Error> {
    let resources: Api<BackupMx> = Api::namespaced(ctx.client.clone(), &id.namespace);
    let metadata = json!({"resourceVersion": mx.resource_version(), "finalizers": finalizers});
    let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
    match request(resources.patch_metadata(&id.name, &params, &Patch::Merge(json!({ "metadata": metadata })))).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()), // it is gone
        Err(cause) => Err(Error::Finalizer(cause)),
    }
}
