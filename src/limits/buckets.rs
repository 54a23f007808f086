//! Where the buckets are kept: a bounded number, in shards, each for itself under a short lock.

use std::collections::HashMap;
use std::hash::BuildHasher as _;
use std::hash::Hash;
use std::hash::RandomState;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::Clock;
use governor::nanos::Nanos;
use governor::state::StateStore;
use parking_lot::Mutex;
use tokio::time::Instant;

/// Buckets kept at most, about 100 bytes each. Beyond them those nearest to being full give way.
pub(super) const BUCKETS_MAX: usize = 65_536;
/// Parts under a lock of their own: two requests rarely meet.
const SHARDS: usize = 64;
/// A shard is swept when it has so many, or twice as many as the last sweep left, and when a new bucket comes after so long.
const SWEEP_MIN: usize = 64;
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// A bucket that would be full in less is swept only later: `governor` reads the clock a moment before we do.
const SWEEP_MARGIN: Duration = Duration::from_millis(1);

/// The time since its start by tokio's clock, which tests can pause.
#[derive(Debug, Clone)]
pub(super) struct TokioClock(Instant);

impl TokioClock {
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }
}

impl Clock for TokioClock {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

/// The buckets by whose they are: of each, when it will be full again. What is full is as good as absent.
#[derive(Debug)]
pub(super) struct Buckets<K>(Arc<Shards<K>>);

impl<K> Clone for Buckets<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

#[derive(Debug)]
struct Shards<K> {
    shards: Box<[Mutex<Shard<K>>]>,
    hasher: RandomState,
    clock: TokioClock,
}

#[derive(Debug)]
struct Shard<K> {
    full_at: HashMap<K, Nanos>,
    /// Sweep when there are so many.
    sweep_at: usize,
    swept: Duration,
}

impl<K: Clone + Eq + Hash> Buckets<K> {
    pub(super) fn new(clock: TokioClock) -> Self {
        let empty = || Shard { full_at: HashMap::new(), sweep_at: 0, swept: Duration::ZERO };
        let shards = (0..SHARDS).map(|_| Mutex::new(empty())).collect();
        Self(Arc::new(Shards { shards, hasher: RandomState::new(), clock }))
    }

    /// Makes a bucket full only so much later.
    pub(super) fn postpone(&self, key: &K, by: Duration) {
        if let Some(full_at) = self.shard(key).lock().full_at.get_mut(key) {
            *full_at = *full_at + Nanos::from(by);
        }
    }

    /// How long until it is full again.
    pub(super) fn full_in(&self, key: &K) -> Duration {
        let full_at = self.shard(key).lock().full_at.get(key).copied();
        full_at.map_or(Duration::ZERO, |at| Duration::from(at).saturating_sub(self.0.clock.now()))
    }

    fn shard(&self, key: &K) -> &Mutex<Shard<K>> {
        let hash = usize::try_from(self.0.hasher.hash_one(key) % (SHARDS as u64)).unwrap_or(0);
        self.0.shards.get(hash).expect("the rest of a division by their number is one of them")
    }

    /// Buckets kept.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.0.shards.iter().map(|shard| shard.lock().full_at.len()).sum()
    }
}

impl<K: Clone + Eq + Hash> StateStore for Buckets<K> {
    type Key = K;

    fn measure_and_replace<T, F, E>(&self, key: &K, judge: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut shard = self.shard(key).lock();
        let (outcome, full_at) = judge(shard.full_at.get(key).copied())?;
        match shard.full_at.get_mut(key) {
            Some(known) => *known = full_at,
            None => {
                shard.make_room(self.0.clock.now());
                shard.full_at.insert(key.clone(), full_at);
            }
        }
        Ok(outcome)
    }
}

impl<K: Eq + Hash> Shard<K> {
    fn make_room(&mut self, now: Duration) {
        let few = self.full_at.len() < self.sweep_at.clamp(SWEEP_MIN, BUCKETS_MAX / SHARDS);
        if few && now < self.swept + SWEEP_EVERY {
            return;
        }
        self.swept = now;
        let now = Nanos::from(now.saturating_sub(SWEEP_MARGIN));
        self.full_at.retain(|_, full_at| *full_at > now);
        if self.full_at.len() >= BUCKETS_MAX / SHARDS {
            self.drop_fullest(self.full_at.len() / 8);
        }
        self.sweep_at = self.full_at.len() * 2;
        self.full_at.shrink_to(self.sweep_at);
    }

    /// Several at once: looking for the one that is nearest to full would cost as much for each.
    fn drop_fullest(&mut self, mut count: usize) {
        let mut all: Vec<u64> = self.full_at.values().map(|full_at| full_at.as_u64()).collect();
        let (_, last, _) = all.select_nth_unstable(count);
        self.full_at.retain(|_, full_at| {
            let goes = count > 0 && full_at.as_u64() <= *last;
            count -= usize::from(goes);
            !goes
        });
    }
}
