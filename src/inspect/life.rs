//! One life: a stream from its opening to its end, or the polls of one client. Plain data; the ledger keeps it.

use std::collections::VecDeque;

use arcstr::ArcStr;

use crate::event::Channel;
use crate::event::Id;
use crate::event::LogId;

/// Intervals of channels that a life has left, at most; the oldest go.
pub(super) const PAST_MAX: usize = 32;
/// Runs of superseded events that are remembered of a life, at most; the oldest go.
pub(super) const CONFLATED_MAX: usize = 64;
/// Refused channels that are remembered of a life, at most.
pub(super) const DENIED_MAX: usize = 16;

/// Who writes to the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The lane itself: written is what the kernel has taken.
    Socket,
    /// A task that drains a queue: written is what it has been handed.
    Queue,
}

/// How a stream begins.
#[derive(Debug)]
pub struct Opened<'a> {
    /// Its connection.
    pub connection: u64,
    /// Whose it is.
    pub user: &'a Id,
    /// Its name across reconnects.
    pub session: Option<ArcStr>,
    /// `sse`, `ws` or `poll`.
    pub transport: &'static str,
    /// What it may see.
    pub channels: Vec<Channel>,
    /// What it was refused, as the client wrote it, and why.
    pub denied: Vec<(String, &'static str)>,
    /// `live`, `resumed` or `reset`.
    pub verdict: &'static str,
    /// Why it was reset.
    pub reset: Option<&'static str>,
    /// Where it goes on.
    pub resume: Option<LogId>,
}

/// Progress that a newer event took the place of, because the client lagged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflated {
    /// Whose progress.
    pub channel: Channel,
    /// The event that was not sent.
    pub from: LogId,
    /// The one that was sent instead, or that was superseded in its turn.
    pub into: LogId,
}

/// A channel that is carried.
#[derive(Debug)]
pub(super) struct Carried {
    pub(super) channel: Channel,
    /// Everything after this is for the stream; `None`: it is yet to be found where that is.
    pub(super) from: Option<LogId>,
    /// The stream was open already.
    pub(super) later: bool,
}

/// A channel that was carried once.
#[derive(Debug)]
pub(super) struct Past {
    pub(super) channel: Channel,
    pub(super) from: LogId,
    pub(super) to: LogId,
    /// From here on it was taken back before it was written.
    pub(super) unwritten: Option<LogId>,
    pub(super) why: &'static str,
}

/// Superseded events of a channel that follow each other.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) channel: Channel,
    pub(super) first: LogId,
    pub(super) last: LogId,
    pub(super) into: LogId,
}

/// Where writing stopped.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stopped {
    pub(super) at: LogId,
    /// From here on it was not written.
    pub(super) unwritten: Option<LogId>,
}

