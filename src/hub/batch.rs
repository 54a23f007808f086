//! What one turn of a lane brings to whom.
//!
//! Frames of one channel make a run; whoever listens to it gets the run as a whole, joined once for all. So a hundred events for
//! a thousand subscribers are a thousand deliveries of one piece, not a hundred thousand.

use bytes::Bytes;
use bytes::BytesMut;
use hashbrown::HashMap;
use smallvec::SmallVec;

use crate::hub::Format;
use crate::hub::Frame;
use crate::hub::OutboxLimits;
use crate::hub::registry::Subscriber;
use crate::hub::registry::TopicKey;
use crate::hub::wire::Wire;

/// Runs times subscribers of one turn at most, so that a turn ends (in 800 KB).
const DUE_MAX: usize = 100_000;
/// A batch keeps the memory of that many for the next turn.
const KEPT: usize = 8192;

/// Frames in log order, and the slots that get them.
#[derive(Debug, Default)]
pub(super) struct Batch {
    frames: Vec<Frame>,
    runs: Vec<Run>,
    run_of: HashMap<TopicKey, u32>,
    due: Vec<Due>,
    /// A run is as long as it may be.
    full: bool,
}

/// Frames of one channel.
#[derive(Debug, Default)]
struct Run {
    /// Most runs are one frame: no allocation for that.
    frames: SmallVec<[u32; 4]>,
    subscribers: usize,
    bytes: usize,
    /// Not everybody who listens is shown everything of it.
    selective: bool,
    /// For the format in which it was asked for last.
    joined: Option<(Format, Bytes)>,
}

#[derive(Debug, Clone, Copy)]
struct Due {
    slot: u32,
    run: u32,
}

/// What one connection gets.
pub(super) struct Share<'a> {
    frames: &'a [Frame],
    runs: &'a mut [Run],
    due: &'a [Due],
    /// Of several runs, or where something is left out: which frames, in order.
    merged: &'a mut Vec<u32>,
    left_out: bool,
}

fn number(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

impl Batch {
    /// Adds a frame of a channel. Those who listen to it stay the same until the batch is written.
    pub(super) fn add(&mut self, frame: Frame, topic: TopicKey, subscribers: &[Subscriber], limits: OutboxLimits) {
        let run = *self.run_of.entry(topic).or_insert_with(|| {
            let run = number(self.runs.len());
            self.runs.push(Run { subscribers: subscribers.len(), ..Run::default() });
            self.due.extend(subscribers.iter().map(|subscriber| Due { slot: subscriber.slot, run }));
            run
        });
        if let Some(run) = self.runs.get_mut(run as usize) {
            run.frames.push(number(self.frames.len()));
            run.bytes += frame.weight();
            run.selective |= frame.place().is_some();
            // What a socket does not take at once must have room in its outbox.
            self.full |= run.frames.len() >= limits.events_max || run.bytes * 2 >= limits.bytes_max;
        }
        self.frames.push(frame);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.full || self.due.len() >= DUE_MAX || self.frames.len() >= KEPT
    }

    /// Each frame with how many get it.
    pub(super) fn frames(&self) -> impl Iterator<Item = (&Frame, usize)> {
        let all = &self.frames;
        self.runs.iter().flat_map(move |run| {
            let frames = run.frames.iter().filter_map(move |at| all.get(*at as usize));
            frames.map(move |frame| (frame, run.subscribers))
        })
    }

    /// Calls `deliver` once for each slot.
    pub(super) fn for_each(&mut self, mut deliver: impl FnMut(u32, &mut Share<'_>)) {
        if self.runs.len() > 1 {
            self.due.sort_unstable_by_key(|due| due.slot);
        }
        let mut merged = Vec::new();
        for due in self.due.chunk_by(|one, other| one.slot == other.slot) {
            let Some(first) = due.first() else { continue };
            let share =
                &mut Share { frames: &self.frames, runs: &mut self.runs, due, merged: &mut merged, left_out: false };
            share.merge();
            deliver(first.slot, share);
        }
    }

    /// Empty again, without the memory of an exceptional turn.
    pub(super) fn cleared(mut self) -> Self {
        self.frames.clear();
        self.runs.clear();
        self.run_of.clear();
        self.due.clear();
        self.frames.shrink_to(KEPT);
        self.runs.shrink_to(KEPT);
        self.run_of.shrink_to(KEPT);
        self.due.shrink_to(KEPT);
        self.full = false;
        self
    }
}

impl Share<'_> {
    fn merge(&mut self) {
        self.merged.clear();
        if self.due.len() > 1 {
            for due in self.due {
                self.merged.extend(self.runs.get(due.run as usize).iter().flat_map(|run| &run.frames));
            }
            self.merged.sort_unstable();
        }
    }

    fn numbers(&self) -> &[u32] {
        match self.due {
            [only] if !self.left_out => self.runs.get(only.run as usize).map_or(&[], |run| &run.frames),
            _ => self.merged,
        }
    }

    /// Leaves out what this connection is not shown.
    pub(super) fn select(&mut self, mut shows: impl FnMut(&Frame) -> bool) {
        let selective = |due: &Due| self.runs.get(due.run as usize).is_some_and(|run| run.selective);
        if !self.due.iter().any(selective) {
            return;
        }
        let all = self.numbers().len();
        let shown = |at: &u32| self.frames.get(*at as usize).is_some_and(&mut shows);
        let kept: SmallVec<[u32; 64]> = self.numbers().iter().copied().filter(shown).collect();
        if kept.len() < all {
            self.left_out = true;
            self.merged.clear();
            self.merged.extend(kept);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.numbers().is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Frame> {
        self.numbers().iter().filter_map(|at| self.frames.get(*at as usize))
    }

    /// All of it in one piece.
    pub(super) fn bytes(&mut self, wire: &Wire) -> Bytes {
        if let [only] = self.numbers() {
            return self.frames.get(*only as usize).map(|frame| wire.bytes(frame)).unwrap_or_default();
        }
        let [only] = self.due else { return self.join(wire) };
        if self.left_out {
            return self.join(wire);
        }
        let known = self.runs.get(only.run as usize).and_then(|run| run.joined.as_ref());
        if let Some((_, joined)) = known.filter(|(format, _)| *format == wire.format) {
            return joined.clone();
        }
        let joined = self.join(wire);
        if let Some(run) = self.runs.get_mut(only.run as usize) {
            run.joined = Some((wire.format, joined.clone()));
        }
        joined
    }

    fn join(&self, wire: &Wire) -> Bytes {
        let mut all = BytesMut::new();
        self.iter().for_each(|frame| all.extend_from_slice(&wire.bytes(frame)));
        all.freeze()
    }
}
