//! The window: the newest part of the log in memory, as a pure structure.
//!
//! It knows where it begins, so that it can say of any position whether everything after it is here.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashMap;

use crate::event::Channel;
use crate::event::Cursor;
use crate::event::Entry;
use crate::event::Epoch;
use crate::event::Fingerprint;
use crate::event::LogId;

/// How much a window may hold.
#[derive(Debug, Clone, Copy)]
pub struct WindowLimits {
    /// Entries at most.
    pub entries_max: usize,
    /// Bytes at most, by `Entry::weight`.
    pub bytes_max: usize,
}

/// What the window can say about a cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// The cursor's entry is known and is the one it names: everything after it is here.
    Here,
    /// Older than the window: the log itself has to be asked.
    Older,
    /// Newer than the window's end: wait, or ask the log.
    Newer,
    /// Another log, or another entry at that position.
    Refuted,
}

/// The newest entries of one log, in order.
#[derive(Debug)]
pub struct EventLog {
    epoch: Epoch,
    /// The entry before the first one held; zero at the beginning of a log.
    before: (LogId, Fingerprint),
    entries: VecDeque<Arc<Entry>>,
    /// Number of the first entry held; entries are numbered from the beginning of the window's life.
    first: u64,
    by_channel: HashMap<Channel, Numbers>,
    bytes: usize,
    limits: WindowLimits,
}

/// Numbers of a channel's entries, in order. Most channels are quiet: a few need no memory of their own.
#[derive(Debug)]
enum Numbers {
    Few(usize, [u64; Self::FEW]),
    Many(VecDeque<u64>),
}

impl Default for Numbers {
    fn default() -> Self {
        Self::Few(0, [0; Self::FEW])
    }
}

impl Numbers {
    const FEW: usize = 3;

    fn push(&mut self, number: u64) {
        match self {
            Self::Few(count, few) => match few.get_mut(*count) {
                Some(slot) => (*slot, *count) = (number, *count + 1),
                None => *self = Self::Many(few.iter().copied().chain([number]).collect()),
            },
            Self::Many(many) => many.push_back(number),
        }
    }

    fn pop_first(&mut self) {
        match self {
            Self::Few(count, few) => {
                few.rotate_left(1);
                *count = count.saturating_sub(1);
            }
            Self::Many(many) => {
                many.pop_front();
                if many.len() <= Self::FEW / 2 {
                    let left = std::mem::take(many);
                    *self = Self::default();
                    left.into_iter().for_each(|number| self.push(number));
                } else if many.len() * 4 < many.capacity() {
                    many.shrink_to(many.len() * 2);
                }
            }
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Few(count, _) => *count,
            Self::Many(many) => many.len(),
        }
    }

    fn get(&self, at: usize) -> Option<u64> {
        match self {
            Self::Few(count, few) => few.get(at).copied().filter(|_| at < *count),
            Self::Many(many) => many.get(at).copied(),
        }
    }

    /// Those in `[start, end)`.
    fn from(&self, start: u64, end: u64) -> impl Iterator<Item = u64> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            if self.get(middle).is_some_and(|number| number < start) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        (low..self.len()).map_while(|at| self.get(at)).take_while(move |number| *number < end)
    }

    fn newest_first(&self) -> impl Iterator<Item = u64> {
        (0..self.len()).rev().filter_map(|at| self.get(at))
    }
}

impl EventLog {
    /// An empty window of the log `epoch` that continues after the entry `before`.
    #[must_use]
    pub fn new(epoch: Epoch, before: (LogId, Fingerprint), limits: WindowLimits) -> Self {
        Self { epoch, before, entries: VecDeque::new(), first: 0, by_channel: HashMap::new(), bytes: 0, limits }
    }

    /// Adds the next entry of the log; one at or before the end is ignored. Drops from the front what exceeds the limits.
    pub fn push(&mut self, entry: Arc<Entry>) {
        if entry.id <= self.head().at {
            return;
        }
        let number = self.first + self.entries.len() as u64;
        if let Some(event) = &entry.event {
            self.by_channel.entry(event.channel.clone()).or_default().push(number);
        }
        self.bytes += entry.weight();
        self.entries.push_back(entry);
        while self.entries.len() > self.limits.entries_max || self.bytes > self.limits.bytes_max {
            self.drop_first();
        }
    }

    /// Forgets entries before `id` (by age, for example).
    pub fn trim_before(&mut self, id: LogId) {
        while self.entries.front().is_some_and(|entry| entry.id < id) {
            self.drop_first();
        }
    }

    fn drop_first(&mut self) {
        let Some(entry) = self.entries.pop_front() else { return };
        self.first += 1;
        self.bytes -= entry.weight();
        self.before = (entry.id, entry.print);
        let Some(event) = &entry.event else { return };
        if let Some(numbers) = self.by_channel.get_mut(&event.channel) {
            numbers.pop_first();
            if numbers.len() == 0 {
                self.by_channel.remove(&event.channel);
            }
        }
        if self.entries.len() * 4 < self.entries.capacity() && self.entries.capacity() > 1024 {
            self.entries.shrink_to(self.entries.len() * 2);
        }
        if self.by_channel.len() * 4 < self.by_channel.capacity() && self.by_channel.capacity() > 1024 {
            self.by_channel.shrink_to(self.by_channel.len() * 2);
        }
    }

