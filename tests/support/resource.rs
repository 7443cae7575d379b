//! A `BackupMx` as JSON: its conditions, and specs that differ in a few fields.

use serde_json::Value;

/// The condition of this type; null if there is none.
pub fn condition<'a>(mx: &'a Value, kind: &str) -> &'a Value {
    let conditions = mx["status"]["conditions"].as_array();
    conditions.and_then(|all| all.iter().find(|condition| condition["type"] == kind)).unwrap_or(&Value::Null)
}

/// One document over another, as a merge patch (RFC 7396) does it.
pub fn merged(mut target: Value, changes: Value) -> Value {
    match (target.as_object_mut(), changes) {
        (Some(object), Value::Object(changes)) => {
            for (key, change) in changes {
                let before = object.remove(&key).unwrap_or_default();
                if !change.is_null() {
                    object.insert(key, merged(before, change));
                }
            }
            target
        }
        (_, changes) => changes,
    }
}
