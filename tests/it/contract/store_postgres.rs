//! What only Postgres has: plans, announcements, views, migrations side by side, advice, and outages.

use std::time::Duration;

use sqlx::AssertSqlSafe;
use sqlx::Connection as _;
use sqlx::PgConnection;
use sqlx::Row as _;
use sqlx::postgres::PgListener;
use tidings::config::Config;
use tidings::event::Id;
use tidings::event::LogId;
use tidings::jobs::JobState;
use tidings::store::Role;
use tidings::store::Store;
use tidings::store::StoreError;
use tidings::telemetry::Metrics;
use tokio::time::Instant;

use crate::contract::store::APPLICATION;
use crate::contract::store::Bench;
use crate::contract::store::postgres_config;
use crate::contract::store::run;
use crate::support::postgres::Postgres;

fn id(text: &str) -> Id {
    Id::parse(text).unwrap()
}

async fn open(config: &Config) -> Result<Store, StoreError> {
    Store::open(config, &Metrics::new()).await
}

/// The plan of a statement of `src/store/sql` with its arrays given; from its sixth use on it may be a generic one.
async fn plan(config: &Config, mode: &str, sql: &str, arrays: &[Vec<String>]) -> String {
    let mut connection = PgConnection::connect(config.database_url.expose()).await.unwrap();
    sqlx::query("SELECT set_config('plan_cache_mode', $1, false)").bind(mode).execute(&mut connection).await.unwrap();
    let sql = format!("EXPLAIN {}", sql.replace("$$", "tidings"));
    let query = arrays.iter().fold(sqlx::query(AssertSqlSafe(sql)), |query, array| query.bind(array.clone()));
    let rows = query.fetch_all(&mut connection).await.unwrap();
    rows.iter().map(|row| row.get::<String, _>(0)).collect::<Vec<_>>().join("\n")
}

/// Every question about ids uses an index: over our tables, and over views on uuid keys with the index that the docs ask
/// for. (`id::text = …` without that index reads the whole table.)
#[tokio::test]
async fn questions_use_indexes() {
    let fill_views = "
        INSERT INTO app.accounts (account_id) SELECT gen_random_uuid() FROM generate_series(1, 10000);
        INSERT INTO app.tasks (id, account_id) SELECT gen_random_uuid(), gen_random_uuid() FROM generate_series(1, 10000);
        INSERT INTO app.files (id, account_id) SELECT gen_random_uuid(), gen_random_uuid() FROM generate_series(1, 10000);
        INSERT INTO app.shares (file_id, account_id) SELECT gen_random_uuid(), gen_random_uuid() FROM generate_series(1, 10000);
        ANALYZE;";
    let fill_tables = "
        INSERT INTO tidings.users (id) SELECT gen_random_uuid() FROM generate_series(1, 10000);
        INSERT INTO tidings.jobs (id) SELECT gen_random_uuid() FROM generate_series(1, 10000);
        INSERT INTO tidings.documents (id) SELECT gen_random_uuid() FROM generate_series(1, 10000);
        INSERT INTO tidings.document_permissions SELECT gen_random_uuid(), gen_random_uuid(), 'viewer'
        FROM generate_series(1, 10000);
        ANALYZE;";
    for (bench, fill) in [(Bench::views().await, fill_views), (Bench::tables().await, fill_tables)] {
        bench.sql(fill).await;
        let hundred: Vec<String> = (0..100).map(|n| format!("id-{n}")).collect();
        let questions = [
            (include_str!("../../../src/store/sql/users.sql"), 1),
            (include_str!("../../../src/store/sql/job_owners.sql"), 1),
            (include_str!("../../../src/store/sql/jobs.sql"), 1),
            (include_str!("../../../src/store/sql/document_roles.sql"), 2),
        ];
        for ((sql, lists), mode) in questions.iter().flat_map(|q| [(q, "force_custom_plan"), (q, "force_generic_plan")])
        {
            let plan = plan(&bench.config, mode, sql, &vec![hundred.clone(); *lists]).await;
            assert!(plan.contains("Index"), "{plan}");
            assert!(!plan.contains("Seq Scan"), "{plan}");
        }
    }
}

