//! B-1 to B-15: tokens.

use jsonwebtoken::Algorithm;
use jsonwebtoken::EncodingKey;

use super::support::*;
use crate::auth::AuthFailure;
use crate::auth::AuthSetupError;
use crate::auth::Scopes;
use crate::auth::TokenVerifier;
use crate::auth::mint;
use crate::config::Secret;
use crate::event::Id;

const INVALID: AuthFailure = AuthFailure::TokenInvalid;

fn named(texts: &[&str], make: impl Fn(&str) -> String) -> Vec<(String, String)> {
    texts.iter().map(|text| ((*text).to_owned(), make(text))).collect()
}

#[tokio::test]
async fn good_tokens_of_every_algorithm() {
    let claims = verify(&config(), &hs256(GOOD)).await.unwrap();
    assert_eq!((claims.user.as_str(), claims.expires_at, claims.scopes), ("ada", NOW + 600, Scopes::default()));
    for (pem, algorithm, name) in [
        (RSA_PUBLIC, Algorithm::RS256, "RS256"),
        (EC_PUBLIC, Algorithm::ES256, "ES256"),
        (ED_PUBLIC, Algorithm::EdDSA, "EdDSA"),
    ] {
        let (config, _file) = config_with_key(pem);
        let token = token(&format!(r#"{{"typ":"at+JWT","alg":"{name}","kid":"a/b+c=="}}"#), GOOD, algorithm);
        assert!(verify(&config, &token).await.is_ok(), "{name}");
    }
    let minted = mint(&Secret::new(SECRET), &Id::parse("bob").unwrap(), Scopes::parse("publish"), NOW, 60);
    let claims = verify(&config(), &minted).await.unwrap();
    assert_eq!((claims.user.as_str(), claims.scopes.publish, claims.scopes.admin), ("bob", true, false));
}

#[tokio::test]
async fn b01_alg_none() {
    let unsigned =
        |alg: &str| format!("{}.{}", encode(format!(r#"{{"alg":{alg}}}"#).as_bytes()), encode(GOOD.as_bytes()));
    let algs = [r#""none""#, r#""None""#, r#""NONE""#, r#""nOnE""#, r#""""#, "null", "[]", r#""hs256""#, r#""HS512""#];
    refused(&config(), INVALID, named(&algs, |alg| unsigned(alg) + ".")).await;
    refused(&config(), INVALID, named(&algs, |alg| token(&format!(r#"{{"alg":{alg}}}"#), GOOD, Algorithm::HS256)))
        .await;
    refused(&config(), INVALID, [("no alg".to_owned(), token("{}", GOOD, Algorithm::HS256))]).await;
}

#[tokio::test]
async fn b02_key_confusion() {
    for (pem, algorithm) in
        [(RSA_PUBLIC, Algorithm::RS256), (EC_PUBLIC, Algorithm::ES256), (ED_PUBLIC, Algorithm::EdDSA)]
    {
        let (config, _file) = config_with_key(pem);
        let der: Vec<u8> = pem.lines().filter(|line| !line.starts_with('-')).flat_map(str::bytes).collect();
        for secret in [pem.as_bytes(), pem.trim().as_bytes(), &der, b""] {
            let key = EncodingKey::from_secret(secret);
            let forged = signed(r#"{"alg":"HS256"}"#, GOOD, Algorithm::HS256, &key);
            refused(&config, INVALID, [(format!("{algorithm:?}"), forged)]).await;
        }
    }
}

#[tokio::test]
async fn b03_other_algorithms() {
    let rs256 = token(r#"{"alg":"RS256"}"#, GOOD, Algorithm::RS256);
    refused(&config(), INVALID, [("RS256 where HS256 is configured".to_owned(), rs256)]).await;
    let (rsa, _file) = config_with_key(RSA_PUBLIC);
    let swaps = [
        ("PS256", Algorithm::PS256),
        ("PS256", Algorithm::RS256),
        ("RS256", Algorithm::PS256),
        ("RS384", Algorithm::RS384),
    ];
    let swaps = swaps.map(|(name, real)| (name.to_owned(), token(&format!(r#"{{"alg":"{name}"}}"#), GOOD, real)));
    refused(&rsa, INVALID, swaps).await;
    let other = EncodingKey::from_rsa_pem(OTHER_RSA.as_bytes()).unwrap();
    refused(&rsa, INVALID, [("another key".to_owned(), signed(r#"{"alg":"RS256"}"#, GOOD, Algorithm::RS256, &other))])
        .await;
    let (ec, _file) = config_with_key(EC_PUBLIC);
    let good = token(r#"{"alg":"ES256"}"#, GOOD, Algorithm::ES256);
    let (message, _) = good.rsplit_once('.').unwrap();
    let zero = |bytes: usize| (format!("{bytes} zeros"), format!("{message}.{}", encode(&vec![0; bytes])));
    refused(&ec, INVALID, [zero(64), zero(0), zero(70), zero(1)]).await;
}

#[tokio::test]
async fn b04_kid_of_configured_keys() {
    let long = "k".repeat(64 * 1024 / 16);
    let kids = [
        "\"../../etc/passwd\"",
        "\"/dev/null\"",
        "\"' OR 1=1--\"",
        "\"a\\u0000b\"",
        "[\"a\"]",
        "{}",
        "7",
        "null",
        "\"\"",
        "\"é\"",
        &format!("\"{long}\""),
    ];
    let with = |kid: &str| token(&format!(r#"{{"alg":"HS256","kid":{kid}}}"#), GOOD, Algorithm::HS256);
    refused(&config(), INVALID, named(&kids, with)).await;
    assert!(verify(&config(), &with("\"2026-11\"")).await.is_ok());
}

#[tokio::test]
async fn b06_expired_or_without_end() {
    let with = |exp: u64| hs256(&format!(r#"{{"sub":"ada","exp":{exp}}}"#));
    for past in [0, 1, 29] {
        assert!(verify(&config(), &with(NOW - past)).await.is_ok(), "the leeway is 30 s");
    }
    for past in [30, 31, 31_557_600] {
        refused(&config(), AuthFailure::TokenExpired, [(format!("{past} s ago"), with(NOW - past))]).await;
    }
    refused(&config(), INVALID, [("no exp".to_owned(), hs256(r#"{"sub":"ada"}"#))]).await;
}

#[tokio::test]
async fn b07_times_of_wrong_types() {
    let wrong = [
        "\"1800000600\"",
        "\"99999999999\"",
        "1800000600.0",
        "1800000600.5",
        "1.8e9",
        "null",
        "-1",
        "-0",
        "1e400",
        "9223372036854775808",
        "18446744073709551615",
        "18446744073709551616",
        "[1800000600]",
        "{}",
        "true",
        "01800000600",
    ];
    refused(&config(), INVALID, named(&wrong, |v| hs256(&format!(r#"{{"sub":"ada","exp":{v}}}"#)))).await;
    for claim in ["nbf", "iat"] {
        let with = |v: &str| hs256(&format!(r#"{{"sub":"ada","exp":1800000600,"{claim}":{v}}}"#));
        refused(&config(), INVALID, named(&wrong, with)).await;
    }
}

#[tokio::test]
async fn b08_times_too_far_ahead() {
    let with = |exp: u64, claim: &str, at: u64| hs256(&format!(r#"{{"sub":"ada","exp":{exp},"{claim}":{at}}}"#));
    for claim in ["nbf", "iat"] {
        assert!(verify(&config(), &with(NOW + 7200, claim, NOW + 30)).await.is_ok());
        for ahead in [31, 3600] {
            refused(&config(), INVALID, [(format!("{claim} +{ahead}"), with(NOW + 7200, claim, NOW + ahead))]).await;
        }
    }
    let ten_years = 10 * 365 * 24 * 3600;
    refused(&config(), INVALID, [("ten years".to_owned(), with(NOW + ten_years, "iat", NOW))]).await;
    assert!(verify(&config(), &with(NOW + ten_years - 1, "iat", NOW)).await.is_ok());
}

#[tokio::test]
async fn b09_audience_and_issuer() {
    let mut config = config();
    config.jwt_audience = "tidings".to_owned();
    config.jwt_issuer = "https://id.example.com".to_owned();
    let with = |claims: &str| hs256(&format!(r#"{{"sub":"ada","exp":1800000600{claims}}}"#));
    let iss = r#","iss":"https://id.example.com""#;
    for aud in [r#""tidings""#, r#"["other","tidings"]"#] {
        assert!(verify(&config, &with(&format!(r#"{iss},"aud":{aud}"#))).await.is_ok(), "{aud}");
    }
    let audiences = [
        "null",
        r#""""#,
        r#""Tidings""#,
        r#""tidings ""#,
        "[]",
        r#"["other"]"#,
        r#"["tidings",7]"#,
        "7",
        r#"{"tidings":1}"#,
    ];
    refused(&config, INVALID, named(&audiences, |aud| with(&format!(r#"{iss},"aud":{aud}"#)))).await;
    refused(&config, INVALID, [("no aud".to_owned(), with(iss)), ("no iss".to_owned(), with(r#","aud":"tidings""#))])
        .await;
    let issuers = ["https://id.example.com/", "https://ID.example.com", "http://id.example.com", ""];
    refused(&config, INVALID, named(&issuers, |iss| with(&format!(r#","aud":"tidings","iss":"{iss}""#)))).await;
    assert!(
        verify(&super::support::config(), &with(r#","aud":["x"],"iss":"y""#)).await.is_ok(),
        "not configured, not asked"
    );
}

#[tokio::test]
async fn b10_other_classes_of_tokens() {
    let headers = [
        r#""typ":"ID""#,
        r#""typ":"refresh+jwt""#,
        r#""typ":"ticket""#,
        r#""typ":7"#,
        r#""typ":null"#,
        r#""crit":["x"],"x":1"#,
        r#""crit":[]"#,
        r#""crit":null"#,
        r#""b64":false"#,
        r#""b64":0"#,
        r#""cty":"JWT""#,
        r#""cty":"jwt""#,
        r#""zip":"DEF""#,
    ];
    refused(
        &config(),
        INVALID,
        named(&headers, |h| token(&format!(r#"{{"alg":"HS256",{h}}}"#), GOOD, Algorithm::HS256)),
    )
    .await;
    let claims = [r#""typ":"Refresh""#, r#""typ":"ID""#, r#""token_use":"id""#, r#""typ":"Offline""#];
    refused(&config(), INVALID, named(&claims, |c| hs256(&format!(r#"{{"sub":"ada","exp":1800000600,{c}}}"#)))).await;
    for typ in ["JWT", "jwt", "at+jwt", "application/at+jwt"] {
        let good = token(&format!(r#"{{"alg":"HS256","typ":"{typ}"}}"#), GOOD, Algorithm::HS256);
        assert!(verify(&config(), &good).await.is_ok(), "{typ}");
    }
}

#[tokio::test]
async fn b11_subjects() {
    let long = format!("\"{}\"", "a".repeat(10_000 / 2));
    let wrong = [
        "\"\"",
        "7",
        "null",
        "{}",
        "[\"ada\"]",
        "\"*\"",
        "\"a b\"",
        "\"a\\n\"",
        "\"a\\u202eb\"",
        "\".a\"",
        "\"a/b\"",
        "\"é\"",
        "true",
        "\"a\\u0000\"",
        &long,
    ];
    for claim in ["sub", "userId"] {
        refused(&config(), INVALID, named(&wrong, |v| hs256(&format!(r#"{{"{claim}":{v},"exp":1800000600}}"#)))).await;
    }
    refused(&config(), INVALID, named(&wrong, |v| hs256(&format!(r#"{{"sub":"ada","userId":{v},"exp":1800000600}}"#))))
        .await;
    let both = |a: &str, b: &str| hs256(&format!(r#"{{"sub":"{a}","userId":"{b}","exp":1800000600}}"#));
    refused(&config(), INVALID, [("they differ".to_owned(), both("ada", "bob"))]).await;
    refused(&config(), INVALID, [("none".to_owned(), hs256(r#"{"exp":1800000600}"#))]).await;
    assert!(verify(&config(), &both("ada", "ada")).await.is_ok());
    assert!(verify(&config(), &hs256(r#"{"userId":"auth0|5f7c","exp":1800000600}"#)).await.is_ok());
}

#[tokio::test]
async fn b12_duplicates() {
    let payloads = [
        r#"{"sub":"ada","sub":"ada","exp":1800000600}"#,
        r#"{"sub":"ada","exp":1800000600,"\u0073ub":"bob"}"#,
        r#"{"sub":"ada","exp":1,"exp":1800000600}"#,
        r#"{"sub":"ada","exp":1800000600,"scope":"","scope":"admin"}"#,
    ];
    refused(&config(), INVALID, named(&payloads, hs256)).await;
    let headers = [
        r#"{"alg":"HS256","alg":"HS256"}"#,
        r#"{"alg":"none","\u0061lg":"HS256"}"#,
        r#"{"alg":"HS256","typ":"JWT","typ":"JWT"}"#,
    ];
    refused(&config(), INVALID, named(&headers, |header| token(header, GOOD, Algorithm::HS256))).await;
}

#[tokio::test]
async fn b13_forms() {
    let good = hs256(GOOD);
    let (message, signature) = good.rsplit_once('.').unwrap();
    let (header, payload) = message.split_once('.').unwrap();
    // 43 characters carry 258 bits for 256: the last two must be zero, or one token had four spellings.
    let last = signature.chars().last().unwrap();
    let alphabet: Vec<char> = ('A'..='Z').chain('a'..='z').chain('0'..='9').chain(['-', '_']).collect();
    let place = alphabet.iter().position(|c| *c == last).unwrap();
    let twin = format!("{}{}", &signature[..signature.len() - 1], alphabet[place ^ 1]);
    let padded = hs256(&format!(r#"{{"sub":"ada","exp":1800000600,"x":"{}"}}"#, "x".repeat(8192)));
    let forms = [
        String::new(),
        ".".to_owned(),
        "..".to_owned(),
        "a.b.c".to_owned(),
        ".".repeat(1_000_000),
        "x".repeat(1 << 20),
        padded,
        message.to_owned(),
        format!("{good}."),
        format!(".{good}"),
        format!("{good}.{signature}"),
        format!("{header}..{signature}"),
        format!("{message}.{twin}"),
        format!("{good}="),
        format!("{header}=.{payload}.{signature}"),
        format!("{header}.{payload}==.{signature}"),
        format!(" {good}"),
        format!("{good}\n"),
        good.replacen('.', " .", 1),
        good.replacen('.', "\n.", 1),
        format!("{header}.{payload}+/.{signature}"),
        good.replace('e', "é"),
        format!(r#"{{"payload":"{payload}","protected":"{header}","signature":"{signature}"}}"#),
    ];
    refused(&config(), INVALID, forms.map(|form| (form.chars().take(60).collect(), form))).await;
    let not_objects = [
        "",
        "null",
        "[]",
        r#"["ada",null,1800000600]"#,
        "7",
        "\"x\"",
        "{",
        "{}{}",
        "\u{feff}{}",
        r#"{"sub":"ada","exp":1800000600}x"#,
    ];
    refused(&config(), INVALID, named(&not_objects, hs256)).await;
    refused(&config(), INVALID, named(&not_objects, |header| token(header, GOOD, Algorithm::HS256))).await;
    let limit = |bytes: usize| hs256(&format!(r#"{{"sub":"ada","exp":1800000600,"x":"{}"}}"#, "x".repeat(bytes)));
    let fits = (6000..6144).rev().map(limit).find(|token| token.len() <= 8192).unwrap();
    assert!(fits.len() > 8188 && verify(&config(), &fits).await.is_ok(), "8 KiB is allowed");
}

#[tokio::test]
async fn b14_encrypted_tokens() {
    let header = encode(br#"{"alg":"RSA-OAEP","enc":"A256GCM","zip":"DEF"}"#);
    let bomb = encode(&[0; 3000]);
    refused(
        &config(),
        INVALID,
        [("JWE".to_owned(), format!("{header}.{bomb}.{bomb}.{}.{}", encode(&[1; 12]), encode(&[2; 16])))],
    )
    .await;
    refused(
        &config(),
        INVALID,
        named(&[r#""zip":"DEF""#, r#""enc":"A256GCM""#], |h| {
            token(&format!(r#"{{"alg":"HS256",{h}}}"#), GOOD, Algorithm::HS256)
        }),
    )
    .await;
}

#[tokio::test]
async fn b15_claims_that_mean_nothing_here() {
    let none = [
        r#""role":"admin""#,
        r#""admin":true"#,
        r#""tenant":"other""#,
        r#""scope":7"#,
        r#""scope":{"admin":true}"#,
        r#""scope":null"#,
        r#""scope":"Admin ADMIN admin,publish xadmin""#,
        r#""scope":[7,"admin"]"#,
        r#""scopes":true"#,
        r#""scope":"\tadmin""#,
    ];
    for claims in none {
        let claims = verify(&config(), &hs256(&format!(r#"{{"sub":"ada","exp":1800000600,{claims}}}"#))).await.unwrap();
        assert_eq!(claims.scopes, Scopes::default());
    }
    for claims in [
        r#""scope":"read publish admin""#,
        r#""scopes":["publish","admin"]"#,
        r#""scope":"admin","scopes":["publish"]"#,
    ] {
        let claims = verify(&config(), &hs256(&format!(r#"{{"sub":"ada","exp":1800000600,{claims}}}"#))).await.unwrap();
        assert_eq!(claims.scopes, Scopes { publish: true, admin: true });
    }
}

/// A key file of the wrong kind is a mistake that is told at the start, not a 401 for everybody.
#[test]
fn key_files_that_cant_serve() {
    let p384 = include_str!("../fixtures/p384.pub.pem");
    for (pem, wanted) in
        [(RSA, "private key"), (p384, "P-256"), ("", "no PEM"), ("-----BEGIN PUBLIC KEY-----\nAAAA\n", "no PEM")]
    {
        let (config, _file) = config_with_key(pem);
        let error = TokenVerifier::new(&config).unwrap_err();
        assert!(error.to_string().contains(wanted), "{error}");
    }
    let mut config = config();
    config.jwt_key_file = "/nowhere.pem".to_owned();
    assert!(matches!(TokenVerifier::new(&config), Err(AuthSetupError::KeyFile { .. })));
}
