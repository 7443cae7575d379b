//! The ServiceAccount of the relays. Pure.

use k8s_openapi::api::core::v1::ServiceAccount;

use super::labels;
use crate::plan::Plan;

/// Without a token: a relay listens to the whole internet, and asks no API server for anything (docs/adr/0001).
pub fn service_account(plan: &Plan) -> ServiceAccount {
    ServiceAccount {
        metadata: labels::metadata(plan, labels::relay_name(&plan.name)),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::desired::example;

    #[test]
    fn relays_get_no_token() {
        assert_eq!(
            serde_json::to_value(service_account(&example::plan(""))).unwrap(),
            json!({
                "apiVersion": "v1",
                "kind": "ServiceAccount",
                "metadata": example::metadata("example-relay"),
                "automountServiceAccountToken": false,
            })
        );
    }
}
