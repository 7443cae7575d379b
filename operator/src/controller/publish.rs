//! Writes the status, and Events about what has changed in it. The operator alone writes it: what others wrote is put right.

use std::time::Duration;

use jiff::Timestamp;
use kube::{
    Api, Resource,
    api::PostParams,
    runtime::events::{Event, EventType},
};

use super::Error;
use crate::{
    apply::{chain, request},
    context::Context,
    crd::{BackupMx, BackupMxStatus},
    desired::labels::MANAGER,
    events::{self, Severity},
    status::{NUMBERS_INTERVAL, Publish, Written, publish_due},
    view::Id,
};

/// Our own last status has not come back to us yet; it takes milliseconds.
const ECHO_TIME: Duration = Duration::from_millis(200);

/// Writes it if it is due. Returns when it is due otherwise; none if there is nothing to write.
///
/// It is a replacement that names the version which it replaces: fields that somebody added go with it, and one who has seen an
/// older state than what is there cannot overwrite it.
pub async fn publish(
    ctx: &Context,
    mx: &BackupMx,
    id: &Id,
    status: BackupMxStatus,
    now: Timestamp,
) -> Result<Option<Duration>, Error> {
    let (written, newest) = ctx.remember(id, |memory| memory.written).unzip();
    // Not for ever: a cluster that was restored from a copy counts from an earlier number.
    let is_recent = written.as_ref().is_some_and(|written| now.duration_since(written.at) < NUMBERS_INTERVAL);
    if is_recent && newest.is_some_and(|newest| version(mx) < newest) {
        return Ok(Some(ECHO_TIME));
    }
    match publish_due(mx.status.as_ref(), &status, written.as_ref(), now) {
        Publish::No => return Ok(None),
        Publish::At(due) => return Ok(Some(until(due, now))),
        Publish::Now => {}
    }
    let resources: Api<BackupMx> = Api::namespaced(ctx.client.clone(), &id.namespace);
    let next = BackupMx { status: Some(status.clone()), ..mx.clone() };
    let params = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
    let answer = match request(resources.replace_status(&id.name, &params, &next)).await {
        Ok(answer) => answer,
        // It has changed meanwhile, and the watch is about to say so.
        Err(kube::Error::Api(refused)) if refused.code == 409 => return Ok(Some(ECHO_TIME)),
        Err(kube::Error::Api(refused)) if refused.code == 404 => return Ok(None), // it is gone
        Err(cause) => return Err(Error::Publish(cause)),
    };
    ctx.metrics.wrote_status();
    tell(ctx, mx, &status).await;
    ctx.remember(id, |memory| memory.written = Some((Written::new(now, &status), version(&answer))));
    Ok(None)
}

/// From `now` to then; nothing if it is over.
pub fn until(then: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(then.duration_since(now)).unwrap_or_default()
}

fn version(mx: &BackupMx) -> u64 {
    mx.meta().resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

/// An Event that cannot be written is no reason to do anything again: the status says the same.
async fn tell(ctx: &Context, mx: &BackupMx, status: &BackupMxStatus) {
    for events::Event { severity, reason, action, note } in events::between(mx.status.as_ref(), status) {
        let type_ = match severity {
            Severity::Normal => EventType::Normal,
            Severity::Warning => EventType::Warning,
        };
        tracing::info!(reason, note, "event");
        let event = Event { type_, reason, note: Some(note), action: action.into(), secondary: None };
        if let Err(cause) = request(ctx.recorder.publish(&event, &mx.object_ref(&()))).await {
            tracing::warn!(cause = %chain(&cause), reason = event.reason, "write an Event");
        }
    }
}
