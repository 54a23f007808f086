//! Users as the database knows them, remembered as long as answers about permissions are: when ten thousand come back at once,
//! the database is not asked for each of them.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::auth::changes::Changes;
use crate::cache::Cache;
use crate::config::Config;
use crate::event::Id;
use crate::store::Store;
use crate::store::StoreError;
use crate::store::User;

/// How old the answer may be for "no such user": somebody who was made a moment ago wants in.
const FRESH_NOBODY: Duration = Duration::from_secs(2);
const USERS_MAX: usize = 65_536;
/// How old an answer may be while nobody says when it changes.
pub(super) const UNANNOUNCED_MAX: Duration = Duration::from_secs(4);

/// The users, for authenticator and authorizer.
#[derive(Debug)]
pub struct Directory {
    store: Store,
    known: Cache<Id, Found>,
    max_age: Duration,
    stale_max: Duration,
    changes: Arc<Changes>,
}

/// What is known of a user, and since when.
#[derive(Debug, Clone)]
pub(super) struct Found {
    /// `None`: there is no such user.
    pub user: Option<Arc<User>>,
    /// Before the question was asked.
    pub asked: Instant,
    /// The same by the clock of changes.
    pub since: u64,
}

impl Directory {
    /// With the ages of the settings.
    #[must_use]
    pub fn new(store: Store, config: &Config) -> Self {
        let known = Cache::new(USERS_MAX, config.grant_stale_max);
        let (max_age, stale_max) = (config.grant_max_age, config.grant_stale_max);
        Self { store, known, max_age, stale_max, changes: Arc::default() }
    }

    /// What the database said has changed.
    #[must_use]
    pub fn changes(&self) -> &Arc<Changes> {
        &self.changes
    }

    /// # Errors
    /// The database is away, and was longer ago asked than an answer may be stale.
    pub(super) async fn find(&self, id: &Id) -> Result<Found, StoreError> {
        let known = self.known.get(id);
        if let Some(fresh) = known.filter(|found| self.is_fresh(id, found)) {
            return Ok(fresh);
        }
        self.ask(id).await
    }

    /// The same without an answer from before, unless the database is away.
    ///
    /// # Errors
    /// As `find`.
    pub(super) async fn ask(&self, id: &Id) -> Result<Found, StoreError> {
        let (asked, since) = (Instant::now(), self.changes.now());
        match self.store.users(std::slice::from_ref(id)).await {
            Ok(mut users) => {
                let found = Found { user: users.remove(id).map(Arc::new), asked, since };
                self.known.insert(id.clone(), found.clone());
                Ok(found)
            }
            Err(error) => {
                // What was announced as changed is not believed, however long the database stays away.
                let holds = |found: &Found| self.changes.user_holds(found.since, id);
                let good = |found: &Found| found.is_good() && found.asked.elapsed() < self.stale_max && holds(found);
                self.known.get(id).filter(good).ok_or(error)
            }
        }
    }

    /// What is known without asking: fresh, from a question at `asked` or later, or good and not too old.
    pub(super) fn recall(&self, id: &Id, asked: Instant) -> Option<Found> {
        let counts = |found: &Found| {
            let good = found.is_good() && found.asked.elapsed() < self.stale_max;
            (good || found.asked >= asked) && self.changes.user_holds(found.since, id)
        };
        self.known.get(id).filter(|found| self.is_fresh(id, found) || counts(found))
    }

    /// Asks for all of these of which nothing fresh is known, together.
    ///
    /// # Errors
    /// The database is away.
    pub(super) async fn prefetch(&self, ids: &[Id]) -> Result<(), StoreError> {
        let fresh = |id: &Id| self.known.get(id).is_some_and(|found| self.is_fresh(id, &found));
        let unknown: Vec<Id> = ids.iter().filter(|id| !fresh(id)).cloned().collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let (asked, since) = (Instant::now(), self.changes.now());
        let mut users = self.store.users(&unknown).await?;
        for id in unknown {
            let user = users.remove(&id).map(Arc::new);
            self.known.insert(id, Found { user, asked, since });
        }
        Ok(())
    }

    fn is_fresh(&self, id: &Id, found: &Found) -> bool {
        let life = if found.user.is_some() { self.max_age } else { FRESH_NOBODY.min(self.max_age) };
        let bound = if self.changes.are_announced() { life } else { life.min(UNANNOUNCED_MAX) };
        found.asked.elapsed() < bound && self.changes.user_holds(found.since, id)
    }

    pub(super) fn entries(&self) -> usize {
        self.known.entries()
    }

    pub(super) fn prune(&self) {
        self.known.prune();
    }
}

impl Found {
    /// Exists and is not disabled.
    pub(super) fn is_good(&self) -> bool {
        self.user.as_ref().is_some_and(|user| !user.disabled)
    }
}
