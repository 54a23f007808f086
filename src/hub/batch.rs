//! What one turn of a lane brings to whom.

use bytes::Bytes;
use bytes::BytesMut;

use crate::hub::Frame;
use crate::hub::registry::Subscriber;
use crate::hub::wire::Wire;

/// Deliveries of one turn at most, so that a turn ends (a hundred events for a thousand subscribers, in 800 KB).
const DUE_MAX: usize = 100_000;
/// A batch keeps the memory of that many deliveries for the next turn.
const KEPT: usize = 8192;

/// Frames, and the slots that get them.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// With how many get it.
    frames: Vec<(Frame, usize)>,
    due: Vec<Due>,
    /// The frames that were joined last: in a fan-out everybody gets the same ones.
    joined: (Vec<u32>, Bytes),
}

#[derive(Debug, Clone, Copy)]
struct Due {
    slot: u32,
    frame: u32,
}

/// What one connection gets, in log order.
pub(super) struct Share<'a> {
    frames: &'a [(Frame, usize)],
    due: &'a [Due],
    joined: &'a mut (Vec<u32>, Bytes),
}

impl Batch {
    pub(super) fn add(&mut self, frame: Frame, subscribers: &[Subscriber]) {
        let number = u32::try_from(self.frames.len()).unwrap_or(u32::MAX);
        self.frames.push((frame, subscribers.len()));
        self.due.extend(subscribers.iter().map(|subscriber| Due { slot: subscriber.slot, frame: number }));
    }

    /// Who gets the frame that was added last.
    pub(super) fn last_slots(&self) -> impl Iterator<Item = u32> + use<> {
        let count = self.frames.last().map_or(0, |(_, count)| *count);
        let slots: Vec<u32> = self.due.iter().rev().take(count).map(|due| due.slot).collect();
        slots.into_iter()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.due.len() >= DUE_MAX
    }

    pub(super) fn frames(&self) -> impl Iterator<Item = (&Frame, usize)> {
        self.frames.iter().map(|(frame, count)| (frame, *count))
    }

    /// Calls `deliver` once for each slot.
    pub(super) fn for_each(&mut self, mut deliver: impl FnMut(u32, &mut Share<'_>)) {
        if self.frames.len() > 1 {
            // Stable: within a slot the frames stay in log order.
            self.due.sort_by_key(|due| due.slot);
        }
        for due in self.due.chunk_by(|one, other| one.slot == other.slot) {
            let Some(first) = due.first() else { continue };
            deliver(first.slot, &mut Share { frames: &self.frames, due, joined: &mut self.joined });
        }
    }

    /// Empty again, without the memory of an exceptional turn.
    pub(super) fn cleared(mut self) -> Self {
        self.frames.clear();
        self.due.clear();
        self.frames.shrink_to(KEPT);
        self.due.shrink_to(KEPT);
        self.joined = (Vec::new(), Bytes::new());
        self
    }
}

impl Share<'_> {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Frame> {
        self.due.iter().filter_map(|due| self.frames.get(due.frame as usize)).map(|(frame, _)| frame)
    }

    /// All of it in one piece.
    pub(super) fn bytes(&mut self, wire: &Wire) -> Bytes {
        if let [only] = self.due {
            return self.frames.get(only.frame as usize).map(|(frame, _)| wire.bytes(frame)).unwrap_or_default();
        }
        let same = self.joined.0.len() == self.due.len()
            && self.joined.0.iter().zip(self.due).all(|(joined, due)| *joined == due.frame);
        if !same {
            self.joined.0.clear();
            self.joined.0.extend(self.due.iter().map(|due| due.frame));
            let mut all = BytesMut::new();
            self.iter().for_each(|frame| all.extend_from_slice(&wire.bytes(frame)));
            self.joined.1 = all.freeze();
        }
        self.joined.1.clone()
    }
}
