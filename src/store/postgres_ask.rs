//! How Postgres is asked: within a bound, and in a way that is right behind a pooler too.
//!
//! A pooler in transaction mode hands the server's connections round: a prepared statement, or a setting, stays with whatever connection
//! there was and meets somebody else's. So as long as it is not proven that a connection is ours alone (at the start, and by `watch`), each question is a
//! transaction of its own that leaves nothing behind, two round trips more. Then statements are prepared once.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use sqlx::AssertSqlSafe;
use sqlx::Connection as _;
use sqlx::Either;
use sqlx::Executor as _;
use sqlx::PgConnection;
use sqlx::Postgres;
use sqlx::pool::PoolConnection;
use sqlx::postgres::PgRow;

use crate::store::PostgresStore;
use crate::store::QUERY_TIMEOUT;
use crate::store::StoreError;
use crate::store::postgres::CONNECTIONS_MAX;
use crate::store::postgres::PgQuery;

/// Beyond the server's own `statement_timeout`: only a server that doesn't answer at all is later than this.
const SILENCE: Duration = QUERY_TIMEOUT.saturating_add(Duration::from_millis(250));

/// What a statement answered.
#[derive(Default)]
pub(super) struct Answer {
    pub(super) rows: Vec<PgRow>,
    pub(super) changed: u64,
}

/// A connection that goes back to the pool only after a whole answer. One that was given up in the middle, by us or by a
/// caller who left, is closed: the pool would wait for the rest of its answer, for minutes when the network is gone.
struct Lease(Option<PoolConnection<Postgres>>);

impl Lease {
    async fn run(&mut self, query: PgQuery, own_session: bool) -> Result<Answer, sqlx::Error> {
        let Some(connection) = self.0.as_mut() else { return Err(sqlx::Error::PoolClosed) };
        if !own_session {
            return collect(connection, query).await;
        }
        // The first question that leaves a statement behind: from now on the connection keeps its setting too.
        if connection.cached_statements_size() == 0 {
            connection.execute(AssertSqlSafe(limit("SET"))).await?;
        }
        rows(connection, query).await
    }

    fn give_back(&mut self) {
        drop(self.0.take());
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(connection.detach());
        }
    }
}

/// A statement rather than a parameter of the handshake: poolers know only some of those.
fn limit(set: &str) -> String {
    format!("{set} statement_timeout = {}", QUERY_TIMEOUT.as_millis())
}

/// A question as a transaction of its own, of which nothing stays with the connection. If it is one over which a pooler has let us
/// `LISTEN`, that ends: a notification in the middle of an answer would break it.
pub(super) async fn collect(connection: &mut PgConnection, query: PgQuery) -> Result<Answer, sqlx::Error> {
    if connection.cached_statements_size() > 0 {
        connection.clear_cached_statements().await?;
    }
    connection.execute(AssertSqlSafe(format!("BEGIN; UNLISTEN *; {}", limit("SET LOCAL")))).await?;
    let answer = rows(connection, query.persistent(false)).await;
    let ended = connection.execute(if answer.is_ok() { "COMMIT" } else { "ROLLBACK" }).await;
    // What went wrong first says more.
    answer.and_then(|answer| ended.map(|_| answer))
}

async fn rows(connection: &mut PgConnection, query: PgQuery) -> Result<Answer, sqlx::Error> {
    let mut answer = Answer::default();
    let mut parts = connection.fetch_many(query);
    while let Some(part) = parts.try_next().await? {
        match part {
            Either::Left(done) => answer.changed += done.rows_affected(),
            Either::Right(row) => answer.rows.push(row),
        }
    }
    Ok(answer)
}

/// Whether the connection, not the question, is what failed: then a fresh one may answer.
fn is_broken(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::Database(e) => e.code().is_some_and(|code| code.starts_with("57P") || code.starts_with("08")),
        _ => false,
    }
}

impl PostgresStore {
    /// Asks and counts. A connection that broke since its last use is replaced, and the question asked once more.
    pub(super) async fn ask(
        &self,
        name: &'static str,
        sql: &Arc<str>,
        bind: impl Fn(PgQuery) -> PgQuery,
    ) -> Result<Answer, StoreError> {
        let mut result = self.attempt(bind(sqlx::query(AssertSqlSafe(Arc::clone(sql))))).await;
        if result.as_ref().err().is_some_and(is_broken) {
            self.drop_idle();
            result = self.attempt(bind(sqlx::query(AssertSqlSafe(Arc::clone(sql))))).await;
        }
        let result = result.map_err(|source| self.error(name, source));
        let outcome = result.as_ref().map_or_else(StoreError::outcome, |_| "ok");
        self.metrics.store_queries.with_label_values(&[name, outcome]).inc();
        result
    }

    async fn attempt(&self, query: PgQuery) -> Result<Answer, sqlx::Error> {
        let mut lease = Lease(Some(self.pool.acquire().await?));
        let own_session = self.own_session.load(Ordering::Acquire);
        match tokio::time::timeout(SILENCE, lease.run(query, own_session)).await {
            Err(_) => {
                drop(lease);
                // The other connections lead to the same silent server, or through the same dead network.
                self.drop_idle();
                Err(sqlx::Error::PoolTimedOut)
            }
            Ok(Err(error)) if is_broken(&error) => Err(error),
            Ok(result) => {
                lease.give_back();
                result
            }
        }
    }

    fn drop_idle(&self) {
        for _ in 0..CONNECTIONS_MAX {
            let Some(connection) = self.pool.try_acquire() else { return };
            drop(connection.detach());
        }
    }

    fn error(&self, query: &'static str, source: sqlx::Error) -> StoreError {
        if is_broken(&source) {
            return StoreError::Unreachable { target: self.target.to_string(), source: Box::new(source) };
        }
        StoreError::of_query(query, source)
    }
}
