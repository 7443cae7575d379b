//! Who may give orders: whoever knows the token of the admin-token file.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::Arc,
};

use axum::{
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use uuid::Uuid;

use super::problem::Problem;

/// Name of the token file in the data folder, unless another is given.
pub const TOKEN_FILE: &str = "admin-token";
/// A token is read up to here, whatever the file holds.
const TOKEN_BYTES_MAX: u64 = 4096;
/// Shorter ones could be guessed.
const TOKEN_BYTES_MIN: usize = 16;

/// Lets pass who knows the token. What is answered is for that one alone, and never for a browser to guess at.
pub async fn authenticate(State(token): State<Arc<str>>, request: Request, next: Next) -> Response {
    let given =
        request.headers().get(header::AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    let mut response =
        if given.is_some_and(|given| is_same(given, token.as_bytes())) { next.run(request).await } else { refused() };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn refused() -> Response {
    let detail = "Send the header 'Authorization: Bearer TOKEN' with the token of the admin-token file.";
    let mut refused = Problem::new(StatusCode::UNAUTHORIZED, detail).into_response();
    refused.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    refused
}

/// Takes as long for a token that is nearly right as for any other of its length.
fn is_same(given: &[u8], token: &[u8]) -> bool {
    given.len() == token.len() && given.iter().zip(token).fold(0, |differing, (a, b)| differing | (a ^ b)) == 0
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
