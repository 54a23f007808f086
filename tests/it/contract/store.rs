//! The same questions over SQLite, over Postgres with our tables, and over Postgres with an application's views on tables
//! with uuid keys. What only Postgres has is in `store_postgres.rs`.

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::path::PathBuf;

use sqlx::AssertSqlSafe;
use sqlx::Connection as _;
use sqlx::Executor as _;
use sqlx::PgConnection;
use sqlx::SqliteConnection;
use tidings::config::Config;
use tidings::config::Secret;
use tidings::event::Id;
use tidings::event::LogId;
use tidings::jobs::JobState;
use tidings::jobs::TerminalStatuses;
use tidings::store::JobRow;
use tidings::store::Role;
use tidings::store::Store;
use tidings::telemetry::Metrics;

use crate::support::postgres::Postgres;

/// What an application with uuid keys has, and the views that `docs/database.md` tells it to make.
pub(crate) const APPLICATION: &str = include_str!("application.sql");

/// A store, and the means to put things into it as its application would.
pub(crate) struct Bench {
    pub(crate) store: Store,
    pub(crate) config: Config,
    views: bool,
    directory: Option<PathBuf>,
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Some(directory) = &self.directory {
            drop(std::fs::remove_dir_all(directory));
        }
    }
}

impl Bench {
    pub(crate) async fn sqlite() -> Self {
        let directory = std::env::temp_dir().join(format!("tidings-store-{:016x}", fastrand::u64(..)));
        let mut config = Config::defaults();
        config.data_dir.clone_from(&directory);
        let store = Store::open(&config, &Metrics::new()).await.unwrap();
        Self { store, config, views: false, directory: Some(directory) }
    }

    pub(crate) async fn tables() -> Self {
        let config = postgres_config(&Postgres::shared().await.database().await);
        let store = Store::open(&config, &Metrics::new()).await.unwrap();
        Self { store, config, views: false, directory: None }
    }

    pub(crate) async fn views() -> Self {
        let config = postgres_config(&Postgres::shared().await.empty_database().await);
        run(&config, APPLICATION).await;
        let migrated = Store::migrate(&config).await.unwrap();
        assert_eq!(migrated.left_alone, ["document_permissions", "documents", "jobs", "users"]);
        let store = Store::open(&config, &Metrics::new()).await.unwrap();
        Self { store, config, views: true, directory: None }
    }

    /// The id of that name: a uuid where the application has those.
    pub(crate) fn id(&self, name: &str) -> Id {
        let hash = name.bytes().fold(0_u64, |hash, b| hash.wrapping_mul(31).wrapping_add(u64::from(b)));
        let text = if self.views { format!("00000000-0000-4000-8000-{hash:012x}") } else { name.to_owned() };
        Id::parse(&text).unwrap()
    }

    /// Runs SQL as the application.
    pub(crate) async fn sql(&self, sql: &str) {
        match &self.directory {
            None => run(&self.config, sql).await,
            Some(directory) => {
                let url = format!("sqlite://{}", directory.join("tidings.db").display());
                let mut connection = SqliteConnection::connect(&url).await.unwrap();
                connection.execute(AssertSqlSafe(sql)).await.unwrap();
                connection.close().await.unwrap();
            }
        }
    }

    /// ada and bob (who is disabled), ada's job j1 and document d1, on which bob edits.
    async fn fill(&self) {
        let id = |name| self.id(name);
        if self.views {
            let [ada, bob, j1, d1] = ["ada", "bob", "j1", "d1"].map(id);
            return self
                .sql(&format!(
                    "INSERT INTO app.accounts (account_id, display) VALUES ('{ada}', 'Ada'), ('{bob}', 'Bob');
                     UPDATE app.accounts SET deleted_at = now() WHERE display = 'Bob';
                     INSERT INTO app.tasks (id, account_id, state) VALUES ('{j1}', '{ada}', 'queued');
                     INSERT INTO app.files (id, account_id) VALUES ('{d1}', '{ada}');
                     INSERT INTO app.shares (file_id, account_id, level) VALUES ('{d1}', '{bob}', 'editor'), ('{d1}', '{ada}', 'viewer');"
                ))
                .await;
        }
        self.store.put_user(&id("ada"), "Ada").await.unwrap();
        self.store.put_user(&id("bob"), "Bob").await.unwrap();
        self.store.disable_user(&id("bob")).await.unwrap();
        self.store.put_job(&id("j1"), &id("ada"), "queued").await.unwrap();
        self.store.put_document(&id("d1"), &id("ada"), "Plan").await.unwrap();
        self.store.put_role(&id("d1"), &id("bob"), Role::Editor).await.unwrap();
        self.store.put_role(&id("d1"), &id("ada"), Role::Viewer).await.unwrap();
    }

