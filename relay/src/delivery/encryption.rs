//! What TLS towards the primary has to be: nothing is checked, or everything. The file of authorities is read again when it changes.

use std::{
    fs::File,
    io::{self, Read},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use backupmx_relay_api::config::{Host, PrimaryTls, TlsMode};
use rustls::{
    ClientConfig, Error, RootCertStore,
    client::{Resumption, danger::ServerCertVerifier},
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio_rustls::TlsConnector;

use super::{
    resolve::literal,
    verifier::{Verified, unverified},
};
use crate::mail::address::a_labels;

/// A file of all authorities of a system has a quarter of that.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// How TLS towards the primary is begun.
pub struct Encryption {
    mode: TlsMode,
    server_name: Option<ServerName<'static>>,
    ca_file: Option<PathBuf>,
    in_use: ArcSwap<InUse>,
}

struct InUse {
    connector: TlsConnector,
    /// What the file held when it was last looked at.
    text: Vec<u8>,
    /// Why what it holds now is not in use.
    problem: Option<String>,
}

/// Why TLS cannot be done as the configuration wants it.
#[derive(Debug, thiserror::Error)]
pub enum EncryptionError {
    /// The file cannot be read.
    #[error("primary.tls.caFile: read {path}: {cause}; name a file that this user may read")]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// It holds no authorities.
    #[error("primary.tls.caFile: {path}: {what}; write the certificates of the authorities to trust, in PEM")]
    Unusable {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The name can stand in no certificate.
    #[error("primary.tls.serverName: {0:?} is no name that a certificate can have; write for instance mx1.example.org")]
    ServerName(String),
    /// The TLS library refuses its own defaults.
    #[error("prepare TLS: {0}")]
    Library(#[from] Error),
}

impl Encryption {
    /// As the configuration wants it. Reads the file of authorities.
    pub fn new(tls: &PrimaryTls) -> Result<Self, EncryptionError> {
        let text = ca_file(tls).map_or_else(|| Ok(Vec::new()), |path| content(&path))?;
        Self::with_authorities(tls, text)
    }

    /// The same, with what the file of authorities held when it could be read last.
    pub fn with_authorities(tls: &PrimaryTls, text: Vec<u8>) -> Result<Self, EncryptionError> {
        let (PrimaryTls { mode, server_name, .. }, ca_file) = (tls, ca_file(tls));
        let server_name = server_name
            .as_deref()
            .map(|name| certificate_name(name).ok_or_else(|| EncryptionError::ServerName(name.to_owned())));
        let connector = match (mode, &ca_file) {
            (TlsMode::Verify, Some(path)) => verifying(path, &text)?,
            (TlsMode::Verify, None) => connector(Verified::by(authorities_of_system(), Vec::new())?)?,
            (TlsMode::None | TlsMode::Opportunistic | TlsMode::Encrypt, _) => connector(unverified())?,
        };
        let in_use = ArcSwap::from_pointee(InUse { connector, text, problem: None });
        Ok(Self { mode: *mode, server_name: server_name.transpose()?, ca_file, in_use })
    }

    /// How much is asked for.
    pub fn mode(&self) -> TlsMode {
        self.mode
    }

    /// What does the handshake. Looks first whether the file of authorities has changed.
    pub async fn connector(self: &Arc<Self>) -> TlsConnector {
        if self.ca_file.is_some() {
            let this = self.clone();
            // If it panics, the old one stays in use.
            let _ = tokio::task::spawn_blocking(move || this.look()).await;
        }
        self.in_use.load().connector.clone()
    }

    /// The name that the certificate must have, and that is asked for by SNI.
    pub fn name(&self, host: &Host, address: IpAddr) -> ServerName<'static> {
        let name = self.server_name.clone().or_else(|| certificate_name(&host.host));
        name.unwrap_or_else(|| ServerName::IpAddress(address.into()))
    }

    /// What a person should look at.
    pub fn problem(&self) -> Option<String> {
        let problem = self.in_use.load().problem.clone()?;
        Some(format!(
            "New authorities for the primary's certificate are not in use, and the old ones still are: {problem}."
        ))
    }

    /// What the file of authorities held that are in use, if there is one.
    pub fn authorities(&self) -> Option<Vec<u8>> {
        self.ca_file.as_ref().map(|_| self.in_use.load().text.clone())
    }

    /// Takes what the file holds if it is new and can be used. Blocks.
    pub fn look(&self) {
        let (Some(path), old) = (&self.ca_file, self.in_use.load_full()) else { return };
        let read = content(path).and_then(|text| {
            if text == old.text {
                return Ok(None);
            }
            let connector = verifying(path, &text)?;
            Ok(Some(InUse { connector, text, problem: None }))
        });
        let problem = match read {
            Ok(Some(new)) => {
                tracing::info!(file = %path.display(), "authorities for the primary's certificate are in use");
                return self.in_use.store(Arc::new(new));
            }
            Ok(None) => None,
            Err(cause) => Some(cause.to_string()),
        };
        if problem != old.problem {
            if let Some(problem) = &problem {
                tracing::error!(problem, "authorities for the primary's certificate cannot be used");
            }
            let (connector, text) = (old.connector.clone(), old.text.clone());
            self.in_use.store(Arc::new(InUse { connector, text, problem }));
        }
    }
}

/// Only `Verify` asks for authorities.
fn ca_file(tls: &PrimaryTls) -> Option<PathBuf> {
    tls.ca_file.as_ref().filter(|_| tls.mode == TlsMode::Verify).map(PathBuf::from)
}

/// Certificates have names in A-labels and without a final dot, or addresses.
fn certificate_name(name: &str) -> Option<ServerName<'static>> {
    if let Some(address) = literal(name) {
        return Some(ServerName::IpAddress(address.into()));
    }
    let labels = a_labels(name.strip_suffix('.').unwrap_or(name))?;
    ServerName::try_from(labels.into_owned()).ok()
}

fn content(path: &Path) -> Result<Vec<u8>, EncryptionError> {
    let mut text = Vec::new();
    match File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut text)) {
        Ok(_) => Ok(text),
        Err(cause) => Err(EncryptionError::Unreadable { path: path.to_owned(), cause }),
    }
}

/// By what the file holds.
fn verifying(path: &Path, text: &[u8]) -> Result<TlsConnector, EncryptionError> {
    let unusable = |what: String| EncryptionError::Unusable { path: path.to_owned(), what };
    let certificates = CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>();
    let certificates = certificates.map_err(|cause| unusable(format!("no certificate in PEM: {cause}")))?;
    let mut roots = RootCertStore::empty();
    for certificate in &certificates {
        let added = roots.add(certificate.clone());
        added.map_err(|cause| unusable(format!("no certificate of an authority: {cause}")))?;
    }
    if roots.is_empty() {
        return Err(unusable("it holds no certificate in PEM".into()));
    }
    Ok(connector(Verified::by(roots, certificates)?)?)
}

/// As the system has them; in an image without any, those of Mozilla at the time of this build.
fn authorities_of_system() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    // What is not understood there is nobody's fault, and not needed as a rule.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        tracing::info!("this system has no file of authorities; those that came with this program are in use");
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}

fn connector(verifier: Arc<dyn ServerCertVerifier>) -> Result<TlsConnector, Error> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()? // 1.2 and 1.3
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    // A session that is resumed would go on with a certificate that may be no good by now.
    config.resumption = Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(config)))
}
