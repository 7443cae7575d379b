//! What a person should know though nothing is broken. Pure.

use std::collections::BTreeSet;

use super::{
    facts::Facts,
    text::{SENTENCE_CHARS_MAX, shown},
};
use crate::finalize::stray_claims;

/// A hostile neighbourhood must not fill the status.
const WARNINGS_MAX: usize = 20;

/// A sentence each.
pub fn warnings(facts: &Facts) -> Vec<String> {
    let mut warnings: BTreeSet<String> =
        facts.answers().filter_map(|(_, answer)| Some(one_client(answer.clients.only.as_deref()?))).collect();
    warnings.extend(facts.applied.neighbours.iter().map(|neighbour| {
        format!(
            "The BackupMx {}/{} serves {} too: only one of them should, or the primary gets the drains of both at a time.",
            neighbour.namespace, neighbour.name, neighbour.domain
        )
    }));
    warnings.extend(stray_claims(&facts.world).into_iter().map(|claim| {
        format!(
            "No relay serves the claim {}, which may hold mail: raise spec.replicas until one does, or export it.",
            claim.name
        )
    }));
    warnings.extend(facts.applied.claims.iter().filter_map(|claim| {
        let why = claim.kept_because.as_ref()?;
        Some(format!("The claim {} will outlive this resource ({why}).", claim.name))
    }));
    warnings.into_iter().take(WARNINGS_MAX).map(|warning| shown(&warning, SENTENCE_CHARS_MAX)).collect()
}

fn one_client(address: &str) -> String {
    format!(
        "All senders seem to come from {address}: a load balancer hides who connects, so limits per client hit everybody. Set \
         spec.service.externalTrafficPolicy to Local, or spec.proxyProtocol.trusted."
    )
}
