//! Bringing the schema up to date. The files in `migrations/` are part of the program.

use sqlx::AssertSqlSafe;
use sqlx::Connection as _;
use sqlx::Executor as _;
use sqlx::PgConnection;
use sqlx::SqliteConnection;
use sqlx::migrate::Migrate;
use sqlx::migrate::MigrateError;
use sqlx::migrate::Migrator;

use crate::config::Config;
use crate::store::StoreError;
use crate::store::postgres_open;
use crate::store::sqlite;

static POSTGRES: Migrator = sqlx::migrate!("migrations/postgres");
static SQLITE: Migrator = sqlx::migrate!("migrations/sqlite");

/// Any number that nobody else uses for an advisory lock: "tidings" in ASCII.
const LOCK: i64 = 0x0074_6964_696E_6773;

/// What `tidings migrate` did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migrated {
    /// `schema tidings of host:5432/name`, or the file.
    pub target: String,
    /// Migrations applied just now, oldest first; empty when the schema was up to date.
    pub applied: Vec<String>,
    /// Tables and views of the application that stand where ours would: left as they are.
    pub left_alone: Vec<String>,
}

pub(super) async fn postgres(config: &Config) -> Result<Migrated, StoreError> {
    let options = postgres_open::options(config)?;
    let mut connection = postgres_open::connect(&options).await?;
    let schema = &config.database_schema;
    prepare(&mut connection, schema).await.map_err(failed)?;
    let applied = run(&POSTGRES, &mut connection).await.map_err(|e| StoreError::Migration { source: Box::new(e) })?;
    let left_alone = foreign(&mut connection).await.map_err(failed)?;
    // Closing releases the lock.
    drop(connection.close().await);
    let database = options.get_database().unwrap_or_else(|| options.get_username());
    let target = format!("schema {schema} of {}:{}/{database}", options.get_host(), options.get_port());
    Ok(Migrated { target, applied, left_alone })
}

/// The lock, the schema, and names that mean this schema and no other, on this connection.
async fn prepare(connection: &mut PgConnection, schema: &str) -> Result<(), sqlx::Error> {
    // A migration that waits for somebody's transaction must not keep every query behind it waiting for ever.
    connection.execute("SET lock_timeout = '30s'").await?;
    sqlx::query("SELECT pg_advisory_lock($1)").bind(LOCK).execute(&mut *connection).await?;
    let exists = "SELECT to_regnamespace(quote_ident($1)) IS NOT NULL";
    let exists: bool = sqlx::query_scalar(exists).bind(schema).fetch_one(&mut *connection).await?;
    if !exists {
        // Not IF NOT EXISTS: that asks for the right to make schemas even where there is nothing to make.
        connection.execute(AssertSqlSafe(format!("CREATE SCHEMA \"{schema}\""))).await?;
    }
    connection.execute(AssertSqlSafe(format!("SET search_path = \"{schema}\", pg_temp"))).await?;
    Ok(())
}

async fn foreign(connection: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
    let sql = "SELECT c.relname::text FROM pg_class AS c WHERE c.relnamespace = quote_ident(current_schema())::regnamespace \
               AND c.relname = ANY (ARRAY['users', 'jobs', 'documents', 'document_permissions']) \
               AND obj_description(c.oid, 'pg_class') IS DISTINCT FROM 'made by tidings' ORDER BY 1";
    sqlx::query_scalar(sql).fetch_all(connection).await
}

/// Opens the file as `Store::open` does, which migrates it.
pub(super) async fn sqlite(config: &Config) -> Result<Migrated, StoreError> {
    let (store, applied) = sqlite::open_and_migrate(config, &crate::telemetry::Metrics::new()).await?;
    store.close().await;
    let target = sqlite::file(config).display().to_string();
    Ok(Migrated { target, applied, left_alone: Vec::new() })
}

/// In one transaction, which locks other processes out until it is done.
pub(super) async fn run_sqlite(connection: &mut SqliteConnection) -> Result<Vec<String>, MigrateError> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    let applied = run(&SQLITE, &mut *transaction).await?;
    transaction.commit().await?;
    Ok(applied)
}

async fn run<C>(migrator: &Migrator, connection: &mut C) -> Result<Vec<String>, MigrateError>
where
    C: Migrate,
{
    let table = &migrator.table_name;
    connection.ensure_migrations_table(table).await?;
    let before = connection.list_applied_migrations(table).await?;
    migrator.run_direct(None, connection, false).await?;
    let new = migrator.iter().filter(|m| !before.iter().any(|old| old.version == m.version));
    Ok(new.map(|m| format!("{:04}_{}", m.version, m.description.replace(' ', "_"))).collect())
}

fn failed(source: sqlx::Error) -> StoreError {
    StoreError::Migration { source: Box::new(MigrateError::Execute(source)) }
}
