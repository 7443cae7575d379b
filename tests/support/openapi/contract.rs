//! Schemas of the contract's types, from its source: fields, their types, and the words above them.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use syn::{
    Attribute, Expr, Field, Fields, GenericArgument, Item, ItemEnum, ItemStruct, Lit, Meta, PathArguments, Type,
};

use super::{lower_first, reference};

/// The contract, as far as the admin API speaks it.
const SOURCES: [&str; 2] =
    [include_str!("../../../relay/api/src/admin.rs"), include_str!("../../../relay/api/src/status.rs")];

/// A schema for each type in the contract. A name that stands twice would be ambiguous.
pub(super) fn schemas() -> BTreeMap<String, Value> {
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
