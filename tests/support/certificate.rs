//! Certificates for tests: self-signed or from an authority, as PEM files in a folder of their own, and the client's side of
//! TLS.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};
use tempfile::TempDir;

/// Long against a test, and far enough from its end for nobody to warn of it.
const LIFE: Duration = Duration::from_secs(90 * 24 * 3600);
/// Clocks differ.
const BEGUN_BEFORE: Duration = Duration::from_secs(3600);

/// A certificate, its key, and the two files that they are in. Dropping it removes the files.
pub struct Certificate {
    der: CertificateDer<'static>,
    folder: TempDir,
}

impl Certificate {
    /// For these names, good for the next 90 days.
    pub fn of(names: &[&str]) -> Self {
        Self::until(names, SystemTime::now() + LIFE)
    }

    /// For these names, good until then.
    pub fn until(names: &[&str], expiry: SystemTime) -> Self {
        let mut certificate = Self::unwritten();
        certificate.renew(names, expiry);
        certificate
    }

    fn unwritten() -> Self {
        let folder = TempDir::with_prefix("backupmx-certificate-").expect("a temporary folder can be made");
        Self { der: Vec::new().into(), folder }
    }

    /// Writes another certificate with another key into the same files, one after the other as most programs do it.
    pub fn renew(&mut self, names: &[&str], expiry: SystemTime) {
        let key = new_key();
        let certificate = parameters(names, expiry).self_signed(&key).expect("a certificate can be signed");
        self.write(&certificate, &key);
    }

    fn write(&mut self, certificate: &rcgen::Certificate, key: &KeyPair) {
        fs::write(self.file(), certificate.pem()).expect("a temporary folder can be written");
        fs::write(self.key_file(), key.serialize_pem()).expect("a temporary folder can be written");
        self.der = certificate.der().clone();
    }

    /// The certificate, PEM.
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("tls.crt")
    }

    /// Its key, PEM.
    pub fn key_file(&self) -> PathBuf {
        self.folder.path().join("tls.key")
    }

    /// The folder of both.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The certificate as it goes over the wire.
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// The flags that give it to a relay.
    pub fn flags(&self) -> [String; 4] {
        let path = |file: PathBuf| file.to_string_lossy().into_owned();
        ["--tls-cert".to_owned(), path(self.file()), "--tls-key".to_owned(), path(self.key_file())]
    }

    /// A server that has this certificate.
    pub fn server(&self) -> Arc<ServerConfig> {
        let key = PrivateKeyDer::from_pem_file(self.key_file()).expect("our key is one");
        let builder = ServerConfig::builder_with_provider(Arc::new(provider()));
        let builder = builder.with_safe_default_protocol_versions().expect("ring knows TLS 1.2 and 1.3");
        let config = builder.with_no_client_auth().with_single_cert(vec![self.der.clone()], key);
        Arc::new(config.expect("our key fits our certificate"))
    }

    /// A client that trusts this certificate alone, and checks name and time.
    pub fn trust(&self) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).expect("our certificate is one");
        Arc::new(versions().with_root_certificates(roots).with_no_client_auth())
    }
}

/// An authority, whose certificate is in a file of its own. Dropping it removes that file.
pub struct Authority {
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Another one each time.
    #[allow(clippy::new_without_default, reason = "each is another one: there is no usual one")]
    pub fn new() -> Self {
        let key = new_key();
        let mut parameters = parameters(&["authority.example"], SystemTime::now() + LIFE);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let mut certificate = Certificate::unwritten();
        certificate.write(&parameters.self_signed(&key).expect("a certificate can be signed"), &key);
        Self { certificate, issuer: Issuer::new(parameters, key) }
    }

    /// A certificate for these names, good for the next 90 days.
    pub fn issue(&self, names: &[&str]) -> Certificate {
        self.issue_until(names, SystemTime::now() + LIFE)
    }

    /// A certificate for these names, good until then.
    pub fn issue_until(&self, names: &[&str], expiry: SystemTime) -> Certificate {
        let key = new_key();
        let mut certificate = Certificate::unwritten();
        let signed = parameters(names, expiry).signed_by(&key, &self.issuer).expect("a certificate can be signed");
        certificate.write(&signed, &key);
        certificate
    }

