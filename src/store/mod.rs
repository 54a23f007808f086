//! What the database is asked: users, owners of jobs, roles on documents, states of jobs.
//!
//! It knows neither HTTP nor who is asking; it grants nothing, it only reads. Postgres when `DATABASE_URL` is set, else
//! SQLite in a file of the data directory; both answer the same contract (`tests/it/contract/store.rs`).
//!
//! Rows are hostile until proven otherwise: applications put views of their own in place of our tables. A value that
//! breaks its rule (no valid id, unknown role, progress that is no number) reads as absent, never as an error, so that
//! one bad row can't hide the good ones of its batch. Every question is bounded: rows by construction (one per id that
//! was asked), bytes per value, time, and connections.

mod answer;
mod changed;
mod error;
mod migrate;
mod postgres;
mod postgres_ask;
mod postgres_open;
mod sqlite;
#[cfg(test)]
mod tests;
mod watch;
mod writes;

use std::collections::HashMap;

use tokio::sync::mpsc;

use crate::config::Config;
use crate::event::Id;
use crate::event::LogId;
use crate::jobs::JobState;
use crate::jobs::TerminalStatuses;
use crate::telemetry::Metrics;

pub use changed::Changed;
pub use error::StoreError;
pub use migrate::Migrated;
pub use postgres::PostgresStore;
pub use sqlite::SqliteStore;
pub use watch::Notice;

/// How long one question may take, connection included in neither: acquiring has the same bound again.
pub(super) const QUERY_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(2);

/// The database. Cheap to clone: clones share one pool.
#[derive(Clone, Debug)]
pub enum Store {
    /// `DATABASE_URL`
    Postgres(PostgresStore),
    /// `tidings.db` in `DATA_DIR`
    Sqlite(SqliteStore),
}

/// A person who may connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Who.
    pub id: Id,
    /// What others see: one line, 1 to 256 characters, the id when there is none. Not HTML.
    pub name: String,
    /// `http`, `https` or a path, at most 2,048 bytes.
    pub avatar_url: Option<String>,
    /// May not connect any more.
    pub disabled: bool,
}

/// What somebody may do with a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Made it.
    Owner,
    /// Changes it.
    Editor,
    /// Reads and comments.
    Commenter,
    /// Reads.
    Viewer,
}

impl Role {
    /// Every role, strongest first.
    pub const ALL: [Self; 4] = [Self::Owner, Self::Editor, Self::Commenter, Self::Viewer];

    /// The word in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Editor => "editor",
            Self::Commenter => "commenter",
            Self::Viewer => "viewer",
        }
    }

    /// Exactly one of the four words; anything else is no role and grants nothing.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == text)
    }

    /// Whether it may publish on the document.
    #[must_use]
    pub fn can_edit(self) -> bool {
        matches!(self, Self::Owner | Self::Editor)
    }
}

/// What the database knows of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobRow {
    /// Whose it is; `None` for nobody, or for an owner that is no valid id.
    pub owner: Option<Id>,
    /// `None`: the row has no valid status.
    pub state: Option<JobState>,
    /// The log position of the state; zero when the application wrote it and Tidings never did.
    pub version: LogId,
}

/// Jobs and documents that there are.
pub type Existing = (Vec<Id>, Vec<Id>);

/// Calls the same method of whichever database it is.
macro_rules! either {
    ($store:expr, $inner:ident => $call:expr) => {
        match $store {
            Store::Postgres($inner) => $call,
            Store::Sqlite($inner) => $call,
        }
    };
}

impl Store {
    /// Connects (Postgres, within 5 s) or opens the file (SQLite, which migrates itself).
    ///
    /// # Errors
    /// With advice for the operator: unreachable, refused, no such database, `tidings migrate` not run yet.
    pub async fn open(config: &Config, metrics: &Metrics) -> Result<Self, StoreError> {
        if config.database_url.expose().is_empty() {
            return SqliteStore::open(config, metrics).await.map(Self::Sqlite);
        }
        PostgresStore::open(config, metrics).await.map(Self::Postgres)
    }

    /// Brings the schema up to date. Any number of instances may do it at the same time.
    ///
    /// # Errors
    /// As `open`, and what the database said about a statement.
    pub async fn migrate(config: &Config) -> Result<Migrated, StoreError> {
        if config.database_url.expose().is_empty() {
            return migrate::sqlite(config).await;
        }
        migrate::postgres(config).await
    }

    /// The users among these ids; one query, at most one row per id.
    ///
    /// # Errors
    /// The database didn't answer in time, or not well.
    pub async fn users(&self, ids: &[Id]) -> Result<HashMap<Id, User>, StoreError> {
        either!(self, inner => inner.users(ids).await)
    }

    /// Whose these jobs are; jobs without a row, or without a valid owner, are not in the answer.
    ///
    /// # Errors
    /// The database didn't answer in time, or not well.
    pub async fn job_owners(&self, ids: &[Id]) -> Result<HashMap<Id, Id>, StoreError> {
        either!(self, inner => inner.job_owners(ids).await)
    }

