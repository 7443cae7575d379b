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

/// What is in use of each pair of files, in their order.
type InUse = Vec<Pair>;

/// What is in use of one pair of files.
#[derive(Clone, Debug, Default)]
struct Pair {
    key: Option<(Described, Arc<CertifiedKey>)>,
    /// What the files held when they were last looked at.
    texts: Option<[Vec<u8>; 2]>,
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
        let has_key = self.chosen.0.load().iter().any(|pair| pair.key.is_some());
        match (self.files.is_empty(), has_key) {
            (true, _) => Tls::Absent,
            (false, false) => Tls::Broken,
            (false, true) => Tls::Ready,
        }
    }

    /// What does the handshake.
    pub fn acceptor(&self) -> TlsAcceptor {
        self.acceptor.clone()
    }

    /// Those in use.
    pub fn described(&self) -> Vec<Described> {
        keys(&self.chosen.0.load()).map(|(described, _)| described.clone()).collect()
    }

    /// What a person should look at, a sentence each.
    pub fn problems(&self, now: Timestamp) -> Vec<String> {
        let in_use = self.chosen.0.load();
        let unusable = in_use.iter().filter_map(|pair| {
            let (problem, cure) = (pair.problem.as_ref()?, "mend the file, it is read again by itself");
            Some(match &pair.key {
                None => format!("A certificate for STARTTLS is missing: {problem}; {cure}."),
                Some(_) => format!("A new certificate is not in use, and the old one still is: {problem}; {cure}."),
            })
        });
        let soon = |described: &&Described| described.not_after.as_second() - now.as_second() < EXPIRES_SOON_SECONDS;
        let expiring = keys(&in_use).map(|(described, _)| described).filter(soon);
        let expiring = expiring.map(|Described { name, not_after }| {
            format!("The certificate of {name} holds until {not_after}; renew it, the file is read again by itself.")
        });
        unusable.chain(expiring).collect()
    }

    /// Reads the files, and takes what they hold if it is new and can be used; each pair for itself. Blocks.
    fn look(&self) {
        let old = self.chosen.0.load();
        let pairs = self.files.iter().enumerate();
        let new = pairs.map(|(place, files)| look_at(files, old.get(place).cloned().unwrap_or_default())).collect();
        self.chosen.0.store(Arc::new(new));
    }
}

/// What is in use of these files from now on.
fn look_at(files: &Files, old: Pair) -> Pair {
    let texts = match (content(&files.certificate), content(&files.key)) {
        (Ok(certificate), Ok(key)) => [certificate, key],
        (Err(cause), _) | (_, Err(cause)) => return Pair { texts: None, ..refused(old, &cause) },
    };
    if old.texts.as_ref() == Some(&texts) {
        return old;
    }
    match load(files, &texts[0], &texts[1]) {
        Ok(key) => {
            tracing::info!(name = key.0.name, not_after = %key.0.not_after, "certificate is in use");
            Pair { key: Some(key), texts: Some(texts), problem: None }
        }
        Err(cause) => Pair { texts: Some(texts), ..refused(old, &cause) },
    }
}

/// The old one stays in use. It is logged once.
fn refused(old: Pair, cause: &CertificateError) -> Pair {
    let problem = cause.to_string();
    if old.problem.as_ref() != Some(&problem) {
        tracing::error!(%cause, "certificate cannot be used");
    }
    Pair { problem: Some(problem), ..old }
}

fn keys(in_use: &InUse) -> impl Iterator<Item = &(Described, Arc<CertifiedKey>)> {
    in_use.iter().filter_map(|pair| pair.key.as_ref())
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
struct Chosen(ArcSwap<InUse>);

impl ResolvesServerCert for Chosen {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let in_use = self.0.load();
        let named = hello.server_name().and_then(|name| {
            let name = ServerName::try_from(name).ok()?;
            keys(&in_use).find(|(_, key)| fits(key, &name))
        });
        named.or(keys(&in_use).next()).map(|(_, key)| key.clone())
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
        let in_use = certificates.chosen.0.load();
        for (asked, place) in
            [("a.example", Some(0)), ("b.example", Some(1)), ("x.c.example", Some(1)), ("d.example", None)]
        {
            let name = ServerName::try_from(asked).unwrap();
            assert_eq!(keys(&in_use).position(|(_, key)| fits(key, &name)), place, "{asked}");
        }
    }

    #[test]
    fn one_pair_that_cannot_be_used_leaves_the_others_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (write(folder.path(), "a", &["a.example"]), write(folder.path(), "b", &["b.example"]));
        fs::write(&a.certificate, "junk").unwrap();
        let certificates = Certificates::new(vec![a, b]).unwrap();
        assert_eq!((names(&certificates), certificates.state()), (vec!["b.example".to_owned()], Tls::Ready));
        write(folder.path(), "b", &["c.example"]);
        certificates.look();
        assert_eq!(names(&certificates), ["c.example"]);
        let problems = certificates.problems(Timestamp::now());
        assert!(problems.len() == 1 && problems[0].contains("a.crt"), "{problems:?}");
        write(folder.path(), "a", &["a.example"]);
        certificates.look();
        assert_eq!(names(&certificates), ["a.example", "c.example"]);
    }
}
