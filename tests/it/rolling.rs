//! A deploy: three processes behind nginx are replaced one after another, under load, and one of them is killed on its way out. A few
//! hundred streams here, 3,000 and ten pages by `make chaos`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::chaos::Worker;
use crate::chaos::seen_all;
use crate::chaos::times;
use crate::support::app::World;
use crate::support::browser::Browser;
use crate::support::eventually;
use crate::support::follower::Follower;
use crate::support::follower::FollowerOptions;
use crate::support::follower::Journal;
use crate::support::nginx::Nginx;
use crate::support::pace;
use crate::support::process::Processes;
use crate::support::process::Server;
use crate::support::redis::RedisServer;
use crate::support::tokens;

const NOTICE: Duration = Duration::from_millis(500);
const DRAIN: Duration = Duration::from_secs(10);
/// Beyond notice and drain: what is written back, and a busy machine.
const EXIT_MAX: Duration = Duration::from_secs(8);
/// How long a browser needs to come back beyond the time that it was told, on a machine that is busy with other tests.
const BACK_MAX: Duration = Duration::from_secs(8);
const PAGE: &str = include_str!("rolling.html");

struct Scene {
    _world: World,
    processes: Processes,
    nginx: Nginx,
    jobs: Vec<String>,
    followers: Vec<Follower>,
    worker: Option<Worker>,
}

/// What an instance says when it begins to send its streams away.
#[derive(Debug)]
struct Plan {
    streams: f64,
    within: f64,
}

impl Plan {
    /// Streams a second.
    fn rate(&self) -> f64 {
        self.streams / self.within
    }

    fn of(server: &Server) -> Option<Self> {
        let lines = server.logs();
        let lines = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let number = |line: &Value, field: &str| line[field].as_f64();
        lines
            .filter_map(|line| {
                Some(Self { streams: number(&line, "streams")?, within: number(&line, "within_ms")? / 1e3 })
            })
            .next_back()
    }
}

impl Scene {
    async fn new(streams: usize, jobs: usize, per_second: u64) -> Self {
        let server = RedisServer::shared().await;
        let world = World::full().await;
        let jobs: Vec<String> = (0..jobs).map(|n| format!("r{n}")).collect();
        let names: Vec<&str> = jobs.iter().map(String::as_str).collect();
        world.people(&[("ada", &names)]).await;
        let mut env = world.env();
        let millis = |duration: Duration| duration.as_millis().to_string();
        let changed = [
            ("DRAIN_NOTICE_MS", millis(NOTICE)),
            ("DRAIN_MS", millis(DRAIN)),
            ("ALLOW_QUERY_TOKEN", "true".to_owned()),
        ];
        env.retain(|(name, _)| changed.iter().all(|(other, _)| name != other));
        env.extend(changed);
        let processes = Processes::start(env, 3).await;
        let nginx = Nginx::start(&processes.addrs(), PAGE).await;
        let mut followers = Vec::new();
        for n in 0..streams {
            let retry_max = Duration::from_secs(60);
            let options = FollowerOptions { retry_max, ..FollowerOptions::with_token(&tokens::for_user("ada")) };
            let path = format!("/v1/events?channels=jobs.{}", jobs[n % jobs.len()]);
            followers.push(Follower::start(&[nginx.addr()], &path, options));
            if n % 100 == 99 {
                pace(Duration::from_millis(100)).await; // people don't all come in one moment
            }
        }
        let worker = Worker::start(&server.url(), &world.config.job_updates_channel, &names, per_second);
        let this = Self { _world: world, processes, nginx, jobs, followers, worker: Some(worker) };
        this.all_ready().await;
        this
    }

    async fn all_ready(&self) {
        let all = eventually("all streams are live", Duration::from_secs(120), async || {
            self.followers.iter().all(|follower| follower.look(is_live)).then_some(())
        });
        if tokio::time::timeout(Duration::from_secs(60), all).await.is_err() {
            let dead = self.followers.iter().find(|follower| !follower.look(is_live)).expect("one is not");
            let (last, stopped) = dead.look(|journal| (journal.connections.last().cloned(), journal.stopped.clone()));
            panic!("not live: {last:?} {stopped:?}\n{}", self.nginx.complaints());
        }
    }

