//! Tickets: for an `EventSource` of another origin, which can send neither a header nor a cookie of ours.
//!
//! A ticket is a random text that stands in a URL, so it is good once and for half a minute. An `EventSource` that reconnects
//! repeats its URL, though. So the answer to the ticket sets a cookie, and from then on the two together are the credential, for
//! as long as the one that the ticket was asked for with. Neither is kept in the clear: a store knows hashes.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderValue;
use futures_util::future::BoxFuture;
use sha2::Digest as _;
use sha2::Sha256;
use tokio::sync::Semaphore;

use crate::auth::AuthFailure;
use crate::auth::Scopes;
use crate::digest;
use crate::event::Id;

/// How long a ticket may be used.
pub const TICKET_LIFE: Duration = Duration::from_secs(30);
/// Questions about tickets that may be under way at once: guessing them costs others no more than this.
const QUESTIONS_MAX: usize = 64;
/// Random bytes of a ticket and of its cookie.
const RANDOM_BYTES: usize = 32;
/// Longest cookie, in bytes: the random part, the scopes, and the longest id.
const COOKIE_BYTES_MAX: usize = 256;

/// SHA-256 of a ticket, in hex.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TicketHash(Box<str>);

/// SHA-256 of a ticket together with its cookie, in hex.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CookieHash(Box<str>);

impl TicketHash {
    /// Of a ticket.
    #[must_use]
    pub fn of(ticket: &str) -> Self {
        Self(digest::of_parts(&[ticket]).into())
    }

    /// Hex digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl CookieHash {
    /// Of a ticket and its cookie.
    #[must_use]
    pub fn of(ticket: &str, cookie: &str) -> Self {
        Self(digest::of_parts(&[ticket, cookie]).into())
    }

    /// Hex digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whom a ticket stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The user.
    pub user: Id,
    /// `exp` of the token that asked for it.
    pub expires_at: u64,
    /// What that token allows.
    pub scopes: Scopes,
    /// A hash of the page's origin that asked for it, if it was a page.
    pub origin: Option<u64>,
}

/// The store can't be asked, or holds as much as it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the store of tickets is away or full")]
pub struct TicketStoreAway;

/// Where tickets are kept: one for all instances that share a log.
pub trait TicketStore: fmt::Debug + Send + Sync {
    /// Keeps a ticket for so long.
    fn put<'a>(
        &'a self,
        ticket: &'a TicketHash,
        holder: &'a Holder,
        life: Duration,
    ) -> BoxFuture<'a, Result<(), TicketStoreAway>>;

    /// Takes a ticket out. Of all who ask for it, at any instance and at any time, one gets it.
    fn take<'a>(&'a self, ticket: &'a TicketHash) -> BoxFuture<'a, Result<Option<Holder>, TicketStoreAway>>;

    /// Remembers a cookie of a user until the second `expires_at`, by which it may outlive it a little. Of one user a bounded
    /// number is remembered: what ends first goes first.
    fn remember<'a>(
        &'a self,
        user: &'a Id,
        cookie: &'a CookieHash,
        expires_at: u64,
        now: u64,
    ) -> BoxFuture<'a, Result<(), TicketStoreAway>>;

    /// Until when a cookie of this user is good, if it is remembered.
    fn remembered<'a>(
        &'a self,
        user: &'a Id,
        cookie: &'a CookieHash,
    ) -> BoxFuture<'a, Result<Option<u64>, TicketStoreAway>>;
}

/// What a client calls a ticket. `Debug` is left out on purpose: it is a secret.
pub(super) struct Ticket {
    text: String,
    hash: TicketHash,
}

impl Ticket {
    /// Of what looks like one; nothing else is worth a question.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        let good = text.len() == RANDOM_BYTES * 2 && text.bytes().all(digit);
        good.then(|| Self { text: text.to_owned(), hash: TicketHash::of(text) })
    }

    fn random() -> Option<Self> {
        Self::parse(&random_hex()?)
    }

    /// One name for each ticket: several tabs don't overwrite each other's.
    pub(super) fn cookie_name(&self) -> String {
        format!("tidings_t_{}", self.hash.0.get(..16).unwrap_or_default())
    }

    /// Ticket and cookie prove each other, and what the cookie says of its holder.
    fn cookie_hash(&self, cookie: &str) -> CookieHash {
        CookieHash::of(&self.text, cookie)
    }
}

