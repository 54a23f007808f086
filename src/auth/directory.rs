//! Users as the database knows them, remembered for seconds.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::auth::cache::Cache;
use crate::config::Config;
use crate::event::Id;
use crate::store::Store;
use crate::store::StoreError;
use crate::store::User;

/// How old the answer about a user may be.
const FRESH: Duration = Duration::from_secs(5);
/// The same for "no such user": somebody who was made a moment ago wants in.
const FRESH_NOBODY: Duration = Duration::from_secs(2);
const USERS_MAX: usize = 65_536;

#[derive(Debug)]
pub(super) struct Directory {
    store: Store,
    known: Cache<Id, Found>,
    stale_max: Duration,
}

/// What is known of a user, and since when.
#[derive(Debug, Clone)]
pub(super) struct Found {
    /// `None`: there is no such user.
    pub user: Option<Arc<User>>,
    /// Before the question was asked.
    pub asked: Instant,
    /// The database is away; this is the answer from before.
    pub stale: bool,
}

impl Directory {
    pub(super) fn new(store: Store, config: &Config) -> Self {
        Self { store, known: Cache::new(USERS_MAX, config.grant_stale_max), stale_max: config.grant_stale_max }
    }

    /// # Errors
    /// The database is away, and was longer ago asked than an answer may be stale.
    pub(super) async fn find(&self, id: &Id) -> Result<Found, StoreError> {
        let known = self.known.get(id);
        if let Some(fresh) = known.as_ref().filter(|found| found.asked.elapsed() < found.fresh()) {
            return Ok(fresh.clone());
        }
        let asked = Instant::now();
        match self.store.users(std::slice::from_ref(id)).await {
            Ok(mut users) => {
                let found = Found { user: users.remove(id).map(Arc::new), asked, stale: false };
                self.known.insert(id.clone(), found.clone());
                Ok(found)
            }
            Err(error) => {
                let good = |found: &Found| found.is_good() && found.asked.elapsed() < self.stale_max;
                known.filter(good).map(|found| Found { stale: true, ..found }).ok_or(error)
            }
        }
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

    fn fresh(&self) -> Duration {
        if self.user.is_some() { FRESH } else { FRESH_NOBODY }
    }
}
