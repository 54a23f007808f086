//! The same questions in SQLite, in a file of the data directory: one instance, nothing to install.
//!
//! One connection writes, a few read: SQLite has one writer at a time, and waiting for it in our own queue is cheaper
//! than in its busy handler. Lists travel as one JSON parameter (`json_each`), so a batch is one statement here as well.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use sqlx::Row as _;
use sqlx::SqlitePool;
use sqlx::sqlite::SqliteArguments;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::sqlite::SqliteJournalMode;
use sqlx::sqlite::SqlitePoolOptions;
use sqlx::sqlite::SqliteRow;
use sqlx::sqlite::SqliteSynchronous;

use crate::config::Config;
use crate::event::Id;
use crate::event::LogId;
use crate::jobs::JobState;
use crate::jobs::TerminalStatuses;
use crate::store::Existing;
use crate::store::JobRow;
use crate::store::QUERY_TIMEOUT;
use crate::store::Role;
use crate::store::StoreError;
use crate::store::User;
use crate::store::answer;
use crate::store::answer::RawJob;
use crate::store::migrate;
use crate::store::writes;
use crate::store::writes::Write;
use crate::telemetry::Metrics;

const READERS_MAX: u32 = 4;
/// How long another process (a shell, a backup) may hold the file.
const BUSY_TIMEOUT: Duration = Duration::from_millis(1500);

const USERS: &str = "SELECT u.id, u.name, u.avatar_url, u.disabled_at IS NOT NULL AS disabled \
    FROM json_each(?1) AS asked JOIN users AS u ON u.id = asked.value";
const JOB_OWNERS: &str =
    "SELECT j.id, j.user_id AS owner FROM json_each(?1) AS asked JOIN jobs AS j ON j.id = asked.value";
const DOCUMENT_ROLES: &str = "SELECT asked.value ->> 0 AS user_id, d.id AS document_id, \
    CASE WHEN d.owner_id = asked.value ->> 0 THEN 'owner' ELSE (SELECT p.role FROM document_permissions AS p \
        WHERE p.document_id = d.id AND p.user_id = asked.value ->> 0) END AS role \
    FROM json_each(?1) AS asked JOIN documents AS d ON d.id = asked.value ->> 1";
const EXISTING: &str = "SELECT CASE WHEN asked.value ->> 0 = 'job' THEN 'job' ELSE 'document' END AS kind, \
    asked.value ->> 1 AS id FROM json_each(?1) AS asked \
    WHERE CASE WHEN asked.value ->> 0 = 'job' THEN EXISTS (SELECT 1 FROM jobs AS j WHERE j.id = asked.value ->> 1) \
        ELSE EXISTS (SELECT 1 FROM documents AS d WHERE d.id = asked.value ->> 1) END";
const JOBS: &str = "SELECT j.id, j.user_id AS owner, j.status, CAST(j.progress AS TEXT) AS progress, \
    CASE WHEN octet_length(j.message) <= 4096 THEN j.message END AS message, \
    CASE WHEN octet_length(j.error) <= 65536 THEN j.error END AS error, \
    CASE WHEN octet_length(j.data) <= 65536 THEN j.data END AS data, \
    j.attempt, j.seq, CAST(j.version AS TEXT) AS version, CAST(j.updated_ms AS TEXT) AS updated_ms \
    FROM json_each(?1) AS asked JOIN jobs AS j ON j.id = asked.value";
const WRITE_BACK: &str = "UPDATE jobs SET status = w.value ->> 'status', progress = w.value ->> 'progress', \
    message = w.value ->> 'message', error = w.value ->> 'error', data = w.value ->> 'data', \
    attempt = w.value ->> 'attempt', seq = w.value ->> 'seq', version = w.value ->> 'version', \
    updated_ms = coalesce(w.value ->> 'updated_ms', CAST(unixepoch('subsec') * 1000 AS INTEGER)) \
    FROM json_each(?1) AS w WHERE jobs.id = w.value ->> 'id' \
    AND (jobs.version IS NULL OR jobs.version < w.value ->> 'version')";

