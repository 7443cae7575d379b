//! Certificates of one cluster and the kubeconfigs of its users: files in its folder.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};

/// The API server's certificate.
pub(super) const API_SERVER: &str = "api-server";

/// The authority that the API server believes, and whose certificate its clients trust.
pub(super) struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

/// How a user proves who he is.
pub(super) enum Proof<'a> {
    /// The certificate that was issued under this name.
    Certificate(&'a str),
    /// A service account's token.
    Token(&'a str),
}

impl Authority {
    /// Writes its certificate, the API server's, and the keys of service account tokens.
    pub(super) fn prepare(folder: &Path) -> Self {
        let key = new_key();
        let mut parameters = parameters("authority");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = parameters.self_signed(&key).expect("a certificate can be signed");
        let authority = Self { folder: folder.to_owned(), issuer: Issuer::new(parameters, key) };
        write(&authority.certificate(), &certificate.pem());
        let (tokens, [public, private]) = (new_key(), authority.token_keys());
        write(&public, &tokens.public_key_pem());
        write(&private, &tokens.serialize_pem());
        authority.issue(API_SERVER, None);
        authority
    }

    /// Issues a certificate. The API server takes the common name for the user, and the organization for a group.
    pub(super) fn issue(&self, common_name: &str, organization: Option<&str>) {
        let (key, mut parameters) = (new_key(), parameters(common_name));
        if let Some(organization) = organization {
            parameters.distinguished_name.push(DnType::OrganizationName, organization);
        }
        let certificate = parameters.signed_by(&key, &self.issuer).expect("a certificate can be signed");
        let [certificate_file, key_file] = self.issued(common_name);
        write(&certificate_file, &certificate.pem());
        write(&key_file, &key.serialize_pem());
    }

    /// The certificate and the key that were issued under this name.
    pub(super) fn issued(&self, common_name: &str) -> [PathBuf; 2] {
        ["crt", "key"].map(|kind| self.folder.join(format!("{}.{kind}", common_name.replace(':', "-"))))
    }

    /// Its certificate.
    pub(super) fn certificate(&self) -> PathBuf {
        self.folder.join("authority.crt")
    }

    /// The keys that service account tokens are checked and signed with.
    pub(super) fn token_keys(&self) -> [PathBuf; 2] {
        ["tokens.pub", "tokens.key"].map(|name| self.folder.join(name))
    }

    /// Writes a kubeconfig into a file of this name.
    pub(super) fn write_kubeconfig(&self, name: &str, server: SocketAddr, proof: &Proof) -> PathBuf {
        let user = match proof {
            Proof::Certificate(common_name) => {
                let [certificate, key] = self.issued(common_name);
                format!("{{client-certificate: {}, client-key: {}}}", certificate.display(), key.display())
            }
            Proof::Token(token) => format!("{{token: {token}}}"),
        };
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: only\n\
             contexts: [{{name: only, context: {{cluster: only, user: only}}}}]\n\
             clusters: [{{name: only, cluster: {{server: \"https://{server}\", certificate-authority: {}}}}}]\n\
             users: [{{name: only, user: {user}}}]\n",
            self.certificate().display()
        );
        let file = self.folder.join(format!("{name}.kubeconfig"));
        write(&file, &text);
        file
    }
}

fn new_key() -> KeyPair {
    KeyPair::generate().expect("a key can be made")
}

fn parameters(common_name: &str) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.subject_alt_names = vec![SanType::IpAddress(Ipv4Addr::LOCALHOST.into())];
    parameters.distinguished_name.push(DnType::CommonName, common_name);
    parameters
}

fn write(file: &Path, text: &str) {
    fs::write(file, text).unwrap_or_else(|error| panic!("write {}: {error}", file.display()));
}
