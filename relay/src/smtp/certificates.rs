//! Certificates for STARTTLS: read from files, read again when their content changes, chosen by the name asked for.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use rustls::{
    ServerConfig,
    client::verify_server_name,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    server::{ClientHello, ParsedCertificate, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::session::Tls;
use crate::foreign::shown;

/// Files are compared by content, since watches go stale where a Secret is mounted: the kubelet swaps a symbolic link.
/// They are a few KiB.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// A chain of certificates takes a few KiB.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// From here on a person should look: renewals come weeks earlier.
const EXPIRES_SOON_SECONDS: i64 = 7 * 86_400;

/// A certificate and its key, each in PEM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Files {
    /// The certificate, and those between it and its root.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// All certificates.
pub struct Certificates {
    files: Vec<Files>,
    chosen: Arc<Chosen>,
    acceptor: TlsAcceptor,
}

/// What is in use.
#[derive(Debug, Default)]
struct Loaded {
    keys: Vec<(Described, Arc<CertifiedKey>)>,
    /// What the files held.
    texts: Vec<Vec<u8>>,
    /// Why what they hold now is not in use.
    problem: Option<String>,
}

/// What people want to know of a certificate.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Described {
    /// Its first name.
    pub name: String,
    /// Until when it holds.
    pub not_after: Timestamp,
}

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read.
    #[error("read {path}: {cause}")]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// Its content is not what it should be.
    #[error("{path}: {what}")]
    Unusable {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

impl Certificates {
    /// Reads them. What cannot be used is told by [`Certificates::problems`]: mail is taken all the same.
    pub fn new(files: Vec<Files>) -> Result<Self, rustls::Error> {
        let chosen = Arc::new(Chosen(ArcSwap::default()));
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()? // 1.2 and 1.3
            .with_no_client_auth()
            .with_cert_resolver(chosen.clone());
        let certificates = Self { files, chosen, acceptor: TlsAcceptor::from(Arc::new(config)) };
        certificates.look();
        Ok(certificates)
    }

    /// Looks again and again, until `stop`.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        while !self.files.is_empty() {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
            let this = self.clone();
            let _ = tokio::task::spawn_blocking(move || this.look()).await;
        }
    }

    /// Whether TLS can begin.
    pub fn state(&self) -> Tls {
        match (self.files.is_empty(), self.chosen.0.load().keys.is_empty()) {
            (true, _) => Tls::Absent,
            (false, true) => Tls::Broken,
            (false, false) => Tls::Ready,
        }
    }

    /// What does the handshake.
    pub fn acceptor(&self) -> TlsAcceptor {
        self.acceptor.clone()
    }

    /// Those in use.
    pub fn described(&self) -> Vec<Described> {
        self.chosen.0.load().keys.iter().map(|(described, _)| described.clone()).collect()
    }

    /// What a person should look at, a sentence each.
    pub fn problems(&self, now: Timestamp) -> Vec<String> {
        let loaded = self.chosen.0.load();
        let unusable = loaded.problem.iter().map(|problem| match loaded.keys.is_empty() {
            true => format!("STARTTLS is not offered: {problem}; mend the file, it is read again by itself."),
            false => format!("A new certificate is not in use, and the old one still is: {problem}; mend the file, it is read again by itself."),
        });
        let soon = |described: &&Described| described.not_after.as_second() - now.as_second() < EXPIRES_SOON_SECONDS;
        let expiring = loaded.keys.iter().map(|(described, _)| described).filter(soon);
        let expiring = expiring.map(|Described { name, not_after }| {
            format!("The certificate of {name} holds until {not_after}; renew it, the file is read again by itself.")
        });
        unusable.chain(expiring).collect()
    }

    /// Reads the files, and takes what they hold if it is new and can be used. Blocks.
    fn look(&self) {
        let old = self.chosen.0.load();
        let texts: Result<Vec<_>, _> =
            self.files.iter().flat_map(|files| [&files.certificate, &files.key]).map(|path| content(path)).collect();
        let loaded = match texts {
            Ok(texts) if texts == old.texts => return,
            Ok(texts) => {
                let keys = self.files.iter().zip(texts.chunks_exact(2));
                let keys = keys.map(|(files, pair)| load(files, &pair[0], &pair[1])).collect::<Result<Vec<_>, _>>();
                keys.map(|keys| (keys, texts.clone())).map_err(|cause| (cause, texts))
            }
            Err(cause) => Err((cause, Vec::new())),
        };
        let loaded = match loaded {
            Ok((keys, texts)) => {
                let names = keys.iter().map(|(described, _)| described.name.as_str()).collect::<Vec<_>>().join(",");
                tracing::info!(names, "certificates are in use");
                Loaded { keys, texts, problem: None }
            }
            Err((cause, texts)) => {
                let problem = cause.to_string();
                if old.problem.as_ref() != Some(&problem) {
                    tracing::error!(%cause, "certificate cannot be used");
                }
                Loaded { keys: old.keys.clone(), texts, problem: Some(problem) }
            }
        };
        self.chosen.0.store(Arc::new(loaded));
    }
}