/// Views that can't be written through turn write-back off, and nothing else.
#[tokio::test]
async fn views_that_cant_be_written_turn_write_back_off() {
    let config = postgres_config(&Postgres::shared().await.empty_database().await);
    run(&config, APPLICATION).await;
    run(&config, "CREATE OR REPLACE VIEW tidings.jobs AS SELECT id::text AS id, account_id::text AS user_id, state AS status, \
        percent + 0 AS progress, note AS message, failure AS error, result AS data, attempt, seq, NULL::bigint AS version, \
        changed_at AS updated_at FROM app.tasks").await;
    assert!(!open(&config).await.unwrap().can_write_back());
    let reader = "CREATE ROLE reader LOGIN; GRANT USAGE ON SCHEMA tidings TO reader; GRANT SELECT ON ALL TABLES IN SCHEMA tidings TO reader";
    let bench = Bench::tables().await;
    bench.sql(reader).await;
    let url = bench.config.database_url.expose().replace("postgres@", "reader@");
    let store = open(&postgres_config(&url)).await.unwrap();
    assert!(!store.can_write_back(), "no privilege");
    assert!(store.users(&[id("ada")]).await.unwrap().is_empty());
}

/// Ten at once migrate one database; one of them does it. With another schema there is another set of tables.
#[tokio::test]
async fn migrations_run_side_by_side() {
    let mut config = postgres_config(&Postgres::shared().await.empty_database().await);
    let ten = (0..10).map(|_| Store::migrate(&config));
    let done: Vec<_> = futures_util::future::join_all(ten).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(done.iter().filter(|migrated| !migrated.applied.is_empty()).count(), 1);
    assert!(done.iter().all(|migrated| migrated.left_alone.is_empty()));
    config.database_schema = "Other".to_owned();
    assert!(open(&config).await.unwrap_err().advice().contains("tidings migrate"));
    assert_eq!(Store::migrate(&config).await.unwrap().applied, ["0001_schema", "0002_announce", "0003_new_jobs"]);
    open(&config).await.unwrap().put_user(&id("ada"), "Ada").await.unwrap();
    config.database_schema = "tidings".to_owned();
    assert!(open(&config).await.unwrap().users(&[id("ada")]).await.unwrap().is_empty());
}

/// Several processes on one SQLite file at once: the file is migrated once and nobody fails.
#[tokio::test]
async fn sqlite_opens_side_by_side() {
    let mut config = Config::defaults();
    config.data_dir = std::env::temp_dir().join(format!("tidings-store-{:016x}", fastrand::u64(..)));
    let metrics = Metrics::new();
    for store in futures_util::future::join_all((0..8).map(|_| Store::open(&config, &metrics))).await {
        store.unwrap().put_user(&id("ada"), "Ada").await.unwrap();
    }
    std::fs::remove_dir_all(&config.data_dir).unwrap();
}

/// Every failure to open says on one line what to do, and never the password.
#[tokio::test]
async fn failures_come_with_advice() {
    let server = Postgres::shared().await;
    let url = server.database().await;
    let empty = server.empty_database().await;
    let closed = format!("postgres://ada:hunter2@127.0.0.1:1/{}", "db");
    let cases = [
        (closed, "start the database at 127.0.0.1:1"),
        (url.replace("postgres@", "nobody:hunter2@"), "correct the user (nobody)"),
        (server.url("nowhere").replace("postgres@", "postgres:hunter2@"), "createdb nowhere"),
        (empty, "run `tidings migrate`"),
        ("postgres://ada:hunter2@host:port/x".to_owned(), "must look like postgres://user:password@host:5432/name"),
    ];
    for (url, wanted) in cases {
        let error = open(&postgres_config(&url)).await.unwrap_err();
        let said = format!("{} {error} {error:?}", error.advice());
        assert!(error.advice().contains(wanted), "{said}");
        assert!(!said.contains("hunter2") && !error.advice().contains('\n'), "{said}");
    }
    let mut config = Config::defaults();
    config.data_dir = "/proc/nowhere".into();
    assert!(open(&config).await.unwrap_err().advice().contains("set DATA_DIR"));
}

async fn heard(listener: &mut PgListener) -> Vec<String> {
    let mut heard = Vec::new();
    while let Ok(Ok(note)) = tokio::time::timeout(Duration::from_millis(300), listener.recv()).await {
        assert!(note.payload().len() < 8000);
        heard.push(note.payload().to_owned());
    }
    heard.sort();
    heard
}

