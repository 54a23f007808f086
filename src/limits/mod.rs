//! How much somebody may ask for at a time, and how many may be there.
//!
//! For rates, a bucket of tokens for each user or address, by the arithmetic of `governor` (GCRA, a single number per bucket) over a store of our
//! own, because the store has to be bounded, and a bucket that is full again need not be kept.

mod address;
mod admission;
mod buckets;
mod connections;
#[cfg(test)]
mod connections_tests;
mod idle;
#[cfg(test)]
mod tests;

use std::hash::Hash;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::Quota;
use governor::RateLimiter;
use governor::clock::Clock as _;
use governor::middleware::NoOpMiddleware;

pub use address::Address;
pub use address::client;
pub use admission::Admission;
pub use connections::Connections;
pub use connections::Full;
pub use connections::Place;
pub use connections::SocketPlace;
pub use connections::Sockets;
pub use idle::Activity;
pub use idle::Busy;

use crate::config::Config;
use crate::error::ApiError;
use crate::event::Id;
use buckets::Buckets;
use buckets::TokioClock;

/// A full bucket holds what comes in so many seconds: 100 where 10 are allowed a second.
const BURST_S: u32 = 10;

/// Not now: the same passes after so long, if nothing else is asked for meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryAfter(pub Duration);

impl From<RetryAfter> for ApiError {
    fn from(RetryAfter(wait): RetryAfter) -> Self {
        Self::rate_limited(wait)
    }
}

/// What users and back ends may still ask of this instance. Cheap to clone; clones share the buckets.
#[derive(Debug, Clone)]
pub struct RateLimits {
    users: Option<Arc<Limiter<Id>>>,
    services: Option<Arc<Limiter<Id>>>,
    /// Of each address, how many refused credentials it may still present.
    failures: Option<Arc<Limiter<Address>>>,
    /// All API keys are one publisher, so they have one bucket.
    service: Id,
}

impl RateLimits {
    /// With the rates of the settings; a rate of 0 is no limit.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self {
            users: limiter(config.rate_limit_messages_per_second),
            services: limiter(config.rate_limit_api_key_per_second),
            failures: limiter(config.rate_limit_failures_per_ip),
            service: Id::parse("api-keys").expect("this is an id"),
        }
    }

    /// Takes `cost` tokens of a user: one for each subscribe, publish, PATCH, auth and ticket, for a batch one for each item.
    /// What costs more than a bucket holds passes when the bucket is full, and is paid off afterwards.
    ///
    /// # Errors
    /// Not enough is left; nothing was taken.
    pub fn take(&self, user: &Id, cost: usize) -> Result<(), RetryAfter> {
        self.users.as_ref().map_or(Ok(()), |limiter| limiter.take(user, cost))
    }

    /// The same of the back ends, which share a budget of their own.
    ///
    /// # Errors
    /// Not enough is left; nothing was taken.
    pub fn take_service(&self, cost: usize) -> Result<(), RetryAfter> {
        self.services.as_ref().map_or(Ok(()), |limiter| limiter.take(&self.service, cost))
    }

    /// Whether anybody at this address may present a credential: not after so many that were refused.
    ///
    /// # Errors
    /// Not now.
    pub fn may_try(&self, address: Address) -> Result<(), RetryAfter> {
        self.failures.as_ref().map_or(Ok(()), |limiter| limiter.look(&address))
    }

    /// A credential from this address was refused.
    pub fn failed(&self, address: Address) {
        if let Some(limiter) = &self.failures {
            // Where none is left already, there is nothing more to take.
            let (Ok(()) | Err(RetryAfter(_))) = limiter.take(&address, 1);
        }
    }
}

/// 0 is no limit.
fn limiter<K: Clone + Eq + Hash>(per_second: u32) -> Option<Arc<Limiter<K>>> {
    NonZeroU32::new(per_second).map(|rate| Arc::new(Limiter::new(rate)))
}

#[derive(Debug)]
struct Limiter<K: Clone + Eq + Hash> {
    gcra: RateLimiter<K, Buckets<K>, TokioClock, NoOpMiddleware<Duration>>,
    buckets: Buckets<K>,
    clock: TokioClock,
    burst: NonZeroU32,
    /// In which one token comes back.
    interval: Duration,
}

impl<K: Clone + Eq + Hash> Limiter<K> {
    fn new(per_second: NonZeroU32) -> Self {
        let burst = per_second.saturating_mul(NonZeroU32::new(BURST_S).unwrap_or(NonZeroU32::MIN));
        let quota = Quota::per_second(per_second).allow_burst(burst);
        let clock = TokioClock::start();
        let buckets = Buckets::new(clock.clone());
        let gcra = RateLimiter::new(quota, buckets.clone(), clock.clone());
        Self { gcra, buckets, clock, burst, interval: quota.replenish_interval() }
    }

    fn take(&self, key: &K, cost: usize) -> Result<(), RetryAfter> {
        let Some(cost) = NonZeroU32::new(u32::try_from(cost).unwrap_or(u32::MAX)) else { return Ok(()) };
        let at_once = cost.min(self.burst);
        match self.gcra.check_key_n(key, at_once) {
            Ok(Ok(())) => {
                if cost > at_once {
                    self.buckets.postpone(key, self.interval.saturating_mul(cost.get() - at_once.get()));
                }
                Ok(())
            }
            Ok(Err(later)) => Err(RetryAfter(later.wait_time_from(self.clock.now()))),
            // Never asked: `at_once` is no more than a bucket holds.
            Err(_) => Err(RetryAfter(self.interval.saturating_mul(at_once.get()))),
        }
    }
    /// Whether one token is there, without taking it.
    fn look(&self, key: &K) -> Result<(), RetryAfter> {
        let missing = self.buckets.full_in(key);
        let wait = missing.saturating_sub(self.interval.saturating_mul(self.burst.get() - 1));
        if wait.is_zero() { Ok(()) } else { Err(RetryAfter(wait)) }
    }
}