#[derive(Debug)]
pub(super) struct Life {
    pub(super) connection: u64,
    pub(super) user: Id,
    pub(super) session: Option<ArcStr>,
    pub(super) transport: &'static str,
    pub(super) opened_ms: u64,
    pub(super) verdict: &'static str,
    pub(super) reset: Option<&'static str>,
    pub(super) resume: Option<LogId>,
    /// Polls that this life is made of; 1 for a stream.
    pub(super) connections: u64,
    pub(super) carried: Vec<Carried>,
    pub(super) past: VecDeque<Past>,
    pub(super) denied: Vec<(String, &'static str)>,
    pub(super) conflated: VecDeque<Run>,
    /// How many events were superseded in all.
    pub(super) superseded: u64,
    /// Details of what was before this are forgotten.
    pub(super) forgotten: Option<LogId>,
    /// Ephemeral events that did not fit.
    pub(super) dropped: u64,
    /// Why a channel is about to leave.
    pub(super) leaving: Vec<(Channel, &'static str)>,
    pub(super) joined: Option<LogId>,
    pub(super) way: Way,
    /// Up to where the answer of a poll went.
    pub(super) told: Option<LogId>,
    pub(super) stopped: Option<Stopped>,
    /// From here on what waited was thrown away.
    pub(super) lost: Option<LogId>,
    pub(super) ended: Option<(&'static str, u64)>,
    /// The number of its ending, once it has ended.
    pub(super) ending: u64,
}

impl Life {
    pub(super) fn new(opened: Opened<'_>, now_ms: u64) -> Self {
        let Opened { connection, user, session, transport, channels, mut denied, verdict, reset, resume } = opened;
        denied.truncate(DENIED_MAX);
        Self {
            connection,
            user: user.clone(),
            session,
            transport,
            opened_ms: now_ms,
            verdict,
            reset,
            resume,
            connections: 1,
            carried: channels.into_iter().map(|channel| Carried { channel, from: resume, later: false }).collect(),
            past: VecDeque::new(),
            denied,
            conflated: VecDeque::new(),
            superseded: 0,
            forgotten: None,
            dropped: 0,
            leaving: Vec::new(),
            joined: None,
            way: Way::Queue,
            told: None,
            stopped: None,
            lost: None,
            ended: None,
            ending: 0,
        }
    }

    /// Whether this opening is the next poll of the client whose last one ended this life.
    pub(super) fn goes_on(&self, opened: &Opened<'_>) -> bool {
        let polls = self.transport == "poll" && opened.transport == "poll" && self.ended.is_some();
        let same = match (&self.session, &opened.session) {
            (Some(before), Some(now)) => before == now,
            (None, None) => self.told.is_some() && self.told == opened.resume,
            _ => false,
        };
        polls && same
    }

    /// The next poll. What it was told before stands; what it carries on from where it says that it is.
    pub(super) fn go_on(&mut self, opened: Opened<'_>) {
        let Opened { connection, channels, mut denied, verdict, reset, resume, .. } = opened;
        denied.truncate(DENIED_MAX);
        if resume.is_none() {
            let until = self.stopped.map_or(LogId::ZERO, |stopped| stopped.at);
            self.leave_all(until, "reset");
        }
        (self.connection, self.denied, self.verdict, self.reset) = (connection, denied, verdict, reset);
        self.connections += 1;
        (self.joined, self.stopped, self.lost, self.ended) = (None, None, None, None);
        self.carry(channels, resume);
    }

    /// Carries these channels from now on; those that are new from `at` on.
    pub(super) fn carry(&mut self, channels: Vec<Channel>, at: Option<LogId>) {
        let gone = self.carried.iter().map(|carried| carried.channel.clone()).filter(|of| !channels.contains(of));
        for channel in gone.collect::<Vec<_>>() {
            self.leave(&channel, at.unwrap_or(LogId::ZERO), None);
        }
        for channel in channels {
            self.join(channel, at);
        }
    }

    /// Finds where the channels begin of which that was not known.
    pub(super) fn settle(&mut self, at: LogId) {
        self.carried.iter_mut().for_each(|carried| carried.from = carried.from.or(Some(at)));
    }

    pub(super) fn join(&mut self, channel: Channel, at: Option<LogId>) {
        if !self.carried.iter().any(|carried| carried.channel == channel) {
            self.denied.retain(|(name, _)| name != channel.as_str());
            self.carried.push(Carried { channel, from: at, later: true });
        }
    }

    pub(super) fn deny(&mut self, denied: Vec<(String, &'static str)>) {
        for (name, code) in denied {
            self.denied.retain(|(known, _)| *known != name);
            self.denied.push((name, code));
        }
        self.denied.drain(..self.denied.len().saturating_sub(DENIED_MAX));
    }

    pub(super) fn leaves_soon(&mut self, channel: &Channel, why: &'static str) {
        let known = self.leaving.iter().any(|(of, _)| of == channel);
        if !known && self.carried.iter().any(|carried| carried.channel == *channel) {
            self.leaving.push((channel.clone(), why));
        }
    }

    pub(super) fn leave(&mut self, channel: &Channel, to: LogId, unwritten: Option<LogId>) {
        let Some(at) = self.carried.iter().position(|carried| carried.channel == *channel) else { return };
        let Carried { channel, from, .. } = self.carried.swap_remove(at);
        let reason = self.leaving.iter().position(|(of, _)| *of == channel);
        let why = reason.map_or("request", |at| self.leaving.swap_remove(at).1);
        // One that never began to be told was never there.
        if let Some(from) = from {
            self.remember(Past { channel, from, to: to.max(from), unwritten, why });
        }
    }

    fn leave_all(&mut self, to: LogId, why: &'static str) {
        let unwritten = self.stopped.and_then(|stopped| stopped.unwritten);
        for Carried { channel, from, .. } in std::mem::take(&mut self.carried) {
            if let Some(from) = from {
                self.remember(Past { channel, from, to: to.max(from), unwritten, why });
            }
        }
    }

    fn remember(&mut self, past: Past) {
        if self.past.len() >= PAST_MAX
            && let Some(oldest) = self.past.pop_front()
        {
            self.forgotten = self.forgotten.max(Some(oldest.to));
        }
        self.past.push_back(past);
    }

    /// It was told to forget everything, and begins at `at` with the present states.
    pub(super) fn begin_anew(&mut self, reason: &'static str, at: LogId) {
        let channels: Vec<Channel> = self.carried.iter().map(|carried| carried.channel.clone()).collect();
        let until = self.stopped.map_or(at, |stopped| stopped.at);
        self.leave_all(until, "reset");
        self.carried = channels.into_iter().map(|channel| Carried { channel, from: Some(at), later: false }).collect();
        (self.verdict, self.reset, self.stopped, self.joined) = ("reset", Some(reason), None, None);
    }

    pub(super) fn supersede(&mut self, superseded: Vec<Conflated>) {
        for Conflated { channel, from, into } in superseded {
            self.superseded += 1;
            let known = self.conflated.iter_mut().rev().find(|run| run.channel == channel && run.into == from);
            if let Some(run) = known {
                (run.last, run.into) = (from, into);
                continue;
            }
            if self.conflated.len() >= CONFLATED_MAX
                && let Some(oldest) = self.conflated.pop_front()
            {
                self.forgotten = self.forgotten.max(Some(oldest.last));
            }
            self.conflated.push_back(Run { channel, first: from, last: from, into });
        }
    }
}
