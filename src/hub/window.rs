//! The window of this node, shared by the task that fills it and the streams that catch up from it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::watch;

use crate::event::Channel;
use crate::event::Cursor;
use crate::event::Entry;
use crate::event::Epoch;
use crate::event::EventLog;
use crate::event::Fingerprint;
use crate::event::LogId;
use crate::event::Lookup;
use crate::event::WindowLimits;

/// How often old entries are looked for while the log is filled.
const TRIM_EVERY_ENTRIES: usize = 256;

/// The newest part of the log in memory. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Window {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    limits: WindowLimits,
    retention: Duration,
    log: RwLock<State>,
    /// Generation and head; generation 0: nothing is known yet.
    head: watch::Sender<(u64, LogId)>,
}

#[derive(Debug)]
struct State {
    /// Counts beginnings: a position of another generation means nothing here.
    generation: u64,
    log: EventLog,
    since_trim: usize,
}

/// A part of the log for some channels.
#[derive(Debug)]
pub struct Page {
    /// The entries, in order.
    pub entries: Vec<Arc<Entry>>,
    /// Up to here nothing else of these channels happened.
    pub upto: LogId,
    /// Whether `upto` is the end that was asked for.
    pub complete: bool,
}

impl Window {
    /// An empty window that waits for its log.
    #[must_use]
    pub fn new(limits: WindowLimits, retention: Duration) -> Self {
        let log = EventLog::new(Epoch::default(), (LogId::ZERO, Fingerprint::default()), limits);
        let state = State { generation: 0, log, since_trim: 0 };
        let (head, _) = watch::channel((0, LogId::ZERO));
        Self { shared: Arc::new(Shared { limits, retention, log: RwLock::new(state), head }) }
    }

    pub(super) fn open(&self, epoch: Epoch, before: (LogId, Fingerprint), entries: Vec<Arc<Entry>>) -> u64 {
        let mut log = EventLog::new(epoch, before, self.shared.limits);
        for entry in entries {
            log.push(entry);
        }
        let mut state = self.shared.log.write();
        state.generation += 1;
        state.log = log;
        let told = (state.generation, state.log.head().at);
        drop(state);
        self.shared.head.send_replace(told);
        told.0
    }

    pub(super) fn extend(&self, entries: &[Arc<Entry>]) {
        let mut state = self.shared.log.write();
        for entry in entries {
            state.log.push(Arc::clone(entry));
        }
        state.since_trim += entries.len();
        if state.since_trim >= TRIM_EVERY_ENTRIES {
            state.since_trim = 0;
            let kept_ms = u64::try_from(self.shared.retention.as_millis()).unwrap_or(u64::MAX);
            let floor = state.log.head().at.ms.saturating_sub(kept_ms);
            state.log.trim_before(LogId { ms: floor, seq: 0 });
        }
        let told = (state.generation, state.log.head().at);
        drop(state);
        self.shared.head.send_replace(told);
    }

    /// Entries held, and their bytes.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        let state = self.shared.log.read();
        (state.log.len(), state.log.bytes())
    }

    /// The newest cursor.
    #[must_use]
    pub fn head(&self) -> Cursor {
        self.shared.log.read().log.head()
    }

    /// The generation, the position from which on everything is here, and the newest one.
    #[must_use]
    pub fn extent(&self) -> (u64, LogId, LogId) {
        let state = self.shared.log.read();
        (state.generation, state.log.floor(), state.log.head().at)
    }

    /// The number of the beginning since which positions are comparable; 0: no log yet.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.shared.log.read().generation
    }

    /// What the window says about a cursor.
    #[must_use]
    pub fn lookup(&self, cursor: &Cursor) -> Lookup {
        self.shared.log.read().log.lookup(cursor)
    }

    /// Entries of these channels in `(after, upto]`, at most `max`; `None` when the window no longer reaches back to `after`.
    #[must_use]
    pub fn page(&self, channels: &[Channel], after: LogId, upto: LogId, max: usize) -> Option<Page> {
        let state = self.shared.log.read();
        if after < state.log.floor() {
            return None;
        }
        let entries = state.log.range(channels.iter(), after, upto, max);
        let complete = entries.len() < max;
        let last = entries.last().map_or(upto, |entry| entry.id);
        Some(Page { entries, upto: if complete { upto } else { last }, complete })
    }

    /// The newest entry of a channel at or before `upto`.
    #[must_use]
    pub fn last(&self, channel: &Channel, upto: LogId) -> Option<Arc<Entry>> {
        self.shared.log.read().log.last(channel, upto).cloned()
    }

    /// The entry at `at`, if it is held.
    #[must_use]
    pub fn entry(&self, at: LogId) -> Option<Arc<Entry>> {
        self.shared.log.read().log.entry(at).cloned()
    }

    /// The newest entries, newest first, at most `max`: of a channel, or of all.
    #[must_use]
    pub fn newest(&self, channel: Option<&Channel>, max: usize) -> Vec<Arc<Entry>> {
        let state = self.shared.log.read();
        match channel {
            Some(channel) => state.log.newest(channel).take(max).cloned().collect(),
            None => state.log.iter().rev().take(max).cloned().collect(),
        }
    }

    /// How many entries each channel has after a position, among the newest `scanned_max` of the log.
    #[must_use]
    pub fn busy(&self, since: LogId, scanned_max: usize) -> HashMap<Channel, usize> {
        let mut busy = HashMap::new();
        let state = self.shared.log.read();
        let young = state.log.iter().rev().take(scanned_max).take_while(|entry| entry.id > since);
        for event in young.filter_map(|entry| entry.event.as_ref()) {
            *busy.entry(event.channel.clone()).or_default() += 1;
        }
        busy
    }

    /// Waits until the head is at or after `at`, at most `bound`. Answers whether it is.
    pub async fn reached(&self, at: LogId, bound: Duration) -> bool {
        let mut head = self.shared.head.subscribe();
        let there = head.wait_for(|(generation, head)| *generation > 0 && *head >= at);
        tokio::time::timeout(bound, there).await.is_ok_and(|found| found.is_ok())
    }
}
