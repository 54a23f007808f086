//! The questions in Postgres.
//!
//! **Ids are compared as text, by index.** `DATABASE_SCHEMA.users` may be a view over a table whose key is a `uuid` or a
//! `bigint`. Turning the asked text into that type would fail on any id that is none (`'abc'::uuid`), and fail the batch
//! with it. So each statement says `t.id::text = asked.id`: over our own tables, whose ids are text, the cast is nothing
//! and the primary key serves; over `SELECT id::text AS id FROM app.users` it becomes the expression `app.users.id::text`,
//! which the index `ON app.users ((id::text))` serves. The contract suite looks at the plans of both.
//!
//! Each id is looked up by itself (`LATERAL … LIMIT 1`): the answer has at most one row per asked id whatever the view
//! yields, and the plan is always the nested loop over the index, never a scan that is cheap on the day of `ANALYZE`.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use sqlx::PgPool;
use sqlx::Postgres;
use sqlx::Row as _;
use sqlx::postgres::PgArguments;
use sqlx::postgres::PgRow;
use sqlx::query::Query;

use crate::event::Id;
use crate::event::LogId;
use crate::jobs::JobState;
use crate::jobs::TerminalStatuses;
use crate::store::Existing;
use crate::store::JobRow;
use crate::store::Role;
use crate::store::StoreError;
use crate::store::User;
use crate::store::answer;
use crate::store::answer::RawJob;
use crate::store::error::one_line;
use crate::store::writes;
use crate::store::writes::Write;

/// Connections at most; also how many are thrown away at once when the server went silent.
pub(super) const CONNECTIONS_MAX: u32 = 8;

/// A Postgres database with our tables, or with views of the same names.
#[derive(Clone, Debug)]
pub struct PostgresStore {
    pub(super) pool: PgPool,
    pub(super) sql: Arc<Statements>,
    pub(super) target: Arc<str>,
    pub(super) metrics: crate::telemetry::Metrics,
    pub(super) can_write_back: bool,
    /// What a connection is told stays with it: proven by a notification that arrives. A pooler in transaction mode hands connections round.
    pub(super) own_session: Arc<AtomicBool>,
}

/// The statements with the schema's name put in, once.
#[derive(Debug)]
pub(super) struct Statements {
    pub(super) schema: String,
    pub users: Arc<str>,
    pub job_owners: Arc<str>,
    pub document_roles: Arc<str>,
    pub jobs: Arc<str>,
    pub write_back: Arc<str>,
    pub existing: Arc<str>,
}

impl Statements {
    /// `schema` is a word of letters, digits and `_`: the settings check it.
    pub(super) fn new(schema: &str) -> Self {
        let of = |text: &str| Arc::from(in_schema(schema, text));
        Self {
            schema: schema.to_owned(),
            users: of(include_str!("sql/users.sql")),
            job_owners: of(include_str!("sql/job_owners.sql")),
            document_roles: of(include_str!("sql/document_roles.sql")),
            jobs: of(include_str!("sql/jobs.sql")),
            write_back: of(include_str!("sql/write_back.sql")),
            existing: of(include_str!("sql/existing.sql")),
        }
    }
}

/// `$$` stands for the schema.
fn in_schema(schema: &str, text: &str) -> String {
    text.replace("$$", &format!("\"{schema}\""))
}

pub(super) type PgQuery = Query<'static, Postgres, PgArguments>;

/// Whether a row of the batch is what the database refuses: a value its column can't hold, or a rule of the application.
fn is_about_a_row(error: &StoreError) -> bool {
    let StoreError::Query { source, .. } = error else { return false };
    let sqlx::Error::Database(error) = source.as_ref() else { return false };
    error.code().is_some_and(|code| code.starts_with("22") || code.starts_with("23") || code.starts_with("P0"))
}

impl PostgresStore {
    pub(super) async fn users(&self, ids: &[Id]) -> Result<HashMap<Id, User>, StoreError> {
        let asked = texts(ids);
        let rows = self.ask("users", &self.sql.users, |query| query.bind(asked.clone())).await?.rows;
        let user = |row: &PgRow| {
            let disabled = row.try_get::<bool, _>("disabled").unwrap_or(true);
            answer::user(id(row, "id")?, text(row, "name").as_deref(), text(row, "avatar_url"), disabled).into()
        };
        Ok(rows.iter().filter_map(user).map(|user: User| (user.id.clone(), user)).collect())
    }

