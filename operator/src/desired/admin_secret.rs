//! The Secret with the token of the admin API: made once, never changed, so that people can rely on it. Pure.

use k8s_openapi::{ByteString, api::core::v1::Secret};

use super::labels;
use crate::plan::Plan;

/// The token's key, and its name as a file.
pub const FILE: &str = "token";

/// For `token`, which the caller draws.
pub fn admin_secret(plan: &Plan, token: &str) -> Secret {
    Secret {
        metadata: labels::metadata(plan, labels::admin_name(&plan.name)),
        type_: Some("Opaque".into()),
        data: Some([(FILE.into(), ByteString(token.into()))].into()),
        ..Secret::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::desired::example;

    #[test]
    fn the_token_is_kept_in_a_secret() {
        assert_eq!(
            serde_json::to_value(admin_secret(&example::plan(""), "abc")).unwrap(),
            json!({
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": example::metadata("example-admin"),
                "type": "Opaque",
                "data": { "token": "YWJj" },
            })
        );
    }
}