/// Announced is what can change what somebody may see, and a change of status by others; not our own write-back.
#[tokio::test]
async fn changes_are_announced() {
    let bench = Bench::tables().await;
    let store = &bench.store;
    let mut listener = PgListener::connect(bench.config.database_url.expose()).await.unwrap();
    listener.listen("tidings").await.unwrap();
    store.put_user(&id("ada"), "Ada").await.unwrap();
    store.put_job(&id("j1"), &id("ada"), "queued").await.unwrap();
    store.put_document(&id("d1"), &id("ada"), "Plan").await.unwrap();
    store.put_role(&id("d1"), &id("bob"), Role::Viewer).await.unwrap();
    let document = r#"{"table" : "documents", "keys" : [["d1"]]}"#;
    let job = r#"{"table" : "jobs", "keys" : [["j1"]]}"#;
    let new_job = r#"{"table" : "jobs", "new" : true, "keys" : [["j1"]]}"#;
    let role = r#"{"table" : "document_permissions", "keys" : [["d1", "bob"]]}"#;
    let user = r#"{"table" : "users", "keys" : [["ada"]]}"#;
    assert_eq!(heard(&mut listener).await, [role, document, new_job, user]);
    let state =
        JobState { status: "running".into(), timestamp: "\"2026-11-20T10:00:00Z\"".into(), ..JobState::default() };
    store.write_back(&[(id("j1"), state, LogId { ms: 1, seq: 0 })]).await.unwrap();
    bench.sql("UPDATE tidings.users SET name = 'A'; UPDATE tidings.documents SET title = 'x'; UPDATE tidings.jobs SET message = 'm'").await;
    store.put_role(&id("d1"), &id("bob"), Role::Viewer).await.unwrap();
    assert_eq!(heard(&mut listener).await, Vec::<String>::new());
    store.disable_user(&id("ada")).await.unwrap();
    store.put_job(&id("j1"), &id("ada"), "completed").await.unwrap();
    bench.sql("UPDATE tidings.documents SET id = 'd2'; UPDATE tidings.jobs SET user_id = 'bob', version = 99").await;
    store.put_role(&id("d1"), &id("bob"), Role::Editor).await.unwrap();
    let both = heard(&mut listener).await;
    let moved = both.iter().filter(|text| text.contains("documents")).cloned().collect::<String>();
    assert!(moved.contains("d1") && moved.contains("d2"), "{both:?}");
    assert_eq!(both.iter().filter(|text| *text == job).count(), 2, "{both:?}");
    assert!(both.contains(&role.to_owned()) && both.contains(&user.to_owned()), "{both:?}");
    store.remove_role(&id("d1"), &id("bob")).await.unwrap();
    assert_eq!(heard(&mut listener).await, [role]);
}

