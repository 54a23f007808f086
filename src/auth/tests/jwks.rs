//! B-4 and B-5 with a key set: names, steering, and how often the set is asked for.

use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::Algorithm;
use jsonwebtoken::EncodingKey;
use tokio::task::JoinSet;

use super::support::*;
use crate::auth::AuthFailure;
use crate::auth::TokenVerifier;
use crate::auth::jwks::Pace;

/// The usual one, a hundred times as fast or more.
const ALL: [(Algorithm, &str, &str); 3] =
    [(Algorithm::RS256, "RS256", "r"), (Algorithm::ES256, "ES256", "e"), (Algorithm::EdDSA, "EdDSA", "d")];

fn with_kid(algorithm: Algorithm, name: &str, kid: &str) -> String {
    token(&format!(r#"{{"alg":"{name}","kid":"{kid}"}}"#), GOOD, algorithm)
}

fn whole_set() -> String {
    set(&ALL.map(|(algorithm, _, kid)| jwk(algorithm, Some(kid))))
}

#[tokio::test]
async fn b04_names_are_matched_exactly() {
    let server = KeyServer::start(whole_set()).await;
    let verifier = TokenVerifier::new(&server.config()).unwrap();
    for (algorithm, name, kid) in ALL {
        assert!(verifier.verify(&with_kid(algorithm, name, kid), NOW).await.is_ok(), "{name}");
    }
    assert_eq!(server.asked(), 1, "one fetch serves all");
    for kid in ["R", "r ", "", "../r", "' OR 1=1--", "e", "d", "rr"] {
        assert_eq!(
            verifier.verify(&with_kid(Algorithm::RS256, "RS256", kid), NOW).await,
            Err(AuthFailure::TokenInvalid),
            "{kid}"
        );
    }
    let unnamed = token(r#"{"alg":"RS256"}"#, GOOD, Algorithm::RS256);
    assert_eq!(verifier.verify(&unnamed, NOW).await, Err(AuthFailure::TokenInvalid), "several keys, no name");
    assert!(server.asked() <= 2, "unknown names make one more fetch in ten seconds: {}", server.asked());
    // Key confusion through the set: the public key as an HMAC secret.
    let hmac = EncodingKey::from_secret(RSA_PUBLIC.as_bytes());
    let forged = signed(r#"{"alg":"HS256","kid":"r"}"#, GOOD, Algorithm::HS256, &hmac);
    assert_eq!(verifier.verify(&forged, NOW).await, Err(AuthFailure::TokenInvalid));
}

#[tokio::test]
async fn b04_without_a_name_only_the_only_key() {
    let server =
        KeyServer::start(set(&[jwk(Algorithm::EdDSA, None), serde_json::json!({"kty":"new","kid":"x"})])).await;
    let verifier = TokenVerifier::new(&server.config()).unwrap();
    assert!(verifier.verify(&token(r#"{"alg":"EdDSA"}"#, GOOD, Algorithm::EdDSA), NOW).await.is_ok());
    assert_eq!(verifier.verify(&with_kid(Algorithm::EdDSA, "EdDSA", "x"), NOW).await, Err(AuthFailure::TokenInvalid));
}

/// Keys for other uses, of other algorithms, symmetric ones, and two of one name are no keys.
#[tokio::test]
async fn keys_that_dont_count() {
    let change = |name: &str, value: serde_json::Value| {
        let mut key = jwk(Algorithm::RS256, Some(name));
        key[if name == "enc" {
            "use"
        } else if name == "ops" {
            "key_ops"
        } else {
            "alg"
        }] = value;
        key
    };
    let secret = serde_json::json!({"kty":"oct","kid":"oct","alg":"HS256","k":encode(SECRET.as_bytes())});
    let keys = [
        change("enc", "enc".into()),
        change("ops", serde_json::json!(["encrypt"])),
        change("ps", "PS256".into()),
        secret,
        jwk(Algorithm::RS256, Some("twice")),
        jwk(Algorithm::ES256, Some("twice")),
        serde_json::json!("no key"),
        jwk(Algorithm::RS256, Some("good")),
    ];
    let server = KeyServer::start(set(&keys)).await;
    let verifier = TokenVerifier::new(&server.config()).unwrap();
    for kid in ["enc", "ops", "ps", "twice"] {
        assert_eq!(
            verifier.verify(&with_kid(Algorithm::RS256, "RS256", kid), NOW).await,
            Err(AuthFailure::TokenInvalid),
            "{kid}"
        );
    }
    assert_eq!(verifier.verify(&with_kid(Algorithm::HS256, "HS256", "oct"), NOW).await, Err(AuthFailure::TokenInvalid));
    assert!(verifier.verify(&with_kid(Algorithm::RS256, "RS256", "good"), NOW).await.is_ok());
}

/// Nothing in a token makes a request anywhere but to the configured address.
#[tokio::test]
async fn b05_nothing_steers_us() {
    let canary = KeyServer::start(set(&[jwk(Algorithm::RS256, Some("evil"))])).await;
    let server = KeyServer::start(whole_set()).await;
    let own = jwk(Algorithm::RS256, None).to_string();
    let (url, cert) = (&canary.url, encode(b"certificate"));
    let members = [
        format!(r#""jku":"{url}""#),
        format!(r#""x5u":"{url}""#),
        format!(r#""jwk":{own}"#),
        format!(r#""x5c":["{cert}"]"#),
        format!(r#""jku":"{}""#, server.url),
        r#""jku":null"#.to_owned(),
    ];
    let (with_file, _file) = config_with_key(RSA_PUBLIC);
    for config in [server.config(), with_file, config()] {
        let verifier = TokenVerifier::new(&config).unwrap();
        for member in &members {
            let steering = token(&format!(r#"{{"alg":"RS256","kid":"evil",{member}}}"#), GOOD, Algorithm::RS256);
            assert_eq!(verifier.verify(&steering, NOW).await, Err(AuthFailure::TokenInvalid), "{member}");
        }
        let claims = format!(r#"{{"sub":"ada","exp":1800000600,"iss":"{url}","aud":"{url}"}}"#);
        let other = EncodingKey::from_rsa_pem(OTHER_RSA.as_bytes()).unwrap();
        let token = signed(r#"{"alg":"RS256","kid":"r"}"#, &claims, Algorithm::RS256, &other);
        assert_eq!(verifier.verify(&token, NOW).await, Err(AuthFailure::TokenInvalid));
    }
    assert_eq!(canary.asked(), 0);
}

/// A key that was rotated in is found at its first use; a hundred made-up names cost no more than one fetch.
#[tokio::test]
async fn rotation_and_floods() {
    let server = KeyServer::start(set(&[jwk(Algorithm::RS256, Some("old"))])).await;
    let verifier = TokenVerifier::new(&server.config()).unwrap();
    assert!(verifier.verify(&with_kid(Algorithm::RS256, "RS256", "old"), NOW).await.is_ok());
    later(Pace::USUAL.pause).await;
    server.now_answers(200, set(&[jwk(Algorithm::RS256, Some("old")), jwk(Algorithm::ES256, Some("new"))]));
    let new = with_kid(Algorithm::ES256, "ES256", "new");
    let at_once = futures_util::future::join_all((0..20).map(|_| verifier.verify(&new, NOW))).await;
    assert!(at_once.iter().all(Result::is_ok));
    assert_eq!(server.asked(), 2);
    let made_up = (0..100).map(|n| with_kid(Algorithm::ES256, "ES256", &format!("k{n}"))).collect::<Vec<_>>();
    let before = tokio::time::Instant::now();
    for token in &made_up {
        assert_eq!(verifier.verify(token, NOW).await, Err(AuthFailure::TokenInvalid));
    }
    let pauses = before.elapsed().as_secs() / Pace::USUAL.pause.as_secs();
    assert!(server.asked() as u64 <= 3 + pauses, "{} fetches", server.asked());
}

/// While the set can't be had: no keys yet is retryable, keys from before go on, for a day.
#[tokio::test]
async fn outages_of_the_key_server() {
    let server = KeyServer::start("busy".to_owned()).await;
    let verifier = TokenVerifier::new(&server.config()).unwrap();
    let good = with_kid(Algorithm::RS256, "RS256", "r");
    let wrong = [
        (503, String::new()),
        (200, "<html>".to_owned()),
        (302, String::new()),
        (200, set(&[])),
        (200, " ".repeat(300 * 1024)),
        (200, "{\"keys\":7}".to_owned()),
    ];
    for (status, body) in wrong {
        server.now_answers(status, body);
        assert_eq!(verifier.verify(&good, NOW).await, Err(AuthFailure::Unavailable), "{status}");
        let asked = server.asked();
        assert_eq!(verifier.verify(&good, NOW).await, Err(AuthFailure::Unavailable), "{status}");
        assert_eq!(server.asked(), asked, "not again at once");
        later(Pace::USUAL.pause_empty).await;
    }
    server.now_answers(200, whole_set());
    assert!(verifier.verify(&good, NOW).await.is_ok());
    server.now_answers(500, String::new());
    let unknown = with_kid(Algorithm::RS256, "RS256", "x");
    for hours in 0..3 {
        later(Duration::from_secs(7 * 3600)).await;
        let asked = server.asked();
        assert!(verifier.verify(&good, NOW).await.is_ok(), "{hours}");
        assert_eq!(server.asked(), asked + 1, "it was asked for again");
        assert_eq!(verifier.verify(&unknown, NOW).await, Err(AuthFailure::Unavailable), "it may be a new one");
    }
    later(Duration::from_secs(3 * 3600)).await;
    assert_eq!(verifier.verify(&good, NOW).await, Err(AuthFailure::Unavailable), "too old");
    server.now_answers(200, whole_set());
    later(Pace::USUAL.pause).await;
    assert!(verifier.verify(&good, NOW).await.is_ok(), "and back");
}

/// Run beside the server, `maintain` keeps the set fresh without any request waiting for it.
#[tokio::test]
async fn maintenance_fetches_by_itself() {
    let server = KeyServer::start(whole_set()).await;
    let verifier = Arc::new(TokenVerifier::new(&server.config()).unwrap());
    let unknown = with_kid(Algorithm::RS256, "RS256", "x");
    let kept = Arc::clone(&verifier);
    let mut work = JoinSet::new();
    work.spawn(async move { kept.maintain().await });
    for fetches in 1..=4 {
        while server.asked() < fetches {
            tokio::task::yield_now().await;
        }
        // Who asks for a name that there isn't waits for the fetch that is under way.
        assert_eq!(verifier.verify(&unknown, NOW).await, Err(AuthFailure::TokenInvalid));
        assert_eq!(server.asked(), fetches);
        later(Pace::USUAL.fresh / 2).await;
    }
    let asked = server.asked();
    assert!(verifier.verify(&with_kid(Algorithm::RS256, "RS256", "r"), NOW).await.is_ok());
    assert_eq!(server.asked(), asked, "no request waits for it");
}
