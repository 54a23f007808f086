//! Certificates of the tests, made anew each time, and a way for clients that know no TLS to speak it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use rcgen::CertificateParams;
use rcgen::KeyPair;
use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::ServerName;
use sha2::Digest as _;
use tokio::io::copy_bidirectional;
use tokio::net::TcpListener;
use tokio::net::TcpSocket;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::child::TempDir;

/// A certificate for this machine, and its key.
#[derive(Debug, Clone)]
pub struct Pair {
    pub cert: String,
    pub key: String,
    pub der: CertificateDer<'static>,
    /// SHA-256 of its public key in base64, as browsers are told whom to trust.
    pub fingerprint: String,
}

impl Pair {
    /// A certificate that vouches for itself.
    pub fn make() -> Self {
        Self::until(rcgen::date_time_ymd(2100, 1, 1))
    }

    /// The same, until a given day.
    pub fn until(end: time::OffsetDateTime) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        params.not_after = end;
        let cert = params.self_signed(&key).unwrap();
        let public = rcgen::PublicKeyData::subject_public_key_info(&key);
        let fingerprint = base64(&sha2::Sha256::digest(public));
        Self { cert: cert.pem(), key: key.serialize_pem(), der: cert.der().clone(), fingerprint }
    }
}

/// RFC 4648 §4 of 32 bytes.
fn base64(bytes: &[u8]) -> String {
    crate::support::tokens::base64url(bytes).replace('-', "+").replace('_', "/") + "="
}

/// A pair in files, as settings name them.
#[derive(Debug)]
pub struct PairFiles {
    directory: TempDir,
}

impl PairFiles {
    pub fn new(pair: &Pair) -> Self {
        let this = Self { directory: TempDir::new("tls") };
        this.write(&pair.cert, &pair.key);
        this
    }

    pub fn write(&self, cert: &str, key: &str) {
        std::fs::write(self.cert(), cert).unwrap();
        std::fs::write(self.key(), key).unwrap();
    }

    pub fn cert(&self) -> PathBuf {
        self.directory.path().join("tls.crt")
    }

    pub fn key(&self) -> PathBuf {
        self.directory.path().join("tls.key")
    }
}

/// A connection to whoever shows this certificate, and speaks one of these protocols.
pub async fn connect(addr: SocketAddr, pair: &Pair, protocols: &[&str]) -> std::io::Result<TlsStream<TcpStream>> {
    let socket = TcpSocket::new_v4()?;
    // Whoever is not read through it is noticed soon.
    socket.set_recv_buffer_size(16 * 1024)?;
    let socket = socket.connect(addr).await?;
    socket.set_nodelay(true)?;
    let mut roots = RootCertStore::empty();
    roots.add(pair.der.clone()).map_err(std::io::Error::other)?;
    let versions = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let versions = versions.with_safe_default_protocol_versions().map_err(std::io::Error::other)?;
    let mut config = versions.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let name = ServerName::try_from("localhost").map_err(std::io::Error::other)?;
    TlsConnector::from(Arc::new(config)).connect(name, socket).await
}

/// A port without TLS before one with it: HTTP/1.1 for clients that speak no TLS. Dropping it closes what goes through it.
#[derive(Debug)]
pub struct Tunnel {
    pub addr: SocketAddr,
    _serving: JoinSet<()>,
}

impl Tunnel {
    pub async fn to(addr: SocketAddr, pair: &Pair) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap();
        let pair = pair.clone();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                let pair = pair.clone();
                near.set_nodelay(true).ok();
                socket2::SockRef::from(&near).set_send_buffer_size(16 * 1024).ok();
                open.spawn(async move {
                    let Ok(mut far) = connect(addr, &pair, &["http/1.1"]).await else { return };
                    copy_bidirectional(&mut near, &mut far).await.ok();
                });
                while open.try_join_next().is_some() {}
            }
        });
        Self { addr: own, _serving: serving }
    }
}
