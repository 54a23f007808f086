//! Hearing of changes: who may see what, and what the application writes into its jobs.
//!
//! First listen, then say that everything has to be read again: what happened in between is in what is read, or announced. Postgres
//! proves with a notification of our own that it delivers any; a pooler in transaction mode takes `LISTEN` and delivers nothing.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Deserialize;
use sqlx::Row as _;
use sqlx::postgres::PgListener;
use sqlx::postgres::PgPoolOptions;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::store::Changed;
use crate::store::PostgresStore;
use crate::store::QUERY_TIMEOUT;
use crate::store::SqliteStore;
use crate::store::StoreError;
use crate::store::error::one_line;

/// How often Postgres has to prove that it delivers notifications, and how long it may take for it.
const PROBE_EVERY: Duration = Duration::from_secs(3);
const PROBE_PATIENCE: Duration = Duration::from_secs(3);
/// How long after a failure it is tried again, with jitter: up to twice as long.
const PAUSE: Duration = Duration::from_millis(500);
/// How often SQLite, which announces nothing, is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Changes that are read together; more of them mean everything.
const CHANGES_MAX: i64 = 4096;

/// What is heard of the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// Changes are announced from now on, or no longer.
    Announcing(bool),
    /// These rows were changed.
    Changed(Changed),
}

/// As the triggers announce it: `{"table":"jobs","keys":[["j1"]]}` or `{"table":"jobs","all":true}`.
#[derive(Deserialize)]
struct Announcement {
    table: String,
    #[serde(default)]
    all: bool,
    #[serde(default)]
    new: bool,
    #[serde(default)]
    keys: Vec<Vec<String>>,
}

fn read_announcement(payload: &str) -> Changed {
    let mut changed = Changed::default();
    match serde_json::from_str::<Announcement>(payload) {
        Ok(announcement) => {
            changed.all = announcement.all;
            let table = if announcement.new && announcement.table == "jobs" { "new_jobs" } else { &announcement.table };
            changed.add(table, announcement.keys.into_iter());
        }
        // Anybody who may connect may notify: it costs questions, and grants nothing.
        Err(_) => changed.all = true,
    }
    changed
}

/// Why nothing is announced.
#[derive(Debug, thiserror::Error)]
enum Silence {
    #[error("{0}")]
    Database(String),
    #[error(
        "LISTEN is taken and nothing is delivered, as by PgBouncer in transaction mode; set DATABASE_URL to the server itself"
    )]
    NotDelivered,
    #[error("nobody hears it")]
    NobodyHears,
}

impl From<sqlx::Error> for Silence {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(one_line(&error))
    }
}

impl From<StoreError> for Silence {
    fn from(error: StoreError) -> Self {
        Self::Database(one_line(&error))
    }
}

async fn say(notices: &mpsc::Sender<Notice>, notice: Notice) -> Result<(), Silence> {
    notices.send(notice).await.map_err(|_| Silence::NobodyHears)
}

/// It begins: whatever was known before may be wrong.
async fn begin(notices: &mpsc::Sender<Notice>) -> Result<(), Silence> {
    say(notices, Notice::Changed(Changed::everything())).await?;
    say(notices, Notice::Announcing(true)).await
}

/// Which of our four names nothing announces: a view over a base table that nobody watches, or a trigger that is switched off.
const UNWATCHED: &str = "SELECT string_agg(name, ', ' ORDER BY name) AS names \
    FROM unnest(ARRAY['users', 'jobs', 'documents', 'document_permissions']) AS name WHERE NOT EXISTS ( \
        SELECT FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid \
        WHERE p.proname = 'announce_changes' AND p.pronamespace = to_regnamespace(quote_ident($1)) \
        AND t.tgname = 'tidings_' || name || '_update' AND t.tgenabled IN ('O', 'A'))";

impl PostgresStore {
    pub(super) async fn watch(&self, notices: mpsc::Sender<Notice>) {
        let mut told = String::new();
        loop {
            let why = match self.listen(&notices).await {
                Ok(never) => match never {},
                Err(Silence::NobodyHears) => return,
                Err(why) => why.to_string(),
            };
            self.own_session.store(false, Ordering::Release);
            // The same over and over, for as long as a pooler stands in between.
            if why != told {
                tracing::warn!(cause = %why, "changes of permissions are not announced; open streams are asked about every few seconds");
            }
            told = why;
            if say(&notices, Notice::Announcing(false)).await.is_err() {
                return;
            }
            tokio::time::sleep(PAUSE.mul_f64(1.0 + fastrand::f64())).await;
        }
    }

