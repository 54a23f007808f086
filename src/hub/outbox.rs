//! What a stream has yet to be sent: bounded in events and bytes, and aware of what may be missed.
//!
//! The ladder, as a client falls behind: everything is kept while little waits; from a quarter of the bound on, progress of a
//! job replaces its undelivered predecessor; at the bound all superseded progress goes, ephemeral events are dropped, and
//! when a durable event still does not fit, the stream ends with `slow` and resumes from its cursor.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::task::Context;
use std::task::Poll;

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

use crate::event::Channel;
use crate::event::Delivery;
use crate::event::Kind;
use crate::event::LogId;
use crate::hub::CloseReason;
use crate::hub::Frame;
use crate::inspect::Conflated;

/// Bounds of one stream's queue.
#[derive(Debug, Clone, Copy)]
pub struct OutboxLimits {
    /// Frames at most.
    pub events_max: usize,
    /// Bytes at most.
    pub bytes_max: usize,
    /// Whether somebody wants to know which events were superseded.
    pub told: bool,
}

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It waits to be sent.
    Queued,
    /// It waits, and so many superseded ones no longer do.
    Conflated(usize),
    /// It was ephemeral and did not fit.
    Dropped,
    /// It must not be missed and did not fit: the stream is now ending with `slow`.
    Overflow,
    /// The stream has ended.
    Closed,
}

/// What became of several frames.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Pushes {
    /// Superseded ones that no longer wait, by the kind of channel whose frame came.
    pub(super) conflated: [usize; Kind::ALL.len()],
    /// Ephemeral ones that did not fit.
    pub(super) dropped: usize,
    /// The stream is to end.
    pub(super) end: Option<CloseReason>,
    /// What was not sent, where somebody wants to know; nearly always nothing, and then no more than a pointer.
    pub(super) unsent: Option<Box<Unsent>>,
}

/// What a client that lags is not sent.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Unsent {
    /// Events that were superseded.
    pub(super) superseded: Vec<Conflated>,
    /// From here on everything was thrown away.
    pub(super) from: Option<LogId>,
}

impl Pushes {
    pub(super) fn add(&mut self, frame: &Frame, pushed: Pushed) {
        match pushed {
            Pushed::Queued => {}
            Pushed::Conflated(count) => {
                let kind = frame.channel().map_or(Kind::Jobs, Channel::kind);
                if let Some(conflated) = self.conflated.get_mut(kind as usize) {
                    *conflated += count;
                }
            }
            Pushed::Dropped => self.dropped += 1,
            Pushed::Overflow => self.end = Some(CloseReason::Slow),
            Pushed::Closed => self.end = self.end.or(Some(CloseReason::ClientGone)),
        }
    }
}

/// What a transport takes out.
#[derive(Debug)]
pub enum Drained {
    /// Everything that waited.
    Frames(VecDeque<Frame>),
    /// Continuity was lost: catch up anew.
    Resync,
    /// What the stream carries has changed so much that it has to catch up, from where it was told.
    Recalled,
    /// The end; nothing follows.
    End(CloseReason),
}

/// A bounded queue between a lane and the task that drains it.
#[derive(Debug)]
pub struct Outbox {
    limits: OutboxLimits,
    queue: Mutex<Queue>,
    waker: AtomicWaker,
}

/// The ladder: frames of one stream that wait.
#[derive(Debug, Default)]
pub(super) struct Queue {
    frames: VecDeque<Frame>,
    bytes: usize,
    resync: bool,
    recall: bool,
    closing: Option<CloseReason>,
    /// The end was taken out, or the transport is gone.
    finished: bool,
    pub(super) unsent: Option<Box<Unsent>>,
}

impl Outbox {
    /// An empty queue.
    #[must_use]
    pub fn new(limits: OutboxLimits) -> Self {
        Self { limits, queue: Mutex::default(), waker: AtomicWaker::new() }
    }

    /// Adds a frame, by the ladder of this module.
    pub fn push(&self, frame: Frame) -> Pushed {
        let pushed = self.queue.lock().push(frame, self.limits);
        self.waker.wake();
        pushed
    }

    /// Adds frames and wakes whoever drains, once.
    pub(super) fn push_all<'a>(&self, frames: impl Iterator<Item = &'a Frame>) -> Pushes {
        let mut pushes = Pushes::default();
        let mut queue = self.queue.lock();
        for frame in frames {
            pushes.add(frame, queue.push(frame.clone(), self.limits));
        }
        pushes.unsent = queue.unsent.take();
        drop(queue);
        self.waker.wake();
        pushes
    }

    /// Ends the stream after what already waits, or, for a slow one, instead of it: its cursor brings that back.
    pub fn close(&self, reason: CloseReason) {
        self.queue.lock().close(reason);
        self.waker.wake();
    }

    /// Tells the transport's side to catch up anew; what waits is forgotten.
    pub fn resync(&self) {
        let mut queue = self.queue.lock();
        queue.clear();
        queue.resync = true;
        drop(queue);
        self.waker.wake();
    }

    /// Tells the transport's side to catch up from elsewhere, after what waits.
    pub fn recall(&self) {
        self.queue.lock().recall = true;
        self.waker.wake();
    }

    /// Takes back what waits of these channels.
    pub(super) fn purge(&self, channels: &[Channel]) {
        self.queue.lock().purge(channels);
    }

    /// Whether so much waits that what moves is better left out.
    pub(super) fn lags(&self) -> bool {
        self.queue.lock().lags(self.limits)
    }

    /// How much waits: events, bytes, and the first position.
    pub(super) fn backlog(&self) -> (usize, usize, Option<LogId>) {
        self.queue.lock().backlog()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.lock().frames.is_empty()
    }

    /// Whether the transport has taken out the end, or is gone.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.queue.lock().finished
    }

    /// Whether the stream is ending.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.closing().is_some()
    }

    /// Why the stream is ending.
    #[must_use]
    pub fn closing(&self) -> Option<CloseReason> {
        self.queue.lock().closing
    }

    /// The transport is gone.
    pub fn finish(&self) {
        let mut queue = self.queue.lock();
        queue.clear();
        queue.finished = true;
    }

    /// Everything that waits, once something does.
    pub fn poll_drain(&self, cx: &mut Context<'_>) -> Poll<Drained> {
        self.waker.register(cx.waker());
        let mut queue = self.queue.lock();
        if queue.resync {
            queue.resync = false;
            return Poll::Ready(Drained::Resync);
        }
        if !queue.frames.is_empty() {
            queue.bytes = 0;
            return Poll::Ready(Drained::Frames(std::mem::take(&mut queue.frames)));
        }
        if std::mem::take(&mut queue.recall) {
            return Poll::Ready(Drained::Recalled);
        }
        match queue.closing {
            Some(reason) => {
                queue.finished = true;
                Poll::Ready(Drained::End(reason))
            }
            None => Poll::Pending,
        }
    }
}

