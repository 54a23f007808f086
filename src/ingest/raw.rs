//! Raw updates that this node heard and has not yet seen judged: a pure structure.
//!
//! Every node holds every raw update. Its owner appends it at once; the others strike it off when the log shows that it was
//! judged, and append it themselves when that takes longer than `HOLD`. The append script judges a name once, so two nodes
//! that both append do no harm. Of each job one batch is under way at a time, in the order in which its updates were sent.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use tokio::time::Instant;

use crate::broker::Seed;
use crate::broker::Standing;
use crate::event::Id;
use crate::event::LogId;
use crate::event::RawName;
use crate::ingest::Elders;
use crate::ingest::ahead::Ahead;
use crate::jobs::JobUpdate;

/// How long another node may take to append what it owns.
pub(super) const HOLD: Duration = Duration::from_millis(300);
/// How long a new subscriber listens for others before it believes that it knows all of them: marks come twice a second.
const LISTEN: Duration = Duration::from_millis(1300);
/// Pause before an append that failed is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// Updates and bytes held at most; beyond them new ones are dropped and counted.
pub(super) const HELD_MAX: usize = 200_000;
pub(super) const HELD_BYTES_MAX: usize = 128 * 1024 * 1024;
/// Updates and bytes of one batch: what gathers while the batches before it are under way.
pub(super) const BATCH_UPDATES_MAX: usize = 256;
const BATCH_BYTES_MAX: usize = 512 * 1024;
/// Offsets that no message counted after a mark can have: for what was heard before the first mark, counted backwards.
const BEFORE_MARK: u64 = 1 << 40;

/// An update that waits to be judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) name: RawName,
    pub(super) update: Arc<JobUpdate>,
    pub(super) accepted_us: u64,
    pub(super) late: bool,
    /// What the database knows of the job, once it was asked.
    pub(super) seed: Option<Arc<Seed>>,
    heard_at: Instant,
    weight: usize,
    /// Answered `Behind`: the log up to here tells whether it was judged.
    behind: Option<LogId>,
    /// An append failed: not before this.
    retry_at: Option<Instant>,
}

impl Held {
    fn is_due(&self, owned: impl Fn() -> bool, seen: LogId, now: Instant) -> bool {
        if self.retry_at.is_some_and(|at| now < at) {
            return false;
        }
        if let Some(end) = self.behind {
            return end <= seen;
        }
        owned() || now >= self.heard_at + HOLD
    }
}

#[derive(Debug, Default)]
struct JobQueue {
    items: VecDeque<Held>,
    /// A batch with its first updates is under way, or the database is asked for its seed.
    under_way: bool,
    /// It stands in `ready`.
    listed: bool,
    seed: Option<Arc<Seed>>,
}

impl JobQueue {
    fn is_due(&self, owned: impl Fn() -> bool, seen: LogId, now: Instant) -> bool {
        !self.under_way && self.items.front().is_some_and(|held| held.is_due(owned, seen, now))
    }

    /// Adds what is due to the batch, in order and as far as there is room. Answers the bytes.
    fn take_into(&mut self, batch: &mut Vec<Held>, bytes_max: usize, owned: bool, seen: LogId, now: Instant) -> usize {
        let (before, mut bytes) = (batch.len(), 0);
        let seed = self.seed.clone();
        for held in self.items.iter_mut().take(BATCH_UPDATES_MAX - before) {
            if bytes >= bytes_max || !held.is_due(|| owned, seen, now) {
                break;
            }
            if held.behind.take().is_some() {
                // Not struck off although the log was read that far: it was passed over and is judged now, late.
                held.late = true;
            }
            bytes += held.weight;
            batch.push(Held { seed: seed.clone(), ..held.clone() });
        }
        self.under_way = batch.len() > before;
        if self.under_way {
            self.seed = None;
        }
        bytes
    }

    fn find(&mut self, name: RawName) -> Option<&mut Held> {
        self.items.iter_mut().find(|held| held.name == name)
    }
}

/// What became of an update that was under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Judged, one way or the other.
    Judged,
    /// Perhaps judged: the log up to here tells.
    Behind(LogId),
    /// Not judged: the log does not know the job, or waits for an update before this one.
    Unknown,
    /// Not known; try again.
    Failed,
}

/// All that is held.
#[derive(Debug, Default)]
pub(super) struct RawQueue {
    jobs: HashMap<Id, JobQueue>,
    /// Jobs that may have something to append.
    ready: VecDeque<Id>,
    held: usize,
    bytes: usize,
    mark: Option<u64>,
    offset: u64,
    /// Heard since the subscription and before its first mark.
    unnamed: Vec<(Arc<JobUpdate>, u64, usize)>,
    alone: bool,
    /// The first mark since the subscription, 0: none yet; and how many messages came before it.
    since: u64,
    before: u64,
    /// Somebody who has heard more was there since the subscription.
    had_elder: bool,
    subscribed_at: Option<Instant>,
    /// Everything from before the subscription is judged, so the oldest update held of a job is its next one. Until then
    /// this node appends nothing: it might put a newer update before one that only others have heard.
    caught_up: bool,
    /// Position up to which judgements were struck off.
    seen: LogId,
    /// Judged, and not heard yet.
    ahead: Ahead,
}

