//! TLS of the public port: the handshake, and a certificate that may change while connections are open.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::ClientHello;
use rustls::server::ResolvesServerCert;
use rustls::sign::CertifiedKey;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::config::Config;
use crate::http::certificate;
use crate::http::certificate::CertificateError;
use crate::http::certificate::Contents;
use crate::http::certificate::Files;
use crate::http::http2::PREFACE;
use crate::http::socket::Secured;
use crate::http::socket::Socket;
use crate::telemetry::Metrics;

/// How often the files are read. Mounted secrets change by a link that points elsewhere, which no watch of the file sees.
const REREAD_EVERY: Duration = Duration::from_secs(3);
/// What is offered, the better one first.
const PROTOCOLS: [&[u8]; 2] = [HTTP2, b"http/1.1"];
const HTTP2: &[u8] = b"h2";

/// TLS as the settings ask for it. Cheap to clone.
#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
    current: Arc<Current>,
    files: Files,
    metrics: Metrics,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}

/// The pair that new connections are shown.
#[derive(Debug)]
struct Current(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl Tls {
    /// TLS with the certificate and the key of the settings; `None` where they ask for none. Also what the files said, for
    /// `keep_fresh`.
    ///
    /// # Errors
    /// A file that can't be read, has not what it should have, or a key that does not fit: a line for the operator.
    pub async fn load(config: &Config, metrics: &Metrics) -> Result<Option<(Self, Loaded)>, CertificateError> {
        let Some(files) = Files::of(config) else { return Ok(None) };
        let contents = files.read().await?;
        let pair = files.pair(&contents)?;
        note_end(metrics, &pair);
        let current = Arc::new(Current(ArcSwap::from_pointee(pair)));
        let acceptor = TlsAcceptor::from(Arc::new(server_config(Arc::clone(&current))));
        Ok(Some((Self { acceptor, current, files, metrics: metrics.clone() }, Loaded(contents))))
    }

    /// The handshake, and whether HTTP/2 follows. It ends only when that is decided: the caller bounds the time.
    pub(super) async fn accept(&self, socket: TcpStream) -> io::Result<(Socket, bool)> {
        let mut stream = self.acceptor.accept(socket).await?;
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(HTTP2);
        let mut unread: &[u8] = &[];
        if is_http2 {
            // hyper waits for it without a bound.
            let mut preface = [0; PREFACE.len()];
            stream.read_exact(&mut preface).await?;
            unread = PREFACE;
            if preface != *PREFACE {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        Ok((Socket::Tls(Box::new(Secured { stream, unread })), is_http2))
    }

    /// Counts how a handshake went.
    pub(super) fn count(&self, outcome: &str) {
        self.metrics.tls_handshakes.with_label_values(&[outcome]).inc();
    }

    /// Takes over what the files say whenever it changes. What is no pair is warned of, once, and the one before stays.
    pub async fn keep_fresh(&self, Loaded(mut seen): Loaded) {
        let mut unreadable = false;
        loop {
            tokio::time::sleep(REREAD_EVERY).await;
            match self.files.read().await {
                Ok(contents) if contents == seen => unreadable = false,
                Ok(contents) => {
                    self.renew(&contents);
                    (seen, unreadable) = (contents, false);
                }
                Err(error) if !unreadable => {
                    self.failed(&error);
                    unreadable = true;
                }
                Err(_) => {}
            }
        }
    }

    fn renew(&self, contents: &Contents) {
        match self.files.pair(contents) {
            Ok(pair) => {
                note_end(&self.metrics, &pair);
                self.current.0.store(Arc::new(pair));
                self.metrics.tls_reloads.with_label_values(&["loaded"]).inc();
                tracing::info!("a new certificate is in use");
            }
            Err(error) => self.failed(&error),
        }
    }

    fn failed(&self, error: &CertificateError) {
        self.metrics.tls_reloads.with_label_values(&["failed"]).inc();
        tracing::warn!(%error, "the certificate has changed and can't be used: the one before stays");
    }
}

/// What the files said when they were read.
#[derive(Debug)]
pub struct Loaded(Contents);

fn note_end(metrics: &Metrics, pair: &CertifiedKey) {
    let ends_at = pair.cert.first().and_then(|certificate| certificate::ends_at(certificate));
    metrics.tls_certificate_ends.set(ends_at.unwrap_or(0));
}

fn server_config(current: Arc<Current>) -> ServerConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let versions = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let versions = versions.expect("this provider speaks TLS 1.2 and 1.3");
    let mut config = versions.with_no_client_auth().with_cert_resolver(current);
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
    // A crowd that comes back is spared its signatures, and we keep nothing for it. Without them it only costs more.
    if let Ok(ticketer) = aws_lc_rs::Ticketer::new() {
        config.ticketer = ticketer;
    }
    config
}
