//! What a token says, read strictly. JSON is lenient about types and repeats; a token must not be.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::auth::AuthFailure;
use crate::config::Config;
use crate::event::Id;

/// Clocks may differ by this much, in seconds.
pub(super) const LEEWAY_S: u64 = 30;
/// A token that lives for ten years or more is a mistake, or a forgery made in advance.
const LIFE_MAX_S: u64 = 10 * 365 * 24 * 3600;
/// Classes of tokens that say in `typ` or `token_use` that they are not for calling an API.
const OTHER_CLASSES: [&str; 5] = ["id", "refresh", "offline", "logout", "ticket"];

/// What a verified token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// Whose it is.
    pub user: Id,
    /// Until when, in seconds since the Unix epoch; 30 s of leeway come on top.
    pub expires_at: u64,
    /// What it allows beyond reading.
    pub scopes: Scopes,
}

/// What a token allows beyond reading. Words that we don't know allow nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scopes {
    /// `publish`: may publish anywhere.
    pub publish: bool,
    /// `admin`: may manage, and publish.
    pub admin: bool,
}

impl Scopes {
    /// Parses words separated by spaces, as in the claim `scope`.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        Self::of(text.split(' '))
    }

    fn of<'a>(words: impl Iterator<Item = &'a str>) -> Self {
        words.fold(Self::default(), |scopes, word| Self {
            publish: scopes.publish || word == "publish",
            admin: scopes.admin || word == "admin",
        })
    }

    /// The claim `scope`.
    #[must_use]
    pub fn to_claim(self) -> String {
        let words = [(self.publish, "publish"), (self.admin, "admin")];
        let words: Vec<&str> = words.into_iter().filter_map(|(has, word)| has.then_some(word)).collect();
        words.join(" ")
    }
}

/// What `aud` and `iss` have to be; empty: anything.
#[derive(Debug)]
pub(super) struct Expected {
    audience: String,
    issuer: String,
}

impl Expected {
    pub(super) fn new(config: &Config) -> Self {
        Self { audience: config.jwt_audience.clone(), issuer: config.jwt_issuer.clone() }
    }
}

/// The members of a token's header that mean something here. A repeated one is an error of serde's struct.
#[derive(Deserialize)]
struct HeaderWire<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    alg: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    typ: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    kid: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    cty: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    b64: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    crit: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    zip: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    enc: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    jwk: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    jku: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    x5u: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    x5c: Option<&'a RawValue>,
}

/// Which key a token asks for.
#[derive(Debug)]
pub(super) struct Header {
    pub algorithm: jsonwebtoken::Algorithm,
    pub kid: Option<String>,
}

impl Header {
    /// Reads the header of a token that is not verified yet: everything that could steer us is refused.
    pub(super) fn parse(json: &[u8]) -> Option<Self> {
        let wire: HeaderWire<'_> = object(json)?;
        // RFC 7515 §4.1.11: `crit` names what we must understand. We understand none of it.
        let steering = [wire.crit, wire.zip, wire.enc, wire.jwk, wire.jku, wire.x5u, wire.x5c];
        let plain = steering.iter().all(Option::is_none) && wire.b64.is_none_or(|raw| raw.get() == "true");
        let typed = wire.typ.is_none_or(|raw| string(raw).is_some_and(|typ| is_token_type(&typ)));
        let nested = wire.cty.is_some_and(|raw| string(raw).is_none_or(|cty| cty.eq_ignore_ascii_case("jwt")));
        let kid = wire.kid.map(|raw| string(raw).filter(|kid| (1..=256).contains(&kid.len())));
        if !plain || !typed || nested || kid == Some(None) {
            return None;
        }
        Some(Self { algorithm: algorithm(&string(wire.alg?)?)?, kid: kid.flatten() })
    }
}

fn is_token_type(typ: &str) -> bool {
    ["jwt", "at+jwt", "application/at+jwt"].iter().any(|known| typ.eq_ignore_ascii_case(known))
}

/// Case counts: `none` in any spelling is no algorithm.
fn algorithm(name: &str) -> Option<jsonwebtoken::Algorithm> {
    match name {
        "HS256" => Some(jsonwebtoken::Algorithm::HS256),
        "RS256" => Some(jsonwebtoken::Algorithm::RS256),
        "ES256" => Some(jsonwebtoken::Algorithm::ES256),
        "EdDSA" => Some(jsonwebtoken::Algorithm::EdDSA),
        _ => None,
    }
}

