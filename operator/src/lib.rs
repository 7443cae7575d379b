//! The operator: turns each `BackupMx` into relays, asks them how they fare, and says so in its status.
//!
//! `crd -> plan -> desired -> apply -> observe -> status`: each step is a file, and `controller` is the sentence that they form.

pub mod crd;
pub mod plan;
pub mod desired;
pub mod apply;
pub mod observe;
pub mod finalize;
pub mod status;
pub mod events;
