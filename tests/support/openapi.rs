//! The description of the admin API (OpenAPI 3.1): generated from the relay's list of calls and the source of its contract,
//! and a check that an answer is as described.
//!
//! The contract crate may depend on serde alone, so its shapes are read from its source: fields, their types, and the
//! words above them.

mod check;
mod contract;

use std::collections::BTreeMap;

use backupmx_relay::admin::calls::{Answer, Body, CALLS, Call, Parameter, Shape};
use backupmx_relay_api::admin::{LIMIT_DEFAULT, LIMIT_MAX};
use serde_json::{Map, Value, json};

pub use check::check;
use contract::schemas;

/// What the relay and docs/openapi.json should say.
pub fn generated() -> Value {
    let mut paths = BTreeMap::<_, Map<_, _>>::new();
    for call in CALLS {
        let verb = format!("{:?}", call.verb).to_lowercase();
        let twice = paths.entry(call.path).or_default().insert(verb, operation(call));
        assert!(twice.is_none(), "{} stands twice in the list", call.path);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "BackupMx relay, admin API",
            "description": "Orders to a relay, on its console port. Every order leaves one line in the log.",
            "version": "1",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "http://127.0.0.1:8025", "description": "A relay as it is started by hand" }],
        "security": [{ "token": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "token": { "type": "http", "scheme": "bearer", "description": "The token of the admin-token file." },
            },
            "schemas": needed(&schemas(), &json!(paths)),
        },
    })
}

fn operation(call: &Call) -> Value {
    let id = json!({ "name": "id", "in": "path", "required": true, "description": "The message's id.", "schema": { "type": "string", "pattern": "^[0-7][0-9A-HJKMNP-TV-Z]{25}$" } });
    let in_path = call.path.contains("{id}").then_some(id);
    let parameters: Vec<_> = in_path.into_iter().chain(call.parameters.iter().map(parameter)).collect();
    let mut operation = json!({
        "operationId": lower_first(&format!("{:?}", call.operation)),
        "summary": call.does,
        "responses": responses(call),
    });
    if !parameters.is_empty() {
        operation["parameters"] = json!(parameters);
    }
    match call.body {
        Body::None => {}
        Body::Needed(name) => operation["requestBody"] = json!({ "required": true, "content": of_document(name) }),
        Body::Possible(name) => operation["requestBody"] = json!({ "content": of_document(name) }),
    }
    operation
}

fn parameter(parameter: &Parameter) -> Value {
    let Parameter { name, says, shape, is_required } = parameter;
    let schema = match shape {
        Shape::Text => json!({ "type": "string" }),
        Shape::Limit => json!({ "type": "integer", "minimum": 1, "maximum": LIMIT_MAX, "default": LIMIT_DEFAULT }),
        Shape::OneOf(name) => reference(name),
    };
    json!({ "name": name, "in": "query", "required": is_required, "description": says, "schema": schema })
}

fn responses(call: &Call) -> Value {
    let content = match call.answer {
        Answer::Document(name) => of_document(name),
        Answer::Mail => json!({ "message/rfc822": {} }),
        Answer::Description => json!({ "application/json": { "schema": { "type": "object" } } }),
    };
    let mut responses = BTreeMap::from([("200".to_owned(), json!({ "description": "Done.", "content": content }))]);
    for code in call.problems.iter().chain(&[401]) {
        let content = json!({ "application/problem+json": { "schema": reference("Problem") } });
        responses.insert(code.to_string(), json!({ "description": meaning(*code), "content": content }));
    }
    json!(responses)
}

fn meaning(code: u16) -> &'static str {
    match code {
        400 => "Something asked for cannot be read.",
        401 => "The token is missing or wrong.",
        404 => "The message is not here, or closed.",
        409 => "The message is being handed over just now: ask again.",
        413 => "The body is too long.",
        422 => "The order is readable, and not understood.",
        428 => "The confirmation is missing.",
        500 => "Stored bytes are damaged.",
        503 => "The disk says no at present.",
        _ => panic!("say here what {code} means"),
    }
}

fn of_document(name: &str) -> Value {
    json!({ "application/json": { "schema": reference(name) } })
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// Those that are referred to, directly or not.
fn needed(all: &BTreeMap<String, Value>, from: &Value) -> BTreeMap<String, Value> {
    let mut needed = BTreeMap::new();
    let mut open = references(from);
    while let Some(name) = open.pop() {
        let schema = all.get(&name).unwrap_or_else(|| panic!("the contract has no {name}"));
        if needed.insert(name, schema.clone()).is_none() {
            open.extend(references(schema));
        }
    }
    needed
}

fn references(value: &Value) -> Vec<String> {
    match value {
        Value::Object(map) => {
            let here = map.get("$ref").and_then(Value::as_str).and_then(|path| path.rsplit('/').next());
            here.map(str::to_owned).into_iter().chain(map.values().flat_map(references)).collect()
        }
        Value::Array(items) => items.iter().flat_map(references).collect(),
        _ => Vec::new(),
    }
}

fn lower_first(name: &str) -> String {
    let (head, tail) = name.split_at(1);
    head.to_lowercase() + tail
}