/// Many keys come in pieces under 8000 bytes, very many as one word; ids that nobody could subscribe to are left out.
#[tokio::test]
async fn bulk_changes_are_few_announcements() {
    let bench = Bench::tables().await;
    let mut listener = PgListener::connect(bench.config.database_url.expose()).await.unwrap();
    listener.listen("tidings").await.unwrap();
    let rows = |n| {
        format!(
            "INSERT INTO tidings.document_permissions SELECT repeat('d', 120) || g, repeat('u', 120) || g, 'viewer' FROM generate_series(1, {n}) g"
        )
    };
    bench.sql(&rows(1000)).await;
    let pieces = heard(&mut listener).await;
    assert_eq!(pieces.len(), 42);
    assert_eq!(pieces.iter().map(|piece| piece.matches("[\"d").count()).sum::<usize>(), 1000);
    bench.sql("DELETE FROM tidings.document_permissions").await;
    assert_eq!(heard(&mut listener).await.len(), 42);
    bench.sql(&rows(1001)).await;
    bench.sql("TRUNCATE tidings.document_permissions").await;
    let all = r#"{"table" : "document_permissions", "all" : true}"#;
    assert_eq!(heard(&mut listener).await, [all, all]);
    bench.sql("INSERT INTO tidings.users (id) VALUES ('a b'), (E'\\n'), ('é'), ('ok')").await;
    assert_eq!(heard(&mut listener).await, [r#"{"table" : "users", "keys" : [["ok"]]}"#]);
}

/// An application attaches the same triggers to its base tables; a mistake in the call is an error, not a silence.
#[tokio::test]
async fn applications_watch_their_own_tables() {
    let bench = Bench::views().await;
    let mut listener = PgListener::connect(bench.config.database_url.expose()).await.unwrap();
    listener.listen("tidings").await.unwrap();
    for _ in 0..2 {
        bench
            .sql(
                "SELECT tidings.watch('app.accounts', 'users', '{account_id}', '{deleted_at}');
            SELECT tidings.watch('app.tasks', 'jobs', '{id}', '{account_id}', '{state}', 'version');
            SELECT tidings.watch('app.shares', 'document_permissions', '{file_id,account_id}', '{level}')",
            )
            .await;
    }
    let (ada, d1) = (bench.id("ada"), bench.id("d1"));
    bench
        .sql(&format!(
            "INSERT INTO app.accounts VALUES ('{ada}'); INSERT INTO app.shares VALUES ('{d1}', '{ada}', 'editor')"
        ))
        .await;
    let wanted = [
        format!(r#"{{"table" : "document_permissions", "keys" : [["{d1}", "{ada}"]]}}"#),
        format!(r#"{{"table" : "users", "keys" : [["{ada}"]]}}"#),
    ];
    assert_eq!(heard(&mut listener).await, wanted);
    bench.sql("UPDATE app.accounts SET display = 'x'").await;
    assert!(heard(&mut listener).await.is_empty());
    let mut connection = PgConnection::connect(bench.config.database_url.expose()).await.unwrap();
    for wrong in [
        "'app.accounts', 'people', '{account_id}'",
        "'app.accounts', 'users', '{id}'",
        "'app.shares', 'document_permissions', '{file_id}'",
    ] {
        let sql = format!("SELECT tidings.watch({wrong})");
        assert!(sqlx::query(AssertSqlSafe(sql)).execute(&mut connection).await.is_err(), "{wrong}");
    }
}

async fn timed(store: &Store) -> (bool, Duration) {
    let began = Instant::now();
    let ok = store.users(&[id("ada")]).await.is_ok();
    (ok, began.elapsed())
}

/// I-14: while Postgres is stopped, frozen or restarted, questions fail within a bound, and the first one after works.
#[tokio::test]
async fn outages_are_short_errors() {
    let mut server = Postgres::dedicated().await;
    let store = open(&postgres_config(&server.database().await)).await.unwrap();
    store.put_user(&id("ada"), "Ada").await.unwrap();
    let bound = Duration::from_millis(4800);
    // Fill the pool, so that old connections outnumber new ones.
    futures_util::future::join_all((0..16).map(|_| timed(&store))).await;

    server.stop();
    let (ok, took) = timed(&store).await;
    assert!(!ok && took < bound, "stopped: {took:?}");
    server.start().await;
    let (ok, took) = timed(&store).await;
    assert!(ok && took < bound, "restarted: {took:?}");

    futures_util::future::join_all((0..16).map(|_| timed(&store))).await;
    server.freeze();
    for (ok, took) in futures_util::future::join_all((0..32).map(|_| timed(&store))).await {
        assert!(!ok && took < bound, "frozen: {took:?}");
    }
    server.thaw();
    let (ok, took) = timed(&store).await;
    assert!(ok && took < bound, "thawed: {took:?}");

    // Connections that are broken without a word to the pool.
    futures_util::future::join_all((0..16).map(|_| timed(&store))).await;
    server.stop();
    server.start().await;
    for (ok, took) in futures_util::future::join_all((0..16).map(|_| timed(&store))).await {
        assert!(ok && took < bound, "restarted behind its back: {took:?}");
    }
}

/// A caller who leaves in the middle of a question, again and again, takes no connection with them.
#[tokio::test]
async fn callers_who_leave_cost_nothing() {
    let bench = Bench::tables().await;
    let mut blocker = PgConnection::connect(bench.config.database_url.expose()).await.unwrap();
    let mut transaction = blocker.begin().await.unwrap();
    sqlx::query("LOCK TABLE tidings.users").execute(&mut *transaction).await.unwrap();
    for _ in 0..30 {
        let question = tokio::time::timeout(Duration::from_millis(20), timed(&bench.store));
        assert!(question.await.is_err(), "the table is locked");
    }
    // Their back ends still wait for the lock; a question about another table has a connection at once.
    let began = Instant::now();
    bench.store.job_owners(&[id("j1")]).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    let (ok, took) = timed(&bench.store).await;
    assert!(!ok && took < Duration::from_secs(10), "statement_timeout: {took:?}");
    transaction.rollback().await.unwrap();
    let (ok, took) = timed(&bench.store).await;
    assert!(ok && took < Duration::from_secs(4), "{took:?}");
}
