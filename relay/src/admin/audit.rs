//! One line in the log for each order: who wanted what, from where, why, and what became of it.

use std::net::SocketAddr;

use super::{ask::Words, problem::Problem};
use crate::{foreign::shown, mail::id::MessageId};

/// Writes the line. `about`: the message, or what was searched for; `None` for the drain.
pub fn note(action: &str, about: Option<About<'_>>, words: &Words, peer: SocketAddr, result: &str) {
    let (id, query) = match about {
        Some(About::Message(id)) => (Some(id.to_string()), None),
        Some(About::Query(query)) => (None, Some(query)),
        None => (None, None),
    };
    let (author, reason) = (shown(&words.author), shown(&words.reason));
    tracing::info!(audit = true, action, id, query, author, reason, %peer, result, "order");
}

/// What an order is about.
#[derive(Clone, Copy)]
pub enum About<'a> {
    /// A message.
    Message(MessageId),
    /// All that a search finds; escaped already.
    Query(&'a str),
}

/// Writes the line with the words for what came out, and hands that on.
pub fn noted<T>(
    action: &str,
    about: Option<About<'_>>,
    words: &Words,
    peer: SocketAddr,
    result: Result<T, Problem>,
    told: impl Fn(&T) -> String,
) -> Result<T, Problem> {
    let said = match &result {
        Ok(done) => told(done),
        Err(problem) => format!("refused: {}", problem.code()),
    };
    note(action, about, words, peer, &said);
    result
}
