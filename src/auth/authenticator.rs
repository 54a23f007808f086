//! From a request's credentials to who it is.

use std::sync::Arc;

use sha2::Digest as _;
use sha2::Sha256;
use subtle::Choice;
use subtle::ConstantTimeEq as _;
use tokio::time::Instant;

use crate::auth::AuthFailure;
use crate::auth::Credentials;
use crate::auth::Scopes;
use crate::auth::TokenVerifier;
use crate::auth::credentials::Chosen;
use crate::auth::directory::Directory;
use crate::config::Config;
use crate::config::Secret;
use crate::store::User;
use crate::telemetry::Metrics;

/// Somebody whose token was verified and who exists. Only an `Authenticator` makes one.
#[derive(Debug, Clone)]
pub struct Principal {
    /// Who.
    pub user: Arc<User>,
    /// When the token ends, in seconds since the Unix epoch; 30 s of leeway come on top.
    pub expires_at: u64,
    /// What the token allows beyond reading.
    pub scopes: Scopes,
    /// When the database said that the user exists.
    pub(super) checked: Instant,
    /// The same by the clock of changes.
    pub(super) since: u64,
}

/// Who is asking.
#[derive(Debug, Clone)]
pub enum Caller {
    /// A person, or a program in a person's name.
    User(Principal),
    /// A back end, by its API key.
    Service,
}

impl Caller {
    /// Whether it may publish anywhere. (On a document, its owners and editors may as well.)
    #[must_use]
    pub fn can_publish(&self) -> bool {
        match self {
            Self::User(principal) => principal.scopes.publish || principal.scopes.admin,
            Self::Service => true,
        }
    }

    /// Whether it may manage.
    #[must_use]
    pub fn can_admin(&self) -> bool {
        match self {
            Self::User(principal) => principal.scopes.admin,
            Self::Service => true,
        }
    }

    /// The person, if it is one.
    #[must_use]
    pub fn principal(&self) -> Option<&Principal> {
        match self {
            Self::User(principal) => Some(principal),
            Self::Service => None,
        }
    }
}

impl Principal {
    /// The same person with a newer token, which an instance of ours has verified.
    #[must_use]
    pub fn renewed(&self, expires_at: u64, scopes: Scopes) -> Self {
        Self { expires_at, scopes, ..self.clone() }
    }

    /// A principal without a token, for tests of other modules. The user is named like the id.
    #[cfg(test)]
    #[must_use]
    pub fn for_test(id: &str) -> Self {
        let id = crate::event::Id::parse(id).expect("tests use valid ids");
        let user = User { name: id.to_string(), id, avatar_url: None, disabled: false };
        Self {
            user: Arc::new(user),
            expires_at: u64::MAX,
            scopes: Scopes::default(),
            checked: Instant::now(),
            since: 0,
        }
    }
}

/// Tells who is asking.
#[derive(Debug)]
pub struct Authenticator {
    verifier: TokenVerifier,
    directory: Arc<Directory>,
    api_keys: Vec<[u8; 32]>,
    config: Config,
    metrics: Metrics,
}

impl Authenticator {
    /// Puts the parts together.
    #[must_use]
    pub fn new(verifier: TokenVerifier, directory: Arc<Directory>, config: &Config, metrics: &Metrics) -> Self {
        let api_keys = config.api_keys.iter().map(|key: &Secret| digest(key.expose())).collect();
        Self { verifier, directory, api_keys, config: config.clone(), metrics: metrics.clone() }
    }

    /// Who sent the request; `now` in seconds since the Unix epoch.
    ///
    /// # Errors
    /// The first reason not to believe it; counted as rejected.
    pub async fn authenticate(&self, credentials: &Credentials<'_>, now: u64) -> Result<Caller, AuthFailure> {
        let result = match credentials.choose(&self.config) {
            Err(failure) => Err(failure),
            Ok(Chosen::ApiKey(key)) => self.service(key),
            Ok(Chosen::Token(token)) => self.judge(token, now).await.map(Caller::User),
        };
        self.count(result)
    }

    /// Whose token this is: for tokens that don't come in a request's head (a new one for an open stream).
    ///
    /// # Errors
    /// As `authenticate`.
    pub async fn verify_token(&self, token: &str, now: u64) -> Result<Principal, AuthFailure> {
        let result = self.judge(token, now).await;
        self.count(result)
    }

    /// Keeps the key set fresh. Never returns; run it beside the server.
    pub async fn maintain(&self) {
        self.verifier.maintain().await;
    }

    fn count<T>(&self, result: Result<T, AuthFailure>) -> Result<T, AuthFailure> {
        if let Err(failure) = &result {
            self.metrics.reject("auth", failure.as_str());
        }
        result
    }

    /// Every key is compared, whole: the time says nothing about which one was close.
    fn service(&self, key: &str) -> Result<Caller, AuthFailure> {
        let given = digest(key);
        let found = self.api_keys.iter().fold(Choice::from(0), |found, key| found | key.ct_eq(&given));
        if found.into() { Ok(Caller::Service) } else { Err(AuthFailure::TokenInvalid) }
    }

    async fn judge(&self, token: &str, now: u64) -> Result<Principal, AuthFailure> {
        let claims = self.verifier.verify(token, now).await?;
        let found = self.directory.find(&claims.user).await.map_err(|_| AuthFailure::Unavailable)?;
        let user = found.user.ok_or(AuthFailure::UnknownUser)?;
        if user.disabled {
            return Err(AuthFailure::Disabled);
        }
        let (checked, since) = (found.asked, found.since);
        Ok(Principal { user, expires_at: claims.expires_at, scopes: claims.scopes, checked, since })
    }
}

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}
