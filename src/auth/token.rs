//! From a token's text to its claims: size, form, key, signature, content, in this order.

use jsonwebtoken::Algorithm;
use jsonwebtoken::EncodingKey;
use serde::Serialize;

use crate::auth::AuthFailure;
use crate::auth::AuthSetupError;
use crate::auth::base64url;
use crate::auth::claims;
use crate::auth::claims::Claims;
use crate::auth::claims::Expected;
use crate::auth::claims::Header;
use crate::auth::claims::Scopes;
use crate::auth::jwks::Jwks;
use crate::auth::jwks::Pace;
use crate::auth::keys::Key;
use crate::config::Config;
use crate::config::Secret;
use crate::event::Id;

/// Longest token, in bytes; checked before anything is decoded.
const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// Makes both libraries that encrypt use the same implementation. Call it first; again does nothing.
pub fn install_crypto() {
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    // Explicit, because a dependency that turns on the other one would make it panic inside a request.
    let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
}

/// Verifies tokens by the keys of the settings.
#[derive(Debug)]
pub struct TokenVerifier {
    /// The secret and the key file: at most one per algorithm.
    keys: Vec<Key>,
    jwks: Option<Jwks>,
    expected: Expected,
}

/// The three parts of a token; the first two together are what is signed.
struct Parts<'a> {
    signed: &'a str,
    header: Vec<u8>,
    payload: Vec<u8>,
    signature: &'a str,
}

impl<'a> Parts<'a> {
    fn split(token: &'a str) -> Option<Self> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, payload) = signed.split_once('.')?;
        // Decoded for the check alone: one text per token. (A fourth part fails as a dot inside the second.)
        base64url::decode(signature).filter(|bytes| !bytes.is_empty())?;
        Some(Self { signed, header: base64url::decode(header)?, payload: base64url::decode(payload)?, signature })
    }
}

impl TokenVerifier {
    /// Reads the secret, the key file and the key set's URL from the settings. Fetches nothing yet.
    ///
    /// # Errors
    /// The key file can't be used, with the reason.
    pub fn new(config: &Config) -> Result<Self, AuthSetupError> {
        install_crypto();
        let mut keys = Vec::new();
        if !config.jwt_secret.expose().is_empty() {
            keys.push(Key::secret(config.jwt_secret.expose().as_bytes()));
        }
        if !config.jwt_key_file.is_empty() {
            keys.push(Key::file(&config.jwt_key_file)?);
        }
        let jwks = if config.jwks_url.is_empty() { None } else { Some(Jwks::new(&config.jwks_url, Pace::USUAL)?) };
        Ok(Self { keys, jwks, expected: Expected::new(config) })
    }

    /// What the token says, if it is one of ours and valid at `now` (seconds since the Unix epoch).
    ///
    /// # Errors
    /// `TokenInvalid`, `TokenExpired`; `Unavailable` while the key set can't be had.
    pub async fn verify(&self, token: &str, now: u64) -> Result<Claims, AuthFailure> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(AuthFailure::TokenInvalid);
        }
        let parts = Parts::split(token).ok_or(AuthFailure::TokenInvalid)?;
        let header = Header::parse(&parts.header).ok_or(AuthFailure::TokenInvalid)?;
        self.check_signature(&header, &parts).await?;
        claims::check(&parts.payload, &self.expected, now)
    }

    /// Keeps the key set fresh, so that no request waits for it. Never returns; returns at once when there is none.
    pub async fn maintain(&self) {
        if let Some(jwks) = &self.jwks {
            jwks.maintain().await;
        }
    }

    async fn check_signature(&self, header: &Header, parts: &Parts<'_>) -> Result<(), AuthFailure> {
        let kid = header.kid.as_deref();
        let mut configured = self.keys.iter().filter(|key| key.algorithm() == header.algorithm);
        if kid.is_none_or(is_plain) && configured.any(|key| key.verifies(parts.signed, parts.signature)) {
            return Ok(());
        }
        // A key set holds public keys only, so a token with a secret's algorithm can't be from there.
        let jwks = self.jwks.as_ref().filter(|_| header.algorithm != Algorithm::HS256);
        let key = jwks.ok_or(AuthFailure::TokenInvalid)?.key(kid).await?;
        let good = key.algorithm() == header.algorithm && key.verifies(parts.signed, parts.signature);
        if good { Ok(()) } else { Err(AuthFailure::TokenInvalid) }
    }
}

/// The secret and the key file have no name that `kid` could be compared with, so any name will do; not so a path or SQL.
fn is_plain(kid: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.:=+/~@|-".contains(&b);
    kid.bytes().all(plain) && !kid.contains("..") && !kid.starts_with('/')
}

/// A token for `tidings token` and for tests: HS256, valid from `now` (seconds since the Unix epoch) for `ttl_s` seconds.
#[must_use]
pub fn mint(secret: &Secret, user: &Id, scopes: Scopes, now: u64, ttl_s: u64) -> String {
    #[derive(Serialize)]
    struct Wire<'a> {
        sub: &'a str,
        iat: u64,
        exp: u64,
        #[serde(skip_serializing_if = "String::is_empty")]
        scope: String,
    }
    install_crypto();
    let wire = Wire { sub: user.as_str(), iat: now, exp: now.saturating_add(ttl_s), scope: scopes.to_claim() };
    let key = EncodingKey::from_secret(secret.expose().as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::new(Algorithm::HS256), &wire, &key)
        .expect("an HMAC over a struct of texts and numbers has nothing that could fail")
}