    /// The strongest role of each (user, document); pairs without a role are not in the answer.
    ///
    /// # Errors
    /// The database didn't answer in time, or not well.
    pub async fn document_roles(&self, pairs: &[(Id, Id)]) -> Result<HashMap<(Id, Id), Role>, StoreError> {
        either!(self, inner => inner.document_roles(pairs).await)
    }

    /// The rows of these jobs.
    ///
    /// # Errors
    /// The database didn't answer in time, or not well.
    pub async fn jobs(&self, ids: &[Id], terminal: &TerminalStatuses) -> Result<HashMap<Id, JobRow>, StoreError> {
        either!(self, inner => inner.jobs(ids, terminal).await)
    }

    /// Which of these jobs and documents there are.
    ///
    /// # Errors
    /// The database didn't answer in time, or not well.
    pub async fn existing(&self, jobs: &[Id], documents: &[Id]) -> Result<Existing, StoreError> {
        if jobs.is_empty() && documents.is_empty() {
            return Ok((Vec::new(), Vec::new()));
        }
        either!(self, inner => inner.existing(jobs, documents).await)
    }

    /// Announces changes of rows, and whether changes are announced at all, until nobody hears it any more.
    pub async fn watch(&self, notices: mpsc::Sender<Notice>) {
        either!(self, inner => inner.watch(notices).await);
    }

    /// Writes states into rows that exist and are older; returns how many changed. One statement for the batch (at most
    /// 1,000 states are sensible); a state that the database refuses is logged and left out, the others are written.
    ///
    /// # Errors
    /// The database didn't answer in time. Writing the batch again later is always right: older never overwrites newer.
    pub async fn write_back(&self, states: &[(Id, JobState, LogId)]) -> Result<u64, StoreError> {
        either!(self, inner => inner.write_back(states).await)
    }

    /// Whether job states can be written at all: not into a view over other columns, nor without the privilege.
    #[must_use]
    pub fn can_write_back(&self) -> bool {
        either!(self, inner => inner.can_write_back())
    }

    /// Asks for nothing, to see whether an answer comes.
    ///
    /// # Errors
    /// None came.
    pub async fn ping(&self) -> Result<(), StoreError> {
        either!(self, inner => inner.ping().await)
    }

    /// `postgres` or `sqlite`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Postgres(_) => "postgres",
            Self::Sqlite(_) => "sqlite",
        }
    }

    /// Makes a user, or renames and enables one. For `demo` and tests, like everything `put_…`.
    ///
    /// # Errors
    /// The table is a view of the application, or the database didn't answer.
    pub async fn put_user(&self, id: &Id, name: &str) -> Result<(), StoreError> {
        either!(self, inner => inner.put_user(id, name).await)
    }

    /// Disables a user.
    ///
    /// # Errors
    /// As `put_user`.
    pub async fn disable_user(&self, id: &Id) -> Result<(), StoreError> {
        either!(self, inner => inner.disable_user(id).await)
    }

    /// Makes a job, or sets owner and status of one, as the application does it: the version stays.
    ///
    /// # Errors
    /// As `put_user`.
    pub async fn put_job(&self, id: &Id, owner: &Id, status: &str) -> Result<(), StoreError> {
        either!(self, inner => inner.put_job(id, owner, status).await)
    }

    /// Makes a document, or sets owner and title of one.
    ///
    /// # Errors
    /// As `put_user`.
    pub async fn put_document(&self, id: &Id, owner: &Id, title: &str) -> Result<(), StoreError> {
        either!(self, inner => inner.put_document(id, owner, title).await)
    }

    /// Gives somebody a role on a document, in place of any other.
    ///
    /// # Errors
    /// As `put_user`.
    pub async fn put_role(&self, document: &Id, user: &Id, role: Role) -> Result<(), StoreError> {
        either!(self, inner => inner.put_role(document, user, role).await)
    }

    /// Takes somebody's role on a document away.
    ///
    /// # Errors
    /// As `put_user`.
    pub async fn remove_role(&self, document: &Id, user: &Id) -> Result<(), StoreError> {
        either!(self, inner => inner.remove_role(document, user).await)
    }

    /// Deletes a job's row.
    ///
    /// # Errors
    /// As `put_user`.
    pub async fn remove_job(&self, id: &Id) -> Result<(), StoreError> {
        either!(self, inner => inner.remove_job(id).await)
    }

    /// Deletes a document's row; roles on it count no more.
    ///
    /// # Errors
    /// As `put_user`.
    pub async fn remove_document(&self, id: &Id) -> Result<(), StoreError> {
        either!(self, inner => inner.remove_document(id).await)
    }

    /// Closes every connection; questions after this fail.
    pub async fn close(&self) {
        either!(self, inner => inner.close().await);
    }
}
