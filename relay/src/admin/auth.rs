//! Who may give orders: whoever knows the token of the admin-token file.

use std::{
    fs::{self, File, OpenOptions},
    io::{
        self,
        ErrorKind::{InvalidData, NotFound},
        Read, Write,
    },
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use axum::{
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::problem::Problem;

/// Name of the token file in the data folder, unless another is given.
pub const TOKEN_FILE: &str = "admin-token";
/// So that a new token is taken, and the old one refused, within two seconds.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// What is longer is no token.
const TOKEN_BYTES_MAX: u64 = 4096;
/// Shorter ones could be guessed.
const TOKEN_BYTES_MIN: usize = 16;

/// The token in use, and the file that it comes from. That is read again when it changes, by content as certificates are.
pub struct Token {
    path: PathBuf,
    in_use: ArcSwap<String>,
    /// Why what the file holds now is not in use.
    problem: ArcSwapOption<String>,
}

impl Token {
    /// Reads the file, or makes one.
    pub fn of(path: PathBuf) -> io::Result<Self> {
        let in_use = ArcSwap::from_pointee(token(&path)?);
        Ok(Self { path, in_use, problem: ArcSwapOption::empty() })
    }

    /// Looks again and again, until `stop`.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
            let this = self.clone();
            let _ = tokio::task::spawn_blocking(move || this.look()).await;
        }
    }

    /// What a person should look at.
    pub fn problem(&self) -> Option<String> {
        let problem = self.problem.load_full()?;
        Some(format!("The admin token is not read, and the one before still holds: {problem}; mend the file."))
    }

    /// Takes what the file holds if it is new and can be used. Blocks.
    fn look(&self) {
        let problem = match read(&self.path) {
            Ok(token) => {
                if token != **self.in_use.load() {
                    self.in_use.store(Arc::new(token));
                    tracing::info!(file = %self.path.display(), "a new admin token is in use");
                }
                None
            }
            Err(cause) => Some(Arc::new(format!("{}: {cause}", self.path.display()))),
        };
        if let Some(problem) = problem.as_ref().filter(|problem| self.problem.load().as_ref() != Some(*problem)) {
            tracing::warn!(%problem, "the admin token is not read");
        }
        self.problem.store(problem);
    }
}

/// Lets pass who knows the token. What is answered is for that one alone, and never for a browser to guess at.
pub async fn authenticate(State(token): State<Arc<Token>>, request: Request, next: Next) -> Response {
    let token = token.in_use.load_full();
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
fn token(path: &Path) -> io::Result<String> {
    if fs::metadata(path).map_or_else(|cause| cause.kind() == NotFound, |found| found.is_file() && found.len() == 0) {
        let token = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        file.write_all(format!("{token}\n").as_bytes())?;
        file.sync_all()?;
        return Ok(token);
    }
    read(path)
}

fn read(path: &Path) -> io::Result<String> {
    let unusable = |what: String| io::Error::new(InvalidData, what);
    if !fs::metadata(path)?.is_file() {
        return Err(unusable("it is no file".into())); // a pipe may never end
    }
    let mut text = String::new();
    File::open(path)?.take(TOKEN_BYTES_MAX + 1).read_to_string(&mut text)?;
    let token = text.trim();
    if text.len() as u64 > TOKEN_BYTES_MAX {
        return Err(unusable(format!("it holds more than {TOKEN_BYTES_MAX} bytes")));
    }
    if token.len() < TOKEN_BYTES_MIN {
        return Err(unusable(format!("it holds no token of at least {TOKEN_BYTES_MIN} characters")));
    }
    Ok(token.to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

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
    fn a_new_token_is_taken_and_what_is_none_leaves_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(TOKEN_FILE);
        let write = |text: &str| fs::write(&path, text).unwrap();
        write("the first token of all\n");
        let token = Token::of(path.clone()).unwrap();
        let now = || {
            token.look();
            (String::clone(&token.in_use.load()), token.problem().is_some())
        };
        write("another token, which is new\n");
        assert_eq!(now(), ("another token, which is new".into(), false));
        for bad in ["", "short\n", &"x".repeat(5000)] {
            write(bad);
            assert_eq!(now(), ("another token, which is new".into(), true), "{bad:?}");
        }
        fs::remove_file(&path).unwrap();
        assert_eq!(now(), ("another token, which is new".into(), true));
        write("the first token of all\n");
        assert_eq!(now(), ("the first token of all".into(), false));
    }

    #[test]
    fn only_the_whole_token_is_the_token() {
        for (given, same) in [("secret", true), ("secreT", false), ("secre", false), ("", false), ("secret ", false)] {
            assert_eq!(is_same(given.as_bytes(), b"secret"), same, "{given:?}");
        }
    }
}