impl RawQueue {
    /// The subscription is new: what is held keeps its names, what comes needs a mark first.
    pub(super) fn subscribed(&mut self, alone: bool, now: Instant) {
        if !(alone && self.alone) {
            // Heard over a subscription that broke before its first mark, and others were there: they have names for it.
            let forgotten = std::mem::take(&mut self.unnamed);
            self.bytes -= forgotten.iter().map(|(_, _, weight)| weight).sum::<usize>();
        }
        (self.mark, self.since, self.before) = (None, 0, 0);
        self.subscribed_at = Some(now);
        self.alone = alone;
        self.caught_up = false;
        self.had_elder = false;
    }

    /// A mark was heard: names start over. The first one after a subscription also names what came before it, by counting
    /// backwards: the same for everybody who began with this mark.
    pub(super) fn mark(&mut self, number: u64, now: Instant) {
        if self.mark.is_none() {
            let unnamed = std::mem::take(&mut self.unnamed);
            self.since = number;
            self.before = unnamed.len() as u64;
            for (at, (update, accepted_us, weight)) in unnamed.into_iter().enumerate() {
                let offset = BEFORE_MARK - self.before + at as u64;
                let name = RawName { mark: number.saturating_sub(1), offset };
                self.bytes -= weight;
                self.hold(name, update, accepted_us, weight, now);
            }
            self.caught_up = self.alone;
        }
        self.ahead.mark(number);
        self.mark = Some(number);
        self.offset = 0;
    }

    /// The log began anew: positions in it mean nothing any more.
    pub(super) fn reopened(&mut self) {
        self.seen = LogId::ZERO;
        self.ahead.clear();
        self.jobs.values_mut().flat_map(|queue| &mut queue.items).for_each(|held| held.behind = None);
    }

    /// A message was heard that is no valid update: it counts all the same, on every node.
    pub(super) fn skip(&mut self) {
        self.offset += 1;
    }

    /// An update was heard. `false`: too much is held, it is dropped.
    pub(super) fn hear(&mut self, update: JobUpdate, accepted_us: u64, weight: usize, now: Instant) -> bool {
        self.offset += 1;
        if self.held + self.unnamed.len() >= HELD_MAX || self.bytes + weight > HELD_BYTES_MAX {
            return false;
        }
        let update = Arc::new(update);
        match self.mark {
            Some(mark) => self.hold(RawName { mark, offset: self.offset }, update, accepted_us, weight, now),
            None => {
                self.bytes += weight;
                self.unnamed.push((update, accepted_us, weight));
            }
        }
        true
    }

    fn hold(&mut self, name: RawName, update: Arc<JobUpdate>, accepted_us: u64, weight: usize, now: Instant) {
        if self.ahead.take(name) {
            return;
        }
        self.held += 1;
        self.bytes += weight;
        let new = || JobQueue { items: VecDeque::with_capacity(1), ..JobQueue::default() };
        let queue = self.jobs.entry(update.job.clone()).or_insert_with(new);
        // What can't be listed is found by the next look.
        if self.caught_up && self.ready.len() < HELD_MAX && !queue.under_way && !queue.listed {
            queue.listed = true;
            self.ready.push_back(update.job.clone());
        }
        queue.items.push_back(Held {
            name,
            update,
            accepted_us,
            late: false,
            seed: None,
            heard_at: now,
            weight,
            behind: None,
            retry_at: None,
        });
    }

    /// The log shows that this update was judged.
    pub(super) fn judged(&mut self, job: &Id, name: RawName) {
        // Names rise as messages come. The larger ones are of events, which are held elsewhere.
        if name.offset < BEFORE_MARK && self.mark.is_some_and(|mark| name > RawName { mark, offset: self.offset }) {
            return self.ahead.add(name);
        }
        let Some(queue) = self.jobs.get_mut(job) else { return };
        if let Some(at) = queue.items.iter().position(|held| held.name == name)
            && let Some(held) = queue.items.remove(at)
        {
            self.held -= 1;
            self.bytes -= held.weight;
        }
        if queue.items.is_empty() && !queue.under_way {
            self.jobs.remove(job);
            self.shrink();
        }
    }

    /// Every judgement up to here was struck off.
    pub(super) fn seen(&mut self, upto: LogId) {
        self.seen = self.seen.max(upto);
    }

    /// The next batch of what is this node's turn: of each job in order; it is under way until `done`.
    pub(super) fn next_batch(&mut self, owns: impl Fn(&Id) -> bool, now: Instant) -> Vec<Held> {
        let (mut batch, mut bytes) = (Vec::with_capacity(self.ready.len().min(BATCH_UPDATES_MAX)), 0);
        while self.caught_up && batch.len() < BATCH_UPDATES_MAX && bytes < BATCH_BYTES_MAX {
            let Some(job) = self.ready.pop_front() else { break };
            if let Some(queue) = self.jobs.get_mut(&job) {
                queue.listed = false;
                if !queue.under_way {
                    bytes += queue.take_into(&mut batch, BATCH_BYTES_MAX - bytes, owns(&job), self.seen, now);
                }
            }
        }
        batch
    }

