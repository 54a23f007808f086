//! B-21: who may see what; how long an answer is remembered; what holds while the database is away.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::auth::Authorizer;
use crate::auth::Directory;
use crate::auth::Principal;
use crate::auth::Recalled;
use crate::auth::Verdict;
use crate::auth::tests::support::later;
use crate::cache::Cache;
use crate::config::Config;
use crate::event::Channel;
use crate::event::Id;
use crate::store::Changed;
use crate::store::Role;
use crate::store::Store;
use crate::telemetry::Metrics;

/// SQLite with ada, bob (disabled), ada's j1 and d1, and eve who comments on d1.
pub(super) struct Bench {
    pub(super) store: Store,
    pub(super) metrics: Metrics,
    pub(super) config: Config,
}

impl Drop for Bench {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.config.data_dir));
    }
}

fn id(text: &str) -> Id {
    Id::parse(text).unwrap()
}

impl Bench {
    pub(super) async fn new(mut config: Config) -> Self {
        config.data_dir = std::env::temp_dir().join(format!("tidings-auth-{:016x}", fastrand::u64(..)));
        let metrics = Metrics::new();
        let store = Store::open(&config, &metrics).await.unwrap();
        for name in ["ada", "bob", "eve"] {
            store.put_user(&id(name), name).await.unwrap();
        }
        store.disable_user(&id("bob")).await.unwrap();
        store.put_job(&id("j1"), &id("ada"), "queued").await.unwrap();
        store.put_document(&id("d1"), &id("ada"), "Plan").await.unwrap();
        store.put_role(&id("d1"), &id("eve"), Role::Commenter).await.unwrap();
        Self { store, metrics, config }
    }

    fn authorizer(&self) -> Authorizer {
        let users = Arc::new(Directory::new(self.store.clone(), &self.config));
        users.changes().announced(true);
        Authorizer::new(self.store.clone(), users, &self.config, &self.metrics)
    }

    fn queries(&self) -> u64 {
        let count = |name| self.metrics.store_queries.with_label_values(&[name, "ok"]).get();
        count("job_owners") + count("document_roles") + count("users")
    }
}

/// `+` granted, `-` denied, `?` can't be asked; in the order of the channels.
async fn ask(authorizer: &Authorizer, user: &str, channels: &str) -> String {
    let channels: Vec<Channel> = channels.split(' ').map(|name| Channel::parse(name).unwrap()).collect();
    let verdicts = authorizer.authorize(&Principal::for_test(user), &channels).await;
    signs(&verdicts, &channels)
}

fn signs(verdicts: &[Verdict], channels: &[Channel]) -> String {
    let sign = |(verdict, channel): (&Verdict, &Channel)| match verdict {
        Verdict::Granted(grant) => {
            assert_eq!(grant.channel(), channel);
            '+'
        }
        Verdict::Denied => '-',
        Verdict::Unavailable => '?',
    };
    assert_eq!(verdicts.len(), channels.len());
    verdicts.iter().zip(channels).map(sign).collect()
}

#[tokio::test]
async fn b21_who_may_see_what() {
    let bench = Bench::new(Config::defaults()).await;
    let authorizer = bench.authorizer();
    let channels = "user.ada jobs.j1 docs.d1 presence.d1 user.eve jobs.nothing docs.nothing presence.nothing jobs.j1";
    let before = bench.queries();
    assert_eq!(ask(&authorizer, "ada", channels).await, "++++----+");
    assert_eq!(bench.queries() - before, 2, "one question to each table");
    assert_eq!(ask(&authorizer, "eve", channels).await, "--+++----");
    assert_eq!(ask(&authorizer, "nobody", channels).await, "---------");
    assert_eq!(ask(&authorizer, "ada", "user.ada").await, "+");
    assert_eq!(bench.queries() - before, 6, "the own channel is never asked about");
}

#[tokio::test]
async fn roles_come_with_the_grant() {
    let bench = Bench::new(Config::defaults()).await;
    let authorizer = bench.authorizer();
    let channels = ["docs.d1", "presence.d1", "user.eve"].map(|name| Channel::parse(name).unwrap());
    let verdicts = authorizer.authorize(&Principal::for_test("eve"), &channels).await;
    let role = |verdict: &Verdict| if let Verdict::Granted(grant) = verdict { grant.role() } else { panic!("denied") };
    let wanted = [Some(Role::Commenter), Some(Role::Commenter), None];
    assert_eq!(verdicts.iter().map(role).collect::<Vec<_>>(), wanted);
    assert_eq!(authorizer.role(&Principal::for_test("ada"), &id("d1")).await.unwrap(), Some(Role::Owner));
    assert_eq!(authorizer.role(&Principal::for_test("ada"), &id("d2")).await.unwrap(), None);
}

