//! Keys, each pinned to one algorithm. A token's header never chooses the algorithm, only the key (RFC 8725 §3.1).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use jsonwebtoken::Algorithm;
use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::AlgorithmParameters;
use jsonwebtoken::jwk::EllipticCurve;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::jwk::KeyAlgorithm;
use jsonwebtoken::jwk::KeyOperations;
use jsonwebtoken::jwk::PublicKeyUse;
use serde::Deserialize;

use crate::auth::AuthSetupError;

/// Keys of a set at most; the others are not looked at.
const KEYS_MAX: usize = 100;
/// An uncompressed point of P-256.
const P256_POINT_BYTES: usize = 65;

/// A key that verifies tokens of exactly one algorithm.
#[derive(Debug)]
pub(super) struct Key {
    algorithm: Algorithm,
    key: DecodingKey,
}

impl Key {
    pub(super) fn secret(secret: &[u8]) -> Self {
        Self { algorithm: Algorithm::HS256, key: DecodingKey::from_secret(secret) }
    }

    /// A PEM public key; its type decides the algorithm.
    pub(super) fn file(path: &str) -> Result<Self, AuthSetupError> {
        let read = std::fs::read_to_string(path);
        let pem = read.map_err(|source| AuthSetupError::KeyFile { path: path.to_owned(), source })?;
        if pem.contains("PRIVATE KEY") {
            return Err(AuthSetupError::PrivateKey { path: path.to_owned() });
        }
        Self::pem(pem.as_bytes()).ok_or_else(|| AuthSetupError::KeyUnusable { path: path.to_owned() })
    }

    pub(super) fn pem(pem: &[u8]) -> Option<Self> {
        let of = |algorithm, key: Result<DecodingKey, _>| key.ok().map(|key| Self { algorithm, key });
        let p256 = |key: &Self| key.key.try_get_as_bytes().is_ok_and(|point| point.len() == P256_POINT_BYTES);
        of(Algorithm::RS256, DecodingKey::from_rsa_pem(pem))
            .or_else(|| of(Algorithm::ES256, DecodingKey::from_ec_pem(pem)).filter(p256))
            .or_else(|| of(Algorithm::EdDSA, DecodingKey::from_ed_pem(pem)))
    }

    /// A public signature key of a set; `None` for other uses, other algorithms, and for symmetric keys, which have no
    /// business in a document that everybody can read.
    fn jwk(jwk: &Jwk) -> Option<Self> {
        let common = &jwk.common;
        let signs = common.public_key_use.as_ref().is_none_or(|u| *u == PublicKeyUse::Signature);
        let verifies = common.key_operations.as_ref().is_none_or(|ops| ops.contains(&KeyOperations::Verify));
        let (by_type, name) = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => (Algorithm::RS256, KeyAlgorithm::RS256),
            AlgorithmParameters::EllipticCurve(p) if p.curve == EllipticCurve::P256 => {
                (Algorithm::ES256, KeyAlgorithm::ES256)
            }
            AlgorithmParameters::OctetKeyPair(p) if p.curve == EllipticCurve::Ed25519 => {
                (Algorithm::EdDSA, KeyAlgorithm::EdDSA)
            }
            _ => return None,
        };
        let named = common.key_algorithm.as_ref().is_none_or(|algorithm| *algorithm == name);
        let key = DecodingKey::from_jwk(jwk).ok()?;
        (signs && verifies && named).then_some(Self { algorithm: by_type, key })
    }

    pub(super) fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// `signature` as it stands in the token, over the bytes of its first two parts.
    pub(super) fn verifies(&self, message: &str, signature: &str) -> bool {
        jsonwebtoken::crypto::verify(signature, message.as_bytes(), &self.key, self.algorithm).unwrap_or(false)
    }
}

/// The usable keys of one fetched set.
#[derive(Debug, Default)]
pub(super) struct KeySet {
    named: HashMap<String, Arc<Key>>,
    unnamed: Vec<Arc<Key>>,
}

impl KeySet {
    /// Parses a JWK set; keys that can't be used are left out. `None` when it is no set.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Wire {
            keys: Vec<serde_json::Value>,
        }
        let wire: Wire = serde_json::from_slice(bytes).ok()?;
        let mut set = Self::default();
        let mut ambiguous = Vec::new();
        for value in wire.keys.into_iter().take(KEYS_MAX) {
            let Ok(jwk) = serde_json::from_value::<Jwk>(value) else { continue };
            let Some(key) = Key::jwk(&jwk).map(Arc::new) else { continue };
            match jwk.common.key_id.map(|kid| set.named.entry(kid)) {
                None => set.unnamed.push(key),
                Some(Entry::Vacant(slot)) => drop(slot.insert(key)),
                Some(Entry::Occupied(taken)) => ambiguous.push(taken.key().clone()),
            }
        }
        // Two keys of one name: none of them is the one that is meant.
        for kid in ambiguous {
            set.named.remove(&kid);
        }
        Some(set)
    }

    /// The key of exactly that name; without a name the only key there is, or none.
    pub(super) fn find(&self, kid: Option<&str>) -> Option<Arc<Key>> {
        match kid {
            Some(kid) => self.named.get(kid).cloned(),
            None if self.len() == 1 => self.unnamed.first().or_else(|| self.named.values().next()).cloned(),
            None => None,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.named.len() + self.unnamed.len()
    }
}
