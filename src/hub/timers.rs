//! What a lane does by the clock: heartbeats, the ends of credentials, slots of a drain, ends that nobody reads.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::clock;
use crate::hub::CloseReason;
use crate::hub::Frame;
use crate::hub::LaneSettings;
use crate::hub::ages::Ages;
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
    pub(super) ticks: u32,
    pub(super) ages: Ages,
    ticks_per_beat: u32,
    ticks_per_ping: u32,
    ticks_lively: u32,
    /// Second at which credentials end. A stream that leaves stays here until the next sweep: finding it would cost more.
    expiries: BTreeMap<u64, Vec<Key>>,
    stale: usize,
    ending: Vec<(Instant, Key)>,
    /// Latest first.
    draining: Vec<(Instant, Key)>,
}

impl Timers {
    pub(super) fn new(settings: &LaneSettings) -> Self {
        let ticks = |every: Duration| u32::try_from(every.as_millis() / TICK.as_millis()).unwrap_or(u32::MAX).max(1);
        let (ticks_per_beat, ticks_per_ping) = (ticks(settings.heartbeat), ticks(settings.ping));
        let ticks_lively = ticks(settings.lively);
        Self {
            ticks: 0,
            ages: Ages::new(settings.age_max),
            ticks_per_beat,
            ticks_per_ping,
            ticks_lively,
            expiries: BTreeMap::new(),
            stale: 0,
            ending: Vec::new(),
            draining: Vec::new(),
        }
    }

    fn look_at(&mut self, second: u64, key: Key) {
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
        self.rotate();
        self.drain_due();
        self.heartbeat();
        self.restate();
        self.shrink();
    }

    fn expire(&mut self) {
        let now = clock::now_s();
        while self.timers.expiries.first_key_value().is_some_and(|(at, _)| *at <= now) {
            let (_, keys) = self.timers.expiries.pop_first().unwrap_or_default();
            for key in keys {
                self.look_at_expiry(key, now);
            }
        }
        if self.timers.stale > self.registry.len() + STALE_MAX {
            self.timers.stale = 0;
            let (registry, notice) = (&mut self.registry, self.settings.expiry_notice);
            self.timers.expiries.retain(|second, keys| {
                let counts = |at: u64| at == *second || notice_at(at, notice) == *second;
                keys.retain(|key| registry.get(*key).is_some_and(|connection| counts(connection.expires_at)));
                keys.shrink_to_fit();
                !keys.is_empty()
            });
        }
    }

    /// Notes when a stream's credential ends, and looks at it again when it is to be told so.
    pub(super) fn expires(&mut self, key: Key, expires_at: u64) {
        let Some(connection) = self.registry.get(key) else { return };
        let renewed = connection.expires_at > 0;
        (connection.expires_at, connection.warned) = (expires_at, false);
        if renewed {
            self.timers.left(); // what was noted for the former credential
        }
        self.timers.look_at(notice_at(expires_at, self.settings.expiry_notice), key);
    }

    /// Says that the credential ends soon, or ends the stream; after a renewal it is neither.
    fn look_at_expiry(&mut self, key: Key, now: u64) {
        let Some(connection) = self.registry.get(key).filter(|connection| connection.ending.is_none()) else { return };
        let expires_at = connection.expires_at;
        if expires_at <= now {
            self.end(key, CloseReason::TokenExpired);
        } else if !connection.warned && notice_at(expires_at, self.settings.expiry_notice) <= now {
            connection.warned = true;
            self.timers.look_at(expires_at, key);
            let leeway_s = self.settings.leeway.as_secs();
            self.tell(key, &[Frame::expiring(expires_at.saturating_sub(leeway_s))]);
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
        let Timers { ticks, ticks_per_beat, ticks_per_ping, ticks_lively, .. } = self.timers;
        let (mut due, mut asked) = (Vec::new(), Vec::new());
        let mut gone = Vec::new();
        for (key, connection) in self.registry.iter() {
            let often = if connection.lively { ticks_lively } else { u32::MAX };
            let (every, ping_every) = (ticks_per_beat.min(often), ticks_per_ping.min(often));
            let is_asked = key.slot % ping_every == ticks % ping_every && connection.ending.is_none();
            if is_asked && matches!(&connection.outlet, Outlet::Socket(_, Some(keeper)) if keeper.listens()) {
                asked.push(key);
            }
            if key.slot % every != ticks % every {
                continue;
            }
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
        self.ping(asked);
    }

    /// Gives memory back that a crowd left behind.
    pub(super) fn shrink(&mut self) {
        self.registry.shrink();
        if self.by_id.len() * 4 < self.by_id.capacity() {
            self.by_id.shrink_to_fit();
        }
    }

    /// Ends everything, as far as that can be done without waiting.
    pub(super) fn stop(&mut self) {
        let keys: Vec<Key> = self.registry.iter().map(|(key, _)| key).collect();
        keys.into_iter().for_each(|key| self.end(key, CloseReason::Shutdown));
    }

    pub(super) fn plan_drain(&mut self, within: Duration) {
        self.leaving = true;
        let keys = self.registry.iter().filter(|(_, connection)| connection.ending.is_none()).map(|(key, _)| key);
        self.timers.plan_drain(keys.collect(), within);
    }
}

/// When a stream is told that its credential ends soon: seconds since the Unix epoch.
fn notice_at(expires_at: u64, notice: Duration) -> u64 {
    expires_at.saturating_sub(notice.as_secs())
}
