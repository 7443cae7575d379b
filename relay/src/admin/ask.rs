//! Reads what a caller asks: ids, parameters, bodies, words. Everything is checked here and nowhere else. No I/O.

use axum::{
    body::Bytes,
    extract::{
        Path,
        rejection::{BytesRejection, PathRejection},
    },
    http::StatusCode,
};
use backupmx_relay_api::admin::{
    AUTHOR_CHARS_MAX, AUTHOR_DEFAULT, BODY_BYTES_MAX, HeldReason, HoldOrder, LIMIT_DEFAULT, LIMIT_MAX, Order,
    REASON_CHARS_MAX, State,
};
use serde::de::DeserializeOwned;
use serde_json::error::Category;

use super::{document, problem::Problem};
use crate::{
    foreign::shown,
    mail::id::MessageId,
    spool::search::{Cursor, Query},
};

/// The longest text that is searched for: an address has 254 characters at most (RFC 5321 section 4.5.3.1.3).
const QUERY_CHARS_MAX: usize = 320;

/// The message that an address names.
pub fn id(part: Result<Path<String>, PathRejection>) -> Result<MessageId, Problem> {
    let Ok(Path(text)) = part else { return Err(Problem::bad_id("What stands there")) };
    text.parse().map_err(|_| Problem::bad_id(&text))
}

/// The parameters of an address, in the order of `known`; empty counts as absent. Others, and two of a name, are refused.
pub fn parameters<const N: usize>(query: Option<&str>, known: [&str; N]) -> Result<[Option<String>; N], Problem> {
    let mut found = [const { None }; N];
    for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        let place = known.iter().position(|known| *known == name);
        let place = place.filter(|place| found[*place].is_none()).ok_or_else(|| {
            let detail = format!(
                "There is no parameter {}, or it stands twice; there are: {}.",
                shown(&*name),
                known.join(", ")
            );
            Problem::new(StatusCode::BAD_REQUEST, detail)
        })?;
        found[place] = Some(value.into_owned());
    }
    Ok(found.map(|value| value.filter(|value| !value.is_empty())))
}

/// A value of a fixed set, as the documents write it.
pub fn one_of<T: DeserializeOwned>(name: &str, value: Option<String>, wants: &str) -> Result<Option<T>, Problem> {
    let read = |text: String| serde_json::from_value(text.into()).map_err(|_| Problem::parameter(name, wants));
    value.map(read).transpose()
}

/// How many messages an answer holds at most.
pub fn limit(value: Option<String>) -> Result<usize, Problem> {
    let Some(text) = value else { return Ok(LIMIT_DEFAULT) };
    let limit = text.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
    limit.ok_or_else(|| Problem::parameter("limit", format!("a number from 1 to {LIMIT_MAX}")))
}

/// Where to go on.
pub fn cursor(value: Option<&str>) -> Result<Cursor, Problem> {
    let Some(text) = value else { return Ok(Cursor::default()) };
    let detail = "The cursor is none that this version gave; begin anew without one.";
    text.parse().map_err(|_| Problem::new(StatusCode::BAD_REQUEST, detail))
}

/// What a search is to find. Closed messages are not searched.
pub fn query(part: String, state: Option<State>, reason: Option<HeldReason>) -> Result<Query, Problem> {
    if part.chars().count() > QUERY_CHARS_MAX {
        return Err(Problem::parameter("query", format!("{QUERY_CHARS_MAX} characters at most")));
    }
    let is_held = match state {
        None => None,
        Some(State::Waiting) => Some(false),
        Some(State::Held) => Some(true),
        Some(State::Closed) => return Err(Problem::parameter("state", "waiting or held")),
    };
    Ok(Query { part, is_held, reason: reason.map(document::spool_reason) })
}

/// A JSON document.
pub fn body<T: DeserializeOwned>(body: Result<Bytes, BytesRejection>) -> Result<T, Problem> {
    parsed(&bytes(body)?)
}

/// A JSON document, or nothing.
pub fn body_if_any<T: DeserializeOwned + Default>(body: Result<Bytes, BytesRejection>) -> Result<T, Problem> {
    let bytes = bytes(body)?;
    if bytes.is_empty() { Ok(T::default()) } else { parsed(&bytes) }
}

fn bytes(body: Result<Bytes, BytesRejection>) -> Result<Bytes, Problem> {
    body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, format!("An order has {BODY_BYTES_MAX} bytes at most."))
        }
        _ => Problem::new(StatusCode::BAD_REQUEST, "The body did not come to its end."),
    })
}

fn parsed<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let value: serde_json::Value = serde_json::from_slice(bytes).map_err(not_understood)?;
    if !value.is_object() {
        let detail = "The order is not understood: it must be a JSON object.";
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail));
    }
    // From the text, not from the value: so that what is wrong in it has its place.
    serde_json::from_slice(bytes).map_err(not_understood)
}

