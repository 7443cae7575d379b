//! Where the configuration comes from: the flags, the file that they name, and a copy of what ran last on the volume.

use std::{
    fmt::Display,
    path::{Path, PathBuf},
    sync::Arc,
};

use backupmx_relay_api::config::PrimaryTls;
use serde::{Deserialize, Serialize};

use crate::{
    cli::Flags,
    config::{self, Config, ConfigError},
    delivery::encryption::{Encryption, EncryptionError},
    running::{Origin, Refused},
    small_file::SmallFile,
};

/// The document that runs, in the data folder: a restart while the file is bad must not end our service.
const KEPT_FILE: &str = "config-last-good.json";

/// Of an error a person needs its first line; the parser draws a picture below it.
const REASON_CHARACTERS_MAX: usize = 300;

/// Flags, file and copy.
pub struct Source {
    flags: Flags,
    kept: SmallFile,
}

/// The copy.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Kept {
    /// Of which file it is a copy; one of another file is none of ours.
    path: PathBuf,
    document: String,
    /// What the file of authorities held, if the document names one.
    authorities: Option<String>,
}

/// A configuration that can be used.
pub struct Loaded {
    /// What it says.
    pub config: Config,
    /// What it was made from.
    pub text: Text,
    /// For the status.
    pub origin: Origin,
}

/// What a configuration was made from.
#[derive(Clone)]
pub struct Text {
    /// The file's content; absent where flags alone say everything.
    pub document: Option<String>,
    /// What the document says of TLS towards the primary.
    tls: PrimaryTls,
    /// Made from that.
    pub encryption: Arc<Encryption>,
    kept: Option<Kept>,
}

/// What a relay starts with.
pub struct Start {
    /// Where more comes from.
    pub source: Source,
    /// What runs first.
    pub loaded: Loaded,
    /// What the file holds, if that is not what runs.
    pub refused: Option<Refused>,
}

/// Why a configuration cannot be used. Each message names the key and the cure.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// The document.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// What it says of TLS towards the primary.
    #[error(transparent)]
    Encryption(#[from] EncryptionError),
}

impl Unusable {
    /// Whether another file than the document may be the cause, so that the same document may be good later.
    pub fn may_mend_by_itself(&self) -> bool {
        matches!(self, Self::Encryption(_))
    }
}

impl Source {
    /// `data`: the data folder.
    pub fn new(flags: Flags, data: &Path) -> Self {
        Self { flags, kept: SmallFile::new(data, KEPT_FILE, "the config document that ran last") }
    }

    /// The file, if there is one.
    pub fn path(&self) -> Option<&Path> {
        self.flags.config.as_deref()
    }

    /// For the start. If the file cannot be used, what ran before the stop; if nothing did, a person has just written it
    /// and sees the error. Nothing is written: whether the folder is ours is not known yet.
    pub fn start(self) -> Result<Start, Unusable> {
        let read = self.path().map(config::read).transpose();
        let loaded = match read {
            Ok(text) => self.load(text, None),
            Err(cause) => Err((Refused { digest: None, reason: words(&cause) }, cause.into())),
        };
        let (refused, cause) = match loaded {
            Ok(loaded) => return Ok(Start { source: self, loaded, refused: None }),
            Err(refused) => refused,
        };
        let kept = self.path().and_then(|path| self.kept.read().filter(|kept: &Kept| kept.path == path));
        match kept.and_then(|kept| self.load_kept(kept).ok()) {
            Some(loaded) => Ok(Start { source: self, loaded, refused: Some(refused) }),
            None => Err(cause),
        }
    }

    fn load_kept(&self, kept: Kept) -> Result<Loaded, Unusable> {
        let (config, ignored_keys) = self.flags.config_of(Some(&kept.document))?;
        let tls = config.document.primary.tls.clone();
        let encryption = match &kept.authorities {
            Some(authorities) => Encryption::with_authorities(&tls, authorities.clone().into_bytes()),
            None => Encryption::new(&tls),
        };
        let origin = Origin { digest: Some(config::digest(&kept.document)), ignored_keys };
        let document = Some(kept.document.clone());
        let text = Text { document, tls, encryption: Arc::new(encryption?), kept: Some(kept) };
        Ok(Loaded { config, text, origin })
    }

    /// What this content gives with the flags. `runs`: what runs meanwhile; authorities that are in use stay so.
    pub fn load(&self, document: Option<String>, runs: Option<&Text>) -> Result<Loaded, (Refused, Unusable)> {
        let digest = document.as_deref().map(config::digest);
        let loaded = || -> Result<Loaded, Unusable> {
            let (config, ignored_keys) = self.flags.config_of(document.as_deref())?;
            let tls = config.document.primary.tls.clone();
            let encryption = match runs.filter(|runs| runs.tls == tls) {
                Some(runs) => runs.encryption.clone(),
                None => Arc::new(Encryption::new(&tls)?),
            };
            let origin = Origin { digest: digest.clone(), ignored_keys };
            let kept = runs.and_then(|runs| runs.kept.clone());
            Ok(Loaded { config, text: Text { document: document.clone(), tls, encryption, kept }, origin })
        };
        loaded().map_err(|cause| (Refused { digest: digest.clone(), reason: words(&cause) }, cause))
    }

    /// Writes the copy, if it is not what is there. Blocks.
    pub fn keep_if_new(&self, text: &mut Text) {
        let (Some(path), Some(document)) = (self.path(), &text.document) else { return };
        let authorities = text.encryption.authorities();
        let new = Kept {
            path: path.to_owned(),
            document: document.clone(),
            authorities: authorities.map(|text| String::from_utf8_lossy(&text).into_owned()),
        };
        if text.kept.as_ref() != Some(&new) {
            self.kept.write_or_log(|| &new);
            text.kept = Some(new);
        }
    }
}

/// An error as status and log tell it. It quotes a document that was written by who configures us.
pub fn words(cause: &impl Display) -> String {
    let told = cause.to_string();
    let first = told.lines().next().unwrap_or_default().chars();
    first.filter(|character| !character.is_control()).take(REASON_CHARACTERS_MAX).collect()
}