#[derive(Deserialize)]
struct ClaimsWire<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    sub: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present", rename = "userId")]
    user_id: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    exp: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    nbf: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    iat: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    aud: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    iss: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    scope: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    scopes: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    typ: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    token_use: Option<&'a RawValue>,
}

/// `Option<&RawValue>` alone reads `null` as absent; `"exp":null` is no token without an end but a broken one.
fn present<'de, D: serde::Deserializer<'de>>(source: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(source).map(Some)
}

/// serde reads a struct from an array as well.
fn object<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Option<T> {
    let text = std::str::from_utf8(json).ok()?;
    text.trim_start().starts_with('{').then(|| serde_json::from_str(text).ok()).flatten()
}

fn string(raw: &RawValue) -> Option<String> {
    serde_json::from_str(raw.get()).ok()
}

/// A whole number of seconds in plain digits; RFC 7519 would allow `1e10` and `1.5`, no issuer needs it.
fn seconds(raw: &RawValue) -> Option<u64> {
    raw.get().parse().ok()
}

/// Judges the payload of a token whose signature is verified.
pub(super) fn check(json: &[u8], expected: &Expected, now: u64) -> Result<Claims, AuthFailure> {
    let wire: ClaimsWire<'_> = object(json).ok_or(AuthFailure::TokenInvalid)?;
    let user = user(&wire).ok_or(AuthFailure::TokenInvalid)?;
    let expires_at = wire.exp.and_then(seconds).ok_or(AuthFailure::TokenInvalid)?;
    let begun = |raw: Option<&RawValue>| raw.is_none_or(|raw| seconds(raw).is_some_and(|at| at <= now + LEEWAY_S));
    let good = begun(wire.nbf)
        && begun(wire.iat)
        && expires_at < now.saturating_add(LIFE_MAX_S)
        && is_for_us(&wire, expected)
        && !is_other_class(wire.typ)
        && !is_other_class(wire.token_use);
    match good {
        false => Err(AuthFailure::TokenInvalid),
        true if now >= expires_at + LEEWAY_S => Err(AuthFailure::TokenExpired),
        true => Ok(Claims { user, expires_at, scopes: scopes(&wire) }),
    }
}

/// `sub`, `userId`, or both when they are equal.
fn user(wire: &ClaimsWire<'_>) -> Option<Id> {
    let id = |raw: &RawValue| Id::parse(&string(raw)?).ok();
    match (wire.sub, wire.user_id) {
        (Some(sub), Some(user_id)) => id(sub).filter(|sub| id(user_id).as_ref() == Some(sub)),
        (Some(only), None) | (None, Some(only)) => id(only),
        (None, None) => None,
    }
}

fn is_for_us(wire: &ClaimsWire<'_>, expected: &Expected) -> bool {
    let audience = expected.audience.is_empty() || wire.aud.is_some_and(|raw| names(raw, &expected.audience));
    let issuer = expected.issuer.is_empty() || wire.iss.and_then(string).is_some_and(|iss| iss == expected.issuer);
    audience && issuer
}

/// `aud` is a string, or an array of strings.
fn names(raw: &RawValue, audience: &str) -> bool {
    let list = || serde_json::from_str::<Vec<String>>(raw.get()).unwrap_or_default();
    string(raw).map_or_else(|| list().iter().any(|one| one == audience), |one| one == audience)
}

/// Identity providers sign ID and refresh tokens with the same key.
fn is_other_class(raw: Option<&RawValue>) -> bool {
    let class = raw.and_then(string).unwrap_or_default();
    OTHER_CLASSES.iter().any(|other| class.eq_ignore_ascii_case(other))
}

fn scopes(wire: &ClaimsWire<'_>) -> Scopes {
    let of = |raw: &RawValue| match string(raw) {
        Some(text) => Scopes::parse(&text),
        None => {
            let list: Vec<String> = serde_json::from_str(raw.get()).unwrap_or_default();
            Scopes::of(list.iter().map(String::as_str))
        }
    };
    let (one, many) = (wire.scope.map(of).unwrap_or_default(), wire.scopes.map(of).unwrap_or_default());
    Scopes { publish: one.publish || many.publish, admin: one.admin || many.admin }
}
