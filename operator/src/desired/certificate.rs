//! cert-manager's Certificate, where an issuer is named. Pure.

use kube::{api::TypeMeta, core::DynamicObject};
use serde_json::json;

use super::labels;
use crate::plan::{Certificate, Issuer, Plan};

/// For the name in the MX record, into the Secret that the relays mount.
pub fn certificate(plan: &Plan) -> Option<DynamicObject> {
    let Certificate { secret, issuer: Some(Issuer { name, kind, group }) } = plan.certificate.as_ref()? else {
        return None;
    };
    Some(DynamicObject {
        types: Some(TypeMeta { api_version: "cert-manager.io/v1".into(), kind: "Certificate".into() }),
        metadata: labels::metadata(plan, labels::relay_name(&plan.name)),
        data: json!({
            "spec": {
                "secretName": secret,
                "dnsNames": [plan.document.hostname],
                "issuerRef": { "name": name, "kind": kind, "group": group },
            },
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::example;

    #[test]
    fn an_issuer_makes_a_certificate_for_the_hostname() {
        assert_eq!(
            serde_json::to_value(certificate(&example::full_plan())).unwrap(),
            json!({
                "apiVersion": "cert-manager.io/v1",
                "kind": "Certificate",
                "metadata": example::metadata("example-relay"),
                "spec": {
                    "secretName": "mx2-tls",
                    "dnsNames": ["mx2.example.org"],
                    "issuerRef": { "name": "letsencrypt", "kind": "ClusterIssuer", "group": "cert-manager.io" },
                },
            })
        );
    }

    #[test]
    fn a_certificate_of_ones_own_is_left_alone() {
        for fields in ["", "tls: {secretName: mx2-tls}"] {
            assert!(certificate(&example::plan(fields)).is_none(), "{fields}");
        }
    }
}
