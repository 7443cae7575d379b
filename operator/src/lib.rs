//! The operator: turns each `BackupMx` into relays, asks them how they fare, and says so in its status.
//!
//! `crd -> plan -> desired -> apply -> observe -> status`: each step is a file, and `controller` is the sentence that they form.

// The tests compare whole objects.
#![cfg_attr(test, recursion_limit = "256")]

pub mod crd;
pub mod plan;
pub mod desired;
pub mod apply;
pub mod observe;
pub mod finalize;
pub mod contract;
pub mod status;
pub mod events;
pub mod controller;
pub mod context;
pub mod neighbours;
pub mod view;
pub mod watch;
pub mod cluster;
pub mod leader;
pub mod run;
pub mod health;
pub mod metrics;
pub mod cli;
pub mod chance;
pub mod foreign;
