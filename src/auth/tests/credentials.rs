//! B-16, B-17, B-19, B-76, B-77: where a credential stands, and what several of them mean. And who that is then.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::http::HeaderMap;
use axum::http::HeaderName;
use axum::http::HeaderValue;

use super::authorizer::Bench;
use super::support::*;
use crate::auth::AuthFailure;
use crate::auth::Authenticator;
use crate::auth::Caller;
use crate::auth::Credentials;
use crate::auth::Directory;
use crate::auth::TokenVerifier;
use crate::broker::Broker;
use crate::broker::MemoryBroker;
use crate::config::Config;
use crate::config::Secret;
use crate::jobs::TerminalStatuses;
use crate::telemetry::Metrics;

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        // The value may hold bytes beyond ASCII, as on the wire.
        let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
        headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value);
    }
    headers
}

struct Door {
    authenticator: Authenticator,
    _bench: Bench,
}

impl Door {
    async fn new(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = config();
        change(&mut config);
        let bench = Bench::new(config.clone()).await;
        let verifier = TokenVerifier::new(&config).unwrap();
        let authenticator = Authenticator::new(
            verifier,
            Arc::new(Directory::new(bench.store.clone(), &config)),
            Broker::Memory(MemoryBroker::new(TerminalStatuses::new(BTreeSet::new()))).tickets(),
            &config,
            &Metrics::new(),
        );
        Self { authenticator, _bench: bench }
    }

    /// Who gets in: the user's id, `service`, or the reason why not.
    async fn knock(&self, pairs: &[(&str, &str)], query: &[&str]) -> String {
        let headers = headers(pairs);
        let credentials = Credentials::from_request(&headers, query.iter().copied());
        match self.authenticator.authenticate(&credentials, NOW).await {
            Ok(Caller::User(principal)) => principal.user.id.to_string(),
            Ok(Caller::Service) => "service".to_owned(),
            Err(failure) => failure.as_str().to_owned(),
        }
    }
}

