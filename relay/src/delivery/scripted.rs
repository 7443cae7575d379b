//! A primary for the tests beside it: it does what its script says, and tells what it heard.

use std::{net::IpAddr, sync::Arc, time::Duration};

use backupmx_relay_api::config::{Host, PrimaryTls, TlsMode};
use rustls::{ServerConfig, crypto::ring};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

use super::{
    encryption::Encryption,
    hop::{Caller, Hop, Patience},
    wire::{Socket, Wire},
};

/// For everything: no script lasts that long.
pub const PATIENCE: Patience = Patience { connect: Duration::from_secs(10), reply: Duration::from_secs(10) };

/// What a server does next. At the end of its script it waits for one more line, and closes.
#[derive(Clone)]
pub enum Act {
    /// Says so.
    Say(String),
    /// Reads a line.
    Line,
    /// Reads up to these bytes.
    Until(&'static str),
    /// Reads until the client closes.
    Rest,
    /// Does a handshake. If it fails, the connection ends.
    Tls(Arc<ServerConfig>),
}

/// Says the first of these at once, and each other one after a line.
pub fn says(replies: &[&str]) -> Vec<Act> {
    let acts = replies.iter().flat_map(|reply| [Act::Line, Act::Say((*reply).to_owned())]);
    acts.skip(1).collect()
}

/// Serves one connection after the other. Returns where, and what each of them heard: line by line, without line ends.
pub async fn serve(scripts: Vec<Vec<Act>>) -> (Host, JoinHandle<Vec<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = Host { host: "127.0.0.1".into(), port: listener.local_addr().unwrap().port(), xclient: false };
    let served = tokio::spawn(async move {
        let mut heard = Vec::new();
        for script in scripts {
            let (stream, _) = listener.accept().await.unwrap();
            heard.push(converse(Box::new(stream), script).await);
        }
        heard
    });
    (host, served)
}

async fn converse(stream: Box<dyn Socket>, script: Vec<Act>) -> Vec<String> {
    let (mut stream, mut heard) = (BufReader::new(stream), Vec::new());
    for act in script.into_iter().chain([Act::Line]) {
        match act {
            Act::Say(reply) => {
                // Fails where the client was faster, which is as good.
                let _ = stream.write_all(reply.as_bytes()).await;
                let _ = stream.flush().await;
            }
            Act::Line => heard.push(until(&mut stream, "\n").await),
            Act::Until(end) => heard.push(until(&mut stream, end).await),
            Act::Rest => {
                let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
            }
            Act::Tls(config) => match TlsAcceptor::from(config).accept(stream.into_inner()).await {
                Ok(encrypted) => stream = BufReader::new(Box::new(encrypted)),
                Err(_) => break,
            },
        }
    }
    heard.retain(|line| !line.is_empty());
    heard
}

async fn until(stream: &mut BufReader<Box<dyn Socket>>, end: &str) -> String {
    let mut read = Vec::new();
    while !read.ends_with(end.as_bytes()) {
        match stream.read_u8().await {
            Ok(byte) => read.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&read).trim_end_matches(['\r', '\n']).to_owned()
}

/// A connection in clear, up to EHLO, to a server that does so.
pub async fn hop(script: Vec<Act>) -> (Hop, JoinHandle<Vec<String>>) {
    let (host, served) = serve(vec![script]).await;
    let hop = caller(TlsMode::None).open(&host, PATIENCE, false).await.unwrap();
    (hop, tokio::spawn(async move { served.await.unwrap().remove(0) }))
}

/// The same without a network and without EHLO: for tests in which time stands still.
pub fn hop_in_memory(script: Vec<Act>) -> Hop {
    let (mine, theirs) = tokio::io::duplex(1 << 20);
    tokio::spawn(converse(Box::new(theirs), script));
    Hop::over(Wire::new(mine), "mx1.example.org:25".into(), IpAddr::from([192, 0, 2, 1]))
}

/// Opens connections in this mode.
pub fn caller(mode: TlsMode) -> Caller {
    let encryption = Encryption::new(&PrimaryTls { mode, ..PrimaryTls::default() }).unwrap();
    Caller::new("mx2.example.org".into(), Arc::new(encryption), Vec::new())
}

/// A server with this certificate and its key.
pub fn server_config(certificate: &rcgen::Certificate, key: &rcgen::KeyPair) -> Arc<ServerConfig> {
    let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key);
    Arc::new(config.unwrap())
}
