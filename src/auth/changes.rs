//! What the database said has changed, so that no older answer is believed: a stamp per bucket of names, in bounded memory.
//!
//! Two names in one bucket cost a question too many, never one too few. An answer carries the time of this clock from *before* its
//! question was asked; a change that was noted since makes it void, also while the question was under way.

use std::hash::BuildHasher as _;
use std::hash::Hash;
use std::hash::RandomState;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use crate::event::Channel;
use crate::event::Id;
use crate::event::Kind;
use crate::store::Changed;

/// Buckets; 8 bytes each.
const BUCKETS: usize = 8192;

/// Stamps of changes; counts batches of them.
#[derive(Debug)]
pub struct Changes {
    clock: AtomicU64,
    /// Everything before this is void.
    all: AtomicU64,
    stamps: Box<[AtomicU64]>,
    hasher: RandomState,
    /// Changes are announced as they happen.
    announced: AtomicBool,
}

impl Default for Changes {
    fn default() -> Self {
        let stamps = (0..BUCKETS).map(|_| AtomicU64::new(0)).collect();
        let (clock, all, announced) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
        Self { clock, all, stamps, hasher: RandomState::new(), announced }
    }
}

impl Changes {
    /// The time of this clock, to be taken before a question is asked.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.clock.load(Ordering::Acquire)
    }

    /// Whether changes are announced as they happen; else answers have to be asked for again soon.
    #[must_use]
    pub fn are_announced(&self) -> bool {
        self.announced.load(Ordering::Acquire)
    }

    /// Changes are announced from now on, or no longer.
    pub fn announced(&self, whether: bool) {
        self.announced.store(whether, Ordering::Release);
    }

    /// Notes what has changed.
    pub fn note(&self, changed: &Changed) {
        // The stamp first, then the clock: whoever reads the new time asks a question that is newer than the change.
        let stamp = self.now() + 1;
        if changed.all {
            self.all.fetch_max(stamp, Ordering::AcqRel);
        }
        changed.users.iter().for_each(|user| self.stamp(user, stamp));
        let jobs = changed.jobs.iter().chain(&changed.new_jobs).map(|id| Channel::of(Kind::Jobs, id));
        let documents = changed.documents.iter().map(|id| Channel::of(Kind::Docs, id));
        jobs.chain(documents).for_each(|resource| self.stamp(&resource, stamp));
        for (document, user) in &changed.permissions {
            self.stamp(&(user, &Channel::of(Kind::Docs, document)), stamp);
        }
        self.clock.fetch_max(stamp, Ordering::AcqRel);
    }

    /// Whether an answer about this user that was asked for at `since` still counts.
    pub(super) fn user_holds(&self, since: u64, user: &Id) -> bool {
        let unchanged = since >= self.at(user);
        unchanged && since >= self.all.load(Ordering::Acquire)
    }

    /// Whether an answer about this user and this job or document that was asked for at `since` still counts.
    pub(super) fn holds(&self, since: u64, user: &Id, resource: &Channel) -> bool {
        let unchanged = since >= self.at(resource) && since >= self.at(&(user, resource));
        unchanged && since >= self.all.load(Ordering::Acquire)
    }

    fn bucket(&self, name: &impl Hash) -> Option<&AtomicU64> {
        let at = usize::try_from(self.hasher.hash_one(name) % BUCKETS as u64).unwrap_or(0);
        self.stamps.get(at)
    }

    fn stamp(&self, name: &impl Hash, stamp: u64) {
        if let Some(bucket) = self.bucket(name) {
            bucket.fetch_max(stamp, Ordering::AcqRel);
        }
    }

    fn at(&self, name: &impl Hash) -> u64 {
        self.bucket(name).map_or(u64::MAX, |bucket| bucket.load(Ordering::Acquire))
    }
}