    /// A job's updates that were under way have met their fates, in order. `true`: first the database has to be asked for its
    /// seed; until `seeded` it stays under way.
    pub(super) fn done(&mut self, job: &Id, fates: impl Iterator<Item = (RawName, Fate)>, now: Instant) -> bool {
        let Some(queue) = self.jobs.get_mut(job) else { return false };
        let (mut unknown, mut behind) = (false, false);
        for (name, fate) in fates {
            match fate {
                Fate::Judged => {
                    if let Some(at) = queue.items.iter().position(|held| held.name == name)
                        && let Some(held) = queue.items.remove(at)
                    {
                        self.held -= 1;
                        self.bytes -= held.weight;
                    }
                }
                Fate::Behind(end) => {
                    behind = true;
                    queue.find(name).into_iter().for_each(|held| held.behind = Some(end));
                }
                Fate::Unknown => unknown |= !behind,
                Fate::Failed => queue.find(name).into_iter().for_each(|held| held.retry_at = Some(now + RETRY_PAUSE)),
            }
        }
        queue.under_way = unknown;
        if !unknown {
            self.free(job);
        }
        unknown
    }

    /// The database was asked; `None`: it could not be.
    pub(super) fn seeded(&mut self, job: &Id, seed: Option<Arc<Seed>>, now: Instant) {
        let Some(queue) = self.jobs.get_mut(job) else { return };
        queue.under_way = false;
        if let (None, Some(held)) = (&seed, queue.items.front_mut()) {
            held.retry_at = Some(now + RETRY_PAUSE);
        }
        queue.seed = seed;
        self.free(job);
    }

    /// A job of which nothing is under way any more: it is forgotten, or may have more to append.
    fn free(&mut self, job: &Id) {
        let Some(queue) = self.jobs.get_mut(job) else { return };
        if queue.items.is_empty() {
            self.jobs.remove(job);
            self.shrink();
        } else if !queue.listed {
            queue.listed = true;
            self.ready.push_back(job.clone());
        }
    }

    fn shrink(&mut self) {
        if self.jobs.len() * 4 < self.jobs.capacity() && self.jobs.capacity() > 1024 {
            self.jobs.shrink_to(self.jobs.len() * 2);
            self.ready.shrink_to(self.jobs.len() * 2);
        }
    }

    /// Finds the jobs whose time has come: another node was waited for, or the log was read far enough.
    pub(super) fn look(&mut self, owns: impl Fn(&Id) -> bool, now: Instant) {
        if !self.caught_up {
            return;
        }
        for (job, queue) in &mut self.jobs {
            if !queue.listed && queue.is_due(|| owns(job), self.seen, now) {
                queue.listed = true;
                self.ready.push_back(job.clone());
            }
        }
    }

    /// Looks whether those who have heard more have judged everything from before this node's first mark.
    pub(super) fn catch_up(&mut self, elders: impl Fn(u64, u64) -> Elders, now: Instant) {
        if self.caught_up || self.since == 0 {
            return;
        }
        let elders = elders(self.since, self.before);
        self.had_elder |= elders.named;
        let knows_all = self.subscribed_at.is_some_and(|at| now >= at + LISTEN);
        if knows_all && elders.judged {
            self.caught_up = true;
            if self.had_elder {
                self.drop_unsure();
            }
        }
    }

    /// What came before the first mark was judged under the names of those who had heard more.
    fn drop_unsure(&mut self) {
        let unsure = RawName { mark: self.since.saturating_sub(1), offset: BEFORE_MARK / 2 };
        let of_this_mark = |name: RawName| name.mark == unsure.mark && name.offset >= unsure.offset;
        for job in self.jobs.keys().cloned().collect::<Vec<Id>>() {
            let items = self.jobs.get(&job).map(|queue| &queue.items).into_iter().flatten();
            for name in items.map(|held| held.name).filter(|name| of_this_mark(*name)).collect::<Vec<_>>() {
                self.judged(&job, name);
            }
        }
    }

    /// Somebody who has heard more was there since the subscription.
    pub(super) fn had_elder(&self) -> bool {
        self.had_elder
    }

    /// What this node's marks say.
    pub(super) fn standing(&self) -> Standing {
        let fronts = self.jobs.values().filter_map(|queue| queue.items.front());
        let oldest = fronts.map(|held| held.name.mark).min();
        let floor = oldest.unwrap_or(u64::MAX).min(self.mark.unwrap_or(0));
        Standing { since: self.since, before: self.before, floor, caught_up: self.caught_up }
    }

    /// Updates held.
    pub(super) fn held(&self) -> usize {
        self.held
    }
}
