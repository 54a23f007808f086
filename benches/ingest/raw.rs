//! A whole instance, and a worker that publishes to it where nobody listens.

use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

use tokio::time::Instant;

use crate::machine::Redis;
use crate::machine::cpu_s;
use crate::machine::update;

/// Between two groups of publishes.
const TICK: Duration = Duration::from_millis(1);
/// Before it is measured: jobs become known.
const WARM_UP_S: u64 = 4;

/// The instance is `TIDINGS_BENCH_BINARY`, or the one beside this program.
pub(crate) async fn run(jobs: u64, rate: u64, seconds: u64) {
    let redis = Redis::start().await;
    let directory = std::env::temp_dir().join(format!("tidings-bench-{}", std::process::id()));
    let own = std::env::current_exe().expect("a path");
    let beside = own.parent().and_then(|deps| deps.parent()).map(|root| root.join("tidings")).unwrap_or_default();
    let binary = option_env("TIDINGS_BENCH_BINARY").map_or(beside, Into::into);
    let writes = option_env("TIDINGS_BENCH_WRITEBACK").unwrap_or_else(|| "true".to_owned());
    let mut server = Command::new(binary)
        .arg("serve")
        .env("REDIS_URL", &redis.url)
        .env("DATA_DIR", &directory)
        .env("JOB_WRITEBACK", writes)
        .env("REALTIME_PORT", "0")
        .env("METRICS_PORT", "0")
        .env("JWT_SECRET", "a-secret-of-the-benchmark-that-is-long-enough")
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary");
    tokio::time::sleep(Duration::from_secs(3)).await;
    let client = redis::Client::open(redis.url.as_str()).expect("a URL");
    let mut connection = client.get_multiplexed_async_connection().await.expect("Redis");
    let total = rate * (seconds + WARM_UP_S);
    let (mut sent, started) = (0, Instant::now());
    let (me, other) = (server.id(), redis.pid());
    let mut measured: Option<(f64, f64, u64)> = None;
    let mut tick = tokio::time::interval(TICK);
    while sent < total {
        tick.tick().await;
        let elapsed = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        let due = (elapsed * rate / 1_000_000).min(total);
        let mut batch = redis::pipe();
        for number in sent..due {
            batch.cmd("PUBLISH").arg("job-updates").arg(update(number, jobs)).ignore();
        }
        if due > sent {
            batch.query_async::<()>(&mut connection).await.expect("PUBLISH");
        }
        sent = due;
        if measured.is_none() && elapsed > WARM_UP_S * 1_000_000 {
            measured = Some((cpu_s(me), cpu_s(other), sent));
        }
    }
    let took = started.elapsed().as_secs_f64();
    let last: u64 = redis::cmd("XLEN").arg("tidings:log").query_async(&mut connection).await.unwrap_or(0);
    // What was published is judged: the measurement ends when the work does.
    let mut logged = last;
    for _ in 0..200 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now: u64 = redis::cmd("XLEN").arg("tidings:log").query_async(&mut connection).await.unwrap_or(0);
        if now == logged && now > 0 {
            break;
        }
        logged = now;
    }
    let (mine, its, from) = measured.unwrap_or_default();
    let count = (sent - from) as f64;
    println!(
        "{sent} published in {took:.1} s, {logged} in the log ({} when the last was published)  instance {:.2} us  Redis {:.2} us per update",
        last,
        (cpu_s(me) - mine) * 1e6 / count,
        (cpu_s(other) - its) * 1e6 / count,
    );
    drop(server.kill());
    drop(server.wait());
    drop(std::fs::remove_dir_all(directory));
}

#[expect(clippy::disallowed_methods, reason = "a program of its own, not the service")]
fn option_env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
