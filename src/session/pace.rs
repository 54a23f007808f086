//! How fast streams have become live here: what one knows of how fast they can.

use parking_lot::Mutex;
use tokio::time::Instant;

/// Streams a second that any instance is believed to take in, whatever it has seen.
const RATE_MIN: u32 = 100;

/// Streams that became live, by second.
#[derive(Debug)]
pub struct Pace {
    started: Instant,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    second: u64,
    count: u32,
    most: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Self { started: Instant::now(), seen: Mutex::default() }
    }
}

impl Pace {
    /// One stream has become live.
    pub(super) fn joined(&self) {
        let second = self.started.elapsed().as_secs();
        let mut seen = self.seen.lock();
        if seen.second != second {
            (seen.second, seen.count) = (second, 0);
        }
        seen.count += 1;
        seen.most = seen.most.max(seen.count);
    }

    /// Streams a second that can be asked of an instance like this one: half of the most that it took in within a second, and at
    /// least 50.
    #[must_use]
    pub fn sustained(&self) -> u32 {
        self.seen.lock().most.max(RATE_MIN) / 2
    }
}