/// A yes is remembered for `GRANT_MAX_AGE`, a no for less; what was announced as changed not at all.
#[tokio::test]
async fn answers_are_remembered_for_a_bounded_time() {
    let mut config = Config::defaults();
    config.grant_max_age = Duration::from_secs(60);
    let bench = Bench::new(config).await;
    let authorizer = bench.authorizer();
    assert_eq!(ask(&authorizer, "eve", "docs.d1 docs.d2").await, "+-");
    let before = bench.queries();
    for _ in 0..10 {
        assert_eq!(ask(&authorizer, "eve", "docs.d1 docs.d2 presence.d1").await, "+-+");
    }
    assert_eq!(bench.queries(), before, "a storm of reconnects asks nothing");
    bench.store.remove_role(&id("d1"), &id("eve")).await.unwrap();
    assert_eq!(ask(&authorizer, "eve", "docs.d1").await, "+", "remembered");
    later(Duration::from_secs(60)).await;
    assert_eq!(ask(&authorizer, "eve", "docs.d1").await, "-", "asked again");
    bench.store.put_role(&id("d2"), &id("eve"), Role::Viewer).await.unwrap();
    bench.store.put_document(&id("d2"), &id("ada"), "Plan").await.unwrap();
    assert_eq!(ask(&authorizer, "eve", "docs.d2 jobs.j1").await, "+-");
    bench.store.put_job(&id("j1"), &id("eve"), "queued").await.unwrap();
    bench.store.remove_document(&id("d2")).await.unwrap();
    assert_eq!(ask(&authorizer, "eve", "docs.d2 jobs.j1").await, "+-", "remembered");
    let changed = Changed { documents: vec![id("d2")], jobs: vec![id("j1")], ..Changed::default() };
    authorizer.changes().note(&changed);
    assert_eq!(ask(&authorizer, "eve", "docs.d2 jobs.j1").await, "-+", "asked at once");
}

/// I-14, I-34: while the database is away a yes from before holds for `GRANT_STALE_MAX`, a no and a new question don't.
#[tokio::test]
async fn while_the_database_is_away() {
    let mut config = Config::defaults();
    config.grant_max_age = Duration::from_secs(60);
    config.grant_stale_max = Duration::from_secs(600);
    let bench = Bench::new(config).await;
    let authorizer = bench.authorizer();
    assert_eq!(ask(&authorizer, "ada", "jobs.j1 docs.d2").await, "+-");
    bench.store.close().await;
    later(Duration::from_secs(90)).await;
    assert_eq!(ask(&authorizer, "ada", "jobs.j1 docs.d2 docs.d1 user.ada user.eve").await, "+??+-");
    assert!(authorizer.role(&Principal::for_test("ada"), &id("d1")).await.is_err());
    later(Duration::from_secs(600)).await;
    assert_eq!(ask(&authorizer, "ada", "jobs.j1").await, "?", "too old");
}

/// I-14: open streams are looked at by what is known, without a question for each: a yes that is not too old, and whatever was asked for
/// just now.
#[tokio::test]
async fn what_is_known_is_recalled() {
    let mut config = Config::defaults();
    config.grant_max_age = Duration::from_secs(60);
    config.grant_stale_max = Duration::from_secs(600);
    let bench = Bench::new(config).await;
    let authorizer = bench.authorizer();
    let principal = Principal::for_test("ada");
    let channels = ["jobs.j1", "docs.d1", "docs.d2", "user.ada"].map(|channel| Channel::parse(channel).unwrap());
    let recall = |asked: Instant| match authorizer.recall(&principal, &channels, asked) {
        Recalled::Verdicts(verdicts) => signs(&verdicts, &channels),
        other => format!("{other:?}"),
    };
    let asked = Instant::now();
    assert_eq!(recall(asked), "???+");
    authorizer.prefetch(&[(id("ada"), channels.to_vec())]).await.unwrap();
    let queries = bench.queries();
    later(Duration::from_secs(90)).await;
    assert_eq!((recall(asked).as_str(), recall(Instant::now()).as_str()), ("++-+", "++?+"));
    authorizer.changes().note(&Changed { jobs: vec![id("j1")], ..Changed::default() });
    assert_eq!(recall(asked), "?+-+", "what has changed since counts no more");
    later(Duration::from_secs(600)).await;
    assert_eq!(recall(Instant::now()), "Unknown", "too old");
    assert_eq!(bench.queries(), queries, "nobody was asked");
}

/// A stream outlives the look-up of its user: who is disabled meanwhile gets no new grant, not even for the own channel.
#[tokio::test]
async fn disabled_meanwhile() {
    let mut config = Config::defaults();
    config.grant_max_age = Duration::from_secs(60);
    let bench = Bench::new(config).await;
    let authorizer = bench.authorizer();
    let principal = Principal::for_test("ada");
    let channels = [Channel::parse("user.ada").unwrap(), Channel::parse("jobs.j1").unwrap()];
    let granted = |verdicts: &[Verdict]| verdicts.iter().all(|verdict| matches!(verdict, Verdict::Granted(_)));
    assert!(granted(&authorizer.authorize(&principal, &channels).await));
    bench.store.disable_user(&id("ada")).await.unwrap();
    later(Duration::from_secs(60)).await;
    let verdicts = authorizer.authorize(&principal, &channels).await;
    assert!(verdicts.iter().all(|verdict| matches!(verdict, Verdict::Denied)), "{verdicts:?}");
}

/// I-40: the memory of answers is bounded, and shrinks by itself.
#[tokio::test]
async fn memory_is_bounded_and_shrinks() {
    let cache: Cache<u32, u32> = Cache::new(1000, Duration::from_secs(60));
    for n in 0..100_000 {
        cache.insert(n, n);
        assert!(cache.entries() <= 1000);
    }
    assert_eq!(cache.get(&99_999), Some(99_999));
    for _ in 0..2 {
        later(Duration::from_secs(61)).await;
        cache.prune();
    }
    assert_eq!((cache.get(&99_999), cache.entries()), (None, 0));
}
