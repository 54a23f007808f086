//! Tokens of any form, keys of every type, a key server, and a store.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jsonwebtoken::Algorithm;
use jsonwebtoken::EncodingKey;
use jsonwebtoken::jwk::Jwk;
use parking_lot::Mutex;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use crate::auth::AuthFailure;
use crate::auth::Claims;
use crate::auth::TokenVerifier;
use crate::config::Config;
use crate::config::Secret;

pub(super) const NOW: u64 = 1_800_000_000;
pub(super) const SECRET: &str = "a secret of at least thirty-two bytes";
pub(super) const RSA: &str = include_str!("../fixtures/rsa.pem");
pub(super) const RSA_PUBLIC: &str = include_str!("../fixtures/rsa.pub.pem");
pub(super) const OTHER_RSA: &str = include_str!("../fixtures/other_rsa.pem");
pub(super) const EC: &str = include_str!("../fixtures/ec.pem");
pub(super) const EC_PUBLIC: &str = include_str!("../fixtures/ec.pub.pem");
pub(super) const ED: &str = include_str!("../fixtures/ed.pem");
pub(super) const ED_PUBLIC: &str = include_str!("../fixtures/ed.pub.pem");
pub(super) const GOOD: &str = r#"{"sub":"ada","exp":1800000600}"#;

pub(super) fn key(algorithm: Algorithm) -> EncodingKey {
    match algorithm {
        Algorithm::RS256 | Algorithm::PS256 | Algorithm::RS384 => EncodingKey::from_rsa_pem(RSA.as_bytes()).unwrap(),
        Algorithm::ES256 => EncodingKey::from_ec_pem(EC.as_bytes()).unwrap(),
        Algorithm::EdDSA => EncodingKey::from_ed_pem(ED.as_bytes()).unwrap(),
        _ => EncodingKey::from_secret(SECRET.as_bytes()),
    }
}

/// base64url without padding.
pub(super) fn encode(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0_u32, |word, b| (word << 8) | u32::from(*b)) << (8 * (3 - chunk.len()));
        for place in 0..=chunk.len() {
            out.push(char::from(ALPHABET[(word >> (18 - 6 * place)) as usize & 63]));
        }
    }
    out
}

/// A token of any header and payload, signed with our key of that algorithm, whatever the header says.
pub(super) fn token(header: &str, payload: &str, algorithm: Algorithm) -> String {
    signed(header, payload, algorithm, &key(algorithm))
}

pub(super) fn signed(header: &str, payload: &str, algorithm: Algorithm, key: &EncodingKey) -> String {
    crate::auth::install_crypto();
    let message = format!("{}.{}", encode(header.as_bytes()), encode(payload.as_bytes()));
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), key, algorithm).unwrap();
    format!("{message}.{signature}")
}

/// HS256 with this payload.
pub(super) fn hs256(payload: &str) -> String {
    token(r#"{"alg":"HS256"}"#, payload, Algorithm::HS256)
}

pub(super) fn config() -> Config {
    let mut config = Config::defaults();
    config.jwt_secret = Secret::new(SECRET);
    config
}

pub(super) fn config_with_key(pem: &str) -> (Config, TempFile) {
    let file = TempFile::new(pem);
    let mut config = Config::defaults();
    config.jwt_key_file = file.0.display().to_string();
    (config, file)
}

/// A file that goes away with the test.
pub(super) struct TempFile(pub(super) std::path::PathBuf);

impl TempFile {
    pub(super) fn new(text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tidings-key-{:016x}.pem", fastrand::u64(..)));
        std::fs::write(&path, text).unwrap();
        Self(path)
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.0));
    }
}

pub(super) async fn verify(config: &Config, token: &str) -> Result<Claims, AuthFailure> {
    TokenVerifier::new(config).unwrap().verify(token, NOW).await
}

/// Every one of these is `wanted` and nothing else.
pub(super) async fn refused(config: &Config, wanted: AuthFailure, tokens: impl IntoIterator<Item = (String, String)>) {
    let verifier = TokenVerifier::new(config).unwrap();
    for (name, token) in tokens {
        assert_eq!(verifier.verify(&token, NOW).await, Err(wanted), "{name}");
    }
}

/// The public part of our key as a member of a set.
pub(super) fn jwk(algorithm: Algorithm, kid: Option<&str>) -> serde_json::Value {
    crate::auth::install_crypto();
    let mut jwk = serde_json::to_value(Jwk::from_encoding_key(&key(algorithm), algorithm).unwrap()).unwrap();
    if let Some(kid) = kid {
        jwk["kid"] = kid.into();
    }
    jwk
}

pub(super) fn set(keys: &[serde_json::Value]) -> String {
    serde_json::json!({ "keys": keys }).to_string()
}

/// An HTTP server that counts requests and answers all of them with the same status and body.
pub(super) struct KeyServer {
    pub(super) url: String,
    answer: Arc<Mutex<(u16, String)>>,
    asked: Arc<AtomicUsize>,
    /// Ends with it.
    _tasks: tokio::task::JoinSet<()>,
}

impl KeyServer {
    pub(super) async fn start(body: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks.json", listener.local_addr().unwrap());
        let (answer, asked) = (Arc::new(Mutex::new((200, body))), Arc::new(AtomicUsize::new(0)));
        let mut tasks = tokio::task::JoinSet::new();
        let (give, count) = (Arc::clone(&answer), Arc::clone(&asked));
        tasks.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = [0; 4096];
                if stream.read(&mut head).await.unwrap_or(0) == 0 {
                    continue;
                }
                count.fetch_add(1, Ordering::SeqCst);
                let (status, body) = give.lock().clone();
                let head = format!(
                    "HTTP/1.1 {status} X\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    body.len()
                );
                drop(stream.write_all(head.as_bytes()).await);
                drop(stream.write_all(body.as_bytes()).await);
            }
        });
        Self { url, answer, asked, _tasks: tasks }
    }

    pub(super) fn now_answers(&self, status: u16, body: String) {
        *self.answer.lock() = (status, body);
    }

    pub(super) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    pub(super) fn config(&self) -> Config {
        let mut config = Config::defaults();
        config.jwks_url.clone_from(&self.url);
        config
    }
}

/// Lets the clock jump: what a test says of ages holds on a machine of any speed, and nothing waits for them.
pub(super) async fn later(by: Duration) {
    tokio::time::pause();
    tokio::time::advance(by).await;
    tokio::time::resume();
}
