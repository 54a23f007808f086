//! Streams that are very old are asked to come back, a few at a time: so a deploy is nothing that clients are not used to, and after
//! instances were added they get their share.
//!
//! Time is counted in parts of the bound, in one byte for each stream.

use std::time::Duration;

use crate::hub::lane::Lane;
use crate::hub::timers::TICK;
use crate::hub::wire::Key;
use crate::hub::wire::Port;

/// Parts of the bound.
const PARTS: u8 = 64;
/// From this part of its life on a stream may be asked, and in the last one it is.
const OLD: u8 = 48;

/// The clock of a lane, in parts of the bound, wrapping. No stream lives for as many as a byte can count.
#[derive(Debug)]
pub(super) struct Ages {
    /// 0: no bound.
    ticks_per_part: u32,
    now: u8,
}

impl Ages {
    /// Zero is no bound.
    pub(super) fn new(bound: Duration) -> Self {
        let ticks = bound.as_millis() / TICK.as_millis() / u128::from(PARTS);
        let ticks_per_part = u32::try_from(ticks).unwrap_or(u32::MAX).max(u32::from(!bound.is_zero()));
        Self { ticks_per_part, now: 0 }
    }

    /// When a stream that becomes live now is born.
    pub(super) fn now(&self) -> u8 {
        self.now
    }

    /// Whether another part begins with this tick.
    fn begins(&mut self, ticks: u32) -> bool {
        let begins = self.ticks_per_part > 0 && ticks.is_multiple_of(self.ticks_per_part);
        self.now = self.now.wrapping_add(u8::from(begins));
        begins
    }

    /// Whether it is the turn of a stream that was born then. Each part of the last quarter takes as many as any other.
    fn is_due(&self, born: u8) -> bool {
        let age = self.now.wrapping_sub(born);
        age >= OLD && fastrand::u8(..PARTS.saturating_sub(age).max(1)) == 0
    }

    fn part(&self) -> Duration {
        TICK * self.ticks_per_part
    }
}

impl<P: Port> Lane<P> {
    /// Gives those a slot whose turn it is in this part.
    pub(super) fn rotate(&mut self) {
        if !self.timers.ages.begins(self.timers.ticks) || self.leaving {
            return;
        }
        let ages = &self.timers.ages;
        let due = self.registry.iter().filter(|(_, stream)| stream.ending.is_none() && ages.is_due(stream.born));
        let due: Vec<Key> = due.map(|(key, _)| key).collect();
        let within = ages.part();
        self.timers.plan_drain(due, within);
    }
}
