//! Mail comes in: listener -> connection -> session -> policy -> spool. docs/smtp.md states what is spoken.

pub mod command;
pub mod connection;
pub mod data;
pub mod listener;
pub mod reply;
pub mod session;
mod wire;