fn not_understood(cause: serde_json::Error) -> Problem {
    let (status, what) = match cause.classify() {
        Category::Data => (StatusCode::UNPROCESSABLE_ENTITY, "The order is not understood"),
        Category::Io | Category::Syntax | Category::Eof => (StatusCode::BAD_REQUEST, "The body is no JSON document"),
    };
    Problem::new(status, format!("{what}: {}.", shown(cause.to_string())))
}

/// Who wants something, and why: checked, and fit for one line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Words {
    /// Who.
    pub author: String,
    /// Why; may be empty where nobody must say.
    pub reason: String,
}

impl Words {
    /// Of an order that must say why.
    pub fn of_hold(HoldOrder { reason, author }: HoldOrder) -> Result<Self, Problem> {
        Self::of(Order { reason: Some(reason), author })?.with_reason()
    }

    /// Of any other.
    pub fn of(Order { reason, author }: Order) -> Result<Self, Problem> {
        let author = author.filter(|author| !author.is_empty()).unwrap_or_else(|| AUTHOR_DEFAULT.to_owned());
        let reason = reason.unwrap_or_default();
        let is_fit =
            |text: &str, chars_max: usize| text.chars().count() <= chars_max && !text.chars().any(char::is_control);
        if !is_fit(&author, AUTHOR_CHARS_MAX) {
            return Err(Problem::value("author", format!("{AUTHOR_CHARS_MAX} characters at most, on one line")));
        }
        if !is_fit(&reason, REASON_CHARS_MAX) {
            return Err(Problem::value("reason", format!("{REASON_CHARS_MAX} characters at most, on one line")));
        }
        Ok(Self { author, reason })
    }

    /// The same, if it says why.
    pub fn with_reason(self) -> Result<Self, Problem> {
        if self.reason.trim().is_empty() { Err(Problem::value("reason", "given: why is it held?")) } else { Ok(self) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_known_and_stand_once_and_empty_ones_are_absent() {
        let parsed = parameters(Some("query=a%40b&limit=&state=held"), ["state", "query", "limit"]).unwrap();
        assert_eq!(parsed, [Some("held".into()), Some("a@b".into()), None]);
        assert_eq!(parameters(None, ["query"]).unwrap(), [None]);
        for query in ["x=1", "query=1&query=2", "Query=1", "=", "a"] {
            assert_eq!(parameters(Some(query), ["query"]).unwrap_err().code(), 400, "{query}");
        }
    }

    #[test]
    fn a_limit_is_a_number_within_its_bounds() {
        assert_eq!((limit(None).unwrap(), limit(Some("1".into())).unwrap()), (100, 1));
        assert_eq!(limit(Some("1000".into())).unwrap(), 1000);
        for text in ["0", "1001", "-1", "x", "1.5", " 1", "99999999999999999999"] {
            assert!(limit(Some(text.into())).is_err(), "{text}");
        }
    }

    #[test]
    fn words_fit_one_line_and_a_hold_says_why() {
        let order = |reason: &str, author: &str| Order { reason: Some(reason.into()), author: Some(author.into()) };
        let words = Words::of(order("", "")).unwrap();
        assert_eq!(words, Words { author: "admin".into(), reason: String::new() });
        assert!(words.with_reason().is_err());
        assert!(Words::of(order(&"ü".repeat(500), &"ü".repeat(100))).is_ok());
        for (reason, author) in [
            ("x".repeat(501), String::new()),
            ("a\nb".into(), String::new()),
            (String::new(), "a".repeat(101)),
            (String::new(), "\u{1b}[31m".into()),
        ] {
            assert_eq!(Words::of(order(&reason, &author)).unwrap_err().code(), 422, "{reason:?} {author:?}");
        }
    }

    #[test]
    fn a_body_is_understood_whole_or_refused_with_its_place() {
        let read = |text: &'static str| body::<HoldOrder>(Ok(Bytes::from_static(text.as_bytes())));
        assert_eq!(read(r#"{"reason":"x"}"#).unwrap(), HoldOrder { reason: "x".into(), author: None });
        for (text, code) in [
            ("", 400),
            ("{", 400),
            ("[1,2]", 422),
            ("null", 422),
            (r#"["x"]"#, 422),
            (r#"{"reason":"x"} x"#, 400),
            (r#"{"reason":1}"#, 422),
            (r#"{"reason":"x","reson":"y"}"#, 422),
            (r#"{"author":"x"}"#, 422),
        ] {
            assert_eq!(read(text).unwrap_err().code(), code, "{text}");
        }
        assert_eq!(body_if_any::<Order>(Ok(Bytes::new())).unwrap(), Order::default());
    }
}