    async fn listen(&self, notices: &mpsc::Sender<Notice>) -> Result<std::convert::Infallible, Silence> {
        let options = (*self.pool.connect_options()).clone();
        let pool = PgPoolOptions::new().max_connections(1).idle_timeout(None).max_lifetime(None);
        let pool = pool.acquire_timeout(QUERY_TIMEOUT).connect_lazy_with(options);
        let mut listener = PgListener::connect_with(&pool).await?;
        // A channel of this connection alone: nobody else is woken by its probes.
        let probe = format!("{}_probe_{:016x}", self.sql.schema, fastrand::u64(..));
        listener.listen_all([self.sql.schema.as_str(), &probe]).await?;
        let mut asked = self.ask_for_proof(&probe).await?;
        let (mut proven, mut began) = (false, None);
        let mut check = tokio::time::interval(PROBE_EVERY / 6);
        loop {
            let heard = tokio::select! {
                heard = listener.try_recv() => heard?,
                _ = check.tick() => {
                    if !proven && asked.elapsed() > PROBE_PATIENCE {
                        return Err(Silence::NotDelivered);
                    }
                    if proven && asked.elapsed() > PROBE_EVERY {
                        (asked, proven) = (self.ask_for_proof(&probe).await?, false);
                    }
                    continue;
                }
            };
            let Some(heard) = heard else { return Err(Silence::Database("the connection was lost".to_owned())) };
            if heard.channel() == probe {
                proven = true;
                self.own_session.store(true, Ordering::Release);
                let unwatched = self.unwatched().await?;
                if began.as_ref() != Some(&unwatched) {
                    if unwatched.is_empty() {
                        begin(notices).await?;
                    } else {
                        tracing::warn!(
                            tables = unwatched,
                            "changes are not announced: call watch for the base tables (docs/database.md); open streams are asked about every few seconds"
                        );
                        say(notices, Notice::Announcing(false)).await?;
                    }
                    began = Some(unwatched);
                }
            } else {
                say(notices, Notice::Changed(read_announcement(heard.payload()))).await?;
            }
        }
    }

    async fn unwatched(&self) -> Result<String, Silence> {
        let (sql, schema) = (UNWATCHED.into(), self.sql.schema.clone());
        let rows = self.ask("probe", &sql, |query| query.bind(schema.clone())).await?.rows;
        Ok(rows.first().and_then(|row| row.try_get("names").ok().flatten()).unwrap_or_default())
    }

    /// Notifies ourselves, over another connection.
    async fn ask_for_proof(&self, probe: &str) -> Result<Instant, Silence> {
        self.put("probe", "SELECT pg_notify($1, \'\')", &[probe]).await?;
        Ok(Instant::now())
    }
}

impl SqliteStore {
    pub(super) async fn watch(&self, notices: mpsc::Sender<Notice>) {
        let mut seen = None;
        loop {
            let found = self.look(seen).await;
            let done = match found {
                Ok((newest, changed)) => {
                    let first = seen.replace(newest).is_none();
                    match changed {
                        _ if first => begin(&notices).await,
                        Some(changed) => say(&notices, Notice::Changed(changed)).await,
                        None => Ok(()),
                    }
                }
                Err(error) => {
                    if seen.take().is_some() {
                        tracing::warn!(%error, "changes of permissions can\'t be read");
                    }
                    say(&notices, Notice::Announcing(false)).await
                }
            };
            if done.is_err() || notices.is_closed() {
                return;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// The newest change, and those after `seen`.
    async fn look(&self, seen: Option<i64>) -> Result<(i64, Option<Changed>), sqlx::Error> {
        let newest: i64 =
            sqlx::query_scalar("SELECT coalesce(max(id), 0) FROM changes").fetch_one(&self.readers).await?;
        let Some(seen) = seen.filter(|seen| *seen != newest) else { return Ok((newest, None)) };
        let sql = "SELECT id, source, key1, key2 FROM changes WHERE id > ?1 ORDER BY id LIMIT ?2";
        let rows = sqlx::query(sql).bind(seen).bind(CHANGES_MAX).fetch_all(&self.readers).await?;
        let ids: Vec<i64> = rows.iter().filter_map(|row| row.try_get("id").ok()).collect();
        let (first, last) = (ids.first().copied().unwrap_or(0), ids.last().copied().unwrap_or(seen));
        let mut changed = Changed { all: first != seen + 1, ..Changed::default() };
        for row in &rows {
            let text = |column: &str| row.try_get::<Option<String>, _>(column).ok().flatten();
            let key = text("key1").into_iter().chain(text("key2")).collect();
            changed.add(&text("source").unwrap_or_default(), std::iter::once(key));
        }
        Ok((last, Some(changed)))
    }
}

#[cfg(test)]
mod tests {
    use crate::store::Changed;
    use crate::store::watch::read_announcement;

    #[test]
    fn announcements_are_read_as_the_triggers_write_them() {
        let roles = read_announcement(r#"{"table":"document_permissions","keys":[["d7","ada"],["d7"],["no id","x"]]}"#);
        assert_eq!(roles.permissions.len(), 1, "others name nothing that can be subscribed to");
        assert!(!roles.all && roles.users.is_empty());
        assert_eq!(read_announcement(r#"{"table":"jobs","keys":[["j1"],["j2"]]}"#).jobs.len(), 2);
        assert_eq!(read_announcement(r#"{"table":"jobs","new":true,"keys":[["j1"]]}"#).new_jobs.len(), 1);
        assert_eq!(read_announcement(r#"{"table":"jobs","all":true}"#), Changed::everything());
        assert_eq!(read_announcement("nonsense"), Changed::everything(), "whatever it means, it is asked again");
    }
}
