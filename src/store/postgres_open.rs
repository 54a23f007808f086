//! Connecting to Postgres: with a bound, with advice, and with a look at what is there.

use std::str::FromStr as _;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use sqlx::AssertSqlSafe;
use sqlx::ConnectOptions as _;
use sqlx::Connection as _;
use sqlx::PgConnection;
use sqlx::postgres::PgConnectOptions;
use sqlx::postgres::PgListener;
use sqlx::postgres::PgPoolOptions;

use crate::config::Config;
use crate::store::PostgresStore;
use crate::store::QUERY_TIMEOUT;
use crate::store::StoreError;
use crate::store::error::one_line;
use crate::store::postgres::CONNECTIONS_MAX;
use crate::store::postgres::PgQuery;
use crate::store::postgres::Statements;
use crate::store::postgres::bind_writes;
use crate::store::postgres_ask::collect;
use crate::telemetry::Metrics;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the proof may take that connections are ours alone; else it is assumed that they are not, until `watch` proves it.
const PROOF_PATIENCE: Duration = Duration::from_secs(1);
/// Idle connections go away after a storm.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);

impl PostgresStore {
    pub(super) async fn open(config: &Config, metrics: &Metrics) -> Result<Self, StoreError> {
        let options = options(config)?;
        let target = target(&options);
        let sql = Statements::new(&config.database_schema);
        let mut connection = connect(&options).await?;
        check(&mut connection, &sql, &config.database_schema).await?;
        let can_write_back = may_write(&mut connection, &sql).await;
        let own_session = Arc::new(AtomicBool::new(is_own(&options, &mut connection).await));
        drop(connection.close().await);
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS_MAX)
            .acquire_timeout(QUERY_TIMEOUT)
            .idle_timeout(IDLE_TIMEOUT)
            // A round trip less for every question; a connection that died meanwhile is found out by using it.
            .test_before_acquire(false)
            .connect_lazy_with(options);
        let (target, metrics) = (target.into(), metrics.clone());
        Ok(Self { pool, sql: Arc::new(sql), target, metrics, can_write_back, own_session })
    }
}

/// Whether what a connection is told stays with it: a notification over another one arrives at the one that listens.
async fn is_own(options: &PgConnectOptions, other: &mut PgConnection) -> bool {
    let heard = async {
        let pool = PgPoolOptions::new().max_connections(1).connect_lazy_with(options.clone());
        let mut listener = PgListener::connect_with(&pool).await?;
        let channel = format!("tidings_probe_{:016x}", fastrand::u64(..));
        listener.listen(&channel).await?;
        collect(other, sqlx::query("SELECT pg_notify($1, '')").bind(channel)).await?;
        listener.recv().await
    };
    tokio::time::timeout(PROOF_PATIENCE, heard).await.is_ok_and(|heard| heard.is_ok())
}

/// The connection that `DATABASE_URL` describes.
pub(super) fn options(config: &Config) -> Result<PgConnectOptions, StoreError> {
    let options = PgConnectOptions::from_str(config.database_url.expose()).map_err(|_| StoreError::Settings)?;
    // Floats are asked for as text; PgBouncer refuses this parameter of the handshake.
    Ok(options.application_name("tidings").extra_float_digits(None).disable_statement_logging())
}

fn target(options: &PgConnectOptions) -> String {
    match options.get_socket() {
        Some(directory) => directory.display().to_string(),
        None => format!("{}:{}", options.get_host(), options.get_port()),
    }
}

/// One connection, or what to do about it.
pub(super) async fn connect(options: &PgConnectOptions) -> Result<PgConnection, StoreError> {
    let refused = |e: sqlx::Error| explain(options, e);
    match tokio::time::timeout(CONNECT_TIMEOUT, options.connect()).await {
        Ok(connected) => connected.map_err(refused),
        Err(_) => Err(refused(sqlx::Error::PoolTimedOut)),
    }
}

fn explain(options: &PgConnectOptions, source: sqlx::Error) -> StoreError {
    let code = source.as_database_error().and_then(sqlx::error::DatabaseError::code).unwrap_or_default().into_owned();
    let target = target(options);
    let tls = matches!(source, sqlx::Error::Tls(_));
    let source = Box::new(source);
    match code.as_str() {
        _ if tls => StoreError::Tls { target, source },
        "28P01" | "28000" | "42501" => StoreError::Refused { user: options.get_username().to_owned(), source },
        "3D000" => {
            let database = options.get_database().unwrap_or_else(|| options.get_username()).to_owned();
            StoreError::DatabaseMissing { database, source }
        }
        _ => StoreError::Unreachable { target, source },
    }
}

/// Asks every question about nothing: the answer is empty, or says what is missing or not allowed.
async fn check(connection: &mut PgConnection, sql: &Statements, schema: &str) -> Result<(), StoreError> {
    let nothing = Vec::<String>::new;
    let none = |query: PgQuery| query.bind(nothing());
    let questions: [(&'static str, PgQuery); 4] = [
        ("users", none(ask(&sql.users))),
        ("jobs", none(ask(&sql.jobs))),
        ("job_owners", none(ask(&sql.job_owners))),
        ("document_roles", none(none(ask(&sql.document_roles)))),
    ];
    for (name, question) in questions {
        let answer = tokio::time::timeout(CONNECT_TIMEOUT, collect(connection, question)).await;
        match answer {
            Err(_) => return Err(StoreError::Timeout { query: name }),
            Ok(Err(source)) => return Err(missing(name, schema, source)),
            Ok(Ok(_)) => {}
        }
    }
    Ok(())
}

fn ask(sql: &Arc<str>) -> PgQuery {
    sqlx::query(AssertSqlSafe(Arc::clone(sql)))
}

/// Class 42 is about names and types: no such schema, table or column, or one of a type that can't serve.
fn missing(query: &'static str, schema: &str, source: sqlx::Error) -> StoreError {
    match source.as_database_error() {
        Some(error) if error.code().is_some_and(|code| code.starts_with("42") || code.starts_with("3F")) => {
            StoreError::SchemaMissing { schema: schema.to_owned(), missing: one_line(&error.message()) }
        }
        _ => StoreError::of_query(query, source),
    }
}

/// Writes back nothing, which asks the database whether it could: privilege, types, a view that can be written through,
/// a server that is not a read-only replica.
async fn may_write(connection: &mut PgConnection, sql: &Statements) -> bool {
    let question = bind_writes(ask(&sql.write_back), &[]);
    match tokio::time::timeout(CONNECT_TIMEOUT, collect(connection, question)).await {
        Ok(Ok(_)) => true,
        Ok(Err(error)) => {
            tracing::warn!(cause = %one_line(&error), "job states are not written back: the database refuses it");
            false
        }
        Err(_) => {
            tracing::warn!("job states are not written back: the database did not answer in time");
            false
        }
    }
}
