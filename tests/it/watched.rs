//! An application's own tables behind views, watched as docs/database.md says: what it writes there reaches open streams at once.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use sqlx::AssertSqlSafe;
use sqlx::Executor as _;
use sqlx::PgPool;
use tidings::config::Secret;
use tidings::store::Store;
use tidings::telemetry::Metrics;
use tokio::time::Instant;

use crate::chaos::bound;
use crate::chaos::times;
use crate::contract::store::APPLICATION;
use crate::support::SOON;
use crate::support::app::TestApp;
use crate::support::app::World;
use crate::support::client::Client;
use crate::support::client::Transport;
use crate::support::pace;
use crate::support::postgres::Postgres;
use crate::support::tokens;

/// From the commit to the last of the channel, of 99 in 100.
const ANNOUNCED_MAX: Duration = Duration::from_millis(500);
/// The same of a few in the middle of all the other tests: far from what the sweep would take.
const ANNOUNCED_AMONG_OTHERS_MAX: Duration = Duration::from_secs(3);
/// The same of a table that nobody watches.
const UNANNOUNCED_MAX: Duration = Duration::from_secs(10);

/// The application: its database, and instances beside it.
struct Application {
    _world: World,
    apps: [TestApp; 2],
    database: PgPool,
}

/// The statements that docs/database.md gives an application.
fn documented() -> Vec<String> {
    let docs = include_str!("../../docs/database.md");
    let watched = docs.lines().filter(|line| line.starts_with("SELECT tidings.watch("));
    let watched: Vec<String> = watched.map(str::to_owned).collect();
    assert_eq!(watched.len(), 4, "one for each table");
    watched
}

fn uuid(kind: u8, number: usize) -> String {
    format!("00000000-0000-4000-80{kind:02x}-{number:012x}")
}

fn person(number: usize) -> String {
    uuid(1, number)
}

fn file(number: usize) -> String {
    uuid(2, number)
}

fn task(number: usize) -> String {
    uuid(3, number)
}

impl Application {
    async fn start() -> Self {
        let this = Self::unwatched().await;
        this.watch().await;
        this
    }

    async fn watch(&self) {
        for statement in documented() {
            self.writes(statement).await;
        }
        for app in &self.apps {
            app.until_announced().await;
        }
    }

    /// Its triggers are not there yet.
    async fn unwatched() -> Self {
        let mut world = World::redis().await.mixed();
        world.config.database_url = Secret::new(Postgres::shared().await.empty_database().await);
        let database = PgPool::connect(world.config.database_url.expose()).await.unwrap();
        database.execute(APPLICATION).await.unwrap();
        Store::migrate(&world.config).await.unwrap();
        world.store = Store::open(&world.config, &Metrics::new()).await.unwrap();
        let apps = [world.start().await, world.start().await];
        Self { _world: world, apps, database }
    }

    /// Answers when it began to write.
    async fn writes(&self, sql: String) -> Instant {
        let begun = Instant::now();
        self.database.execute(AssertSqlSafe(sql)).await.unwrap();
        begun
    }

    async fn open(&self, number: usize, query: &str) -> Client {
        let (transport, app) = (Transport::ALL[number % 3], &self.apps[number / 3 % 2]);
        let opened = Client::open(transport, app.addr, &tokens::for_user(&person(number)), query, None).await;
        let mut client = opened.unwrap_or_else(|answer| panic!("{transport:?}: {}", answer.text()));
        client.until("ready").await;
        client
    }

    async fn stop(self) {
        for app in self.apps {
            app.until_empty().await;
            app.app.stop().await;
        }
    }

    async fn says(&self, document: &str, n: usize) {
        self.apps[n % 2].publish(json!({ "channel": format!("docs.{document}"), "data": { "n": n } })).await;
    }
}

