//! Whether the objects are there that a resource only names: Secrets with certificates, a StorageClass. Asks the API server.
//!
//! They are not watched: a watch on all Secrets of a cluster is more than this is worth. The kubelet mounts them when they come.

use std::{collections::HashMap, time::Duration};

use k8s_openapi::api::{core::v1::Secret, storage::v1::StorageClass};
use kube::Api;
use tokio::time::Instant;

use super::{Error, Finding, OBSTACLE_TIME, request};
use crate::{context::Context, crd::BackupMx, view::Id};

/// What is there is believed to be there for so long.
const FOUND_TIME: Duration = Duration::from_secs(300);

/// When it was looked for, and whether it was there.
pub type Looked = HashMap<(&'static str, String), (Instant, bool)>;

/// A finding for each that is not there.
pub async fn missing(ctx: &Context, mx: &BackupMx, id: &Id) -> Result<Vec<Finding>, Error> {
    let mut findings = Vec::new();
    for (kind, name, named_by) in names(mx) {
        let looked = ctx.remember(id, |memory| memory.looked.get(&(kind, name.clone())).copied());
        let is_there = match looked {
            Some((at, true)) if at.elapsed() < FOUND_TIME => true,
            Some((at, false)) if at.elapsed() < OBSTACLE_TIME => false,
            _ => {
                let is_there = is_there(ctx, id, kind, &name).await?;
                ctx.remember(id, |memory| memory.looked.insert((kind, name.clone()), (Instant::now(), is_there)));
                is_there
            }
        };
        if !is_there {
            findings.push(Finding::Missing { kind, name, named_by });
        }
    }
    Ok(findings)
}

fn names(mx: &BackupMx) -> Vec<(&'static str, String, &'static str)> {
    let spec = &mx.spec;
    let mut names = Vec::new();
    // With an issuer the Secret comes from cert-manager, whose own words are better than ours.
    if let Some(tls) = spec.tls.as_ref().filter(|tls| tls.issuer_ref.is_none()) {
        names.extend(tls.secret_name.clone().map(|name| ("Secret", name, "spec.tls.secretName")));
    }
    if let Some(ca) = &spec.primary.tls.ca_secret_ref {
        names.push(("Secret", ca.name.clone(), "spec.primary.tls.caSecretRef"));
    }
    if let Some(class) = spec.storage.storage_class_name.clone().filter(|class| !class.is_empty()) {
        names.push(("StorageClass", class, "spec.storage.storageClassName"));
    }
    names
}

async fn is_there(ctx: &Context, id: &Id, kind: &'static str, name: &str) -> Result<bool, Error> {
    let found = if kind == "Secret" {
        let secrets: Api<Secret> = Api::namespaced(ctx.client.clone(), &id.namespace);
        request(secrets.get_metadata_opt(name)).await.map(|secret| secret.is_some())
    } else {
        let classes: Api<StorageClass> = Api::all(ctx.client.clone());
        request(classes.get_metadata_opt(name)).await.map(|class| class.is_some())
    };
    match found {
        // An operator that may see only its own namespace cannot tell; the claim will.
        Err(kube::Error::Api(status)) if status.code == 403 => Ok(true),
        found => found.map_err(|source| Error::LookUp { kind, name: name.to_owned(), source }),
    }
}