    pub(super) async fn job_owners(&self, ids: &[Id]) -> Result<HashMap<Id, Id>, StoreError> {
        let asked = texts(ids);
        let rows = self.ask("job_owners", &self.sql.job_owners, |query| query.bind(asked.clone())).await?.rows;
        Ok(rows.iter().filter_map(|row| Some((id(row, "id")?, id(row, "owner")?))).collect())
    }

    pub(super) async fn document_roles(&self, pairs: &[(Id, Id)]) -> Result<HashMap<(Id, Id), Role>, StoreError> {
        let users: Vec<String> = pairs.iter().map(|(user, _)| user.to_string()).collect();
        let documents: Vec<String> = pairs.iter().map(|(_, document)| document.to_string()).collect();
        let bind = |query: PgQuery| query.bind(users.clone()).bind(documents.clone());
        let rows = self.ask("document_roles", &self.sql.document_roles, bind).await?.rows;
        let role = |row: &PgRow| {
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
        let asked = texts(ids);
        let rows = self.ask("jobs", &self.sql.jobs, |query| query.bind(asked.clone())).await?.rows;
        Ok(rows.iter().filter_map(|row| Some((id(row, "id")?, answer::job(raw_job(row), terminal)))).collect())
    }

    pub(super) async fn existing(&self, jobs: &[Id], documents: &[Id]) -> Result<Existing, StoreError> {
        let (jobs, documents) = (texts(jobs), texts(documents));
        let bind = |query: PgQuery| query.bind(jobs.clone()).bind(documents.clone());
        let rows = self.ask("existing", &self.sql.existing, bind).await?.rows;
        let of = |kind: &str| {
            let rows = rows.iter().filter(|row| text(row, "kind").as_deref() == Some(kind));
            rows.filter_map(|row| id(row, "id")).collect()
        };
        Ok((of("job"), of("document")))
    }

    pub(super) async fn write_back(&self, states: &[(Id, JobState, LogId)]) -> Result<u64, StoreError> {
        let writes = writes::newest(states);
        let mut changed = 0;
        // Halves of what was refused, until the row that is to blame stands alone.
        let mut waiting: Vec<&[Write]> = vec![&writes];
        while let Some(batch) = waiting.pop() {
            match self.write(batch).await {
                Ok(count) => changed += count,
                Err(error) if !is_about_a_row(&error) => return Err(error),
                Err(error) if batch.len() > 1 => {
                    tracing::debug!(rows = batch.len(), cause = %one_line(&error), "write-back batch refused, halving it");
                    let (first, second) = batch.split_at(batch.len() / 2);
                    waiting.extend([first, second]);
                }
                Err(error) => refused(batch, &error),
            }
        }
        Ok(changed)
    }

    async fn write(&self, batch: &[Write]) -> Result<u64, StoreError> {
        if batch.is_empty() {
            return Ok(0);
        }
        self.ask("write_back", &self.sql.write_back, |query| bind_writes(query, batch))
            .await
            .map(|answer| answer.changed)
    }

    pub(super) fn can_write_back(&self) -> bool {
        self.can_write_back
    }

    pub(super) async fn ping(&self) -> Result<(), StoreError> {
        self.put("ping", "SELECT 1", &[]).await
    }

    /// A statement with text parameters and no answer.
    pub(super) async fn put(&self, name: &'static str, sql: &str, values: &[&str]) -> Result<(), StoreError> {
        let sql = Arc::from(in_schema(&self.sql.schema, sql));
        let bind = |query: PgQuery| values.iter().fold(query, |query: PgQuery, value| query.bind((*value).to_owned()));
        self.ask(name, &sql, bind).await.map(drop)
    }

    pub(super) async fn put_user(&self, id: &Id, name: &str) -> Result<(), StoreError> {
        let sql = "INSERT INTO $$.users (id, name) VALUES ($1, $2) \
                   ON CONFLICT (id) DO UPDATE SET name = excluded.name, disabled_at = NULL";
        self.put("put", sql, &[id.as_str(), name]).await
    }

    pub(super) async fn disable_user(&self, id: &Id) -> Result<(), StoreError> {
        self.put("put", "UPDATE $$.users SET disabled_at = now() WHERE id::text = $1", &[id.as_str()]).await
    }

    pub(super) async fn put_job(&self, id: &Id, owner: &Id, status: &str) -> Result<(), StoreError> {
        let sql = "INSERT INTO $$.jobs (id, user_id, status) VALUES ($1, $2, $3) ON CONFLICT (id) DO UPDATE \
                   SET user_id = excluded.user_id, status = excluded.status, updated_at = now()";
        self.put("put", sql, &[id.as_str(), owner.as_str(), status]).await
    }

    pub(super) async fn put_document(&self, id: &Id, owner: &Id, title: &str) -> Result<(), StoreError> {
        let sql = "INSERT INTO $$.documents (id, owner_id, title) VALUES ($1, $2, $3) \
                   ON CONFLICT (id) DO UPDATE SET owner_id = excluded.owner_id, title = excluded.title";
        self.put("put", sql, &[id.as_str(), owner.as_str(), title]).await
    }

    pub(super) async fn put_role(&self, document: &Id, user: &Id, role: Role) -> Result<(), StoreError> {
        let sql = "INSERT INTO $$.document_permissions (document_id, user_id, role) VALUES ($1, $2, $3) \
                   ON CONFLICT (document_id, user_id) DO UPDATE SET role = excluded.role";
        self.put("put", sql, &[document.as_str(), user.as_str(), role.as_str()]).await
    }

    pub(super) async fn remove_role(&self, document: &Id, user: &Id) -> Result<(), StoreError> {
        let sql = "DELETE FROM $$.document_permissions WHERE document_id::text = $1 AND user_id::text = $2";
        self.put("put", sql, &[document.as_str(), user.as_str()]).await
    }

    pub(super) async fn remove_job(&self, id: &Id) -> Result<(), StoreError> {
        self.put("put", "DELETE FROM $$.jobs WHERE id::text = $1", &[id.as_str()]).await
    }

    pub(super) async fn remove_document(&self, id: &Id) -> Result<(), StoreError> {
        self.put("put", "DELETE FROM $$.documents WHERE id::text = $1", &[id.as_str()]).await
    }

    pub(super) async fn close(&self) {
        self.pool.close().await;
    }
}

fn refused(batch: &[Write], error: &StoreError) {
    let StoreError::Query { source, .. } = error else { return };
    let job = batch.first().map_or("", |write| write.id.as_str());
    tracing::warn!(job, cause = %one_line(source), "the database refuses to take this job's state");
}

fn texts(ids: &[Id]) -> Vec<String> {
    ids.iter().map(Id::to_string).collect()
}

/// Text of a column; NULL, and what is no UTF-8, is absent.
fn text(row: &PgRow, column: &str) -> Option<String> {
    row.try_get::<Option<String>, _>(column).ok().flatten()
}

fn id(row: &PgRow, column: &str) -> Option<Id> {
    Id::parse(&text(row, column)?).ok()
}

fn raw_job(row: &PgRow) -> RawJob {
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

pub(super) fn bind_writes(query: PgQuery, batch: &[Write]) -> PgQuery {
    fn column<T>(batch: &[Write], of: impl Fn(&Write) -> T) -> Vec<T> {
        batch.iter().map(of).collect()
    }
    query
        .bind(column(batch, |w| w.id.clone()))
        .bind(column(batch, |w| w.status.clone()))
        .bind(column(batch, |w| w.progress))
        .bind(column(batch, |w| w.message.clone()))
        .bind(column(batch, |w| w.error.clone()))
        .bind(column(batch, |w| w.data.clone()))
        .bind(column(batch, |w| w.attempt.clone()))
        .bind(column(batch, |w| w.seq.clone()))
        .bind(column(batch, |w| w.version))
        .bind(column(batch, |w| w.updated_ms))
}
