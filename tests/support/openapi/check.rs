//! Whether an answer is as the description has it.

use serde_json::Value;

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

/// Knows the words that [`super::generated`] uses, and no other.
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
