//! What a lane does by the clock: heartbeats, the ends of credentials, slots of a drain, ends that nobody reads.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::clock;
use crate::hub::CloseReason;
use crate::hub::Frame;
use crate::hub::connection::Outlet;
use crate::hub::lane::Lane;
use crate::hub::wire::Key;
use crate::hub::wire::Port;

/// How often the lane looks at its clocks.
pub(super) const TICK: Duration = Duration::from_millis(100);
/// How long an ending stream may take to read its end before its connection is cut.
const END_UNREAD_MAX: Duration = Duration::from_secs(5);
/// Expiries of streams that are gone, beyond those that are there, before they are swept out.
const STALE_MAX: usize = 1024;

#[derive(Debug)]
pub(super) struct Timers {
    ticks: u32,
    ticks_per_beat: u32,
    /// Second at which credentials end. A stream that leaves stays here until the next sweep: finding it would cost more.
    expiries: BTreeMap<u64, Vec<Key>>,
    stale: usize,
    ending: Vec<(Instant, Key)>,
    /// Latest first.
    draining: Vec<(Instant, Key)>,
}

impl Timers {
    pub(super) fn new(heartbeat: Duration) -> Self {
        let ticks_per_beat = u32::try_from(heartbeat.as_millis() / TICK.as_millis()).unwrap_or(u32::MAX).max(1);
        Self { ticks: 0, ticks_per_beat, expiries: BTreeMap::new(), stale: 0, ending: Vec::new(), draining: Vec::new() }
    }

    pub(super) fn expire_at(&mut self, second: u64, key: Key) {
        self.expiries.entry(second).or_default().push(key);
    }

    /// A stream with an expiry is gone.
    pub(super) fn left(&mut self) {
        self.stale += 1;
    }

    pub(super) fn forget_expiries(&mut self) {
        self.expiries.clear();
        self.stale = 0;
    }

    /// The stream has to read its end from now on.
    pub(super) fn ends(&mut self, key: Key, now: Instant) {
        self.stale += 1;
        self.ending.push((now + END_UNREAD_MAX, key));
    }

    pub(super) fn plan_drain(&mut self, keys: Vec<Key>, within: Duration) {
        let now = Instant::now();
        let count = u32::try_from(keys.len()).unwrap_or(u32::MAX).max(1);
        let slots = keys.into_iter().zip(0..);
        self.draining = slots.map(|(key, at)| (now + within * at / count, key)).collect();
        self.draining.reverse();
    }
}

impl<P: Port> Lane<P> {
    /// Everything that is due.
    pub(super) fn tick(&mut self) {
        self.timers.ticks = self.timers.ticks.wrapping_add(1);
        self.expire();
        self.cut_unread();
        self.drain_due();
        self.heartbeat();
        self.shrink();
    }

    fn expire(&mut self) {
        let now = clock::now_s();
        while self.timers.expiries.first_key_value().is_some_and(|(at, _)| *at <= now) {
            let (_, keys) = self.timers.expiries.pop_first().unwrap_or_default();
            for key in keys {
                self.end(key, CloseReason::TokenExpired);
            }
        }
        if self.timers.stale > self.registry.len() + STALE_MAX {
            self.timers.stale = 0;
            let registry = &mut self.registry;
            self.timers.expiries.retain(|_, keys| {
                keys.retain(|key| registry.get(*key).is_some());
                keys.shrink_to_fit();
                !keys.is_empty()
            });
        }
    }

    fn cut_unread(&mut self) {
        let now = Instant::now();
        for (deadline, key) in std::mem::take(&mut self.timers.ending) {
            let finished = match self.registry.get(key).map(|connection| &connection.outlet) {
                None => continue,
                Some(Outlet::Queue { outbox, .. }) => outbox.is_finished(),
                Some(Outlet::Socket(..)) => false, // the poller says when its peer has closed it
            };
            if finished || deadline <= now {
                self.remove(key, CloseReason::ClientGone);
            } else {
                self.timers.ending.push((deadline, key));
            }
        }
    }

    fn drain_due(&mut self) {
        let now = Instant::now();
        while self.timers.draining.last().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, key)) = self.timers.draining.pop() {
                self.end(key, CloseReason::Drain);
            }
        }
    }

    /// Spread over the interval, so that many streams don't all beat in one tick.
    fn heartbeat(&mut self) {
        let (ticks, every) = (self.timers.ticks, self.timers.ticks_per_beat);
        let mut due = Vec::new();
        let mut gone = Vec::new();
        for (key, connection) in self.registry.iter().filter(|(key, _)| key.slot % every == ticks % every) {
            match &connection.outlet {
                Outlet::Queue { outbox, .. } if outbox.is_finished() => gone.push(key),
                Outlet::Queue { outbox, .. } if outbox.is_empty() && !outbox.is_closing() => due.push(key),
                Outlet::Socket(writer, _) if !writer.is_waiting() => due.push(key),
                _ => {}
            }
        }
        for key in gone {
            self.remove(key, CloseReason::ClientGone);
        }
        if !due.is_empty() {
            let beat = [Frame::moment("heartbeat", self.head)];
            due.into_iter().for_each(|key| self.tell(key, &beat));
        }
    }
}
