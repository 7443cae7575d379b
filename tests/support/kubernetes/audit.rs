//! The API server's audit log: who wrote what.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

use serde_json::Value;

/// All that may change something, once it is answered. Reads would be a hundred times as many; metrics count them.
pub(super) const POLICY: &str = "apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted, Panic]
rules:
- {level: None, verbs: [get, list, watch]}
- {level: Metadata}
";

/// A place in the audit log.
#[derive(Clone, Copy, Debug)]
pub struct Mark(pub(super) u64);

/// A request that may have changed something.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Write {
    /// `create`, `update`, `patch`, `delete` or `deletecollection`. A server-side apply is a patch.
    pub verb: String,
    /// For instance `statefulsets`.
    pub resource: String,
    /// For instance `status`; empty if none.
    pub subresource: String,
    /// Empty if it is not in one.
    pub namespace: String,
    /// Empty if the request is about many.
    pub name: String,
    /// `system:serviceaccount:NAMESPACE:NAME` for a service account.
    pub user: String,
    /// What the client calls itself.
    pub user_agent: String,
    /// HTTP status code.
    pub status: u16,
}

/// What was written behind a mark. The API server logs before it answers.
pub(super) fn writes_since(log: &Path, mark: Mark) -> Vec<Write> {
    // There is none before the first write.
    let Ok(mut file) = File::open(log) else { return Vec::new() };
    let mut bytes = Vec::new();
    // With the byte before: where the mark was set while a line was being written, that line is not behind it.
    let read = file.seek(SeekFrom::Start(mark.0.saturating_sub(1))).and_then(|_| file.read_to_end(&mut bytes));
    read.unwrap_or_else(|error| panic!("read {}: {error}", log.display()));
    let text = String::from_utf8_lossy(&bytes);
    let whole = if mark.0 == 0 { &text } else { text.split_once('\n').map_or("", |(_, behind)| behind) };
    // The last line may be one that is being written.
    whole.split_inclusive('\n').filter(|line| line.ends_with('\n')).map(write).collect()
}

fn write(line: &str) -> Write {
    let event: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("audit log: {error}: {line}"));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let object = &event["objectRef"];
    Write {
        verb: text(&event["verb"]),
        resource: text(&object["resource"]),
        subresource: text(&object["subresource"]),
        namespace: text(&object["namespace"]),
        name: text(&object["name"]),
        user: text(&event["user"]["username"]),
        user_agent: text(&event["userAgent"]),
        status: event["responseStatus"]["code"].as_u64().and_then(|code| code.try_into().ok()).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_was_being_written_when_the_mark_was_set_is_not_behind_it() {
        let line = |name: &str| format!("{{\"verb\": \"update\", \"objectRef\": {{\"name\": \"{name}\"}}}}\n");
        let log = tempfile::NamedTempFile::new().expect("a temporary file can be made");
        std::fs::write(log.path(), line("a") + &line("b") + &line("c") + "{\"verb\"").expect("it can be written");
        let length = line("a").len() as u64;
        for (mark, names) in
            [(0, vec!["a", "b", "c"]), (1, vec!["b", "c"]), (length, vec!["b", "c"]), (length + 1, vec!["c"])]
        {
            let found: Vec<_> = writes_since(log.path(), Mark(mark)).into_iter().map(|write| write.name).collect();
            assert_eq!(found, names, "from {mark} on");
        }
    }
}
