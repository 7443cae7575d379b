//! While the primary is up its verdict is ours: what it takes is never kept here, what it refuses its sender hears in its own words, and if it
//! fails the mail is ours.

#[path = "passes_through/judges.rs"]
mod judges;
#[path = "passes_through/names_the_client.rs"]
mod names_the_client;
#[path = "passes_through/scene.rs"]
mod scene;
#[path = "passes_through/shares_connections.rs"]
mod shares_connections;
#[path = "passes_through/slow_primaries.rs"]
mod slow_primaries;
#[path = "passes_through/slow_senders.rs"]
mod slow_senders;
#[path = "passes_through/trust.rs"]
mod trust;
#[path = "passes_through/verdicts.rs"]
mod verdicts;