/// For `check-config`: whether these can be used.
pub fn check(files: &Files) -> Result<Described, CertificateError> {
    let (certificate, key) = (content(&files.certificate)?, content(&files.key)?);
    load(files, &certificate, &key).map(|(described, _)| described)
}

fn content(path: &Path) -> Result<Vec<u8>, CertificateError> {
    let mut text = Vec::new();
    match File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut text)) {
        Ok(_) => Ok(text),
        Err(cause) => Err(CertificateError::Unreadable { path: path.to_owned(), cause }),
    }
}

fn load(files: &Files, certificate: &[u8], key: &[u8]) -> Result<(Described, Arc<CertifiedKey>), CertificateError> {
    let unusable = |path: &Path, what: String| CertificateError::Unusable { path: path.to_owned(), what };
    let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|cause| unusable(&files.certificate, format!("no certificate in PEM: {cause}")))?;
    let first = chain.first().ok_or_else(|| unusable(&files.certificate, "it holds no certificate in PEM".into()))?;
    let described = describe(first).map_err(|what| unusable(&files.certificate, what))?;
    let key = PrivateKeyDer::from_pem_slice(key);
    let key = key.map_err(|cause| unusable(&files.key, format!("no private key in PEM: {cause}")))?;
    let certified = CertifiedKey::from_der(chain, key, &ring::default_provider());
    let certified = certified
        .map_err(|cause| unusable(&files.key, format!("does not go with {}: {cause}", files.certificate.display())))?;
    Ok((described, Arc::new(certified)))
}

fn describe(certificate: &CertificateDer<'_>) -> Result<Described, String> {
    let (_, parsed) =
        X509Certificate::from_der(certificate).map_err(|cause| format!("no X.509 certificate: {cause}"))?;
    let alternatives = parsed.subject_alternative_name().ok().flatten();
    let names = alternatives.iter().flat_map(|extension| &extension.value.general_names);
    let dns_name = names.into_iter().find_map(|name| match name {
        GeneralName::DNSName(name) => Some(shown(name)),
        _ => None,
    });
    let not_after =
        Timestamp::from_second(parsed.validity().not_after.timestamp()).map_err(|cause| cause.to_string())?;
    Ok(Described { name: dns_name.unwrap_or_else(|| shown(parsed.subject().to_string())), not_after })
}

/// Chooses by the name that the client asks for.
#[derive(Debug)]
struct Chosen(ArcSwap<Loaded>);

impl ResolvesServerCert for Chosen {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let loaded = self.0.load();
        let named = hello.server_name().and_then(|name| {
            let name = ServerName::try_from(name).ok()?;
            loaded.keys.iter().find(|(_, key)| fits(key, &name))
        });
        named.or(loaded.keys.first()).map(|(_, key)| key.clone())
    }
}

