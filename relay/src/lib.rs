//! BackupMx's relay: receives mail while the primary is away, keeps it, hands it over, and says how it stands.
//!
//! In the order in which a newcomer should read: a message comes in by [`smtp`], [`policy`] decides, the [`spool`] keeps
//! it, the [`queue`] says when it goes, [`primary`] knows whether it can, and [`delivery`] hands it over.

pub mod mail;
pub mod smtp;
pub mod pass_through;
pub mod policy;
pub mod spool;
pub mod queue;
pub mod primary;
pub mod delivery;
pub mod retention;

pub mod status;
mod revision;
pub mod poll;
pub mod metrics;
pub mod observe;
pub mod admin;

pub mod config;
pub mod cli;
pub mod running;
pub mod reload;
pub mod run;
pub mod offline;

mod chance;
mod foreign;
mod small_file;
