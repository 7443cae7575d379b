//! Keeps to what running relays know, and sees to it that they get to know the new config document. Writes one annotation on pods.
//!
//! The kubelet renews a mounted ConfigMap within a minute or two, but at once where it sees its pod change. It may see the pod
//! before it sees the ConfigMap: then the annotation has to change again.

use std::{collections::HashMap, time::Duration};

use backupmx_relay_api::{SCHEMA, status::Status};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::time::Instant;

use crate::{
    apply::{Applied, Error, request},
    context::Context,
    desired::labels::MANAGER,
    observe::{Observed, Report},
    view::Id,
};

/// On a pod: digest of the document that its relay is to read, and how often that was said.
const DIGEST_ANNOTATION: &str = "backupmx.io/config-digest";
/// Between two attempts to make the kubelet look.
const INTERVAL: Duration = Duration::from_secs(5);
/// After a minute of that something else is wrong, and the kubelet comes round by itself.
const ATTEMPTS_MAX: u32 = 12;
/// Then between two attempts.
const LATER_INTERVAL: Duration = Duration::from_secs(60);

/// Pods that were told of a document which they do not report yet, by name.
pub type Nudges = HashMap<String, Nudge>;

/// What a pod was told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Nudge {
    digest: String,
    attempts: u32,
    at: Instant,
}

/// The newest document shape that all relays know which answer. A silent one reads what it was given before.
pub fn schema(observed: &Observed) -> u32 {
    let known = observed.relays.iter().filter_map(|report| report.answer.as_ref()).map(|status| status.schema);
    known.min().unwrap_or(SCHEMA).min(SCHEMA)
}

/// Tells each pod whose relay does not report the applied document. Returns when to do it again; none if all report it.
pub async fn nudge(ctx: &Context, id: &Id, applied: &Applied, observed: &Observed) -> Result<Option<Duration>, Error> {
    let now = Instant::now();
    let mut next: Option<Duration> = None;
    let before = ctx.remember(id, |memory| std::mem::take(&mut memory.nudges));
    let mut nudges = Nudges::new();
    let mut failed = None;
    for report in &observed.relays {
        if !is_behind(report, &applied.config_digest) {
            continue;
        }
        let told = before.get(&report.pod).filter(|told| told.digest == applied.config_digest);
        let nudge = match told {
            Some(told) if now < told.at + interval(told.attempts) => told.clone(),
            _ => {
                let attempts = told.map_or(0, |told| told.attempts) + 1;
                failed = annotate(ctx, id, &report.pod, &applied.config_digest, attempts).await.err().or(failed);
                Nudge { digest: applied.config_digest.clone(), attempts, at: now }
            }
        };
        let due = (nudge.at + interval(nudge.attempts)).saturating_duration_since(now);
        next = Some(next.map_or(due, |next| next.min(due)));
        nudges.insert(report.pod.clone(), nudge);
    }
    ctx.remember(id, |memory| memory.nudges = nudges);
    failed.map_or(Ok(next), Err)
}

fn interval(attempts: u32) -> Duration {
    if attempts < ATTEMPTS_MAX { INTERVAL } else { LATER_INTERVAL }
}

/// A relay that has refused the document has seen it. One that was never heard cannot be behind.
fn is_behind(report: &Report, digest: &str) -> bool {
    let has_seen = |status: &Status| {
        let refused = status.config.refused.as_ref().and_then(|refused| refused.digest.as_deref());
        status.config.digest.as_deref() == Some(digest) || refused == Some(digest)
    };
    !digest.is_empty() && report.answer.as_ref().is_some_and(|status| !has_seen(status))
}

async fn annotate(ctx: &Context, id: &Id, pod: &str, digest: &str, attempt: u32) -> Result<(), Error> {
    let pods: Api<Pod> = Api::namespaced(ctx.client.clone(), &id.namespace);
    let patch = Patch::Merge(json!({"metadata": {"annotations": {DIGEST_ANNOTATION: format!("{digest} {attempt}")}}}));
    let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
    match request(pods.patch_metadata(pod, &params, &patch)).await {
        Ok(_) => Ok(()),
        // It has just gone; its successor mounts the newest document.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(source) => Err(Error::Annotate { kind: "Pod", name: pod.to_owned(), source }),
    }
}