    /// The cursor of the newest entry.
    #[must_use]
    pub fn head(&self) -> Cursor {
        let (at, print) = self.entries.back().map_or(self.before, |entry| (entry.id, entry.print));
        Cursor { epoch: self.epoch, at, print }
    }

    /// The position before the first entry held: from here on everything is in memory.
    #[must_use]
    pub fn floor(&self) -> LogId {
        self.before.0
    }

    /// Which log this is.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Entries held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes held, by `Entry::weight`.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether everything after the cursor is here, and is what the cursor's owner would have been sent.
    #[must_use]
    pub fn lookup(&self, cursor: &Cursor) -> Lookup {
        if cursor.epoch != self.epoch {
            return Lookup::Refuted;
        }
        if cursor.at == self.before.0 {
            return if cursor.print == self.before.1 { Lookup::Here } else { Lookup::Refuted };
        }
        if cursor.at < self.before.0 {
            return Lookup::Older;
        }
        if cursor.at > self.head().at {
            return Lookup::Newer;
        }
        match self.entries.binary_search_by(|entry| entry.id.cmp(&cursor.at)) {
            Ok(found) if self.entries.get(found).is_some_and(|e| e.print == cursor.print) => Lookup::Here,
            _ => Lookup::Refuted,
        }
    }

    /// The cursor of the entry at `at`, where the window holds it (or ends right before it).
    #[must_use]
    pub fn cursor_at(&self, at: LogId) -> Option<Cursor> {
        if at == self.before.0 {
            return Some(Cursor { epoch: self.epoch, at, print: self.before.1 });
        }
        let found = self.entries.binary_search_by(|entry| entry.id.cmp(&at)).ok()?;
        self.entries.get(found).map(|entry| Cursor { epoch: self.epoch, at, print: entry.print })
    }

    /// The entry at `at`, if it is held.
    #[must_use]
    pub fn entry(&self, at: LogId) -> Option<&Arc<Entry>> {
        let found = self.entries.binary_search_by(|entry| entry.id.cmp(&at)).ok()?;
        self.entries.get(found)
    }

    /// The newest entries of a channel, newest first.
    pub fn newest(&self, channel: &Channel) -> impl Iterator<Item = &Arc<Entry>> {
        let numbers = self.by_channel.get(channel).into_iter().flat_map(Numbers::newest_first);
        numbers.filter_map(|number| self.at(number))
    }

    /// Entries of these channels after `after`, up to and including `upto`, in log order, at most `max`.
    #[must_use]
    pub fn range<'a>(
        &self,
        channels: impl Iterator<Item = &'a Channel>,
        after: LogId,
        upto: LogId,
        max: usize,
    ) -> Vec<Arc<Entry>> {
        let start = self.first + self.entries.partition_point(|entry| entry.id <= after) as u64;
        let end = self.first + self.entries.partition_point(|entry| entry.id <= upto) as u64;
        let mut numbers: Vec<u64> = Vec::new();
        for channel in channels {
            let Some(list) = self.by_channel.get(channel) else { continue };
            numbers.extend(list.from(start, end).take(max));
        }
        numbers.sort_unstable();
        numbers.dedup();
        numbers.truncate(max);
        numbers.into_iter().filter_map(|number| self.at(number)).cloned().collect()
    }

    /// The newest entry of a channel at or before `upto`.
    #[must_use]
    pub fn last(&self, channel: &Channel, upto: LogId) -> Option<&Arc<Entry>> {
        self.newest(channel).find(|entry| entry.id <= upto)
    }

    /// Every entry held, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Arc<Entry>> {
        self.entries.iter()
    }

    fn at(&self, number: u64) -> Option<&Arc<Entry>> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.entries.get(index)
    }

    /// Panics when the two indexes disagree. For tests.
    #[cfg(test)]
    pub(crate) fn check_invariants(&self) {
        let listed: usize = self.by_channel.values().map(Numbers::len).sum();
        let events = self.entries.iter().filter(|entry| entry.event.is_some()).count();
        assert_eq!(listed, events, "every event is in the index once");
        assert_eq!(self.bytes, self.entries.iter().map(|e| e.weight()).sum::<usize>());
        assert!(self.entries.iter().zip(self.entries.iter().skip(1)).all(|(a, b)| a.id < b.id));
        for (channel, numbers) in &self.by_channel {
            assert!(numbers.len() > 0, "maps shrink");
            for number in numbers.newest_first() {
                let entry = self.at(number).expect("the index names an entry that is held");
                assert_eq!(&entry.event.as_ref().expect("an event").channel, channel);
            }
        }
    }
}
