//! The command line program: reads flags, becomes leader, runs the controller until a signal.
fn main() {}