/// A SQLite file with our tables.
#[derive(Clone, Debug)]
pub struct SqliteStore {
    pub(super) writer: SqlitePool,
    pub(super) readers: SqlitePool,
    metrics: Metrics,
}

/// Where the file is.
pub(super) fn file(config: &Config) -> PathBuf {
    config.data_dir.join("tidings.db")
}

fn options(config: &Config) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(file(config))
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal)
        .busy_timeout(BUSY_TIMEOUT)
        .foreign_keys(true)
}

/// Opens, migrates, and says which migrations that were.
pub(super) async fn open_and_migrate(
    config: &Config,
    metrics: &Metrics,
) -> Result<(SqliteStore, Vec<String>), StoreError> {
    make_directory(config).await?;
    let _turn = take_turn(config).await?;
    let pool = |max| SqlitePoolOptions::new().max_connections(max).acquire_timeout(QUERY_TIMEOUT);
    let failed = |source| StoreError::of_query("open", source);
    let writer = pool(1).connect_with(options(config)).await.map_err(failed)?;
    let mut connection = writer.acquire().await.map_err(failed)?;
    let applied = migrate::run_sqlite(&mut connection).await;
    let applied = applied.map_err(|e| StoreError::Migration { source: Box::new(e) })?;
    drop(connection);
    let readers = pool(READERS_MAX).connect_lazy_with(options(config).pragma("query_only", "on"));
    Ok((SqliteStore { writer, readers, metrics: metrics.clone() }, applied))
}

/// Processes that open one file at the same time go one after the other: the switch to WAL and the migration need the file
/// for themselves, and SQLite does not wait for that, whatever the busy timeout. The turn ends when the file is dropped.
async fn take_turn(config: &Config) -> Result<std::fs::File, StoreError> {
    let path = config.data_dir.join("tidings.lock");
    let failed = |source| StoreError::Directory { path: config.data_dir.display().to_string(), source };
    let locked = tokio::task::spawn_blocking(move || {
        let file = std::fs::File::create(path)?;
        file.lock()?;
        Ok(file)
    });
    locked.await.map_err(|error| failed(std::io::Error::other(error)))?.map_err(failed)
}

/// Only for us: what the jobs of all users say is in there.
async fn make_directory(config: &Config) -> Result<(), StoreError> {
    let failed = |source| StoreError::Directory { path: config.data_dir.display().to_string(), source };
    let mut builder = tokio::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    builder.mode(0o700);
    builder.create(&config.data_dir).await.map_err(failed)
}

impl SqliteStore {
    pub(super) async fn open(config: &Config, metrics: &Metrics) -> Result<Self, StoreError> {
        open_and_migrate(config, metrics).await.map(|(store, _)| store)
    }

    async fn read(&self, name: &'static str, sql: &'static str, list: String) -> Result<Vec<SqliteRow>, StoreError> {
        let rows = sqlx::query(sql).bind(list).fetch_all(&self.readers);
        self.counted(name, tokio::time::timeout(QUERY_TIMEOUT, rows).await)
    }

