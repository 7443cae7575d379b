//! What the API server judges by itself: bounds and CEL rules, put into the schema of a field or of an object. No I/O.
//!
//! Each rule has a sentence that says what to write instead. What a text may look like is a rule and no `pattern`, because
//! the API server would show the pattern and not the sentence. A rule that reads a text checks its form first: `&&` keeps
//! the rest from failing with an error of its own.

use backupmx_relay_api::quantity::{Bytes, Span};
use schemars::Schema;
use serde_json::{Value, json};

const VALIDATIONS: &str = "x-kubernetes-validations";
/// Labels of a DNS name in mail: underscores occur, a dot at the end does not.
const NAME: &str = r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*";
/// The same with characters outside ASCII.
const WIDE_NAME: &str = r"[A-Za-z0-9_\x{80}-\x{10FFFF}-]+(\.[A-Za-z0-9_\x{80}-\x{10FFFF}-]+)*";
/// As RFC 5321 section 4.1.2 has it, without quotes.
const LOCAL_PART: &str = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.\x{80}-\x{10FFFF}-]{1,255}";
/// CEL's own durations know no days. So many digits that the sum stays within its 292 years.
const SPAN: &str = "^([0-9]{1,6}h)?([0-9]{1,8}m)?([0-9]{1,9}s)?([0-9]{1,11}ms)?$";
const DAYS: &str = "^[0-9]{1,4}d$";
const DAY_MS: u128 = 24 * 60 * 60 * 1000;
const BYTES: &str = "^[0-9]{1,13}(Ki|Mi|Gi|Ti|k|M|G|T)?$";
const TIME: &str = r"^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$";

/// Any rule.
pub fn rule(expression: impl Into<String>, message: impl Into<String>) -> impl FnMut(&mut Schema) {
    let (expression, message) = (expression.into(), message.into());
    move |schema| {
        let rules = schema.ensure_object().entry(VALIDATIONS).or_insert_with(|| json!([]));
        if let Value::Array(rules) = rules {
            rules.push(json!({ "rule": expression, "message": message }));
        }
    }
}

/// A rule for each item of a list.
pub fn each(mut rule: impl FnMut(&mut Schema)) -> impl FnMut(&mut Schema) {
    move |schema| {
        if let Some(items) = schema.get_mut("items")
            && let Ok(items) = items.try_into()
        {
            rule(items);
        }
    }
}

/// A list in which nothing stands twice, so that two writers of it do not take each other's items away.
pub fn set(schema: &mut Schema) {
    schema.insert("x-kubernetes-list-type".into(), "set".into());
}

/// A list whose items are known by these keys.
pub fn map(keys: &'static [&'static str]) -> impl FnMut(&mut Schema) {
    move |schema| {
        schema.insert("x-kubernetes-list-type".into(), "map".into());
        schema.insert("x-kubernetes-list-map-keys".into(), json!(keys));
    }
}

/// Fields that are always there.
pub fn required(fields: &'static [&'static str]) -> impl FnMut(&mut Schema) {
    move |schema| {
        schema.insert("required".into(), json!(fields));
    }
}

/// At most so many entries, each of at most so many bytes.
pub fn entries_max(count: u32, value_bytes: u32) -> impl FnMut(&mut Schema) {
    move |schema| {
        schema.insert("maxProperties".into(), count.into());
        schema.insert("additionalProperties".into(), json!({ "type": "string", "maxLength": value_bytes }));
    }
}

/// One of these texts.
pub fn one_of(values: &'static [&'static str]) -> impl FnMut(&mut Schema) {
    move |schema| {
        schema.insert("enum".into(), json!(values));
    }
}

/// A duration within bounds, both included. Days stand alone: cutting a text apart would exceed what a rule may cost.
pub fn span(least: &'static str, most: &'static str) -> impl FnMut(&mut Schema) {
    move |schema| {
        let bound_ms = |text: &str| text.parse().map_or(0, |Span(duration)| duration.as_millis());
        let (least_ms, most_ms) = (bound_ms(least), bound_ms(most));
        let (least_days, most_days) = (least_ms.div_ceil(DAY_MS), most_ms / DAY_MS);
        let expression = format!(
            "self.matches('{DAYS}') ? int(self.replace('d', '')) >= {least_days} && int(self.replace('d', '')) <= {most_days} \
             : self != '' && self.matches('{SPAN}') && duration(self) >= duration('{least_ms}ms') && duration(self) <= duration('{most_ms}ms')"
        );
        let message =
            format!("write a duration from {least} to {most}, such as 500ms, 30s, 10m, 1h30m or 30d (not 1d12h: 36h)");
        schema.insert("maxLength".into(), 32.into());
        rule(expression, message)(schema);
    }
}