    /// Another job of ada's.
    async fn add_job(&self, name: &str) {
        let (job, ada) = (self.id(name), self.id("ada"));
        if self.views {
            return self
                .sql(&format!("INSERT INTO app.tasks (id, account_id, state) VALUES ('{job}', '{ada}', 'queued')"))
                .await;
        }
        self.store.put_job(&job, &ada, "queued").await.unwrap();
    }

    async fn job(&self, name: &str) -> JobRow {
        let id = self.id(name);
        self.store.jobs(std::slice::from_ref(&id), &terminal()).await.unwrap().remove(&id).unwrap()
    }
}

pub(crate) fn postgres_config(url: &str) -> Config {
    let mut config = Config::defaults();
    config.database_url = Secret::new(url);
    config
}

pub(crate) async fn run(config: &Config, sql: &str) {
    let mut connection = PgConnection::connect(config.database_url.expose()).await.unwrap();
    connection.execute(AssertSqlSafe(sql)).await.unwrap();
    connection.close().await.unwrap();
}

fn terminal() -> TerminalStatuses {
    TerminalStatuses::new(BTreeSet::from(["completed".to_owned(), "failed".to_owned()]))
}

fn version(ms: u64) -> LogId {
    LogId { ms, seq: 3 }
}

fn state(status: &str) -> JobState {
    let timestamp = "\"2026-11-20T10:00:00.123Z\"".to_owned();
    JobState { status: status.to_owned(), terminal: terminal().contains(status), timestamp, ..JobState::default() }
}

/// Everything set; the values that survive any column type.
fn full_state() -> JobState {
    JobState {
        progress: Some("50".to_owned()),
        message: Some("\"half \\\"way\\\" — ½\"".to_owned()),
        error: Some("{\"code\":\"E1\",\"message\":\"no\"}".to_owned()),
        data: Some("{\"b\":1}".to_owned()),
        attempt: Some(2),
        seq: Some(9),
        ..state("failed")
    }
}

/// Users come with their names, and a disabled one says so; who doesn't exist is not in the answer.
pub(crate) async fn users_are_found(bench: &Bench) {
    bench.fill().await;
    let ids = ["ada", "bob", "eve", "ada"].map(|name| bench.id(name));
    let users = bench.store.users(&ids).await.unwrap();
    assert_eq!(users.len(), 2);
    let [ada, bob, ..] = ids.map(|id| users.get(&id));
    assert_eq!(ada.map(|user| (user.name.as_str(), user.disabled)), Some(("Ada", false)));
    assert_eq!(bob.map(|user| user.disabled), Some(true));
    assert!(bench.store.users(&[]).await.unwrap().is_empty());
}

/// Owners and roles: the owner's role is owner whatever else is written; no document, no role.
pub(crate) async fn owners_and_roles(bench: &Bench) {
    bench.fill().await;
    let id = |name| bench.id(name);
    let owners = bench.store.job_owners(&[id("j1"), id("j2")]).await.unwrap();
    assert_eq!(owners, HashMap::from([(id("j1"), id("ada"))]));
    let pairs = [("ada", "d1"), ("bob", "d1"), ("eve", "d1"), ("bob", "d2")].map(|(user, doc)| (id(user), id(doc)));
    let roles = bench.store.document_roles(&pairs).await.unwrap();
    let [ada, bob, ..] = pairs;
    let wanted = [(ada, Role::Owner), (bob, Role::Editor)];
    assert_eq!(roles, HashMap::from(wanted));
}

