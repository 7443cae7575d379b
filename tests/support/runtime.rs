//! Where all that is asynchronous in the tests lives: clients of Kubernetes, played pods, played relays. Tests themselves are not,
//! so that they read like all the others.

use std::sync::LazyLock;

use tokio::runtime::Runtime;

/// One for the whole program: a client must not outlive the runtime that it was made in.
pub(crate) static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("a process may start threads"));

/// Waits for what is asynchronous.
pub fn wait<F: Future>(future: F) -> F::Output {
    RUNTIME.block_on(future)
}
