//! What the promises in this folder are proved with: a relay as its users start it, servers and clients around it.
//!
//! Everything here is outside the relay and knows only what its users know: flags, ports, paths, documents. The
//! exceptions are [`simulated_disk`], which stands in for the disk below its spool, and [`readers`], which cuts content
//! in more ways than a network can be made to.

mod apart;
pub mod at_once;
pub mod certificate;
pub mod chance;
pub mod client;
pub mod cluster;
pub mod dialogue;
pub mod exim;
pub mod fake_relay;
pub mod hash;
pub mod kubernetes;
pub mod letters;
pub mod load;
pub mod messages;
pub mod netns;
pub mod openapi;
pub mod opensmtpd;
pub mod operator;
pub mod paced;
pub mod port;
pub mod postfix;
pub mod primary;
pub mod program;
pub mod proxy;
pub mod readers;
pub mod reading;
pub mod relay;
pub mod resource;
pub mod runtime;
pub mod server;
pub mod simulated_disk;
pub mod simulation;
pub mod smuggling;
pub mod strace;
pub mod tools;
pub mod trace_field;
pub mod volume;
pub mod wait;

pub use client::{Client, Envelope, Reply};
pub use fake_relay::FakeRelay;
pub use kubernetes::Kubernetes;
pub use operator::Operator;
pub use primary::Primary;
pub use relay::Relay;
pub use wait::{eventually, eventually_some};

/// The domain that the relays of all tests accept mail for.
pub const DOMAIN: &str = "example.org";
/// Their own name.
pub const HOSTNAME: &str = "mx2.example.org";

/// Whether there is time for the long runs: `SOAK=1`.
pub fn is_soak() -> bool {
    std::env::var_os("SOAK").is_some_and(|value| value == "1")
}
