//! How fast new streams are let in.
//!
//! A token bucket, and behind it a queue without anybody in it: who is refused is told a time, each a later one, at the rate at
//! which there will be room. So a crowd comes back in an order that this instance can serve, and none of them is kept meanwhile.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::limits::RetryAfter;

/// What may come at once: as many as in so many seconds.
const BURST: Duration = Duration::from_secs(2);
/// Nobody is told to come back later than that.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Lets streams in at a rate.
#[derive(Debug)]
pub struct Admission(Option<Gate>);

#[derive(Debug)]
struct Gate {
    /// In which one token comes back.
    interval: Duration,
    clocks: Mutex<Clocks>,
}

#[derive(Debug)]
struct Clocks {
    /// When the bucket is full again.
    full_at: Instant,
    /// The last time that somebody was told to come back at.
    promised: Instant,
}

impl Admission {
    /// At so many a second; 0 is no limit.
    #[must_use]
    pub fn new(per_second: u32) -> Self {
        let now = Instant::now();
        let clocks = Mutex::new(Clocks { full_at: now, promised: now });
        Self((per_second > 0).then(|| Gate { interval: Duration::from_secs(1) / per_second, clocks }))
    }

    /// Lets one in.
    ///
    /// # Errors
    /// Not now, and when instead.
    pub fn enter(&self) -> Result<(), RetryAfter> {
        self.0.as_ref().map_or(Ok(()), |gate| gate.enter(Instant::now()))
    }
}

impl Gate {
    fn enter(&self, now: Instant) -> Result<(), RetryAfter> {
        let mut clocks = self.clocks.lock();
        let full_at = clocks.full_at.max(now) + self.interval;
        if full_at <= now + BURST {
            clocks.full_at = full_at;
            return Ok(());
        }
        let promised = clocks.promised.max(now) + self.interval;
        if promised > now + WAIT_MAX {
            // More than can be put into order. They are spread at least.
            return Err(RetryAfter(WAIT_MAX.mul_f64(0.5 + fastrand::f64() / 2.0)));
        }
        clocks.promised = promised;
        Err(RetryAfter(promised - now))
    }
}
