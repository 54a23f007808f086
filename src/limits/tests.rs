//! Rates: exact at the boundary, the same as a bucket of tokens counted by hand, and bounded.

use std::time::Duration;

use proptest::prelude::*;

use crate::config::Config;
use crate::error::ApiError;
use crate::event::Id;
use crate::limits::RateLimits;
use crate::limits::RetryAfter;
use crate::limits::buckets::BUCKETS_MAX;

fn limits(per_second: u32) -> RateLimits {
    let mut config = Config::defaults();
    config.rate_limit_messages_per_second = per_second;
    config.rate_limit_api_key_per_second = 2;
    RateLimits::new(&config)
}

fn id(text: &str) -> Id {
    Id::parse(text).unwrap()
}

fn later(ms: u64) -> Result<(), RetryAfter> {
    Err(RetryAfter(Duration::from_millis(ms)))
}

async fn advance(by: Duration) {
    tokio::time::advance(by).await;
}

#[tokio::test(start_paused = true)]
async fn a_hundred_at_once_then_ten_a_second() {
    let (limits, ada) = (limits(10), id("ada"));
    for _ in 0..100 {
        assert_eq!(limits.take(&ada, 1), Ok(()));
    }
    assert_eq!(limits.take(&ada, 1), later(100));
    assert_eq!(limits.take(&id("bob"), 100), Ok(()), "another one's bucket is another one");
    advance(Duration::from_nanos(99_999_999)).await;
    assert_eq!(limits.take(&ada, 1), Err(RetryAfter(Duration::from_nanos(1))));
    advance(Duration::from_nanos(1)).await;
    assert_eq!(limits.take(&ada, 1), Ok(()));
    assert_eq!(limits.take(&ada, 1), later(100));
    // What is refused takes nothing, and idling fills the bucket to its brim and no further.
    assert_eq!(limits.take(&ada, 50), later(5000));
    advance(Duration::from_secs(3600)).await;
    assert_eq!(limits.take(&ada, 101), Ok(()));
    assert_eq!(limits.take(&ada, 0), Ok(()), "nothing costs nothing");
}

#[tokio::test(start_paused = true)]
async fn what_is_larger_than_a_bucket_is_paid_off() {
    let (limits, ada) = (limits(10), id("ada"));
    assert_eq!(limits.take(&ada, 1), Ok(()));
    assert_eq!(limits.take(&ada, 1000), later(100), "not before the bucket is full");
    advance(Duration::from_millis(100)).await;
    assert_eq!(limits.take(&ada, 1000), Ok(()));
    assert_eq!(limits.take(&ada, 1), later(90_100));
    advance(Duration::from_millis(90_100)).await;
    assert_eq!(limits.take(&ada, 1), Ok(()));
    assert_eq!(limits.take(&ada, 1), later(100));
}

#[tokio::test(start_paused = true)]
async fn back_ends_share_a_budget_of_their_own_and_zero_is_none() {
    let unlimited = limits(0);
    assert!((0..100_000).all(|_| unlimited.take(&id("ada"), 1000).is_ok()));
    assert_eq!(unlimited.take_service(20), Ok(()));
    assert_eq!(unlimited.take_service(1), later(500));
    let limits = limits(1);
    assert_eq!(limits.take(&id("api-keys"), 10), Ok(()), "a user of that name has a bucket of their own");
    assert_eq!(limits.take_service(20), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn buckets_are_bounded_and_full_ones_are_forgotten() {
    let limits = limits(10);
    let buckets = &limits.users.as_ref().unwrap().buckets;
    for n in 0..BUCKETS_MAX * 2 {
        limits.take(&id(&format!("u{n}")), 1).unwrap();
    }
    assert!(buckets.count() <= BUCKETS_MAX, "{}", buckets.count());
    let ada = id("ada");
    limits.take(&ada, 100).unwrap();
    for n in 0..BUCKETS_MAX * 2 {
        limits.take(&id(&format!("w{n}")), 1).unwrap();
    }
    assert!(limits.take(&ada, 1).is_err(), "the fuller ones give way first");
    advance(Duration::from_secs(60)).await;
    for n in 0..5000 {
        limits.take(&id(&format!("v{n}")), 1).unwrap();
    }
    assert!(buckets.count() <= 10_000, "{}", buckets.count());
}

#[test]
fn the_answer_rounds_up() {
    let answer = |ns| {
        let error = ApiError::from(RetryAfter(Duration::from_nanos(ns)));
        (error.status, error.retry_after_s, error.retry_after_ms)
    };
    assert_eq!(answer(1), (429, Some(1), Some(1)));
    assert_eq!(answer(1_000_000_000), (429, Some(1), Some(1000)));
    assert_eq!(answer(1_000_000_001), (429, Some(2), Some(1001)));
}

/// A bucket of tokens, counted by hand in nanoseconds until it is full.
struct Model {
    interval: u128,
    burst: u128,
    now: u128,
    full_at: u128,
}

impl Model {
    fn take(&mut self, cost: u128) -> Result<(), RetryAfter> {
        if cost == 0 {
            return Ok(()); // nothing is always to be had, also of a bucket that has to be paid off
        }
        let missing = self.full_at.saturating_sub(self.now);
        let needs = cost.min(self.burst) * self.interval;
        let over = (missing + needs).saturating_sub(self.burst * self.interval);
        if over > 0 {
            return Err(RetryAfter(Duration::from_nanos(u64::try_from(over).unwrap())));
        }
        self.full_at = self.full_at.max(self.now) + cost * self.interval;
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn it_is_a_bucket_of_tokens(rate in 1_u32..2000, steps in prop::collection::vec((0_u64..3_000_000_000, 0_usize..2500), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let outcome = runtime.block_on(async {
            let (limits, ada) = (limits(rate), id("ada"));
            let interval = u128::from(1_000_000_000 / u64::from(rate));
            let mut model = Model { interval, burst: u128::from(rate) * 10, now: 0, full_at: 0 };
            for (wait, cost) in steps {
                // Short waits too: around the boundary is where mistakes live.
                let wait = if wait % 3 == 0 { wait } else { wait % 2_000_000 };
                advance(Duration::from_nanos(wait)).await;
                model.now += u128::from(wait);
                let (given, wanted) = (limits.take(&ada, cost), model.take(cost as u128));
                if given != wanted {
                    return Err((wait, cost, given, wanted));
                }
            }
            Ok(())
        });
        prop_assert_eq!(outcome, Ok(()));
    }
}
