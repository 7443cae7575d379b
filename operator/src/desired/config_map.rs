//! The ConfigMap with the config document, which running relays read anew when it changes. Pure.

use backupmx_relay_api::{
    SCHEMA,
    config::{Document, WhenPrimaryUp},
};
use k8s_openapi::api::core::v1::ConfigMap;

use super::{Circumstances, labels};
use crate::plan::Plan;

/// The document's key, and its name as a file.
pub const FILE: &str = "relay.yaml";

/// One document for all relays.
pub fn config_map(plan: &Plan, circumstances: &Circumstances) -> ConfigMap {
    ConfigMap {
        metadata: labels::metadata(plan, labels::relay_name(&plan.name)),
        data: Some([(FILE.into(), text(&plan.document, circumstances))].into()),
        ..ConfigMap::default()
    }
}

/// The same document gives the same text, to the byte, since relays report its digest. JSON is YAML in which no text can be
/// taken for something else.
fn text(document: &Document, circumstances: &Circumstances) -> String {
    let Circumstances { schema, cordoned, replicas } = circumstances;
    // No shape is older than 1, and none that we could write is newer than ours.
    let mut document = known_to(document.clone(), (*schema).clamp(1, SCHEMA));
    document.cordoned.clone_from(cordoned);
    let delivery = &mut document.primary.delivery;
    delivery.max_connections = share(delivery.max_connections, *replicas);
    let mut text = serde_json::to_string_pretty(&document).expect("a document is JSON");
    text.push('\n');
    text
}

/// The document less all that relays of this shape cannot obey: for a key or a value that they do not know they would refuse all of it.
fn known_to(mut document: Document, schema: u32) -> Document {
    document.schema = schema;
    if schema < 2 {
        document.when_primary_up = WhenPrimaryUp::Queue;
        document.primary.hosts.iter_mut().for_each(|host| host.xclient = false);
    }
    document
}

/// The primary bears so many connections of all relays together, and no relay can do without one.
fn share(connections_max: u32, replicas: i32) -> u32 {
    let relays = u32::try_from(replicas).unwrap_or(0).max(1);
    (connections_max / relays).max(1)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::desired::example;

    fn document(config_map: &ConfigMap) -> Value {
        serde_json::from_str(&config_map.data.as_ref().unwrap()[FILE]).unwrap()
    }

    #[test]
    fn relays_get_the_document_with_all_defaults_filled_in() {
        let plan = example::plan("");
        let mut built = serde_json::to_value(config_map(&plan, &example::circumstances(&plan))).unwrap();
        let text = built["data"]["relay.yaml"].take();
        assert_eq!(
            built,
            json!({
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": example::metadata("example-relay"),
                "data": { "relay.yaml": null },
            })
        );
        assert_eq!(
            serde_json::from_str::<Value>(text.as_str().unwrap()).unwrap(),
            json!({
                "schema": 2,
                "generation": 7,
                "domains": ["example.org"],
                "hostname": "mx2.example.org",
                "primary": {
                    "hosts": [{ "host": "mx1.example.org", "port": 25 }],
                    "tls": { "mode": "Opportunistic", "rememberStarttls": "7d" },
                    "probe": {
                        "interval": "30s",
                        "intervalWhileQueued": "2s",
                        "intervalWhileRefusingMax": "30s",
                        "connectTimeout": "2s",
                        "timeout": "10s",
                        "failureThreshold": 3,
                        "successThreshold": 1,
                        "depth": "StartTls",
                        "slowAfter": "5s",
                        "renewForClientAfter": "5s",
                    },
                    "delivery": {
                        "maxConnections": 10, // of 20, for each of two
                        "maxMessagesPerConnection": 200,
                        "retryInterval": "1m",
                        "retryIntervalMax": "30m",
                        "maxRecipientsPerTransaction": 100,
                        "order": "OldestFirst",
                        "hold": false,
                        "rememberLimit": "10m",
                    },
                    "breaker": { "retestInterval": "10m", "returnWindow": "30m", "secondLookAfter": "15m" },
                },
                "whenPrimaryUp": "PassThrough",
                "recipients": { "unknown": "Accept" },
                "limits": {
                    "messageSize": "50Mi",
                    "connections": 1000,
                    "connectionsPerClient": 100,
                    "recipients": 1000,
                    "errors": 20,
                    "junkCommands": 100,
                    "commandLine": "2Ki",
                    "idleTimeout": "5m",
                    "busyTimeout": "1m",
                    "busyTimeoutBeforeMail": "10s",
                    "memory": "96Mi",
                    "freeSpace": "192Mi",
                },
                "retention": { "queue": "30d", "atExpiry": "Hold", "undeliverable": "30d" },
                "proxyProtocol": { "trusted": [] },
                "etrn": { "allowed": [] },
                "cordoned": [],
            })
        );
    }

    #[test]
    fn each_relay_gets_its_share_of_the_connections_and_at_least_one() {
        for (connections_max, replicas, each) in [(20, 1, 20), (20, 3, 6), (2, 5, 1), (20, 0, 20)] {
            assert_eq!(share(connections_max, replicas), each, "{connections_max} for {replicas}");
        }
    }

    #[test]
    fn those_who_are_to_leave_are_named_and_still_count_at_the_share() {
        let plan = example::plan("replicas: 1");
        let leaving = Circumstances { schema: SCHEMA, cordoned: vec!["example-relay-1".into()], replicas: 2 };
        let document = document(&config_map(&plan, &leaving));
        assert_eq!(document["cordoned"], json!(["example-relay-1"]));
        assert_eq!(document["primary"]["delivery"]["maxConnections"], 10);
    }

    #[test]
    fn no_shape_is_written_that_there_never_was() {
        let plan = example::plan("");
        for (known, written) in [(0, 1), (1, 1), (SCHEMA, SCHEMA), (SCHEMA + 1, SCHEMA)] {
            let circumstances = Circumstances { schema: known, ..example::circumstances(&plan) };
            assert_eq!(document(&config_map(&plan, &circumstances))["schema"], written, "known: {known}");
        }
    }

    #[test]
    fn relays_of_schema_1_get_a_document_that_they_can_obey() {
        let plan = example::full_plan();
        let of = |schema| document(&config_map(&plan, &Circumstances { schema, ..example::circumstances(&plan) }));
        let (newest, mut first) = (of(SCHEMA), of(1));
        assert_eq!((&newest["whenPrimaryUp"], &first["whenPrimaryUp"]), (&json!("PassThrough"), &json!("Queue")));
        assert_eq!(newest["primary"]["hosts"][1], json!({ "host": "192.0.2.1", "port": 2525, "xclient": true }));
        assert_eq!(first["primary"]["hosts"][1], json!({ "host": "192.0.2.1", "port": 2525 }));
        // Nothing else differs.
        for key in ["schema", "whenPrimaryUp"] {
            first[key] = newest[key].clone();
        }
        first["primary"]["hosts"][1]["xclient"] = json!(true);
        assert_eq!(first, newest);
    }

    #[test]
    fn equal_resources_give_equal_texts() {
        let texts = [(); 2].map(|()| {
            let plan = example::full_plan();
            config_map(&plan, &example::circumstances(&plan)).data
        });
        assert_eq!(texts[0], texts[1]);
    }
}