fn fits(key: &CertifiedKey, name: &ServerName<'_>) -> bool {
    let parsed = key.cert.first().map(ParsedCertificate::try_from);
    parsed.is_some_and(|parsed| parsed.is_ok_and(|parsed| verify_server_name(&parsed, name).is_ok()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn write(folder: &Path, stem: &str, names: &[&str]) -> Files {
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let files = Files { certificate: folder.join(format!("{stem}.crt")), key: folder.join(format!("{stem}.key")) };
        fs::write(&files.certificate, made.cert.pem()).unwrap();
        fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
        files
    }

    fn names(certificates: &Certificates) -> Vec<String> {
        certificates.described().into_iter().map(|described| described.name).collect()
    }

    #[test]
    fn new_content_is_taken_and_what_cannot_be_used_leaves_the_old() {
        let folder = tempfile::tempdir().unwrap();
        let files = write(folder.path(), "a", &["a.example"]);
        let certificates = Certificates::new(vec![files.clone()]).unwrap();
        let now = Timestamp::now();
        assert_eq!((names(&certificates), certificates.state()), (vec!["a.example".to_owned()], Tls::Ready));
        assert_eq!(certificates.problems(now), [""; 0]);

        write(folder.path(), "a", &["b.example"]);
        certificates.look();
        assert_eq!(names(&certificates), ["b.example"]);

        let other = write(folder.path(), "other", &["c.example"]);
        fs::copy(&other.key, &files.key).unwrap();
        certificates.look();
        assert_eq!(names(&certificates), ["b.example"]);
        let problems = certificates.problems(now);
        assert!(problems.len() == 1 && problems[0].contains("does not go with"), "{problems:?}");

        fs::remove_file(&files.key).unwrap();
        certificates.look();
        assert!(certificates.problems(now)[0].contains("a.key"), "{:?}", certificates.problems(now));

        write(folder.path(), "a", &["d.example"]);
        certificates.look();
        assert_eq!((names(&certificates), certificates.problems(now)), (vec!["d.example".to_owned()], vec![]));
    }

    #[test]
    fn without_a_usable_certificate_tls_is_broken_until_there_is_one() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files { certificate: folder.path().join("a.crt"), key: folder.path().join("a.key") };
        assert!(check(&files).is_err());
        let certificates = Certificates::new(vec![files.clone()]).unwrap();
        assert_eq!(certificates.state(), Tls::Broken);
        for junk in ["", "junk", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            fs::write(&files.certificate, junk).unwrap();
            fs::write(&files.key, junk).unwrap();
            certificates.look();
            assert_eq!(certificates.state(), Tls::Broken, "{junk}");
        }
        write(folder.path(), "a", &["a.example"]);
        certificates.look();
        assert_eq!(certificates.state(), Tls::Ready);
        assert!(check(&files).is_ok());
        assert_eq!(Certificates::new(Vec::new()).unwrap().state(), Tls::Absent);
    }

    #[test]
    fn a_certificate_near_its_end_is_a_problem() {
        let folder = tempfile::tempdir().unwrap();
        let certificates = Certificates::new(vec![write(folder.path(), "a", &["a.example"])]).unwrap();
        let Described { not_after, .. } = certificates.described()[0].clone();
        let week = jiff::SignedDuration::from_hours(7 * 24);
        assert_eq!(certificates.problems(not_after - week), [""; 0]);
        let problems = certificates.problems(not_after - week + jiff::SignedDuration::from_secs(1));
        assert!(problems.len() == 1 && problems[0].contains("a.example"), "{problems:?}");
    }

    #[test]
    fn the_certificate_that_fits_the_name_is_chosen_and_else_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let files =
            vec![write(folder.path(), "a", &["a.example"]), write(folder.path(), "b", &["b.example", "*.c.example"])];
        let certificates = Certificates::new(files).unwrap();
        let loaded = certificates.chosen.0.load();
        for (asked, place) in
            [("a.example", Some(0)), ("b.example", Some(1)), ("x.c.example", Some(1)), ("d.example", None)]
        {
            let name = ServerName::try_from(asked).unwrap();
            assert_eq!(loaded.keys.iter().position(|(_, key)| fits(key, &name)), place, "{asked}");
        }
    }
}
