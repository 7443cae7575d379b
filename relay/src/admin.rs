//! The admin API on the console port: always authenticated, errors as problem documents (RFC 9457).

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::Arc,
};

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use backupmx_relay_api::{
    admin::{self, Flushed, Problem},
    status::Status,
};
use uuid::Uuid;

use crate::status::Parts;

/// Name of the token file in the data folder, unless another is given.
pub const TOKEN_FILE: &str = "admin-token";
/// A token is read up to here, whatever the file holds.
const TOKEN_BYTES_MAX: u64 = 4096;
/// Shorter ones could be guessed.
const TOKEN_BYTES_MIN: usize = 16;

/// The calls. All of them ask for the token, also for what does not exist.
pub fn router(parts: Arc<Parts>, token: String) -> Router {
    Router::new()
        .route(admin::STATUS, get(status))
        .route(admin::FLUSH, post(flush))
        .fallback(async || problem(StatusCode::NOT_FOUND, "There is no such call; the relay's README lists them."))
        .method_not_allowed_fallback(async || {
            problem(StatusCode::METHOD_NOT_ALLOWED, "The call exists, but not with this method.")
        })
        .with_state(parts)
        .layer(middleware::from_fn_with_state(Arc::<str>::from(token), authenticate))
}

async fn status(State(parts): State<Arc<Parts>>) -> Json<Status> {
    Json(parts.status())
}

async fn flush(State(parts): State<Arc<Parts>>) -> Json<Flushed> {
    let messages = parts.queue.flush() as u64;
    parts.primary.probe_at_once();
    tracing::info!(messages, "flush was ordered");
    Json(Flushed { messages })
}

async fn authenticate(State(token): State<Arc<str>>, request: Request, next: Next) -> Response {
    let given =
        request.headers().get(header::AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    if given.is_some_and(|given| is_same(given, token.as_bytes())) {
        return next.run(request).await;
    }
    let mut refused = problem(
        StatusCode::UNAUTHORIZED,
        "Send the header 'Authorization: Bearer TOKEN' with the token of the admin-token file.",
    );
    refused.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
    refused
}

/// Takes as long for a token that is nearly right as for any other of its length.
fn is_same(given: &[u8], token: &[u8]) -> bool {
    given.len() == token.len() && given.iter().zip(token).fold(0, |differing, (a, b)| differing | (a ^ b)) == 0
}

fn problem(status: StatusCode, detail: &str) -> Response {
    let title = status.canonical_reason().unwrap_or_default().to_owned();
    let body = Problem { kind: "about:blank".into(), title, status: status.as_u16(), detail: detail.to_owned() };
    let mut response = (status, Json(body)).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/problem+json"));
    response
}

/// Reads the token, or makes one that only this user may read. An empty file counts as none: a crash may leave it.
pub fn token(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    if path.exists() {
        File::open(path)?.take(TOKEN_BYTES_MAX).read_to_string(&mut text)?;
    }
    if text.is_empty() {
        let token = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        file.write_all(format!("{token}\n").as_bytes())?;
        file.sync_all()?;
        return Ok(token);
    }
    let token = text.trim();
    if token.len() < TOKEN_BYTES_MIN {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it holds no token of at least 16 characters"));
    }
    Ok(token.to_owned())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn a_token_is_made_once_and_only_its_user_may_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(TOKEN_FILE);
        let made = token(&path).unwrap();
        assert_eq!(made.len(), 64);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(token(&path).unwrap(), made);
    }

    #[test]
    fn a_token_that_could_be_guessed_is_refused_and_an_empty_file_gets_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(TOKEN_FILE);
        fs::write(&path, "secret\n").unwrap();
        assert!(token(&path).is_err());
        fs::write(&path, "").unwrap();
        assert_eq!(token(&path).unwrap().len(), 64);
    }

    #[test]
    fn only_the_whole_token_is_the_token() {
        for (given, same) in [("secret", true), ("secreT", false), ("secre", false), ("", false), ("secret ", false)] {
            assert_eq!(is_same(given.as_bytes(), b"secret"), same, "{given:?}");
        }
    }
}