/// A number of bytes within bounds, both included.
pub fn bytes(least: &'static str, most: &'static str) -> impl FnMut(&mut Schema) {
    move |schema| {
        debug_assert!(least.parse::<Bytes>().is_ok() && most.parse::<Bytes>().is_ok());
        let expression = format!(
            "self.matches('{BYTES}') && quantity(self).compareTo(quantity('{least}')) >= 0 && quantity(self).compareTo(quantity('{most}')) <= 0"
        );
        let message = format!("write a number of bytes from {least} to {most}, such as 65536, 64Ki, 50Mi or 1Gi");
        schema.insert("maxLength".into(), 16.into());
        rule(expression, message)(schema);
    }
}

/// A DNS name in ASCII.
pub fn host_name(schema: &mut Schema) {
    schema.insert("maxLength".into(), 253.into());
    rule(
        format!("self.matches(r'^{NAME}$')"),
        "write a host name such as mx2.example.org: letters, digits and hyphens between dots, no dot at the end",
    )(schema);
}

/// A DNS name in ASCII, or an address.
pub fn host_name_or_address(schema: &mut Schema) {
    schema.insert("maxLength".into(), 253.into());
    rule(
        format!(r"isIP(self) || self.matches(r'^{NAME}\.?$')"),
        "write a host name or an IP address alone, such as mx1.example.org, 192.0.2.1 or 2001:db8::1; a port goes into port",
    )(schema);
}

/// A mail domain, or all below one.
pub fn mail_domain(schema: &mut Schema) {
    schema.insert("maxLength".into(), 253.into());
    rule(
        format!(r"self.matches(r'^(\*\.)?{WIDE_NAME}$')"),
        "write a domain such as example.org, or *.example.org for all below it",
    )(schema);
}

/// A mail address.
pub fn mail_address(schema: &mut Schema) {
    schema.insert("maxLength".into(), 320.into());
    rule(
        format!(r#"self.matches(r"^{LOCAL_PART}@{WIDE_NAME}$")"#),
        "write an address such as postmaster@example.org, without a name or angle brackets",
    )(schema);
}

/// An address, or an address with the length of a prefix.
pub fn network(schema: &mut Schema) {
    schema.insert("maxLength".into(), 49.into());
    rule("isCIDR(self) || isIP(self)", "write a network such as 10.0.0.0/8 or 2001:db8::/32, or one address")(schema);
}

/// A moment, as RFC 3339 writes it.
pub fn time(schema: &mut Schema) {
    schema.insert("maxLength".into(), 40.into());
    rule(format!("self.matches(r'{TIME}')"), "write a time such as 2026-12-24T22:00:00Z or 2026-12-24T23:00:00+01:00")(
        schema,
    );
}

/// Of two times of an object: the first is before the second. What is no time has been told by [`time`].
pub fn in_order(first: &'static str, second: &'static str) -> impl FnMut(&mut Schema) {
    rule(
        format!(
            "!has(self.{first}) || !has(self.{second}) || !self.{first}.matches(r'{TIME}') || !self.{second}.matches(r'{TIME}') || timestamp(self.{first}) < timestamp(self.{second})"
        ),
        format!("{second} has to be after {first}: write a later time, or leave {second} out"),
    )
}

/// A Kubernetes quantity of bytes that is more than nothing.
pub fn quantity(schema: &mut Schema) {
    schema.insert("maxLength".into(), 20.into());
    rule(
        "isQuantity(self) && quantity(self).isGreaterThan(quantity('0'))",
        "write an amount of storage such as 20Gi or 1Ti",
    )(schema);
}

/// The name of another object.
pub fn object_name(kind: &'static str) -> impl FnMut(&mut Schema) {
    move |schema| {
        schema.insert("maxLength".into(), 253.into());
        rule(
            "self.matches('^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$')",
            format!("write the name of the {kind}: lower-case letters, digits, hyphens and dots"),
        )(schema);
    }
}

/// Labels or annotations beside ours.
pub fn not_ours(schema: &mut Schema) {
    rule(
        "self.all(key, !key.startsWith('backupmx.io/') && !key.startsWith('app.kubernetes.io/'))",
        "choose other keys: backupmx.io/ and app.kubernetes.io/ belong to the operator, which finds its objects by them",
    )(schema);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_one_field_stand_beside_each_other() {
        let mut schema = schemars::json_schema!({ "type": "string" });
        rule("self != ''", "write something")(&mut schema);
        rule("self != 'x'", "write something else")(&mut schema);
        assert_eq!(
            schema.to_value(),
            json!({
                "type": "string",
                "x-kubernetes-validations": [
                    { "rule": "self != ''", "message": "write something" },
                    { "rule": "self != 'x'", "message": "write something else" },
                ],
            })
        );
    }

    #[test]
    fn a_rule_for_items_stands_at_the_items() {
        let mut schema = schemars::json_schema!({ "type": "array", "items": { "type": "string" } });
        each(network)(&mut schema);
        let items = &schema.to_value()["items"];
        assert_eq!(items["maxLength"], 49);
        assert_eq!(items[VALIDATIONS][0]["rule"], "isCIDR(self) || isIP(self)");
    }
}
