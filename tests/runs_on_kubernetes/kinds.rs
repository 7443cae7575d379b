//! Kinds of other operators: missing ones are told, and once they are there the objects are made. The test is the issuer.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use serde_json::json;
use support::{
    certificate::Certificate,
    cluster::{cluster, repository},
    program,
};

use crate::{
    changes::{address, presents, write_certificate},
    scene::{NAME, Scene, condition},
};

#[test]
fn a_certificate_and_a_pod_monitor_are_made_once_the_cluster_knows_their_kinds() {
    let scene = Scene::new("kinds");
    scene.apply(json!({
        "tls": { "issuerRef": { "name": "letsencrypt", "kind": "ClusterIssuer" } },
        "monitoring": { "podMonitor": true, "labels": { "release": "prometheus" } },
    }));
    let message = scene.until_condition("Degraded", "KindUnknown");
    assert!(message.contains("Certificate") && message.contains("PodMonitor"), "{message}");
    scene.until("mail is taken all the same", |mx| {
        condition(mx, "Ready")["status"] == "True" && condition(mx, "TlsReady")["status"] == "False"
    });

    for file in ["cert-manager.io_certificates.yaml", "monitoring.coreos.com_podmonitors.yaml"] {
        let text = fs::read_to_string(definitions().join(file)).expect("it was fetched");
        cluster().apply(scene.name(), &text);
    }
    scene.until("both kinds are known", |mx| condition(mx, "Degraded")["reason"] != "KindUnknown");
    let wanted = scene.get(&format!("certificates.cert-manager.io/{NAME}-relay"))["spec"].clone();
    assert_eq!(wanted["dnsNames"], json!([support::HOSTNAME]));
    let monitor = scene.get(&format!("podmonitors.monitoring.coreos.com/{NAME}-relay"));
    assert_eq!(monitor["metadata"]["labels"]["release"], "prometheus");
    let selector = &monitor["spec"]["selector"]["matchLabels"];
    let chosen: Vec<_> = selector
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    let found = scene.get(&format!("pods --selector={}", chosen.join(",")));
    assert_eq!(found["items"].as_array().map(Vec::len), Some(1), "it selects the relay: {selector}");
    let port = &monitor["spec"]["podMetricsEndpoints"][0]["port"];
    let ports = &found["items"][0]["spec"]["containers"][0]["ports"];
    assert!(
        ports.as_array().into_iter().flatten().any(|there| there["name"] == *port && there["containerPort"] == 9125),
        "{port}, {ports}"
    );

    let issued = Certificate::of(&[support::HOSTNAME]);
    write_certificate(&scene, wanted["secretName"].as_str().unwrap_or_default(), &issued);
    scene.until_condition("TlsReady", "CertificateCurrent");
    scene.until_condition("Degraded", "False");
    assert!(presents(&scene, address(&scene, 0), &issued));
}

fn definitions() -> PathBuf {
    let ended = program::run(
        Command::new(repository().join("tests/tools/definitions.sh")).arg("--find"),
        Duration::from_secs(10),
    );
    assert_eq!(ended.code, Some(0), "{ended}");
    ended.stdout.trim_end().into()
}