fn ada() -> String {
    hs256(GOOD)
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

#[tokio::test]
async fn b16_credentials_that_disagree() {
    let bob = hs256(r#"{"sub":"bob","exp":1800000600}"#);
    for allowed in [false, true] {
        let door = Door::new(|config| config.allow_query_token = allowed).await;
        let (one, other) = (bearer(&ada()), bearer(&bob));
        let conflict = "credentials_conflict";
        assert_eq!(door.knock(&[("authorization", &one), ("authorization", &other)], &[]).await, conflict);
        assert_eq!(door.knock(&[("authorization", &one)], &[&bob]).await, conflict);
        assert_eq!(door.knock(&[], &[&ada(), &bob]).await, conflict);
        assert_eq!(door.knock(&[("authorization", "Basic x")], &[&bob]).await, conflict);
        assert_eq!(door.knock(&[("authorization", &format!("ApiKey {}", ada()))], &[&ada()]).await, conflict);
        assert_eq!(door.knock(&[("authorization", &one), ("authorization", &one)], &[]).await, "ada", "twice the same");
        let both = if allowed { "ada" } else { "query_token_refused" };
        assert_eq!(door.knock(&[("authorization", &one)], &[&ada()]).await, both);
    }
    assert_eq!(AuthFailure::Conflict.to_api_error().status, 400);
}

#[tokio::test]
async fn b17_authorization_headers() {
    let door =
        Door::new(|config| config.api_keys = vec![Secret::new("first-key-of-many"), Secret::new("second-key-of-many")])
            .await;
    let token = ada();
    for scheme in ["Bearer", "bearer", "BEARER", "bEaReR"] {
        assert_eq!(door.knock(&[("authorization", &format!("{scheme} {token}"))], &[]).await, "ada");
    }
    let malformed = [
        format!("Bearer  {token}"),
        format!("Bearer\t{token}"),
        format!(" Bearer {token}"),
        format!("Bearer {token} "),
        "Bearer".to_owned(),
        "Bearer ".to_owned(),
        token.clone(),
        format!("Basic {token}"),
        format!("Bearer {token},Bearer {token}"),
        format!("Bearer {token},x"),
        format!("Bearer {token}, x"),
        format!("Bearer é{token}"),
        format!("Bеarer {token}"),
        String::new(),
        format!("Bearer {token} x"),
        "ApiKey".to_owned(),
    ];
    for header in malformed {
        assert_eq!(door.knock(&[("authorization", &header)], &[]).await, "malformed", "{header}");
    }
    for key in ["first-key-of-many", "second-key-of-many"] {
        assert_eq!(door.knock(&[("authorization", &format!("apikey {key}"))], &[]).await, "service");
    }
    for key in ["first-key-of-man", "first-key-of-many1", "First-key-of-many", "x"] {
        assert_eq!(door.knock(&[("authorization", &format!("ApiKey {key}"))], &[]).await, "token_invalid");
    }
    assert_eq!(door.knock(&[("authorization", "Bearer first-key-of-many")], &[]).await, "token_invalid");
    assert_eq!(door.knock(&[], &[]).await, "missing");
    let none = Door::new(|_| ()).await;
    assert_eq!(none.knock(&[("authorization", "ApiKey x")], &[]).await, "token_invalid", "no keys configured");
}

#[tokio::test]
async fn b19_tokens_in_the_query() {
    let closed = Door::new(|_| ()).await;
    assert_eq!(closed.knock(&[], &[&ada()]).await, "query_token_refused");
    assert_eq!(AuthFailure::QueryTokenRefused.to_api_error().status, 401);
    let open = Door::new(|config| config.allow_query_token = true).await;
    assert_eq!(open.knock(&[], &[&ada()]).await, "ada");
    assert_eq!(open.knock(&[], &[""]).await, "token_invalid");
}

#[tokio::test]
async fn b76_cookies_count_from_where_they_may() {
    let set = |config: &mut Config| {
        config.auth_cookie = "session".to_owned();
        config.cors_origins = vec!["https://app.example.com".to_owned()];
    };
    let door = Door::new(set).await;
    let cookie = format!("theme=dark; session={}; x=y", ada());
    let from = [
        (vec![], "ada"),
        (vec![("sec-fetch-site", "same-origin")], "ada"),
        (vec![("sec-fetch-site", "same-site")], "ada"),
        (vec![("sec-fetch-site", "none")], "ada"),
        (vec![("sec-fetch-site", "cross-site")], "missing"),
        (vec![("sec-fetch-site", "x")], "missing"),
        (vec![("origin", "https://app.example.com"), ("sec-fetch-site", "cross-site")], "ada"),
        (vec![("origin", "https://events.example.com")], "ada"),
        (vec![("origin", "null")], "missing"),
        (vec![("origin", "")], "missing"),
        (vec![("origin", "https://evil.com")], "missing"),
        (vec![("origin", "https://app.example.com.evil.com")], "missing"),
        (vec![("origin", "http://app.example.com")], "missing"),
        (vec![("origin", "https://app.example.com:8443")], "missing"),
        (vec![("origin", "https://APP.example.com")], "missing"),
        (vec![("origin", "https://app.example.com"), ("origin", "https://evil.com")], "missing"),
    ];
    for (more, wanted) in from {
        let mut all = vec![("host", "events.example.com"), ("cookie", cookie.as_str())];
        all.extend(more.clone());
        assert_eq!(door.knock(&all, &[]).await, wanted, "{more:?}");
    }
    let explicit = bearer(&hs256(r#"{"sub":"bob","exp":1800000600}"#));
    assert_eq!(
        door.knock(&[("cookie", &cookie), ("authorization", &explicit)], &[]).await,
        "disabled",
        "bob, not the cookie"
    );
    let off = Door::new(|_| ()).await;
    assert_eq!(off.knock(&[("cookie", &cookie)], &[]).await, "missing");
}

#[tokio::test]
async fn b77_two_cookies_of_one_name() {
    let door = Door::new(|config| config.auth_cookie = "session".to_owned()).await;
    let (one, two) = (format!("session={}", ada()), format!("session={}; session=x", ada()));
    assert_eq!(door.knock(&[("cookie", &one)], &[]).await, "ada");
    assert_eq!(door.knock(&[("cookie", &two)], &[]).await, "credentials_conflict");
    assert_eq!(door.knock(&[("cookie", &one), ("cookie", &one)], &[]).await, "credentials_conflict");
    assert_eq!(door.knock(&[("cookie", "Session=x; xsession=y; session")], &[]).await, "missing");
}

#[tokio::test]
async fn users_have_to_exist() {
    let door = Door::new(|_| ()).await;
    let of = |user: &str| bearer(&hs256(&format!(r#"{{"sub":"{user}","exp":1800000600}}"#)));
    assert_eq!(door.knock(&[("authorization", &of("nobody"))], &[]).await, "unknown_user");
    assert_eq!(door.knock(&[("authorization", &of("bob"))], &[]).await, "disabled");
    assert_eq!(door.knock(&[("authorization", &of("ada"))], &[]).await, "ada");
    door._bench.store.close().await;
    assert_eq!(door.knock(&[("authorization", &of("ada"))], &[]).await, "ada", "known a moment ago");
    assert_eq!(door.knock(&[("authorization", &of("eve"))], &[]).await, "auth_unavailable");
    assert_eq!(AuthFailure::Unavailable.to_api_error().status, 503);
}

/// What is rejected is counted under words of ours, and no text of the credential is in any of them.
#[test]
fn reasons_are_words() {
    let all = [
        AuthFailure::Missing,
        AuthFailure::Malformed,
        AuthFailure::TokenInvalid,
        AuthFailure::TokenExpired,
        AuthFailure::QueryTokenRefused,
        AuthFailure::UnknownUser,
        AuthFailure::Disabled,
    ];
    for failure in all {
        let error = failure.to_api_error();
        assert_eq!((error.status, error.reason), (401, Some(failure.as_str())));
    }
}
