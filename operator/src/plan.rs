//! From a `BackupMx` to a checked plan with all defaults filled in; builders see only this. Pure.

use backupmx_relay_api::config::Document;

use crate::crd::BackupMx;

/// Settings of the operator itself that its objects depend on.
#[derive(Clone, PartialEq, Debug)]
pub struct Defaults {
    /// Image of the relay, unless the resource names another.
    pub relay_image: String,
    /// Namespace of the operator, which may ask the relays.
    pub operator_namespace: String,
}

/// What is wanted, checked once.
#[derive(Clone, PartialEq, Debug)]
pub struct Plan {
    pub name: String,
    pub namespace: String,
    pub uid: String,
    pub generation: i64,
    /// What the relays are to do, but for `schema`, `cordoned` and each one's share, which depend on what is observed.
    pub document: Document,
    /// Relays that are wanted.
    pub replicas: i32,
    // ... (resolved forms of the rest of the spec)
}

/// Why nothing can be made of a resource: `Accepted=False`. The message names the key and the cure.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// Of the condition.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

/// Checks a resource.
pub fn resolve(_mx: &BackupMx, _defaults: &Defaults) -> Result<Plan, Refusal> {
    unimplemented!()
}