    /// Its own certificate, PEM.
    pub fn file(&self) -> PathBuf {
        self.certificate.file()
    }

    /// A client that trusts its certificates alone, and checks name and time.
    pub fn trust(&self) -> Arc<ClientConfig> {
        self.certificate.trust()
    }
}

fn new_key() -> KeyPair {
    KeyPair::generate().expect("a key can be made")
}

fn parameters(names: &[&str], expiry: SystemTime) -> CertificateParams {
    let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
    let mut parameters = CertificateParams::new(names.clone()).expect("the names are ASCII");
    parameters.distinguished_name.push(DnType::CommonName, names.first().map_or("", String::as_str));
    parameters.not_before = (SystemTime::now().min(expiry) - BEGUN_BEFORE).into();
    parameters.not_after = expiry.into();
    parameters
}

/// A client that takes any certificate, as most mail servers do (RFC 7435).
pub fn trust_any() -> Arc<ClientConfig> {
    let any = AnyCertificate(provider().signature_verification_algorithms);
    Arc::new(versions().dangerous().with_custom_certificate_verifier(Arc::new(any)).with_no_client_auth())
}

fn provider() -> CryptoProvider {
    ring::default_provider()
}

fn versions() -> rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier> {
    let builder = ClientConfig::builder_with_provider(Arc::new(provider()));
    builder.with_safe_default_protocol_versions().expect("ring knows TLS 1.2 and 1.3")
}

/// Looks at signatures, since a server must have its key, and at nothing else.
#[derive(Debug)]
struct AnyCertificate(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader, Write},
        net::TcpListener,
        thread,
    };

    use rustls::{ServerConnection, StreamOwned};

    use super::*;
    use crate::Client;

    /// A server that begins with TLS, greets and echoes one line as a reply.
    fn serve(certificate: &Certificate) -> std::net::SocketAddr {
        let config = certificate.server();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let session = ServerConnection::new(Arc::clone(&config)).unwrap();
                let mut stream = BufReader::new(StreamOwned::new(session, stream));
                let mut line = String::new();
                // A client that does not trust us leaves.
                if stream.read_line(&mut line).is_ok() {
                    let _ = stream.get_mut().write_all(format!("250 {line}").as_bytes());
                    let _ = stream.get_mut().flush();
                }
            }
        });
        address
    }

    #[test]
    fn a_certificate_is_trusted_for_its_names_and_its_time() {
        let good = Certificate::of(&["mx2.example.org", "other.example"]);
        let old = Certificate::until(&["mx2.example.org"], SystemTime::now() - Duration::from_secs(60));
        for (certificate, name, config, is_trusted) in [
            (&good, "mx2.example.org", good.trust(), true),
            (&good, "other.example", good.trust(), true),
            (&good, "wrong.example", good.trust(), false),
            (&good, "wrong.example", trust_any(), true),
            (&good, "mx2.example.org", old.trust(), false),
            (&old, "mx2.example.org", old.trust(), false),
            (&old, "mx2.example.org", trust_any(), true),
        ] {
            let mut client = Client::connect(serve(certificate)).unwrap();
            let outcome = client.start_tls(name, config);
            assert_eq!(outcome.is_ok(), is_trusted, "{name}: {outcome:?}");
            if is_trusted {
                assert_eq!(client.say("hello").unwrap().to_string(), "250 hello");
                assert_eq!(client.certificate().as_ref(), Some(certificate.der()));
                assert!(client.is_closed());
            }
        }
    }

    #[test]
    fn a_renewed_certificate_is_another_one_in_the_same_files() {
        let mut certificate = Certificate::of(&["mx2.example.org"]);
        let before = (certificate.der().clone(), fs::read(certificate.key_file()).unwrap());
        certificate.renew(&["mx2.example.org"], SystemTime::now() + LIFE);
        assert_ne!(before, (certificate.der().clone(), fs::read(certificate.key_file()).unwrap()));
        assert_eq!(&CertificateDer::from_pem_file(certificate.file()).unwrap(), certificate.der());
    }
}
