//! Tokens made by hand, so that wrong ones can be made as well.

use sha2::Digest as _;
use sha2::Sha256;

/// What `Server::spawn` sets as `JWT_SECRET` unless told otherwise.
pub const SECRET: &str = "a secret of the tests, long enough for HS256";
/// The ordinary header.
pub const HEADER: &str = r#"{"alg":"HS256","typ":"JWT"}"#;
const BLOCK: usize = 64;

/// A good token of a user for an hour.
pub fn for_user(user: &str) -> String {
    for_user_until(user, now_s() + 3600)
}

/// A token of a user that ends at that second since 1970.
pub fn for_user_until(user: &str, exp: u64) -> String {
    with_claims(&serde_json::json!({"sub": user, "exp": exp}))
}

/// A token that may also `publish` or `admin`.
pub fn with_scope(user: &str, scope: &str) -> String {
    with_claims(&serde_json::json!({"sub": user, "exp": now_s() + 3600, "scope": scope}))
}

/// These claims, whatever they say, well signed.
pub fn with_claims(claims: &serde_json::Value) -> String {
    hs256(HEADER, &claims.to_string(), SECRET.as_bytes())
}

/// Any header and claims, as text (they need not be JSON), signed by HMAC-SHA256 whatever the header says.
pub fn hs256(header: &str, claims: &str, secret: &[u8]) -> String {
    let signed = format!("{}.{}", base64url(header.as_bytes()), base64url(claims.as_bytes()));
    let signature = base64url(&hmac_sha256(secret, signed.as_bytes()));
    format!("{signed}.{signature}")
}

/// The same with an empty signature.
pub fn unsigned(header: &str, claims: &str) -> String {
    format!("{}.{}.", base64url(header.as_bytes()), base64url(claims.as_bytes()))
}

/// RFC 4648 §5 without padding.
pub fn base64url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..=group.len() {
            let index = bits >> (18 - 6 * digit) & 63;
            text.push(char::from(DIGITS[index as usize]));
        }
    }
    text
}

/// RFC 2104.
pub fn hmac_sha256(secret: &[u8], message: &[u8]) -> [u8; 32] {
    let mut key = [0; BLOCK];
    let hashed;
    let secret = if secret.len() > BLOCK {
        hashed = Sha256::digest(secret);
        &hashed[..]
    } else {
        secret
    };
    key[..secret.len()].copy_from_slice(secret);
    let inner = Sha256::new().chain_update(key.map(|byte| byte ^ 0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(key.map(|byte| byte ^ 0x5c)).chain_update(inner).finalize().into()
}

/// Seconds since 1970.
#[expect(clippy::disallowed_methods, reason = "tokens are judged by the wall clock")]
pub fn now_s() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.expect("we live after 1970").as_secs()
}
