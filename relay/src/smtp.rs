//! Mail comes in: listener -> connection -> session -> policy -> spool. docs/smtp.md states what is spoken.

pub mod command;
pub mod parameter;
pub mod reply;
pub mod session;
pub mod data;
pub mod connection;
mod receive;
mod wire;
pub mod memory;
mod passing;
pub mod promises;
pub mod places;
pub mod clients;
pub mod certificates;
pub mod names;
pub mod proxy;
pub mod listener;
