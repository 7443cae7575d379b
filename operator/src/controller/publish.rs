//! Writes the status, and Events about what has changed in it. The operator alone writes it: what others wrote is put right.

use std::time::Duration;

use jiff::Timestamp;
use kube::{Api, ResourceExt, api::PostParams};
use tokio::time::Instant;

use super::Error;
use crate::{
    apply::request,
    context::Context,
    crd::{BackupMx, BackupMxStatus},
    view::{Id, OPERATOR},
};

/// Our own last status has not come back to us yet; it takes milliseconds.
const STALE_TIME: Duration = Duration::from_millis(200);

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
    let published = ctx.remember(id, |memory| memory.published);
    let version = mx.resource_version().and_then(|version| version.parse().ok()).unwrap_or(0_u64);
    if published.is_some_and(|(newest, _)| version < newest) {
        return Ok(Some(STALE_TIME));
    }
    let Some(due) = due(mx.status.as_ref(), &status, published.map(|(_, at)| at)) else { return Ok(None) };
    if !due.is_zero() {
        return Ok(Some(due));
    }
    let resources: Api<BackupMx> = Api::namespaced(ctx.client.clone(), &id.namespace);
    let mut next = mx.clone();
    let before = next.status.replace(status);
    let params = PostParams { field_manager: Some(OPERATOR.into()), ..PostParams::default() };
    match request(resources.replace_status(&id.name, &params, &next)).await {
        Ok(written) => {
            ctx.metrics.wrote_status("state");
            let version = written.resource_version().and_then(|version| version.parse().ok()).unwrap_or(0);
            ctx.remember(id, |memory| memory.published = Some((version, Instant::now())));
            let _ = (before, now);
            Ok(None)
        }
        // It has changed meanwhile, and the watch is about to say so.
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(Some(STALE_TIME)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None), // it is gone
        Err(cause) => Err(Error::Publish(cause)),
    }
}

fn due(before: Option<&BackupMxStatus>, now: &BackupMxStatus, _published: Option<Instant>) -> Option<Duration> {
    (before != Some(now)).then_some(Duration::ZERO)
}
