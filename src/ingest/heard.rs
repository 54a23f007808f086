//! Events that this node heard on `channel-events` and has not seen in the log yet: a pure structure, beside `raw`.
//!
//! As with raw updates, every node holds every message under the same name. The owner appends at once; the others strike off
//! what the log shows, and append what it doesn't show within `HOLD`. An event is judged by nothing but its name, which the
//! log takes once, so nobody has to know what came before. The order of a channel holds because each node appends in order,
//! begins only when everything from before its subscription is in the log, and stops at what fails.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::event::Id;
use crate::event::RawName;
use crate::ingest::Publication;
use crate::ingest::raw::BATCH_UPDATES_MAX;
use crate::ingest::raw::HOLD;

/// Events and bytes held at most; beyond them new ones are dropped and counted.
pub(super) const HELD_MAX: usize = 50_000;
pub(super) const HELD_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of one batch.
const BATCH_BYTES_MAX: usize = 512 * 1024;
/// Pause before an append that failed is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// What waited longer is dropped: the log remembers names for ten minutes, and after that it would take one twice.
const HELD_AGE_MAX: Duration = Duration::from_secs(540);
/// Offsets of events begin here, above all of raw updates: in the log both have names, and no two may be the same.
const FIRST_OFFSET: u64 = 1 << 41;
/// For what was heard before the first mark, counted backwards; all such offsets are above `UNSURE`.
const BEFORE_MARK: u64 = 1 << 42;
const UNSURE: u64 = FIRST_OFFSET + FIRST_OFFSET / 2;

/// An event that waits to be appended.
#[derive(Debug, Clone)]
pub(super) struct Heard {
    pub(super) name: RawName,
    /// The document or user. The events of one are appended in their order.
    pub(super) resource: Id,
    pub(super) publication: Arc<Publication>,
    heard_at: Instant,
    weight: usize,
}

#[derive(Debug, Default)]
struct Queue {
    items: VecDeque<Heard>,
    /// It stands in `ready`.
    listed: bool,
}

/// All that is held.
#[derive(Debug, Default)]
pub(super) struct HeardQueue {
    queues: HashMap<Id, Queue>,
    /// Resources that may have something to append.
    ready: VecDeque<Id>,
    held: usize,
    bytes: usize,
    mark: Option<u64>,
    /// The first mark since the subscription, 0: none yet; and how many events came before it.
    since: u64,
    before: u64,
    offset: u64,
    /// Heard since the subscription and before its first mark.
    unnamed: Vec<(Id, Arc<Publication>, usize)>,
    alone: bool,
    /// Nothing from before the subscription is left for others to append.
    caught_up: bool,
    /// A batch is under way. One at a time: the next gathers meanwhile.
    under_way: bool,
    retry_at: Option<Instant>,
}

impl HeardQueue {
    /// The subscription is new: what is held keeps its names, what comes needs a mark first.
    pub(super) fn subscribed(&mut self, alone: bool) {
        if !(alone && self.alone) {
            // Heard over a subscription that broke before its first mark, and others were there: they have names for it.
            self.bytes -= self.unnamed.drain(..).map(|(_, _, weight)| weight).sum::<usize>();
        }
        (self.mark, self.since, self.before) = (None, 0, 0);
        (self.alone, self.caught_up) = (alone, false);
    }

    /// A mark was heard: names start over. The first one also names what came before it, counted backwards.
    pub(super) fn mark(&mut self, number: u64, now: Instant) {
        if self.mark.is_none() {
            let unnamed = std::mem::take(&mut self.unnamed);
            self.before = unnamed.len() as u64;
            let first = BEFORE_MARK - self.before;
            for (offset, (resource, publication, weight)) in (first..).zip(unnamed) {
                self.bytes -= weight;
                let name = RawName { mark: number.saturating_sub(1), offset };
                self.hold(Heard { name, resource, publication, heard_at: now, weight });
            }
            self.since = number;
        }
        self.mark = Some(number);
        self.offset = 0;
    }

    /// A message was heard that is nothing to append: it counts all the same, on every node.
    pub(super) fn skip(&mut self) {
        self.offset += 1;
    }

    /// An event was heard. `false`: too much is held, it is dropped.
    pub(super) fn hear(&mut self, resource: Id, publication: Publication, weight: usize, now: Instant) -> bool {
        self.offset += 1;
        if self.held + self.unnamed.len() >= HELD_MAX || self.bytes + weight > HELD_BYTES_MAX {
            return false;
        }
        let publication = Arc::new(publication);
        match self.mark {
            Some(mark) => {
                let name = RawName { mark, offset: FIRST_OFFSET + self.offset };
                self.hold(Heard { name, resource, publication, heard_at: now, weight });
            }
            None => {
                self.bytes += weight;
                self.unnamed.push((resource, publication, weight));
            }
        }
        true
    }

