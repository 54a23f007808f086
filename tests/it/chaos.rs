//! Whatever breaks in between, the browser ends up with the truth. A small number of each here, the full one by `make chaos`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use redis::streams::StreamRangeReply;
use serde_json::Value;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::support::SOON;
use crate::support::app::World;
use crate::support::eventually;
use crate::support::follower::Follower;
use crate::support::follower::FollowerOptions;
use crate::support::follower::Stopped;
use crate::support::process::Processes;
use crate::support::proxy::ChaosProxy;
use crate::support::proxy::End;
use crate::support::redis::RedisOptions;
use crate::support::redis::RedisServer;
use crate::support::sse::SseClient;
use crate::support::tokens;

/// How often, here and by `make chaos`.
pub(crate) fn times(quick: usize, full: usize) -> usize {
    if std::env::var("TIDINGS_CHAOS").as_deref() == Ok("full") { full } else { quick }
}

/// How long something may take: in the middle of all other tests, on a machine that may stand still, and by `make chaos`, alone.
pub(crate) fn bound(among_others: Duration, alone: Duration) -> Duration {
    [among_others, alone][times(0, 1)]
}

/// A worker that publishes numbered updates and keeps a record of its own.
pub(crate) struct Worker {
    pub(crate) record: Arc<Mutex<BTreeMap<String, u64>>>,
    stop: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

impl Worker {
    /// Publishes on these jobs in turn, so many a second, until it is stopped. Every update is a change of status, so that
    /// none may be conflated. What Redis did not take is published again.
    pub(crate) fn start(url: &str, channel: &str, jobs: &[&str], per_second: u64) -> Self {
        let record = Arc::new(Mutex::new(BTreeMap::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        let jobs: Vec<String> = jobs.iter().map(|job| (*job).to_owned()).collect();
        let (url, channel) = (url.to_owned(), channel.to_owned());
        let (kept, stopped) = (Arc::clone(&record), Arc::clone(&stop));
        tasks.spawn(async move {
            let mut every = tokio::time::interval(Duration::from_micros(1_000_000 / per_second));
            let mut connection = connect(&url).await;
            for turn in 0_usize.. {
                every.tick().await;
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let job = &jobs[turn % jobs.len()];
                let n = kept.lock().get(job).copied().unwrap_or(0) + 1;
                let update = numbered(job, n).to_string();
                loop {
                    let heard: Result<i64, _> =
                        redis::cmd("PUBLISH").arg(&channel).arg(&update).query_async(&mut connection).await;
                    match heard {
                        Ok(heard) if heard > 0 => break,
                        Ok(_) => {}
                        Err(_) => connection = connect(&url).await,
                    }
                    every.tick().await;
                }
                kept.lock().insert(job.clone(), n);
            }
        });
        Self { record, stop, tasks }
    }

    /// Stops, and answers the last number of each job.
    pub(crate) async fn finish(mut self) -> BTreeMap<String, u64> {
        self.stop.store(true, Ordering::Relaxed);
        while self.tasks.join_next().await.is_some() {}
        self.record.lock().clone()
    }
}

async fn connect(url: &str) -> redis::aio::MultiplexedConnection {
    let limits = redis::AsyncConnectionConfig::new()
        .set_connection_timeout(Some(Duration::from_secs(2)))
        .set_response_timeout(Some(Duration::from_secs(5)));
    let client = redis::Client::open(url).unwrap();
    let mut again = tokio::time::interval(Duration::from_millis(50));
    loop {
        again.tick().await;
        if let Ok(connection) = client.get_multiplexed_async_connection_with_config(&limits).await {
            return connection;
        }
    }
}

pub(crate) fn numbered(job: &str, n: u64) -> Value {
    // `updateId` makes a PUBLISH that is repeated because its answer was lost the same update.
    let status = if n.is_multiple_of(2) { "running" } else { "rendering" };
    json!({"jobId": job, "status": status, "progress": n % 100, "data": {"n": n}, "updateId": format!("{job}-{n}")})
}

pub(crate) fn expected(record: &BTreeMap<String, u64>) -> Vec<(&str, u64)> {
    record.iter().map(|(job, n)| (job.as_str(), *n)).collect()
}

pub(crate) fn seen_all(record: &BTreeMap<String, u64>) -> impl Fn(&crate::support::follower::Journal) -> bool {
    let wanted: Vec<(String, u64)> = record.iter().map(|(job, n)| (job.clone(), *n)).collect();
    move |journal| wanted.iter().all(|(job, n)| journal.newest(job, "/data/n") == Some(*n))
}

/// The numbers of each job as they stand in the log.
async fn logged(server: &RedisServer, world: &World) -> BTreeMap<String, Vec<u64>> {
    let mut connection = server.client().await;
    let key = format!("{}:log", world.config.redis_prefix);
    let mut jobs: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let mut from = "-".to_owned();
    loop {
        let mut range = redis::cmd("XRANGE");
        range.arg(&key).arg(&from).arg("+").arg("COUNT").arg(1000);
        let page: StreamRangeReply = range.query_async(&mut connection).await.unwrap();
        let Some(last) = page.ids.last() else { break };
        from = format!("({}", last.id);
        for entry in page.ids {
            // The head names the job, and `data` is the last part of its state.
            let job = entry.get::<String>("h").unwrap().split(' ').nth(2).unwrap().to_owned();
            let Some(state) = ["d", "l", "t"].iter().find_map(|class| entry.get::<String>(class)) else { continue };
            let data: Value = serde_json::from_str(state.trim_end_matches('\0').rsplit('\0').next().unwrap()).unwrap();
            jobs.entry(job).or_default().push(data["n"].as_u64().unwrap());
        }
    }
    jobs
}

const JOBS: [&str; 12] = ["j0", "j1", "j2", "j3", "j4", "j5", "j6", "j7", "j8", "j9", "j10", "j11"];

fn dozen() -> String {
    let names: Vec<String> = JOBS.iter().map(|job| format!("jobs.{job}")).collect();
    format!("/v1/events?channels={}", names.join(","))
}

/// Streams of a dozen channels, cut at random bytes, also inside snapshot and replay, coming back to either of two instances.
#[tokio::test(flavor = "multi_thread")]
async fn reconnects_lose_nothing_and_repeat_nothing() {
    let wanted = times(120, 1000);
    let server = RedisServer::shared().await;
    let world = World::redis().await.mixed();
    world.people(&[("ada", &JOBS)]).await;
    let (one, two) = (world.start().await, world.start().await);
    let proxies = [ChaosProxy::start(one.addr).await, ChaosProxy::start(two.addr).await];
    for proxy in &proxies {
        proxy.cut_each_after(200..12_000, End::Reset);
    }
    let addrs: Vec<SocketAddr> = proxies.iter().map(ChaosProxy::addr).collect();
    let worker = Worker::start(&server.url(), &world.config.job_updates_channel, &JOBS, 400);
    let options = FollowerOptions { random: true, ..FollowerOptions::with_token(&tokens::for_user("ada")) };
    let followers: Vec<Follower> = (0..8).map(|_| Follower::start(&addrs, &dozen(), options.clone())).collect();
    eventually("enough reconnects", Duration::from_secs(300), async || {
        let connections: usize = followers.iter().map(|f| f.look(|journal| journal.connections.len())).sum();
        (connections >= wanted).then_some(())
    })
    .await;
    let record = worker.finish().await;
    proxies.iter().for_each(ChaosProxy::cut_none);
    let (mut delivered, mut connections) = (0, 0);
    for follower in &followers {
        follower.until("the follower has seen the end", Duration::from_secs(30), seen_all(&record)).await;
        let journal = follower.journal();
        let checked = journal.check_sequence(&expected(&record));
        checked.assert_clean();
        delivered += checked.delivered;
        connections += journal.connections.len();
    }
    println!(
        "reconnects: {connections} connections, {delivered} delivered, 0 lost, 0 repeated, 0 out of order, 0 resets"
    );
    drop(followers);
    one.app.stop().await;
    two.app.stop().await;
}

/// One of three instances is killed again and again under load, whichever it is and whatever it is doing. What the others
/// heard is in the log exactly once and in order, by the publisher's own record; and every observer has seen it so.
#[tokio::test(flavor = "multi_thread")]
async fn kills_lose_nothing_that_a_survivor_heard() {
    let kills = times(4, 50);
    let server = RedisServer::shared().await;
    let world = World::redis().await.mixed();
    world.people(&[("ada", &JOBS)]).await;
    let mut processes = Processes::start(world.env(), 3).await;
    let worker = Worker::start(&server.url(), &world.config.job_updates_channel, &JOBS, 300);
    let options = FollowerOptions { random: true, ..FollowerOptions::with_token(&tokens::for_user("ada")) };
    let followers: Vec<Follower> =
        (0..4).map(|_| Follower::start(&processes.addrs(), &dozen(), options.clone())).collect();
    for kill in 0..kills {
        let before = worker.record.lock().values().sum::<u64>();
        let some_more = fastrand::u64(60..200);
        eventually("some more updates", Duration::from_secs(30), async || {
            (worker.record.lock().values().sum::<u64>() >= before + some_more).then_some(())
        })
        .await;
        let victim = kill % 3;
        processes.running[victim] = None; // dropping it is SIGKILL
        processes.launch(victim).await;
    }
    let record = worker.finish().await;
    eventually("everything is in the log", Duration::from_secs(20), async || {
        let jobs = logged(&server, &world).await;
        record.iter().all(|(job, n)| jobs.get(job).is_some_and(|numbers| numbers.len() as u64 >= *n)).then_some(())
    })
    .await;
    for (job, numbers) in logged(&server, &world).await {
        assert_eq!(numbers, (1..=record[&job]).collect::<Vec<_>>(), "{job} in the log");
    }
    for follower in &followers {
        follower.until("the follower has seen the end", Duration::from_secs(30), seen_all(&record)).await;
        follower.journal().check_sequence(&expected(&record)).assert_clean();
    }
    println!("kills: {kills}, {} updates, each in the log once and in order", record.values().sum::<u64>());
}

/// Redis with AOF is killed and comes back, under load: nothing that it took is lost.
#[tokio::test(flavor = "multi_thread")]
async fn an_aof_redis_restarts_without_loss() {
    let restarts = times(2, 20);
    let mut server = RedisServer::start(RedisOptions { aof: true, ..RedisOptions::default() }).await;
    let world = World::on(&server).await.mixed();
    world.people(&[("ada", &JOBS)]).await;
    let (one, two) = (world.start().await, world.start().await);
    let worker = Worker::start(&server.url(), &world.config.job_updates_channel, &JOBS, 200);
    let options = FollowerOptions { random: true, ..FollowerOptions::with_token(&tokens::for_user("ada")) };
    let addrs = [one.addr, two.addr];
    let followers: Vec<Follower> = (0..2).map(|_| Follower::start(&addrs, &dozen(), options.clone())).collect();
    for restart in 0..restarts {
        let before = worker.record.lock().values().sum::<u64>();
        eventually("some more updates", Duration::from_secs(60), async || {
            (worker.record.lock().values().sum::<u64>() >= before + 150).then_some(())
        })
        .await;
        if restart % 2 == 0 {
            server.kill();
        } else {
            server.terminate().await;
        }
        server.start_again().await;
        let back = Instant::now();
        eventually("both instances are ready again", Duration::from_secs(20), async || {
            (one.app.shared.sessions.broker.is_ready() && two.app.shared.sessions.broker.is_ready()).then_some(())
        })
        .await;
        assert!(back.elapsed() < Duration::from_secs(15), "{:?}", back.elapsed());
    }
    let record = worker.finish().await;
    for follower in &followers {
        follower.until("the follower has seen the end", Duration::from_secs(60), seen_all(&record)).await;
        follower.journal().check_sequence(&expected(&record)).assert_clean();
    }
    println!("redis restarts: {restarts}, {} updates, 0 lost", record.values().sum::<u64>());
    one.app.stop().await;
    two.app.stop().await;
}

/// Redis without AOF comes back empty: open streams are told `reset`, and what follows is live again.
#[tokio::test(flavor = "multi_thread")]
async fn an_empty_redis_resets_every_stream() {
    let mut server = RedisServer::start(RedisOptions::default()).await;
    let world = World::on(&server).await;
    world.people(&[("ada", &["a"])]).await;
    let app = world.start().await;
    app.progress("a", 1).await;
    let mut stream = app.stream("ada", "jobs.a").await;
    let cursor = stream.until("ready").await.pop().unwrap().id.unwrap();
    eventually("the state is in the database", SOON, async || {
        (app.metric("realtime_writeback_total{outcome=\"written\"}") >= 1.0).then_some(())
    })
    .await;
    server.kill();
    server.start_again().await;
    let events = stream.until("ready").await;
    let reset = events.iter().find(|event| event.event == "reset").expect("a reset");
    assert_eq!(reset.text("reason"), "history_rewritten");
    let snapshot = events.iter().find(|event| event.is_snapshot()).expect("the state, from the database");
    assert_eq!(snapshot.data["data"]["n"], 1);
    app.progress("a", 2).await;
    assert_eq!(stream.find("an update", |e| e.event == "job:update").await.data["data"]["n"], 2);
    // A cursor of the old log is refuted, not continued.
    let mut again = app.resume("ada", "jobs.a", &cursor).await;
    assert_eq!(again.until("ready").await[0].data["channels"][0]["verdict"], "reset");
    app.app.stop().await;
}

/// A job fails, is tried again and completes, with the same bytes in between, while instances are killed: every observer
/// sees exactly that.
#[tokio::test(flavor = "multi_thread")]
async fn identical_bytes_of_two_attempts_are_two_updates() {
    let rounds = times(2, 20);
    let server = RedisServer::shared().await;
    let world = World::redis().await.mixed();
    let jobs: Vec<String> = (0..rounds).map(|round| format!("life{round}")).collect();
    let names: Vec<&str> = jobs.iter().map(String::as_str).collect();
    world.people(&[("ada", &names)]).await;
    let mut processes = Processes::start(world.env(), 3).await;
    let life = ["queued", "running", "failed", "queued", "running", "completed"];
    for (round, job) in jobs.iter().enumerate() {
        let options = FollowerOptions::with_token(&tokens::for_user("ada"));
        let path = format!("/v1/events?channels=jobs.{job}");
        let addrs = processes.addrs();
        let followers: Vec<Follower> =
            (0..3).map(|at| Follower::start(&[addrs[at], addrs[(at + 1) % 3]], &path, options.clone())).collect();
        for follower in &followers {
            follower.ready().await;
        }
        for (at, status) in life.iter().enumerate() {
            let update = json!({"jobId": job, "status": status}).to_string();
            let heard = server.publish(&world.config.job_updates_channel, &update).await;
            assert!(heard > 0);
            if at == 1 + round % 4 {
                processes.running[round % 3] = None;
            }
        }
        for follower in &followers {
            follower
                .until("the end of the job", Duration::from_secs(20), |journal| {
                    journal.named("job:update").last().is_some_and(|event| event.text("status") == "completed")
                })
                .await;
            let journal = follower.journal();
            let seen: Vec<&str> = journal
                .named("job:update")
                .filter(|event| !event.is_snapshot())
                .map(|event| event.text("status"))
                .collect();
            assert_eq!(seen, life, "round {round}");
            assert!(journal.resets().is_empty());
        }
        processes.launch(round % 3).await;
    }
}

/// A job is updated a thousand times a second while streams of it are opened: no gap and no step back between what the
/// stream begins with and what follows.
#[tokio::test(flavor = "multi_thread")]
async fn the_seam_between_snapshot_and_live_is_tight() {
    let wanted = times(1500, 100_000);
    let server = RedisServer::shared().await;
    let world = World::redis().await.mixed();
    world.people(&[("ada", &["hot"])]).await;
    let app = world.start().await;
    let worker = Worker::start(&server.url(), &world.config.job_updates_channel, &["hot"], 1000);
    let token = Arc::new(format!("Bearer {}", tokens::for_user("ada")));
    let mut tasks = JoinSet::new();
    let lanes = 8;
    for _ in 0..lanes {
        let (addr, token) = (app.addr, Arc::clone(&token));
        tasks.spawn(async move {
            let mut seen = 0_usize;
            for _ in 0..wanted / lanes {
                seen += one_look(addr, &token).await;
            }
            seen
        });
    }
    let mut events = 0;
    while let Some(seen) = tasks.join_next().await {
        events += seen.unwrap();
    }
    let record = worker.finish().await;
    println!("seams: {wanted} streams, {events} events looked at, {} updates", record.values().sum::<u64>());
    app.until_empty().await;
    app.app.stop().await;
}

/// Opens a stream, reads until two live events after `ready`, and checks that numbers only ever go up by one.
async fn one_look(addr: SocketAddr, token: &str) -> usize {
    let mut stream =
        SseClient::connect(addr, "/v1/events?channels=jobs.hot", &[("Authorization", token)]).await.unwrap();
    let (mut last, mut after_ready, mut seen) = (None, None, 0);
    while after_ready.is_none_or(|live| live < 2) {
        let event = stream.next(Duration::from_secs(10)).await.expect("events come");
        if event.event == "ready" {
            after_ready = Some(0);
        }
        let Some(n) = event.data["data"]["n"].as_u64() else { continue };
        seen += 1;
        if let Some(last) = last {
            assert_eq!(n, last + 1, "after {last} came {n}");
        }
        last = Some(n);
        after_ready = after_ready.map(|live| live + 1);
    }
    seen
}

/// The durable inbox: entries of a time without any instance are applied in order, and each once, however many instances
/// run and whichever of them is killed.
#[tokio::test(flavor = "multi_thread")]
async fn the_durable_inbox_waits_and_is_applied_once() {
    let server = RedisServer::shared().await;
    let world = World::redis().await.mixed();
    world.people(&[("ada", &["a", "b"])]).await;
    let stream = world.config.job_updates_channel.clone();
    let add = async |job: &str, n: u64| {
        let update = json!({"jobId": job, "status": "running", "data": {"n": n}});
        server.xadd(&stream, update.to_string()).await;
    };
    for n in 1..=20 {
        add("a", n).await;
    }
    server.xadd(&stream, "not json").await;
    let mut processes = Processes::start(world.env(), 2).await;
    for n in 1..=200 {
        add("b", n).await;
        if n % 70 == 0 {
            let victim = usize::from(n % 140 == 0);
            processes.running[victim] = None;
            processes.launch(victim).await;
        }
    }
    let jobs = eventually("everything is applied", Duration::from_secs(30), async || {
        let jobs = logged(&server, &world).await;
        (jobs.get("a").map(Vec::len) >= Some(20) && jobs.get("b").map(Vec::len) >= Some(200)).then_some(jobs)
    })
    .await;
    assert_eq!(jobs["a"], (1..=20).collect::<Vec<_>>());
    assert_eq!(jobs["b"], (1..=200).collect::<Vec<_>>());
}

/// An observer whose instance dies comes back to another one, and a stream until done ends where the job ended.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_job_is_learnt_elsewhere() {
    let server = RedisServer::shared().await;
    let world = World::redis().await.mixed();
    world.people(&[("ada", &["a"])]).await;
    let mut processes = Processes::start(world.env(), 2).await;
    let options = FollowerOptions::with_token(&tokens::for_user("ada"));
    let follower = Follower::start(&processes.addrs(), "/v1/events?channels=jobs.a&until=done", options);
    follower.ready().await;
    processes.running[0] = None;
    server.publish(&world.config.job_updates_channel, json!({"jobId": "a", "status": "completed"}).to_string()).await;
    follower.until("it stops by itself", Duration::from_secs(15), |journal| journal.stopped.is_some()).await;
    let journal = follower.journal();
    assert_eq!(journal.stopped, Some(Stopped::End("done".to_owned())));
    assert!(journal.named("job:update").any(|event| event.text("status") == "completed"));
}
