//! Lets a new config document run without a restart: reads the file again and again, and takes what can be used.
//!
//! docs/contract.md is its contract.

mod apply;
mod source;

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use self::source::words;
pub use self::{
    apply::{announce, bounds, cordon, memory_bytes, rules, tell_ignored},
    source::{Loaded, Source, Start, Text, Unusable},
};
use crate::{config, running::Refused, smtp::listener::Hall, status::Parts};

/// Files are compared by content, since watches go stale where a ConfigMap is mounted: the kubelet swaps a symbolic link.
/// A content is taken when it was met twice, so one that is new runs within a second and a bit.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// The task that looks.
pub struct Reload {
    source: Source,
    parts: Arc<Parts>,
    hall: Arc<Hall>,
    state: Mutex<State>,
}

/// What is known from the looks before.
struct State {
    /// What runs.
    loaded: Text,
    looks: Looks,
}

impl Reload {
    /// Goes on from what was found at the start.
    pub fn new(source: Source, loaded: Text, parts: Arc<Parts>, hall: Arc<Hall>) -> Self {
        Self { source, parts, hall, state: Mutex::new(State { loaded, looks: Looks::default() }) }
    }

    /// Looks again and again, until `stop`. What is no regular file, such as a pipe, can be read only once, at the start.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let Some(path) = self.source.path() else { return };
        if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
            return;
        }
        while !stop.is_cancelled() {
            let this = self.clone();
            let _ = tokio::task::spawn_blocking(move || this.look()).await;
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
        }
    }

    /// Blocks.
    fn look(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { loaded, looks } = &mut *state;
        loaded.encryption.look();
        self.source.keep_if_new(loaded);
        let Some(path) = self.source.path() else { return };
        let found = read(path);
        if !looks.is_news(&found) {
            return;
        }
        let judged = self.judge(found, loaded);
        if !matches!(judged, Judged::RefusedForNow(_)) {
            looks.dealt_with();
        }
        let running = &self.parts.running;
        match judged {
            Judged::Current if running.is_current() => {
                tracing::info!("the config document is again the one that runs");
            }
            Judged::Current => {}
            Judged::New(new) => {
                *loaded = self.take(*new);
                self.source.keep_if_new(loaded);
            }
            Judged::Refused(refused) | Judged::RefusedForNow(refused) => {
                if running.refuse(&refused, Timestamp::now()) {
                    announce(&refused, &self.parts);
                }
            }
        }
    }

    fn judge(&self, found: Result<String, String>, runs: &Text) -> Judged {
        match found {
            Err(reason) => Judged::Refused(Refused { digest: None, reason }),
            Ok(text) if Some(&text) == runs.document.as_ref() => Judged::Current,
            Ok(text) => match self.source.load(Some(text), Some(runs)) {
                Ok(new) => Judged::New(Box::new(new)),
                Err((refused, cause)) if cause.may_mend_by_itself() => Judged::RefusedForNow(refused),
                Err((refused, _)) => Judged::Refused(refused),
            },
        }
    }

    fn take(&self, new: Loaded) -> Text {
        let Loaded { config, text, origin } = new;
        apply::apply(config, &text.encryption, origin, &self.parts, &self.hall);
        text
    }
}

/// What a content is good for.
enum Judged {
    /// It runs already.
    Current,
    /// It is to run.
    New(Box<Loaded>),
    /// Nothing.
    Refused(Refused),
    /// Nothing, until another file is there.
    RefusedForNow(Refused),
}

/// What a regular file holds. The error is in words.
fn read(path: &Path) -> Result<String, String> {
    let is_other = fs::metadata(path).is_ok_and(|found| !found.is_file());
    if is_other {
        Err(format!("{}: it is no file any more", path.display()))
    } else {
        config::read(path).map_err(|cause| words(&cause))
    }
}

/// Tells new contents from known ones. No I/O.
#[derive(Default, Debug)]
struct Looks {
    last: Option<Result<String, String>>,
    dealt_with: Option<Result<String, String>>,
}

impl Looks {
    /// Whether this was not dealt with. It must have been met at the look before: programs write files piece by piece, and
    /// half a list of domains would be obeyed like a whole one.
    fn is_news(&mut self, found: &Result<String, String>) -> bool {
        let is_whole = self.last.as_ref() == Some(found);
        if !is_whole {
            self.last = Some(found.clone());
        }
        is_whole && self.dealt_with.as_ref() != Some(found)
    }

    /// What was met last needs no further look.
    fn dealt_with(&mut self) {
        self.dealt_with.clone_from(&self.last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_is_news_when_it_was_met_twice_and_until_it_was_dealt_with() {
        let (mut looks, good, half, gone) =
            (Looks::default(), Ok("a: 1\nb: 2\n".into()), Ok("a: 1\n".into()), Err("no such file".into()));
        assert!(!looks.is_news(&good) && looks.is_news(&good) && looks.is_news(&good));
        looks.dealt_with();
        assert!(!looks.is_news(&good));
        assert!(!looks.is_news(&half) && !looks.is_news(&good), "what is written at this moment");
        assert!(!looks.is_news(&gone) && looks.is_news(&gone));
        looks.dealt_with();
        assert!(!looks.is_news(&good) && looks.is_news(&good));
    }
}
