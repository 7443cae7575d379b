//! The configuration that runs, and what the status says of the document that it comes from.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use backupmx_relay_api::{
    config::Delivery,
    status::{self, RefusedConfig},
};
use jiff::Timestamp;
use tokio::sync::watch;

use crate::config::Config;

/// What runs, as everybody shares it.
pub struct Running {
    config: watch::Sender<Arc<Config>>,
    told: Mutex<status::Config>,
}

/// Which content a configuration comes from.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Origin {
    /// See [`status::Config::digest`].
    pub digest: Option<String>,
    /// See [`status::Config::ignored_keys`].
    pub ignored_keys: Vec<String>,
}

/// A content that cannot be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refused {
    /// See [`RefusedConfig::digest`].
    pub digest: Option<String>,
    /// Key and cure.
    pub reason: String,
}

impl Running {
    /// From the start.
    pub fn new(config: Config, origin: Origin, now: Timestamp) -> Self {
        Self { config: watch::Sender::new(Arc::new(config)), told: Mutex::new(told(origin, now)) }
    }

    /// What runs now.
    pub fn config(&self) -> Arc<Config> {
        self.config.borrow().clone()
    }

    /// How mail is handed over now.
    pub fn delivery(&self) -> Delivery {
        self.config.borrow().document.primary.delivery.clone()
    }

    /// Tells of each new one.
    pub fn changes(&self) -> watch::Receiver<Arc<Config>> {
        self.config.subscribe()
    }

    /// Another one runs from now on.
    pub fn replace(&self, config: Config, origin: Origin, now: Timestamp) {
        *self.told() = told(origin, now);
        self.config.send_replace(Arc::new(config));
    }

    /// The file holds what cannot be used. True if that is news.
    pub fn refuse(&self, refused: &Refused, now: Timestamp) -> bool {
        let (mut told, Refused { digest, reason }) = (self.told(), refused);
        let is_known = |told: &RefusedConfig| (&told.digest, &told.reason) == (digest, reason);
        let is_news = !told.refused.as_ref().is_some_and(is_known);
        if is_news {
            told.refused =
                Some(RefusedConfig { digest: digest.clone(), since: now.to_string(), reason: reason.clone() });
        }
        is_news
    }

    /// The file holds what runs. True if that is news.
    pub fn is_current(&self) -> bool {
        self.told().refused.take().is_some()
    }

    /// For the status document.
    pub fn status(&self) -> status::Config {
        self.told().clone()
    }

    /// What a person should look at.
    pub fn problem(&self) -> Option<String> {
        let RefusedConfig { reason, .. } = self.told().refused.clone()?;
        Some(format!(
            "The config document is not in use, and the one before still is: {reason}. Mend the file, it is read again by itself."
        ))
    }

    fn told(&self) -> MutexGuard<'_, status::Config> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn told(Origin { digest, ignored_keys }: Origin, now: Timestamp) -> status::Config {
    status::Config { digest, loaded_at: now.to_string(), refused: None, ignored_keys }
}

#[cfg(test)]
mod tests {
    use backupmx_relay_api::config::{Document, Host};

    use super::*;
    use crate::config::check;

    fn config(generation: i64) -> Config {
        let mut document = Document { generation, domains: vec!["example.org".into()], ..Document::default() };
        document.hostname = "mx2.example.org".into();
        document.primary.hosts = vec![Host { host: "mx1.example.org".into(), port: 25, xclient: false }];
        check(document).unwrap()
    }

    #[test]
    fn what_is_refused_is_told_once_and_until_something_good_comes() {
        let (then, later) = (Timestamp::UNIX_EPOCH, Timestamp::from_second(60).unwrap());
        let origin = |digest: &str| Origin { digest: Some(digest.into()), ignored_keys: Vec::new() };
        let running = Running::new(config(1), origin("a"), then);
        assert_eq!((running.problem(), running.is_current()), (None, false));
        let refused = Refused { digest: Some("b".into()), reason: "domains: is empty".into() };
        assert!(running.refuse(&refused, then) && !running.refuse(&refused, later));
        assert_eq!(running.status().refused.unwrap().since, then.to_string());
        assert!(running.problem().unwrap().contains("domains: is empty"));
        assert!(running.is_current() && running.problem().is_none());
        assert!(running.refuse(&Refused { digest: None, ..refused }, later));
        running.replace(config(2), origin("c"), later);
        let status::Config { digest, loaded_at, refused, .. } = running.status();
        assert_eq!((digest.as_deref(), loaded_at, refused), (Some("c"), later.to_string(), None));
        assert_eq!(running.config().document.generation, 2);
    }
}
