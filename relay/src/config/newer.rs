//! Which keys of a document this program does not know. Asked only where a newer program has written it. No I/O.

use std::time::Duration;

use backupmx_relay_api::{
    config::{Document, Host, Maintenance, PassThrough, Primary, PrimaryTls, Probe},
    quantity::Span,
};
use serde_json::{Value, to_value};

/// Takes them out. Returns their paths: `limits.mood`, `primary.hosts[0].priority`.
pub fn take_out_unknown(document: &mut Value) -> Vec<String> {
    let mut unknown = Vec::new();
    if let Ok(known) = to_value(everything()) {
        compare(document, &known, "", &mut unknown);
    }
    unknown
}

/// `known`: an object has all keys that there are, and a list that has keys to compare an example.
fn compare(value: &mut Value, known: &Value, path: &str, unknown: &mut Vec<String>) {
    match (value, known) {
        (Value::Object(value), Value::Object(known)) => value.retain(|key, inner| {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            match known.get(key) {
                Some(known) => compare(inner, known, &path, unknown),
                None => unknown.push(path),
            }
            known.contains_key(key)
        }),
        (Value::Array(values), Value::Array(known)) => {
            let example = known.first().unwrap_or(&Value::Null);
            for (place, value) in values.iter_mut().enumerate() {
                compare(value, example, &format!("{path}[{place}]"), unknown);
            }
        }
        _ => {} // whether the value is of the right kind is said when it is read
    }
}

/// A document in which no key is absent. Whatever may be absent is named here one by one, so that a new key cannot be
/// forgotten.
fn everything() -> Document {
    let Primary { hosts: _, tls, probe, delivery, breaker, maintenance: _ } = Primary::default();
    let PrimaryTls { mode, server_name: _, ca_file: _, remember_starttls } = tls;
    let Probe {
        interval,
        interval_while_queued,
        interval_while_refusing_max,
        connect_timeout,
        timeout,
        failure_threshold,
        success_threshold,
        depth,
        recipient: _,
        slow_after,
        renew_for_client_after,
    } = probe;
    let text = || Some(String::new());
    let primary = Primary {
        hosts: vec![Host { host: String::new(), port: 0, xclient: true }],
        tls: PrimaryTls { mode, server_name: text(), ca_file: text(), remember_starttls },
        probe: Probe {
            interval,
            interval_while_queued,
            interval_while_refusing_max,
            connect_timeout,
            timeout,
            failure_threshold,
            success_threshold,
            depth,
            recipient: text(),
            slow_after,
            renew_for_client_after,
        },
        delivery,
        breaker,
        maintenance: Some(Maintenance { from: text(), until: text() }),
    };
    // What is as by default is absent, too.
    let pass_through = PassThrough { stall: Span(Duration::ZERO), ..PassThrough::default() };
    Document { primary, pass_through, ..Document::default() }
}