impl Queue {
    fn clear(&mut self) {
        self.frames = VecDeque::new();
        self.bytes = 0;
    }

    /// Takes the oldest frame out.
    pub(super) fn pop(&mut self) -> Option<Frame> {
        let frame = self.frames.pop_front()?;
        self.bytes -= frame.weight();
        Some(frame)
    }

    pub(super) fn close(&mut self, reason: CloseReason) {
        if self.closing.is_some() {
            return;
        }
        if matches!(reason, CloseReason::Slow | CloseReason::Revoked | CloseReason::Cut) {
            self.clear();
        }
        self.closing = Some(reason);
    }

    pub(super) fn push(&mut self, frame: Frame, limits: OutboxLimits) -> Pushed {
        if self.closing.is_some() || self.finished || self.resync {
            return Pushed::Closed;
        }
        let mut conflated = 0;
        // One that says only what has changed does not stand for the one before it.
        let replaces = frame.delivery() != Delivery::Durable && frame.place().is_none();
        if replaces && self.lags(limits) {
            conflated += usize::from(self.remove_same(&frame, limits));
        }
        if !self.fits(&frame, limits) {
            conflated += self.compact(limits);
        }
        if self.fits(&frame, limits) {
            self.bytes += frame.weight();
            self.frames.push_back(frame);
            return if conflated > 0 { Pushed::Conflated(conflated) } else { Pushed::Queued };
        }
        if frame.delivery() == Delivery::Ephemeral {
            return Pushed::Dropped;
        }
        if limits.told {
            let from = self.backlog().2.or(frame.cursor().map(|cursor| cursor.at));
            self.unsent.get_or_insert_default().from = from;
        }
        self.close(CloseReason::Slow);
        Pushed::Overflow
    }

    /// Takes back what waits of these channels.
    pub(super) fn purge(&mut self, channels: &[Channel]) {
        self.frames.retain(|frame| frame.channel().is_none_or(|channel| !channels.contains(channel)));
        self.bytes = self.frames.iter().map(Frame::weight).sum();
    }

    pub(super) fn lags(&self, limits: OutboxLimits) -> bool {
        self.frames.len() * 4 >= limits.events_max || self.bytes * 4 >= limits.bytes_max
    }

    fn fits(&self, frame: &Frame, limits: OutboxLimits) -> bool {
        self.frames.len() < limits.events_max && self.bytes + frame.weight() <= limits.bytes_max
    }

    /// How much waits: events, bytes, and the first position.
    pub(super) fn backlog(&self) -> (usize, usize, Option<LogId>) {
        let first = self.frames.iter().find_map(|frame| frame.channel().and(frame.cursor()));
        (self.frames.len(), self.bytes, first.map(|cursor| cursor.at))
    }

    fn tell(&mut self, old: &Frame, into: Option<LogId>, limits: OutboxLimits) {
        if !limits.told {
            return;
        }
        if let (Some(channel), Some(from), Some(into)) = (old.channel(), old.cursor(), into) {
            let superseded = Conflated { channel: channel.clone(), from: from.at, into };
            self.unsent.get_or_insert_default().superseded.push(superseded);
        }
    }

    /// Removes the undelivered predecessor; the new one goes to the tail, so that cursors stay in order.
    fn remove_same(&mut self, frame: &Frame, limits: OutboxLimits) -> bool {
        let same = |old: &Frame| old.delivery() == frame.delivery() && old.channel() == frame.channel();
        let Some(at) = self.frames.iter().rposition(same) else { return false };
        if let Some(old) = self.frames.remove(at) {
            self.bytes -= old.weight();
            self.tell(&old, frame.cursor().map(|cursor| cursor.at), limits);
        }
        true
    }

    /// Keeps of each channel only the newest progress. Answers how many went.
    fn compact(&mut self, limits: OutboxLimits) -> usize {
        let before = self.frames.len();
        let mut newer: HashMap<Channel, Option<LogId>> = HashMap::new();
        let mut kept = VecDeque::with_capacity(before);
        for frame in std::mem::take(&mut self.frames).into_iter().rev() {
            let at = frame.cursor().map(|cursor| cursor.at);
            let superseded = match frame.channel() {
                Some(channel) if frame.delivery() == Delivery::Latest => newer.insert(channel.clone(), at),
                _ => None,
            };
            match superseded {
                Some(into) => self.tell(&frame, into, limits),
                None => kept.push_front(frame),
            }
        }
        self.bytes = kept.iter().map(Frame::weight).sum();
        self.frames = kept;
        before - self.frames.len()
    }
}
