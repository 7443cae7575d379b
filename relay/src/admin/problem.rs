//! What a caller did wrong, or what stands in the way: a problem document (RFC 9457). No I/O.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use backupmx_relay_api::admin;

use crate::{foreign::shown, mail::id::MessageId};

/// An answer that is no yes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    status: StatusCode,
    detail: String,
}

impl Problem {
    /// `detail`: what a person can do about it.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into() }
    }

    /// A parameter of the address is not as it should be.
    pub fn parameter(name: &str, wants: impl AsRef<str>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, format!("The parameter {name} must be {}.", wants.as_ref()))
    }

    /// A value in an order is not as it should be.
    pub fn value(name: &str, wants: impl AsRef<str>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, format!("{name} must be {}.", wants.as_ref()))
    }

    /// What should name a message does not.
    pub fn bad_id(text: &str) -> Self {
        let detail = format!("{} is no message id: 26 characters of 0-9 and A-Z without I, L, O, U.", shown(text));
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// Nobody knows this message.
    pub fn unknown(id: MessageId) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("The message {id} is not here, or everybody in it has an end."))
    }

    /// A delivery or another order has the message.
    pub fn busy(id: MessageId) -> Self {
        Self::new(StatusCode::CONFLICT, format!("{id} is being handed over just now; ask again."))
    }

    /// The disk said no.
    pub fn not_kept() -> Self {
        let detail = "It could not be recorded, so nothing is promised; the log says why. Ask again.";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    }

    /// For the log.
    pub fn code(&self) -> u16 {
        self.status.as_u16()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Self { status, detail } = self;
        let title = status.canonical_reason().unwrap_or_default().to_owned();
        let body = admin::Problem { kind: "about:blank".into(), title, status: status.as_u16(), detail };
        let mut response = (status, Json(body)).into_response();
        let kind = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }
}