    /// Asks an instance to leave, and answers its plan; after `killed_after` it is killed instead of waited for.
    async fn replace(&mut self, at: usize, killed_after: Option<Duration>) -> (Plan, Instant) {
        let mut leaving = self.processes.running[at].take().expect("it runs");
        let begun = Instant::now();
        leaving.terminate();
        let plan = eventually("it says how it leaves", NOTICE + BACK_MAX, async || Plan::of(&leaving)).await;
        match killed_after {
            None => {
                let status = leaving.wait_exit(NOTICE + DRAIN + EXIT_MAX).await;
                assert!(status.success(), "{status}: {}", leaving.logs().join("\n"));
            }
            Some(after) => {
                pace(after).await;
                leaving.kill();
            }
        }
        println!("  {} streams in {:.1} s, gone after {:?}", plan.streams, plan.within, begun.elapsed());
        drop(leaving);
        self.processes.launch(at).await;
        self.all_ready().await;
        (plan, begun)
    }

    /// When streams came back.
    fn returns(&self, since: Instant) -> Vec<Duration> {
        let mut all = Vec::new();
        for follower in &self.followers {
            follower.look(|journal| {
                let later = journal.connections.iter().skip(1).filter_map(|connection| connection.ready_at);
                all.extend(later.filter(|at| *at > since).map(|at| at - since));
            });
        }
        all.sort();
        all
    }

    /// The longest time without a stream, beyond the time for which it was told to stay away.
    fn longest_gap(&self) -> Duration {
        let gaps = self.followers.iter().flat_map(|follower| follower.look(gaps));
        gaps.max().unwrap_or_default()
    }

    async fn check(&mut self) -> BTreeMap<String, u64> {
        let record = self.worker.take().expect("it works").finish().await;
        for (n, follower) in self.followers.iter().enumerate() {
            let job = &self.jobs[n % self.jobs.len()];
            let mine: BTreeMap<String, u64> = [(job.clone(), record.get(job).copied().unwrap_or(0))].into();
            follower.until("a stream has seen the end", Duration::from_secs(60), seen_all(&mine)).await;
            follower.look(|journal| journal.check_sequence(&[(job.as_str(), mine[job])]).assert_clean());
        }
        record
    }
}

fn is_live(journal: &Journal) -> bool {
    journal.connections.last().is_some_and(|connection| connection.ready && connection.over_at.is_none())
}

/// Between a stream's end and the next one that is ready, less what it was told to wait before each attempt.
fn gaps(journal: &Journal) -> Vec<Duration> {
    let mut gaps = Vec::new();
    let (mut lost, mut told): (Option<Instant>, Duration) = (None, Duration::ZERO);
    for connection in &journal.connections {
        if let (Some(at), Some(ready)) = (lost.take_if(|_| connection.ready), connection.ready_at) {
            gaps.push((ready - at).saturating_sub(told));
            told = Duration::ZERO;
        }
        lost = lost.or(connection.over_at);
        told += connection.told.unwrap_or_default();
    }
    gaps
}

