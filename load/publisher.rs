//! The worker's part: job updates at a steady rate, whatever the answers do.

use std::time::Duration;

use tokio::time::Instant;
use tokio::time::MissedTickBehavior;

use crate::Failure;
use crate::now_us;
use crate::options::PublisherRole;

/// Tokio's timer is no finer.
const TICK: Duration = Duration::from_millis(1);
const CHANNEL: &str = "job-updates";

/// Publishes to the jobs in turn. Says `{"measuring":true}` when the warm-up is over, and at the end what it did.
pub(crate) async fn run(role: &PublisherRole) -> Result<(), Failure> {
    let mut redis = redis::Client::open(role.redis_url.as_str())?.get_multiplexed_async_connection().await?;
    let warmup = role.rate * role.warmup;
    let total = warmup + role.rate * role.seconds;
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let started = Instant::now();
    let (mut sent, mut unheard, mut late_us_max) = (0, 0_u64, 0);
    while sent < total {
        tick.tick().await;
        let due = due(started, role.rate).min(total);
        if due == sent {
            continue;
        }
        if sent >= warmup {
            late_us_max = late_us_max.max(late_us(started, sent, role.rate));
        }
        let heard = publish(&mut redis, role, sent..due, warmup).await?;
        unheard += heard.iter().filter(|count| **count == 0).count() as u64;
        if sent < warmup.max(1) && due >= warmup {
            println!("{}", serde_json::json!({"measuring": true}));
        }
        sent = due;
    }
    println!("{}", serde_json::json!({"sent": sent, "unheard": unheard, "lateUsMax": late_us_max}));
    Ok(())
}

/// How many should have been sent by now.
fn due(started: Instant, rate: u64) -> u64 {
    let elapsed = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
    elapsed.saturating_mul(rate) / 1_000_000
}

/// How late the update of that number is. A publisher that lags hides latency, so it is reported.
fn late_us(started: Instant, number: u64, rate: u64) -> u64 {
    let elapsed = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
    elapsed.saturating_sub(number * 1_000_000 / rate)
}

/// Publishes the updates of these numbers in one go; answers how many servers heard each.
async fn publish(
    redis: &mut redis::aio::MultiplexedConnection,
    role: &PublisherRole,
    numbers: std::ops::Range<u64>,
    warmup: u64,
) -> redis::RedisResult<Vec<u64>> {
    let mut batch = redis::pipe();
    for number in numbers {
        let (job, n) = (number % role.streams, number / role.streams + 1);
        let (run, progress, cold) = (&role.run, n % 100, u8::from(number < warmup));
        let update = format!(
            "{{\"jobId\":\"load-{run}-{job}\",\"status\":\"running\",\"progress\":{progress},\"message\":\"Slide {n}\",\
             \"data\":{{\"n\":{n},\"cold\":{cold},\"t\":{}}}}}",
            now_us(),
        );
        batch.cmd("PUBLISH").arg(CHANNEL).arg(update);
    }
    batch.query_async(redis).await
}