    async fn write(&self, name: &'static str, sql: &'static str, values: &[&str]) -> Result<u64, StoreError> {
        let query = sqlx::query::<sqlx::Sqlite>(sql);
        let bind = |query: sqlx::query::Query<'static, sqlx::Sqlite, SqliteArguments>, value: &&str| {
            query.bind((*value).to_owned())
        };
        let done = values.iter().fold(query, bind).execute(&self.writer);
        let done = self.counted(name, tokio::time::timeout(QUERY_TIMEOUT, done).await)?;
        Ok(done.rows_affected())
    }

    fn counted<T>(
        &self,
        query: &'static str,
        result: Result<Result<T, sqlx::Error>, tokio::time::error::Elapsed>,
    ) -> Result<T, StoreError> {
        let result = match result {
            Err(_) => Err(StoreError::Timeout { query }),
            Ok(result) => result.map_err(|source| StoreError::of_query(query, source)),
        };
        let outcome = result.as_ref().map_or_else(StoreError::outcome, |_| "ok");
        self.metrics.store_queries.with_label_values(&[query, outcome]).inc();
        result
    }

    pub(super) async fn users(&self, ids: &[Id]) -> Result<HashMap<Id, User>, StoreError> {
        let rows = self.read("users", USERS, list(ids)).await?;
        let user = |row: &SqliteRow| {
            let disabled = row.try_get::<bool, _>("disabled").unwrap_or(true);
            Some(answer::user(id(row, "id")?, text(row, "name").as_deref(), text(row, "avatar_url"), disabled))
        };
        Ok(rows.iter().filter_map(user).map(|user| (user.id.clone(), user)).collect())
    }

    pub(super) async fn job_owners(&self, ids: &[Id]) -> Result<HashMap<Id, Id>, StoreError> {
        let rows = self.read("job_owners", JOB_OWNERS, list(ids)).await?;
        Ok(rows.iter().filter_map(|row| Some((id(row, "id")?, id(row, "owner")?))).collect())
    }

    pub(super) async fn document_roles(&self, pairs: &[(Id, Id)]) -> Result<HashMap<(Id, Id), Role>, StoreError> {
        let asked: Vec<[&str; 2]> = pairs.iter().map(|(user, document)| [user.as_str(), document.as_str()]).collect();
        let rows = self.read("document_roles", DOCUMENT_ROLES, serde_json::json!(asked).to_string()).await?;
        let role = |row: &SqliteRow| {
            let role = Role::parse(&text(row, "role")?)?;
            Some(((id(row, "user_id")?, id(row, "document_id")?), role))
        };
        Ok(rows.iter().filter_map(role).collect())
    }

    pub(super) async fn jobs(
        &self,
        ids: &[Id],
        terminal: &TerminalStatuses,
    ) -> Result<HashMap<Id, JobRow>, StoreError> {
        let rows = self.read("jobs", JOBS, list(ids)).await?;
        Ok(rows.iter().filter_map(|row| Some((id(row, "id")?, answer::job(raw_job(row), terminal)))).collect())
    }

    pub(super) async fn existing(&self, jobs: &[Id], documents: &[Id]) -> Result<Existing, StoreError> {
        let jobs = jobs.iter().map(|id| ["job", id.as_str()]);
        let asked: Vec<[&str; 2]> = jobs.chain(documents.iter().map(|id| ["document", id.as_str()])).collect();
        let rows = self.read("existing", EXISTING, serde_json::json!(asked).to_string()).await?;
        let of = |kind: &str| {
            let rows = rows.iter().filter(|row| text(row, "kind").as_deref() == Some(kind));
            rows.filter_map(|row| id(row, "id")).collect()
        };
        Ok((of("job"), of("document")))
    }

    pub(super) async fn write_back(&self, states: &[(Id, JobState, LogId)]) -> Result<u64, StoreError> {
        let writes: Vec<serde_json::Value> = writes::newest(states).iter().map(json).collect();
        if writes.is_empty() {
            return Ok(0);
        }
        self.write("write_back", WRITE_BACK, &[&serde_json::Value::Array(writes).to_string()]).await
    }

    #[expect(clippy::unused_self, reason = "Postgres has to look")]
    pub(super) fn can_write_back(&self) -> bool {
        true
    }

    pub(super) async fn ping(&self) -> Result<(), StoreError> {
        self.read("ping", "SELECT ?1", String::new()).await.map(drop)
    }

    pub(super) async fn put_user(&self, id: &Id, name: &str) -> Result<(), StoreError> {
        let sql = "INSERT INTO users (id, name) VALUES (?1, ?2) \
                   ON CONFLICT (id) DO UPDATE SET name = excluded.name, disabled_at = NULL";
        self.write("put", sql, &[id.as_str(), name]).await.map(drop)
    }

    pub(super) async fn disable_user(&self, id: &Id) -> Result<(), StoreError> {
        let sql = "UPDATE users SET disabled_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now') WHERE id = ?1";
        self.write("put", sql, &[id.as_str()]).await.map(drop)
    }

    pub(super) async fn put_job(&self, id: &Id, owner: &Id, status: &str) -> Result<(), StoreError> {
        let sql = "INSERT INTO jobs (id, user_id, status) VALUES (?1, ?2, ?3) ON CONFLICT (id) DO UPDATE \
                   SET user_id = excluded.user_id, status = excluded.status, updated_ms = excluded.updated_ms";
        self.write("put", sql, &[id.as_str(), owner.as_str(), status]).await.map(drop)
    }

    pub(super) async fn put_document(&self, id: &Id, owner: &Id, title: &str) -> Result<(), StoreError> {
        let sql = "INSERT INTO documents (id, owner_id, title) VALUES (?1, ?2, ?3) \
                   ON CONFLICT (id) DO UPDATE SET owner_id = excluded.owner_id, title = excluded.title";
        self.write("put", sql, &[id.as_str(), owner.as_str(), title]).await.map(drop)
    }

    pub(super) async fn put_role(&self, document: &Id, user: &Id, role: Role) -> Result<(), StoreError> {
        let sql = "INSERT INTO document_permissions (document_id, user_id, role) VALUES (?1, ?2, ?3) \
                   ON CONFLICT (document_id, user_id) DO UPDATE SET role = excluded.role";
        self.write("put", sql, &[document.as_str(), user.as_str(), role.as_str()]).await.map(drop)
    }

    pub(super) async fn remove_role(&self, document: &Id, user: &Id) -> Result<(), StoreError> {
        let sql = "DELETE FROM document_permissions WHERE document_id = ?1 AND user_id = ?2";
        self.write("put", sql, &[document.as_str(), user.as_str()]).await.map(drop)
    }

    pub(super) async fn remove_job(&self, id: &Id) -> Result<(), StoreError> {
        self.write("put", "DELETE FROM jobs WHERE id = ?1", &[id.as_str()]).await.map(drop)
    }

    pub(super) async fn remove_document(&self, id: &Id) -> Result<(), StoreError> {
        self.write("put", "DELETE FROM documents WHERE id = ?1", &[id.as_str()]).await.map(drop)
    }

    pub(super) async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// `["a","b"]`
fn list(ids: &[Id]) -> String {
    let texts: Vec<&str> = ids.iter().map(Id::as_str).collect();
    serde_json::json!(texts).to_string()
}

fn json(write: &Write) -> serde_json::Value {
    serde_json::json!({
        "id": write.id, "status": write.status, "progress": write.progress, "message": write.message,
        "error": write.error, "data": write.data, "attempt": write.attempt, "seq": write.seq,
        "version": write.version, "updated_ms": write.updated_ms,
    })
}

/// Text of a column; NULL, and what is no UTF-8, is absent.
fn text(row: &SqliteRow, column: &str) -> Option<String> {
    row.try_get::<Option<String>, _>(column).ok().flatten()
}

fn id(row: &SqliteRow, column: &str) -> Option<Id> {
    Id::parse(&text(row, column)?).ok()
}

fn raw_job(row: &SqliteRow) -> RawJob {
    RawJob {
        owner: text(row, "owner"),
        status: text(row, "status"),
        progress: text(row, "progress"),
        message: text(row, "message"),
        error: text(row, "error"),
        data: text(row, "data"),
        attempt: text(row, "attempt"),
        seq: text(row, "seq"),
        version: text(row, "version"),
        updated_ms: text(row, "updated_ms"),
    }
}