/// What the authenticator does with tickets.
#[derive(Debug)]
pub(super) struct Tickets {
    store: Arc<dyn TicketStore>,
    questions: Semaphore,
}

impl Tickets {
    pub(super) fn new(store: Arc<dyn TicketStore>) -> Self {
        Self { store, questions: Semaphore::new(QUESTIONS_MAX) }
    }

    pub(super) async fn issue(&self, holder: &Holder) -> Result<String, AuthFailure> {
        let ticket = Ticket::random().ok_or(AuthFailure::Unavailable)?;
        self.put(&ticket, holder).await?;
        Ok(ticket.text)
    }

    /// For a holder who could not be judged: a browser that tries again has nothing else.
    pub(super) async fn give_back(&self, ticket: &Ticket, holder: &Holder) {
        if self.put(ticket, holder).await.is_err() {
            tracing::debug!("a ticket is lost with the answer to it");
        }
    }

    async fn put(&self, ticket: &Ticket, holder: &Holder) -> Result<(), AuthFailure> {
        let put = self.store.put(&ticket.hash, holder, TICKET_LIFE);
        put.await.map_err(|_| AuthFailure::Unavailable)
    }

    pub(super) async fn take(&self, ticket: &Ticket) -> Result<Option<Holder>, AuthFailure> {
        let _turn = self.questions.acquire().await.map_err(|_| AuthFailure::Unavailable)?;
        self.store.take(&ticket.hash).await.map_err(|_| AuthFailure::Unavailable)
    }

    /// The cookie for a ticket that was just spent. Without it the client has to take another ticket, so it is worth no error.
    pub(super) async fn set_cookie(&self, ticket: &Ticket, holder: &Holder, now: u64) -> Option<HeaderValue> {
        let value = format!("{}.{}.{}", random_hex()?, scope_letters(holder.scopes), holder.user);
        let life_s = holder.expires_at.saturating_sub(now).max(1);
        let hash = ticket.cookie_hash(&value);
        self.store.remember(&holder.user, &hash, holder.expires_at, now).await.ok()?;
        // For pages of other sites, hence `None`, and for each of those sites apart, hence `Partitioned`.
        let line = format!(
            "{}={value}; Max-Age={life_s}; Path=/; HttpOnly; Secure; SameSite=None; Partitioned",
            ticket.cookie_name(),
        );
        HeaderValue::try_from(line).ok()
    }

    /// Whom a cookie stands for, if it is the one of this ticket.
    pub(super) async fn behind_cookie(
        &self,
        ticket: &Ticket,
        cookie: Option<&str>,
    ) -> Result<Option<Holder>, AuthFailure> {
        let Some((cookie, user, scopes)) = cookie.and_then(parse_cookie) else { return Ok(None) };
        let _turn = self.questions.acquire().await.map_err(|_| AuthFailure::Unavailable)?;
        let expires_at = self.store.remembered(&user, &ticket.cookie_hash(cookie)).await;
        let expires_at = expires_at.map_err(|_| AuthFailure::Unavailable)?;
        Ok(expires_at.map(|expires_at| Holder { user, expires_at, scopes, origin: None }))
    }
}

/// A hash of an origin: tickets are compared by it, and it is short enough to be kept.
pub(super) fn origin_hash(origin: &[u8]) -> u64 {
    let hash = Sha256::digest(origin);
    hash.iter().take(8).fold(0, |hash, byte| hash << 8 | u64::from(*byte))
}

fn parse_cookie(cookie: &str) -> Option<(&str, Id, Scopes)> {
    let mut parts = cookie.splitn(3, '.');
    let (_, letters, user) = (parts.next()?, parts.next()?, parts.next()?);
    let scopes = Scopes { publish: letters.contains('p'), admin: letters.contains('a') };
    (cookie.len() <= COOKIE_BYTES_MAX).then_some((cookie, Id::parse(user).ok()?, scopes))
}

fn scope_letters(scopes: Scopes) -> &'static str {
    match (scopes.publish, scopes.admin) {
        (false, false) => "-",
        (true, false) => "p",
        (false, true) => "a",
        (true, true) => "pa",
    }
}

fn random_hex() -> Option<String> {
    let mut bytes = [0_u8; RANDOM_BYTES];
    getrandom::fill(&mut bytes).inspect_err(|error| tracing::error!(%error, "no random numbers")).ok()?;
    Some(digest::hex(&bytes))
}
