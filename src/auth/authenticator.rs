//! From a request's credentials to who it is.

use std::sync::Arc;

use axum::http::HeaderValue;
use sha2::Digest as _;
use sha2::Sha256;
use subtle::Choice;
use subtle::ConstantTimeEq as _;
use tokio::time::Instant;

use crate::auth::AuthFailure;
use crate::auth::Credentials;
use crate::auth::Holder;
use crate::auth::Scopes;
use crate::auth::TicketStore;
use crate::auth::TokenVerifier;
use crate::auth::claims::LEEWAY_S;
use crate::auth::credentials::Chosen;
use crate::auth::directory::Directory;
use crate::auth::directory::Found;
use crate::auth::ticket;
use crate::auth::ticket::Ticket;
use crate::auth::ticket::Tickets;
use crate::config::Config;
use crate::config::Secret;
use crate::store::StoreError;
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

/// Somebody who was let in.
#[derive(Debug)]
pub struct Admitted {
    /// Who.
    pub caller: Caller,
    /// For `Set-Cookie` of the answer, whatever the answer is: a spent ticket is good for nothing without it.
    pub set_cookie: Option<HeaderValue>,
}

/// Tells who is asking.
#[derive(Debug)]
pub struct Authenticator {
    verifier: TokenVerifier,
    directory: Arc<Directory>,
    tickets: Tickets,
    api_keys: Vec<[u8; 32]>,
    config: Config,
    metrics: Metrics,
}

impl Authenticator {
    /// Puts the parts together.
    #[must_use]
    pub fn new(
        verifier: TokenVerifier,
        directory: Arc<Directory>,
        tickets: Arc<dyn TicketStore>,
        config: &Config,
        metrics: &Metrics,
    ) -> Self {
        let api_keys = config.api_keys.iter().map(|key: &Secret| digest(key.expose())).collect();
        let tickets = Tickets::new(tickets);
        Self { verifier, directory, tickets, api_keys, config: config.clone(), metrics: metrics.clone() }
    }

    /// Who sent the request; `now` in seconds since the Unix epoch. Takes no tickets: those are for streams.
    ///
    /// # Errors
    /// The first reason not to believe it; counted as rejected.
    pub async fn authenticate(&self, credentials: &Credentials<'_>, now: u64) -> Result<Caller, AuthFailure> {
        let result = match credentials.choose(&self.config) {
            Err(failure) => Err(failure),
            Ok(Chosen::ApiKey(key)) => self.service(key),
            Ok(Chosen::Token(token)) => self.judge(token, now).await.map(Caller::User),
            Ok(Chosen::Ticket(_)) => Err(AuthFailure::TicketRefused),
        };
        self.count(result)
    }

    /// The same for a stream, which may also be asked for by ticket.
    ///
    /// # Errors
    /// As `authenticate`.
    pub async fn admit(&self, credentials: &Credentials<'_>, now: u64) -> Result<Admitted, AuthFailure> {
        let Ok(Chosen::Ticket(ticket)) = credentials.choose(&self.config) else {
            let caller = self.authenticate(credentials, now).await?;
            return Ok(Admitted { caller, set_cookie: None });
        };
        let result = self.by_ticket(ticket, credentials, now).await;
        self.count(result)
    }

    /// A ticket for somebody who showed a token, to be used from the page that asked for it.
    ///
    /// # Errors
    /// `Unavailable`: it can't be kept.
    pub async fn issue_ticket(
        &self,
        principal: &Principal,
        credentials: &Credentials<'_>,
    ) -> Result<String, AuthFailure> {
        let holder = Holder {
            user: principal.user.id.clone(),
            expires_at: principal.expires_at,
            scopes: principal.scopes,
            origin: credentials.origin().map(ticket::origin_hash),
        };
        let result = self.tickets.issue(&holder).await;
        self.count(result)
    }

    /// The cookie of a spent ticket, or else a ticket that is not spent yet.
    async fn by_ticket(&self, text: &str, credentials: &Credentials<'_>, now: u64) -> Result<Admitted, AuthFailure> {
        let ticket = Ticket::parse(text).ok_or(AuthFailure::TicketUnknown)?;
        let cookie = credentials.cookie_named(&ticket.cookie_name())?;
        if let Some(holder) = self.tickets.behind_cookie(&ticket, cookie).await? {
            let principal = Self::principal(&holder, self.directory.find(&holder.user).await, now)?;
            return Ok(Admitted { caller: Caller::User(principal), set_cookie: None });
        }
        let holder = self.tickets.take(&ticket).await?.ok_or(AuthFailure::TicketUnknown)?;
        let elsewhere = |origin: &[u8]| holder.origin.is_some_and(|issued| issued != ticket::origin_hash(origin));
        if credentials.origin().is_some_and(elsewhere) {
            return Err(AuthFailure::TicketUnknown);
        }
        // Asked anew: whoever was disabled since the ticket was issued is not let in.
        match Self::principal(&holder, self.directory.ask(&holder.user).await, now) {
            Ok(principal) => {
                let set_cookie = self.tickets.set_cookie(&ticket, &holder, now).await;
                Ok(Admitted { caller: Caller::User(principal), set_cookie })
            }
            Err(AuthFailure::Unavailable) => {
                self.tickets.give_back(&ticket, &holder).await;
                Err(AuthFailure::Unavailable)
            }
            Err(failure) => Err(failure),
        }
    }

    fn principal(holder: &Holder, found: Result<Found, StoreError>, now: u64) -> Result<Principal, AuthFailure> {
        if now >= holder.expires_at.saturating_add(LEEWAY_S) {
            return Err(AuthFailure::TokenExpired);
        }
        let (user, checked, since) = known(found)?;
        Ok(Principal { user, expires_at: holder.expires_at, scopes: holder.scopes, checked, since })
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
        let (user, checked, since) = known(self.directory.find(&claims.user).await)?;
        Ok(Principal { user, expires_at: claims.expires_at, scopes: claims.scopes, checked, since })
    }
}

/// The user, who exists and is not disabled, and when the database said so, by both clocks.
fn known(found: Result<Found, StoreError>) -> Result<(Arc<User>, Instant, u64), AuthFailure> {
    let found = found.map_err(|_| AuthFailure::Unavailable)?;
    let user = found.user.ok_or(AuthFailure::UnknownUser)?;
    if user.disabled { Err(AuthFailure::Disabled) } else { Ok((user, found.asked, found.since)) }
}

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}
