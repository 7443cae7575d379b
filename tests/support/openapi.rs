//! The description of the admin API (OpenAPI 3.1): generated from the relay's list of calls and the source of its contract,
//! and a check that an answer is as described.
//!
//! The contract crate may depend on serde alone, so its shapes are read from its source: fields, their types, and the
//! words above them.

use std::collections::BTreeMap;

use backupmx_relay::admin::calls::{Answer, Body, CALLS, Call, Parameter, Shape};
use backupmx_relay_api::admin::{LIMIT_DEFAULT, LIMIT_MAX};
use serde_json::{Map, Value, json};
use syn::{
    Attribute, Expr, Field, Fields, GenericArgument, Item, ItemEnum, ItemStruct, Lit, Meta, PathArguments, Type,
};

/// The contract, as far as the admin API speaks it.
const SOURCES: [&str; 2] =
    [include_str!("../../relay/api/src/admin.rs"), include_str!("../../relay/api/src/status.rs")];

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

/// A schema for each type in the contract. A name that stands twice would be ambiguous.
fn schemas() -> BTreeMap<String, Value> {
    let mut schemas = BTreeMap::new();
    for source in SOURCES {
        let file = syn::parse_file(source).expect("the contract compiles");
        for item in file.items {
            let (name, schema) = match item {
                Item::Struct(item) => (item.ident.to_string(), object(&item)),
                Item::Enum(item) => (item.ident.to_string(), enumeration(&item)),
                _ => continue,
            };
            let twice = schemas.insert(name.clone(), schema);
            assert!(twice.is_none(), "the contract has two types of the name {name}");
        }
    }
    schemas
}

