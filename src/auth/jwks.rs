//! The key set behind `JWKS_URL`: fetched, kept, and fetched again, never more often than a stranger could make us.
//!
//! Only this URL is ever asked. Nothing in a token can name another.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::time::Instant;

use crate::auth::AuthFailure;
use crate::auth::AuthSetupError;
use crate::auth::keys::Key;
use crate::auth::keys::KeySet;

const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
const BODY_BYTES_MAX: usize = 256 * 1024;
/// How often the set is fetched, and how long it serves.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// From this age on it is fetched again.
    pub fresh: Duration,
    /// Up to this age it serves while fetching fails.
    pub usable: Duration,
    /// Between two fetches because of an unknown key name, or after a failure.
    pub pause: Duration,
    /// The same while there are no keys at all.
    pub pause_empty: Duration,
}

impl Pace {
    pub(super) const USUAL: Self = Self {
        fresh: Duration::from_secs(600),
        usable: Duration::from_secs(24 * 3600),
        pause: Duration::from_secs(10),
        pause_empty: Duration::from_secs(1),
    };
}

#[derive(Debug)]
struct Fetched {
    keys: KeySet,
    at: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Attempt {
    at: Instant,
    failed: bool,
}

/// The set and when it was fetched.
#[derive(Debug)]
pub(super) struct Jwks {
    url: String,
    pace: Pace,
    client: reqwest::Client,
    current: ArcSwapOption<Fetched>,
    /// Held by the one fetch that is under way.
    last: tokio::sync::Mutex<Option<Attempt>>,
}

#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("no answer")]
    Request(#[from] reqwest::Error),
    #[error("status {0}")]
    Status(u16),
    #[error("more than {BODY_BYTES_MAX} bytes")]
    TooLarge,
    #[error("not a JWK set")]
    NotASet,
    #[error("no key in it can be used")]
    NoKeys,
}

impl Jwks {
    pub(super) fn new(url: &str, pace: Pace) -> Result<Self, AuthSetupError> {
        let builder = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
        let client = builder.connect_timeout(FETCH_TIMEOUT).timeout(FETCH_TIMEOUT).build();
        let client = client.map_err(|source| AuthSetupError::Client { source })?;
        let (current, last) = (ArcSwapOption::empty(), tokio::sync::Mutex::default());
        Ok(Self { url: url.to_owned(), pace, client, current, last })
    }

    /// The key of that name, after fetching the set if it has to be.
    ///
    /// # Errors
    /// `Unavailable` when there are no keys, or the name is unknown and the set can't be fetched at the moment;
    /// `TokenInvalid` when there is no such key.
    pub(super) async fn key(&self, kid: Option<&str>) -> Result<Arc<Key>, AuthFailure> {
        let set = self.set().await?;
        if let Some(key) = set.keys.find(kid) {
            return Ok(key);
        }
        let attempt = self.refresh(Some(set.at), self.pace.pause).await;
        let newer = self.usable().ok_or(AuthFailure::Unavailable)?;
        match newer.keys.find(kid) {
            Some(key) => Ok(key),
            None if attempt.is_some_and(|attempt| attempt.failed) => Err(AuthFailure::Unavailable),
            None => Err(AuthFailure::TokenInvalid),
        }
    }

    /// Keeps the set fresh, so that no request has to wait for it. Never returns; run it beside the server.
    pub(super) async fn maintain(&self) {
        loop {
            let seen = self.current.load_full().map(|set| set.at);
            let attempt = self.refresh(seen, self.pace.pause_empty).await;
            let failed = attempt.is_some_and(|attempt| attempt.failed);
            tokio::time::sleep(if failed { self.pace.pause } else { self.pace.fresh / 2 }).await;
        }
    }

    fn usable(&self) -> Option<Arc<Fetched>> {
        self.current.load_full().filter(|set| set.at.elapsed() < self.pace.usable)
    }

    async fn set(&self) -> Result<Arc<Fetched>, AuthFailure> {
        let set = match self.usable() {
            None => {
                self.refresh(None, self.pace.pause_empty).await;
                self.usable()
            }
            Some(set) if set.at.elapsed() < self.pace.fresh => Some(set),
            Some(set) => {
                // One request fetches; the others go on with what there is.
                if let Ok(last) = self.last.try_lock() {
                    self.refresh_locked(last, Some(set.at), self.pace.pause).await;
                }
                self.usable()
            }
        };
        set.ok_or(AuthFailure::Unavailable)
    }

    /// Fetches, unless somebody did since `seen`, or tried within `pause`. Returns the last attempt.
    async fn refresh(&self, seen: Option<Instant>, pause: Duration) -> Option<Attempt> {
        let last = self.last.lock().await;
        self.refresh_locked(last, seen, pause).await
    }

    async fn refresh_locked(
        &self,
        mut last: tokio::sync::MutexGuard<'_, Option<Attempt>>,
        seen: Option<Instant>,
        pause: Duration,
    ) -> Option<Attempt> {
        let newer =
            self.current.load_full().map(|set| set.at).filter(|at| Some(*at) != seen && at.elapsed() < self.pace.fresh);
        let recently = last.is_some_and(|attempt| attempt.at.elapsed() < pause);
        if newer.is_some() || recently {
            return *last;
        }
        let at = Instant::now();
        // Noted before the wait: a caller who leaves in the middle must not let the next one start at once.
        *last = Some(Attempt { at, failed: true });
        match self.fetch().await {
            Ok(keys) => {
                self.current.store(Some(Arc::new(Fetched { keys, at: Instant::now() })));
                *last = Some(Attempt { at, failed: false });
            }
            Err(error) => tracing::warn!(cause = %error, "JWKS_URL can't be fetched; the keys that are known stay"),
        }
        *last
    }

    async fn fetch(&self) -> Result<KeySet, FetchError> {
        let mut response = self.client.get(&self.url).header("accept", "application/json").send().await?;
        if response.status() != reqwest::StatusCode::OK {
            return Err(FetchError::Status(response.status().as_u16()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            if body.len() + chunk.len() > BODY_BYTES_MAX {
                return Err(FetchError::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        let keys = KeySet::parse(&body).ok_or(FetchError::NotASet)?;
        if keys.len() == 0 { Err(FetchError::NoKeys) } else { Ok(keys) }
    }
}