/// The most that came within any second.
fn peak(returns: &[Duration]) -> usize {
    let within = |from: usize| returns[from..].partition_point(|at| *at < returns[from] + Duration::from_secs(1));
    (0..returns.len()).map(within).max().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_behind_nginx_loses_nothing_and_sends_nobody_away_for_long() {
    let (streams, pages) = (times(240, 3000), times(2, 10));
    let mut scene = Scene::new(streams, streams / 10, times(60, 500) as u64).await;
    let mut browser: Option<Browser> = None;
    let mut tabs = Vec::new();
    for page in 0..pages {
        let (addr, job) = (scene.nginx.on(page as u8 + 2), &scene.jobs[page % scene.jobs.len()]);
        let url = format!("http://{addr}/page.html?channels=jobs.{job}&token={}", tokens::for_user("ada"));
        match &mut browser {
            None => browser = Some(Browser::open(&url).await),
            Some(browser) => tabs.push(browser.open_tab(&url).await),
        }
    }
    let mut browser = browser.expect("there are pages");
    tabs.insert(0, 0);
    for tab in &tabs {
        browser
            .until_in(*tab, "a page's stream is live", Duration::from_secs(40), "seen.opened > 0 && seen.last > 0")
            .await;
    }
    for at in 0..3 {
        let (plan, begun) = scene.replace(at, None).await;
        let returns = scene.returns(begun);
        let (peak, planned) = (peak(&returns), plan.rate());
        println!("  peak {peak} a second, planned {planned:.0}");
        // Half as many again, and what chance does to small numbers.
        assert!(
            peak as f64 <= planned * 1.5 + 3.0 * planned.sqrt(),
            "{peak} came back in a second, planned were {planned:.0}"
        );
        assert!(returns.len() as f64 >= plan.streams * 0.9, "{} of {}", returns.len(), plan.streams);
    }
    let gap = scene.longest_gap();
    scene.replace(1, Some(Duration::from_secs(1))).await;
    let record = scene.check().await;
    for tab in &tabs {
        let job = &scene.jobs[tab % scene.jobs.len()];
        let last = record[job];
        browser
            .until_in(*tab, "a page has seen the end", Duration::from_secs(40), &format!("seen.last === {last}"))
            .await;
        let seen = browser.eval_in(*tab, "seen").await;
        let bad = ["lost", "repeated", "resets"].iter().any(|name| seen[name] != 0);
        assert!(!bad && seen["dead"] == false, "{seen}");
        println!("  a page came back {} times: {seen}", seen["opened"].as_u64().unwrap() - 1);
    }
    let updates: u64 = record.values().sum();
    println!(
        "rolling: {streams} streams, {updates} updates, 0 lost, nobody away for more than {gap:?} beyond what they were told"
    );
    assert!(gap <= BACK_MAX, "{gap:?}");
}

/// Streams that are too old come back by themselves, each at a time of its own, on both ways to the socket, and miss nothing.
#[tokio::test(flavor = "multi_thread")]
async fn old_streams_come_back_by_themselves() {
    const BOUND: Duration = Duration::from_secs(6);
    let mut world = World::redis().await.mixed();
    world.config.stream_age_max = BOUND;
    world.people(&[("ada", &["old"])]).await;
    let (lane, task) = (world.start().await, world.start().await);
    let options = FollowerOptions::with_token(&tokens::for_user("ada"));
    let path = "/v1/events?channels=jobs.old";
    let followers: Vec<Follower> =
        (0..40).map(|n| Follower::start(&[[lane.addr, task.addr][n % 2]], path, options.clone())).collect();
    for follower in &followers {
        follower.ready().await;
    }
    let worker = Worker::start(world.config.redis_url.expose(), &world.config.job_updates_channel, &["old"], 20);
    for follower in &followers {
        follower
            .until("it was asked to come back, and did", BOUND * 4, |j| j.connections.len() > 1 && is_live(j))
            .await;
    }
    let record = worker.finish().await;
    let mut ages = Vec::new();
    for follower in &followers {
        follower.until("it has seen the end", Duration::from_secs(20), seen_all(&record)).await;
        follower.look(|journal| {
            journal.check_sequence(&[("old", record["old"])]).assert_clean();
            assert!(journal.named("end").all(|end| end.text("reason") == "drain"));
            let first = &journal.connections[0];
            ages.push(first.over_at.unwrap() - first.ready_at.unwrap());
        });
    }
    ages.sort();
    let spread = ages[ages.len() - 1] - ages[0];
    assert!(ages[0] > BOUND / 2 && spread > BOUND / 16, "none while they are young, and not all at once: {ages:?}");
    lane.app.stop().await;
    task.app.stop().await;
}