/// A row as the application inserted it has version zero; one written back reads as it was written.
pub(crate) async fn states_come_back(bench: &Bench) {
    bench.fill().await;
    let row = bench.job("j1").await;
    assert_eq!((row.owner, row.version), (Some(bench.id("ada")), LogId::ZERO));
    assert_eq!(row.state.as_ref().map(|s| (s.status.as_str(), s.terminal)), Some(("queued", false)));
    assert!(bench.store.can_write_back());
    assert_eq!(bench.store.write_back(&[(bench.id("j1"), full_state(), version(5))]).await.unwrap(), 1);
    let row = bench.job("j1").await;
    assert_eq!((row.state, row.version), (Some(full_state()), version(5)));
}

/// Write-back only goes forward, counts what changed, takes the newest of a batch, and knows no row that isn't there.
pub(crate) async fn write_back_goes_forward(bench: &Bench) {
    bench.fill().await;
    let write = |status: &str, ms| (bench.id("j1"), state(status), version(ms));
    let batch = [
        write("running", 7),
        write("completed", 9),
        write("running", 8),
        (bench.id("j9"), state("failed"), version(9)),
    ];
    assert_eq!(bench.store.write_back(&batch).await.unwrap(), 1);
    assert_eq!(bench.job("j1").await.state.unwrap().status, "completed");
    assert_eq!(bench.store.write_back(&[write("running", 7)]).await.unwrap(), 0, "older");
    assert_eq!(bench.store.write_back(&[write("completed", 9)]).await.unwrap(), 0, "the same again");
    assert_eq!(bench.job("j1").await.version, version(9));
    assert_eq!(bench.store.write_back(&[]).await.unwrap(), 0);
    assert_eq!(bench.store.write_back(&[write("queued", 10)]).await.unwrap(), 1, "a new attempt");
}

/// B-105: a batch of the largest size answers; with a state that the database refuses, the others are written.
pub(crate) async fn batches_survive_bad_members(bench: &Bench) {
    bench.fill().await;
    let ids: Vec<Id> = (0..1000).map(|n| bench.id(&format!("x{n}"))).collect();
    assert!(bench.store.jobs(&ids, &terminal()).await.unwrap().is_empty());
    let hostile = JobState {
        message: Some("\"a\\u0000b\"".to_owned()),
        data: Some("{\"k\":\"\\u0000\"}".to_owned()),
        attempt: Some(u64::MAX),
        seq: Some(u64::MAX),
        timestamp: "\"9999-12-31T23:59:59.999999999-23:59\"".to_owned(),
        ..state("running")
    };
    bench.add_job("poison").await;
    let mut batch: Vec<_> = ids.iter().map(|id| (id.clone(), hostile.clone(), version(1))).collect();
    batch.push((bench.id("poison"), hostile.clone(), version(1)));
    batch.push((bench.id("j1"), state("completed"), version(1)));
    let changed = bench.store.write_back(&batch).await.unwrap();
    assert_eq!(bench.job("j1").await.state.unwrap().status, "completed");
    let kept = bench.job("poison").await.state.unwrap();
    if bench.views {
        // An application's `jsonb` and `integer` refuse it.
        assert_eq!((changed, kept.status.as_str()), (1, "queued"));
        return;
    }
    assert_eq!((changed, kept.attempt, kept.seq), (2, Some(u64::MAX), Some(u64::MAX)));
    assert_eq!((kept.data, kept.message), (hostile.data, Some("\"a\u{FFFD}b\"".to_owned())));
}

/// B-23: ids are values, never SQL; what has no row has no answer.
pub(crate) async fn b23_hostile_ids(bench: &Bench) {
    bench.fill().await;
    let texts = ["1", "1e3", "00000000-0000-4000-8000-00000000000", "9223372036854775808", "x--", "a|b", "abc~"];
    let ids: Vec<Id> = texts.iter().map(|text| Id::parse(text).unwrap()).collect();
    assert!(bench.store.users(&ids).await.unwrap().is_empty());
    assert!(bench.store.job_owners(&ids).await.unwrap().is_empty());
    assert!(bench.store.jobs(&ids, &terminal()).await.unwrap().is_empty());
    let pairs: Vec<(Id, Id)> = ids.iter().map(|id| (id.clone(), bench.id("d1"))).collect();
    assert!(bench.store.document_roles(&pairs).await.unwrap().is_empty());
}

