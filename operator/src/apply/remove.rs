//! Takes objects away, and marks claims. Each request names the uid that it means.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde_json::{Value, json};

use super::{Error, request};
use crate::{
    context::Context,
    desired::labels::MANAGER,
    finalize::{EMPTIED_AT, KEPT_BECAUSE},
    view::{Id, Key, Kind, Live},
};

const CLAIM: &str = "PersistentVolumeClaim";

/// All that we made for a resource, but its claims. They are gone when the watches have told so.
pub async fn remove_all(ctx: &Context, id: &Id, uid: &str) -> Result<(), Error> {
    let mut owned = ctx.view.owned(id, uid);
    // Senders first, so that they try the primary or another backup instead of a pod that is about to end.
    owned
        .sort_by_key(|(key, _)| (key.kind != Kind::Service, key.kind != Kind::StatefulSet, key.kind, key.name.clone()));
    for (key, live) in owned.iter().filter(|(_, live)| !live.leaving) {
        remove(ctx, key, live).await?;
    }
    Ok(())
}

/// One object.
pub async fn remove(ctx: &Context, key: &Key, live: &Live) -> Result<(), Error> {
    let only_this = Preconditions { uid: Some(live.uid.to_string()), resource_version: None };
    let params = DeleteParams { preconditions: Some(only_this), ..DeleteParams::background() };
    match request(ctx.api(key.kind, &key.namespace).delete(&key.name, &params)).await {
        Ok(_) => Ok(()),
        // It is gone, or it is another: the watch tells.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Err(source) => Err(Error::Delete { kind: key.kind.name(), name: key.name.to_string(), source }),
    }
}

/// Claims, and with them what is on their volumes.
pub async fn remove_claims(ctx: &Context, id: &Id, claims: &[String]) -> Result<(), Error> {
    for claim in claims {
        match request(api(ctx, id).delete(claim, &DeleteParams::background())).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(source) => return Err(Error::Delete { kind: CLAIM, name: claim.clone(), source }),
        }
    }
    Ok(())
}

/// Says on a claim that its relay was seen empty, and why the claim is to be kept all the same, if it is.
pub async fn mark_emptied(
    ctx: &Context,
    id: &Id,
    claim: &str,
    now: Timestamp,
    keep: Option<&str>,
) -> Result<(), Error> {
    annotate(ctx, id, claim, json!({ EMPTIED_AT: format!("{now:.0}"), KEPT_BECAUSE: keep })).await
}

/// Takes that away, before a pod may use the claim again.
pub async fn remove_mark(ctx: &Context, id: &Id, claim: &str) -> Result<(), Error> {
    annotate(ctx, id, claim, json!({ EMPTIED_AT: null, KEPT_BECAUSE: null })).await
}

async fn annotate(ctx: &Context, id: &Id, claim: &str, annotations: Value) -> Result<(), Error> {
    let patch = Patch::Merge(json!({"metadata": {"annotations": annotations}}));
    let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
    match request(api(ctx, id).patch_metadata(claim, &params, &patch)).await {
        Ok(_) => Ok(()),
        Err(source) => Err(Error::Annotate { kind: CLAIM, name: claim.to_owned(), source }),
    }
}

fn api(ctx: &Context, id: &Id) -> Api<PersistentVolumeClaim> {
    Api::namespaced(ctx.client.clone(), &id.namespace)
}
