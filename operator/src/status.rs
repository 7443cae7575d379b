//! The status of a `BackupMx`, from what was found. Pure.

use jiff::Timestamp;

use crate::{
    apply::Applied,
    crd::{BackupMx, BackupMxStatus},
    observe::Observed,
    plan::{Plan, Refusal},
};

/// What stands in the status now.
pub fn derive(_mx: &BackupMx, _plan: &Plan, _applied: &Applied, _observed: &Observed, _now: Timestamp) -> BackupMxStatus {
    unimplemented!()
}

/// The status of a resource that cannot be used.
pub fn refused(_mx: &BackupMx, _refusal: &Refusal, _now: Timestamp) -> BackupMxStatus {
    unimplemented!()
}