    fn hold(&mut self, heard: Heard) {
        self.held += 1;
        self.bytes += heard.weight;
        let resource = heard.resource.clone();
        self.queues.entry(resource.clone()).or_default().items.push_back(heard);
        self.list(&resource);
    }

    fn list(&mut self, resource: &Id) {
        if let Some(queue) = self.queues.get_mut(resource).filter(|queue| !queue.listed) {
            queue.listed = true;
            self.ready.push_back(resource.clone());
        }
    }

    /// The log shows an entry of that name.
    pub(super) fn judged(&mut self, resource: &Id, name: RawName) {
        if name.offset >= FIRST_OFFSET {
            self.remove(resource, |heard| heard.name == name);
        }
    }

    fn remove(&mut self, resource: &Id, goes: impl Fn(&Heard) -> bool) {
        let Some(queue) = self.queues.get_mut(resource) else { return };
        let (held, bytes) = (&mut self.held, &mut self.bytes);
        queue.items.retain(|heard| {
            let goes = goes(heard);
            if goes {
                *held -= 1;
                *bytes -= heard.weight;
            }
            !goes
        });
        if queue.items.is_empty() && !queue.listed {
            self.queues.remove(resource);
            if self.queues.len() * 4 < self.queues.capacity() && self.queues.capacity() > 1024 {
                self.queues.shrink_to(self.queues.len() * 2);
            }
        }
    }

    /// Whether this node may append, as it is with raw updates: they come over the same subscription. What came before the
    /// first mark is dropped where somebody else had names for it.
    pub(super) fn catch_up(&mut self, caught_up: bool, had_elder: bool) {
        if !caught_up || self.caught_up || self.since == 0 {
            return;
        }
        self.caught_up = true;
        if had_elder {
            let mark = self.since.saturating_sub(1);
            let unsure = |heard: &Heard| heard.name.mark == mark && heard.name.offset >= UNSURE;
            for resource in self.queues.keys().cloned().collect::<Vec<Id>>() {
                self.remove(&resource, unsure);
            }
        }
    }

    /// Finds what others should have appended by now, and drops what is too old: its number.
    pub(super) fn look(&mut self, now: Instant) -> usize {
        let before = self.held;
        let old = |heard: &Heard| now >= heard.heard_at + HELD_AGE_MAX;
        let aged = |queue: &Queue| queue.items.front().is_some_and(old);
        let due =
            |queue: &Queue| !queue.listed && queue.items.front().is_some_and(|heard| now >= heard.heard_at + HOLD);
        let aged: Vec<Id> = self.queues.iter().filter(|(_, queue)| aged(queue)).map(|(id, _)| id.clone()).collect();
        aged.iter().for_each(|resource| self.remove(resource, old));
        let due: Vec<Id> = self.queues.iter().filter(|(_, queue)| due(queue)).map(|(id, _)| id.clone()).collect();
        due.iter().for_each(|resource| self.list(resource));
        before - self.held
    }

    /// What is this node's turn, each resource in order; it is under way until `done`.
    pub(super) fn next_batch(&mut self, owns: impl Fn(&Id) -> bool, now: Instant) -> Vec<Heard> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        if !self.caught_up || self.under_way || self.retry_at.is_some_and(|at| now < at) {
            return batch;
        }
        while let Some(resource) = self.ready.pop_front() {
            let Some(queue) = self.queues.get_mut(&resource) else { continue };
            queue.listed = false;
            let owned = owns(&resource);
            for heard in queue.items.iter().take_while(|heard| owned || now >= heard.heard_at + HOLD) {
                if batch.len() >= BATCH_UPDATES_MAX || bytes > BATCH_BYTES_MAX {
                    // The rest of it goes first with the next batch.
                    queue.listed = true;
                    break;
                }
                bytes += heard.weight;
                batch.push(heard.clone());
            }
            match (queue.listed, queue.items.is_empty()) {
                (true, _) => {
                    self.ready.push_front(resource);
                    break;
                }
                (false, true) => drop(self.queues.remove(&resource)),
                (false, false) => {}
            }
        }
        self.under_way = !batch.is_empty();
        batch
    }

    /// The batch under way has ended.
    pub(super) fn done(&mut self, batch: &[Heard], appended: bool, now: Instant) {
        self.under_way = false;
        self.retry_at = (!appended).then_some(now + RETRY_PAUSE);
        for heard in batch {
            if appended {
                self.remove(&heard.resource, |held| held.name == heard.name);
            }
            self.list(&heard.resource);
        }
    }

    /// How many events came before the first mark of the subscription.
    pub(super) fn before(&self) -> u64 {
        self.before
    }

    /// The mark of the oldest event held.
    pub(super) fn floor(&self) -> Option<u64> {
        self.queues.values().filter_map(|queue| queue.items.front()).map(|heard| heard.name.mark).min()
    }

    /// Events held.
    pub(super) fn held(&self) -> usize {
        self.held
    }
}