fn object(item: &ItemStruct) -> Value {
    let Fields::Named(fields) = &item.fields else { panic!("{} has fields without names", item.ident) };
    let is_camel = serde(&item.attrs).iter().any(|said| said.contains("camelCase"));
    let (mut properties, mut required) = (Map::new(), Vec::new());
    for field in &fields.named {
        let (name, schema, is_needed) = property(field, is_camel);
        if is_needed {
            required.push(name.clone());
        }
        properties.insert(name, schema);
    }
    json!({
        "type": "object",
        "description": words(&item.attrs),
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

/// Its name, its schema, and whether it is always there.
fn property(field: &Field, is_camel: bool) -> (String, Value, bool) {
    let said = serde(&field.attrs);
    let renamed = said.iter().find_map(|said| said.strip_prefix("rename = \"")?.strip_suffix('"').map(str::to_owned));
    let name = field.ident.as_ref().expect("it has a name").to_string();
    let name = renamed.unwrap_or_else(|| if is_camel { camel(&name) } else { name });
    let mut schema = of_type(&field.ty);
    schema["description"] = words(&field.attrs).into();
    (name, schema, !said.iter().any(|said| said == "default"))
}

fn enumeration(item: &ItemEnum) -> Value {
    let is_camel = serde(&item.attrs).iter().any(|said| said.contains("camelCase"));
    let variant = |name: String| if is_camel { lower_first(&name) } else { name };
    let variants: Vec<_> = item
        .variants
        .iter()
        .map(|one| {
            assert!(matches!(one.fields, Fields::Unit), "{} holds more than a word", one.ident);
            (variant(one.ident.to_string()), words(&one.attrs))
        })
        .collect();
    let meanings: Vec<_> = variants.iter().map(|(name, words)| format!("{name}: {words}")).collect();
    let names: Vec<_> = variants.iter().map(|(name, _)| name).collect();
    json!({ "type": "string", "description": format!("{} {}", words(&item.attrs), meanings.join(" ")), "enum": names })
}

fn of_type(of: &Type) -> Value {
    let Type::Path(path) = of else { panic!("no schema for such a type") };
    let last = path.path.segments.last().expect("a path has an end");
    let inner = || match &last.arguments {
        PathArguments::AngleBracketed(arguments) => match arguments.args.first() {
            Some(GenericArgument::Type(inner)) => of_type(inner),
            _ => panic!("{} of what?", last.ident),
        },
        _ => panic!("{} of what?", last.ident),
    };
    match last.ident.to_string().as_str() {
        "String" => json!({ "type": "string" }),
        "bool" => json!({ "type": "boolean" }),
        "f64" => json!({ "type": "number" }),
        "i64" => json!({ "type": "integer" }),
        "u64" | "u32" | "u16" => json!({ "type": "integer", "minimum": 0 }),
        "Vec" => json!({ "type": "array", "items": inner() }),
        "Option" => json!({ "anyOf": [inner(), { "type": "null" }] }),
        name => reference(name),
    }
}

/// The words above an item.
fn words(attributes: &[Attribute]) -> String {
    let line = |attribute: &Attribute| match &attribute.meta {
        Meta::NameValue(said) if said.path.is_ident("doc") => match &said.value {
            Expr::Lit(literal) => match &literal.lit {
                Lit::Str(text) => Some(text.value().trim().replace("[`", "`").replace("`]", "`")),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    };
    attributes.iter().filter_map(line).collect::<Vec<_>>().join(" ")
}

/// What serde is told, each piece as it is written: `default`, `rename = "type"`.
fn serde(attributes: &[Attribute]) -> Vec<String> {
    let mut said = Vec::new();
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("serde")) {
        let read = attribute.parse_nested_meta(|meta| {
            let name = meta.path.get_ident().expect("serde's words are simple").to_string();
            let value = meta.value().and_then(|value| value.parse::<syn::LitStr>());
            said.push(value.map_or_else(|_| name.clone(), |value| format!("{name} = \"{}\"", value.value())));
            Ok(())
        });
        read.expect("serde understands its attributes");
    }
    said
}

fn camel(name: &str) -> String {
    let mut parts = name.split('_');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |name, part| {
        let (head, tail) = part.split_at(1);
        name + &head.to_uppercase() + tail
    })
}

fn lower_first(name: &str) -> String {
    let (head, tail) = name.split_at(1);
    head.to_lowercase() + tail
}

/// Whether an answer is one that the description has for this call, to the last key.
pub fn check(description: &Value, verb: &str, path: &str, code: u16, kind: &str, body: &str) -> Result<(), String> {
    let path = path.split('?').next().unwrap_or_default();
    let operation = described(description, verb, path).ok_or(format!("{verb} {path} is not described"))?;
    let answer = &operation["responses"][code.to_string()];
    if answer.is_null() {
        return Err(format!("{verb} {path}: an answer {code} is not described"));
    }
    let content = &answer["content"][kind];
    if content.is_null() {
        return Err(format!("{verb} {path}: an answer {code} of the kind {kind} is not described"));
    }
    let schema = &content["schema"];
    if schema.is_null() {
        return Ok(()); // mail
    }
    let body: Value = serde_json::from_str(body).map_err(|error| format!("{verb} {path}: no JSON: {error}"))?;
    fits(description, schema, &body, "").map_err(|what| format!("{verb} {path}: {what}\nin {body:#}"))
}

/// The operation; a path of fixed parts goes before one with an id.
fn described<'a>(description: &'a Value, verb: &str, path: &str) -> Option<&'a Value> {
    let paths = description["paths"].as_object()?;
    let is_meant = |template: &str| {
        let (wanted, given): (Vec<_>, Vec<_>) = (template.split('/').collect(), path.split('/').collect());
        wanted.len() == given.len() && wanted.iter().zip(given).all(|(want, give)| *want == give || *want == "{id}")
    };
    let exact = paths.get(path).into_iter();
    let mut all =
        exact.chain(paths.iter().filter(|(template, _)| is_meant(template)).map(|(_, operations)| operations));
    all.find_map(|operations| operations.get(verb))
}

/// Knows the words that [`generated`] uses, and no other.
fn fits(description: &Value, schema: &Value, value: &Value, place: &str) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("at '{place}': {what}"));
    for (word, says) in schema.as_object().expect("a schema is an object") {
        match word.as_str() {
            "description" | "required" | "additionalProperties" => {}
            "$ref" => {
                let name = says.as_str().and_then(|path| path.rsplit('/').next()).unwrap_or_default();
                fits(description, &description["components"]["schemas"][name], value, place)?;
            }
            "type" => {
                let is_so = match says.as_str().unwrap_or_default() {
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    "string" => value.is_string(),
                    "boolean" => value.is_boolean(),
                    "integer" => value.is_i64() || value.is_u64(),
                    "number" => value.is_number(),
                    "null" => value.is_null(),
                    other => panic!("what is a {other}?"),
                };
                if !is_so {
                    return wrong(&format!("no {says}: {value}"));
                }
            }
            "minimum" if value.as_f64() < says.as_f64() => return wrong(&format!("{value} is less than {says}")),
            "minimum" => {}
            "enum" if !says.as_array().is_some_and(|all| all.contains(value)) => {
                return wrong(&format!("{value} is none of {says}"));
            }
            "enum" => {}
            "items" => {
                for (at, item) in value.as_array().into_iter().flatten().enumerate() {
                    fits(description, says, item, &format!("{place}/{at}"))?;
                }
            }
            "anyOf" => {
                let all: Vec<_> = says.as_array().into_iter().flatten().collect();
                if !all.iter().any(|one| fits(description, one, value, place).is_ok()) {
                    return wrong(&format!("fits none of {says}: {value}"));
                }
            }
            "properties" => {
                let (known, given) = (says.as_object().expect("they are"), value.as_object());
                for (name, value) in given.into_iter().flatten() {
                    let schema = known.get(name).ok_or(format!("at '{place}': {name} is not described"))?;
                    fits(description, schema, value, &format!("{place}/{name}"))?;
                }
                let required = schema["required"].as_array().into_iter().flatten();
                let is_there = |name: &&Value| value.get(name.as_str().unwrap_or_default()).is_some();
                if let Some(name) = required.into_iter().find(|name| !is_there(name)) {
                    return wrong(&format!("{name} is missing"));
                }
            }
            other => panic!("this check does not know the word {other}"),
        }
    }
    Ok(())
}
