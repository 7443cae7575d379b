//! A `BackupMx` becomes relay pods, and its status tells the truth: the operator against a real API server and its controllers.
//! Pods are played, and so are relays where the real ones are not what is asked about.

#[path = "reconciles/endings.rs"]
mod endings;
#[path = "reconciles/many.rs"]
mod many;
#[path = "reconciles/objects.rs"]
mod objects;
#[path = "reconciles/process.rs"]
mod process;
#[path = "reconciles/real_relays.rs"]
mod real_relays;
#[path = "reconciles/relays.rs"]
mod relays;
#[path = "reconciles/rules.rs"]
mod rules;
#[path = "reconciles/scene.rs"]
mod scene;