/// Somebody has a share, loses it, hears no more, is given it back and joins at once. Answers how long it took to lose it, where the
/// client is told when it happens.
async fn lose_and_regain(application: &Application, number: usize, count: usize) -> Option<Duration> {
    let (who, document) = (person(number), file(0));
    let share = format!("INSERT INTO app.shares VALUES ('{document}', '{who}', 'viewer')");
    application.writes(format!("INSERT INTO app.accounts (account_id) VALUES ('{who}'); {share}")).await;
    let query = format!("channels=user.me,docs.{document}&session=watched-{number}");
    let mut stream = application.open(number, &query).await;
    application.says(&document, number).await;
    stream.find("what may be seen", |event| event.data["n"] == number).await;
    pace(Duration::from_micros(fastrand::u64(0..50_000))).await;
    let begun = application.writes(format!("DELETE FROM app.shares WHERE account_id = '{who}'")).await;
    let left = stream.find("the channel leaves", |event| event.event == "unsubscribed").await;
    // A poll that waits is told when it has waited.
    let lasted = Some(begun.elapsed()).filter(|_| stream.transport != Transport::Poll);
    assert_eq!((left.text("channel"), left.text("code")), (format!("docs.{document}").as_str(), "PERMISSION_DENIED"));
    pace(ANNOUNCED_MAX.saturating_sub(begun.elapsed())).await;
    application.says(&document, count + number).await;
    // Behind it in the log: whoever hears this has been passed over before.
    let over = json!({ "channel": format!("user.{who}"), "event": "over", "data": {} });
    application.apps[number % 2].publish(over).await;
    let heard = stream.until("over").await;
    assert!(heard.iter().all(|event| event.data["n"] != count + number), "{heard:#?}");
    application.writes(share).await;
    let wish = json!({ "subscribe": [format!("docs.{document}")] });
    let answer = application.apps[number % 2].patch(&who, &format!("watched-{number}"), &wish).await;
    assert_eq!(answer.json()["channels"][0]["channel"], format!("docs.{document}"), "{}", answer.text());
    application.says(&document, 2 * count + number).await;
    stream.find("it is there again", |event| event.data["n"] == 2 * count + number).await;
    lasted
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_that_is_deleted_leaves_open_streams_at_once() {
    let count = times(18, 300);
    let application = Application::start().await;
    let owner = person(0xFFFF);
    let insert = format!(
        "INSERT INTO app.accounts (account_id) VALUES ('{owner}'); INSERT INTO app.files VALUES ('{}', '{owner}')",
        file(0)
    );
    application.writes(insert).await;
    let mut lasted = Vec::new();
    for group in (0..count).collect::<Vec<_>>().chunks(18) {
        let all = join_all(group.iter().map(|number| lose_and_regain(&application, *number, count))).await;
        lasted.extend(all.into_iter().flatten());
    }
    lasted.sort();
    let p99 = lasted[(lasted.len() * 99).div_ceil(100) - 1];
    println!(
        "shares deleted in a base table: {count}, {} of them told at once, p99 {p99:?}; each given back and joined",
        lasted.len()
    );
    assert!(p99 < announced_max(), "{lasted:?}");
    application.stop().await;
}

fn announced_max() -> Duration {
    bound(ANNOUNCED_AMONG_OTHERS_MAX, ANNOUNCED_MAX)
}

/// Has a share and loses it; how long that takes.
async fn lose(application: &Application, number: usize, document: &str) -> Duration {
    let who = person(number);
    let share = format!("INSERT INTO app.shares VALUES ('{document}', '{who}', 'viewer')");
    application.writes(format!("INSERT INTO app.accounts (account_id) VALUES ('{who}'); {share}")).await;
    let mut stream = application.open(number, &format!("channels=user.me,docs.{document}")).await;
    let begun = application.writes(format!("DELETE FROM app.shares WHERE account_id = '{who}'")).await;
    stream.until("unsubscribed").await;
    begun.elapsed()
}

/// As long as nobody watches the base tables, open streams are asked about every few seconds; from then on nobody waits for that.
#[tokio::test(flavor = "multi_thread")]
async fn base_tables_that_nobody_watches_are_noticed() {
    let application = Application::unwatched().await;
    let (owner, document) = (person(0xFFFF), file(0));
    application.writes(format!("INSERT INTO app.files VALUES ('{document}', '{owner}')")).await;
    let mut lasted = Vec::new();
    for watched in [false, true] {
        if watched {
            application.watch().await;
        }
        let losing = [0, 1].map(|number| lose(&application, usize::from(watched) * 6 + number, &document));
        lasted.extend(join_all(losing).await.into_iter().map(|lasted| (watched, lasted)));
    }
    println!("a share deleted, in a base table that is watched or not: {lasted:?}");
    let limit = |watched| if watched { announced_max() } else { UNANNOUNCED_MAX };
    assert!(lasted.iter().all(|(watched, lasted)| *lasted < limit(*watched)), "{lasted:?}");
    application.stop().await;
}

/// Whatever else an application does to its rows: an account that is closed, a file and a task that are deleted, a task that ends.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_application_does_to_its_own_rows_reaches_open_streams() {
    let application = Application::start().await;
    for number in 0..9 {
        let (who, document, job) = (person(number), file(number), task(number));
        application
            .writes(format!(
                "INSERT INTO app.accounts (account_id) VALUES ('{who}'); INSERT INTO app.files VALUES ('{document}', '{who}');
                 INSERT INTO app.tasks (id, account_id, state) VALUES ('{job}', '{who}', 'queued')"
            ))
            .await;
    }
    // Each on a transport of its own: numbers go round them.
    for number in 0..3 {
        let mut stream = application.open(number, &format!("channels=user.me,jobs.{}", task(number))).await;
        application.writes(format!("UPDATE app.tasks SET state = 'completed' WHERE id = '{}'", task(number))).await;
        let end = stream.find("its end", |event| event.text("status") == "completed").await;
        assert_eq!((end.text("jobId"), &end.data["terminal"]), (task(number).as_str(), &json!(true)));
        let begun = application
            .writes(format!("UPDATE app.accounts SET deleted_at = now() WHERE account_id = '{}'", person(number)))
            .await;
        let heard = stream.until_end(SOON).await;
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        let reason = heard.iter().find(|event| event.event == "end").map(|event| event.text("reason").to_owned());
        assert!(reason.as_deref() == Some("disabled") || stream.end_code() == Some(401), "{heard:#?}");
    }
    for number in 3..9 {
        let (channel, table, key) = if number < 6 {
            (format!("docs.{}", file(number)), "app.files", file(number))
        } else {
            (format!("jobs.{}", task(number)), "app.tasks", task(number))
        };
        let mut stream = application.open(number, &format!("channels=user.me,{channel}")).await;
        application.writes(format!("DELETE FROM {table} WHERE id = '{key}'")).await;
        let left = stream.find("it leaves", |event| event.event == "unsubscribed").await;
        assert_eq!(left.text("channel"), channel);
        assert!(stream.transport == Transport::Poll || left.text("reason") == "gone", "{left:?}");
    }
    application.stop().await;
}