/// B-105: rows with NULLs and nonsense harm nobody: the value is absent, the role is none, the owner nobody.
pub(crate) async fn b105_hostile_rows(bench: &Bench) {
    bench.fill().await;
    let null = bench.id("null");
    bench.sql(&format!("INSERT INTO jobs (id) VALUES ('{null}')").replace("jobs", bench.table("jobs"))).await;
    let row = bench.job("null").await;
    assert_eq!(row, JobRow { owner: None, state: None, version: LogId::ZERO });
    assert!(bench.store.job_owners(&[null]).await.unwrap().is_empty());
    let long = "x".repeat(70_000);
    for (status, progress, message, data, version) in [
        ("no status\n", "-1", "'a\r\n\u{1b}[31m'", "'[1]'", -5_i64),
        ("RUNNING", "101", "'ok'", "'{\"a\":[1, 2]}'", 1),
        ("running", "50.5", &format!("'{long}'"), &format!("'{{\"a\":\"{long}\"}}'"), 0),
    ] {
        let sql = format!(
            "UPDATE jobs SET user_id = 'not an id', status = '{status}', progress = {progress}, message = {message},
             data = {data}, error = '{{\"code\":1}}', version = {version} WHERE id = 'j1'"
        );
        bench.sql(&sql.replace("jobs", bench.table("jobs"))).await;
        let row = bench.job("j1").await;
        assert_eq!(row.owner, None);
        let Some(state) = row.state else {
            assert_eq!((status, row.version), ("no status\n", LogId::ZERO));
            continue;
        };
        assert_eq!((state.status.as_str(), state.error), ("running", None));
        let wanted = if status == "running" {
            (Some("50.5"), None, None)
        } else {
            (None, Some("\"ok\""), Some("{\"a\":[1,2]}"))
        };
        assert_eq!((state.progress.as_deref(), state.message.as_deref(), state.data.as_deref()), wanted);
    }
    let users = bench.table("users");
    let sql =
        format!("UPDATE {users} SET name = 'A\u{202e}da\r\nx', avatar_url = 'javascript:alert(1)' WHERE id = 'ada'");
    bench.sql(&sql).await;
    let ada = bench.id("ada");
    let user = bench.store.users(std::slice::from_ref(&ada)).await.unwrap().remove(&ada).unwrap();
    assert_eq!((user.name.as_str(), user.avatar_url), ("Ada  x", None));
    bench.sql(&format!("UPDATE {users} SET name = NULL, avatar_url = 'https://x/a.png' WHERE id = 'ada'")).await;
    let user = bench.store.users(std::slice::from_ref(&ada)).await.unwrap().remove(&ada).unwrap();
    assert_eq!((user.name.as_str(), user.avatar_url.as_deref()), ("ada", Some("https://x/a.png")));
}

impl Bench {
    fn table(&self, name: &'static str) -> &'static str {
        match (self.directory.is_some(), name) {
            (true, name) => name,
            (false, "jobs") => "tidings.jobs",
            (false, _) => "tidings.users",
        }
    }
}

/// Closing is final, and pings notice.
pub(crate) async fn closing_ends_it(bench: &Bench) {
    bench.store.ping().await.unwrap();
    bench.store.close().await;
    assert!(bench.store.ping().await.is_err());
}

macro_rules! over_every_store {
    ($($scenario:ident),* $(,)?) => {
        mod sqlite { $(#[tokio::test] async fn $scenario() { super::$scenario(&super::Bench::sqlite().await).await; })* }
        mod tables { $(#[tokio::test] async fn $scenario() { super::$scenario(&super::Bench::tables().await).await; })* }
        mod views { $(#[tokio::test] async fn $scenario() { super::$scenario(&super::Bench::views().await).await; })* }
    };
}

over_every_store!(
    users_are_found,
    owners_and_roles,
    states_come_back,
    write_back_goes_forward,
    batches_survive_bad_members,
    b23_hostile_ids,
    closing_ends_it,
);

#[tokio::test]
async fn sqlite_b105_hostile_rows() {
    b105_hostile_rows(&Bench::sqlite().await).await;
}

#[tokio::test]
async fn tables_b105_hostile_rows() {
    b105_hostile_rows(&Bench::tables().await).await;
}
