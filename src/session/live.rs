//! Streams of this node as others find them: what they carry now, and what they have yet to be told.
//!
//! Everything that happens to a stream from outside is an edit with a number. The lane does edits of live streams in order; a stream
//! that is catching up, or that the lane has given back, looks here for those that it has missed. So no edit is lost or told twice.

use std::sync::Arc;

use arcstr::ArcStr;
use parking_lot::Mutex;

use crate::auth::Grant;
use crate::auth::Principal;
use crate::event::Channel;
use crate::event::Cursor;
use crate::event::Id;
use crate::event::Kind;
use crate::hub::CloseReason;
use crate::hub::ConnectionId;
use crate::hub::Frame;
use crate::hub::Holder;
use crate::session::Verdict;

/// Things that a stream has yet to be told, at most; one that is told more is too slow.
const UNSAID_MAX: usize = 512;

/// A stream of this node.
#[derive(Debug)]
pub struct Live {
    pub(super) id: ConnectionId,
    pub(super) user: Id,
    /// Its name across reconnects, if the client gave it one.
    pub(super) session: Option<ArcStr>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    principal: Principal,
    grants: Arc<[Grant]>,
    edition: u32,
    end: Option<CloseReason>,
    /// It is one poll.
    polls: bool,
    /// It looks at who is where without being there.
    observes: bool,
    /// Only while there is something in it.
    untold: Option<Box<Untold>>,
}

/// What a stream has yet to be told, by edit, and where it is to begin anew.
#[derive(Debug, Default)]
struct Untold {
    said: Vec<(u32, Said)>,
    begin: Option<Begin>,
}

/// Something that a stream is told.
#[derive(Debug, Clone)]
pub(super) enum Said {
    /// As it is.
    Frame(Frame),
    /// The data of `subscribed`, which carries the position from which on the channel is there.
    Subscribed(Arc<str>),
}

impl Said {
    /// `at` is where the stream is.
    pub(super) fn frame(self, at: Option<Cursor>) -> Frame {
        match self {
            Self::Frame(frame) => frame,
            Self::Subscribed(data) => Frame::control("subscribed", data, at),
        }
    }
}

/// Where a stream begins.
#[derive(Debug, Clone, Copy)]
pub(super) struct Begin {
    pub(super) verdict: Verdict,
    pub(super) resume: Option<Cursor>,
    /// The beginning of the log in which the cursor was judged.
    pub(super) generation: u64,
}

/// What happens to a stream in one edit.
#[derive(Debug, Default)]
pub(super) struct Alteration {
    pub(super) principal: Option<Principal>,
    pub(super) join: Vec<Grant>,
    pub(super) leave: Vec<Channel>,
    pub(super) say: Vec<Said>,
    pub(super) begin: Option<Begin>,
    pub(super) end: Option<CloseReason>,
}

/// The edits that a stream has missed.
#[derive(Debug)]
pub(super) struct Missed {
    pub(super) edition: u32,
    pub(super) grants: Arc<[Grant]>,
    pub(super) unsaid: Vec<Said>,
    pub(super) begin: Option<Begin>,
    pub(super) end: Option<CloseReason>,
}

impl Live {
    pub(super) fn new(
        id: ConnectionId,
        principal: Principal,
        grants: Arc<[Grant]>,
        session: Option<Box<str>>,
        (polls, observes): (bool, bool),
    ) -> Self {
        let user = principal.user.id.clone();
        let session = session.map(ArcStr::from);
        let state = State { principal, grants, edition: 0, end: None, polls, observes, untold: None };
        Self { id, user, session, state: Mutex::new(state) }
    }

    /// Its number, as clients write it.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{:016x}", self.id.0)
    }

    /// Whose it is, by their newest token.
    #[must_use]
    pub fn principal(&self) -> Principal {
        self.state.lock().principal.clone()
    }

    pub(super) fn polls(&self) -> bool {
        self.state.lock().polls
    }

    pub(super) fn observes(&self) -> bool {
        self.state.lock().observes
    }

    /// Others see whether it is there, or it sees that of others.
    #[must_use]
    pub fn is_seen(&self) -> bool {
        self.grants().iter().any(|grant| grant.channel().kind() == Kind::Presence)
    }

    /// Its number.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.id.0
    }

    pub(super) fn grants(&self) -> Arc<[Grant]> {
        Arc::clone(&self.state.lock().grants)
    }

    pub(super) fn channels(&self) -> Vec<Channel> {
        self.grants().iter().map(|grant| grant.channel().clone()).collect()
    }

    /// When its credential ends: seconds since the Unix epoch.
    pub(super) fn expires_at(&self) -> u64 {
        self.state.lock().principal.expires_at
    }

    /// Does an edit, and answers its number. Nobody else edits this stream meanwhile (`Sessions::turn`).
    pub(super) fn alter(&self, alteration: Alteration) -> u32 {
        let mut state = self.state.lock();
        state.edition += 1;
        let edition = state.edition;
        let Alteration { principal, join, leave, say, begin, end } = alteration;
        if !join.is_empty() || !leave.is_empty() {
            let fresh = |grant: &&Grant| !join.iter().any(|newer| newer.channel() == grant.channel());
            let kept = state.grants.iter().filter(|grant| !leave.contains(grant.channel())).filter(fresh);
            state.grants = kept.chain(&join).cloned().collect();
        }
        if begin.is_some() || !say.is_empty() {
            let untold = state.untold.get_or_insert_default();
            untold.said.extend(say.into_iter().map(|said| (edition, said)));
            untold.begin = begin.or(untold.begin);
            if untold.said.len() > UNSAID_MAX {
                state.untold = None;
                state.end = state.end.or(Some(CloseReason::Slow));
            }
        }
        if let Some(principal) = principal {
            state.principal = principal;
        }
        state.end = state.end.or(end);
        edition
    }

    /// Its transport ends it, for this reason.
    pub fn ends(&self, reason: CloseReason) {
        self.state.lock().end.get_or_insert(reason);
    }

    /// Why it ends, if that has been said.
    pub(super) fn end(&self) -> Option<CloseReason> {
        self.state.lock().end
    }

    /// The edits after this one, which are now the caller's to do.
    pub(super) fn missed(&self, edition: u32) -> Option<Missed> {
        let mut state = self.state.lock();
        let begins = state.untold.as_ref().is_some_and(|untold| untold.begin.is_some());
        if state.edition == edition && !begins {
            return None;
        }
        let Untold { said, begin } = state.untold.take().map(|untold| *untold).unwrap_or_default();
        let unsaid = said.into_iter().map(|(_, said)| said).collect();
        Some(Missed { edition: state.edition, grants: Arc::clone(&state.grants), unsaid, begin, end: state.end })
    }
}

impl Holder for Live {
    fn user(&self) -> &Id {
        &self.user
    }

    fn edition(&self) -> u32 {
        self.state.lock().edition
    }

    fn applied(&self, edition: u32) {
        let mut state = self.state.lock();
        let Some(untold) = &mut state.untold else { return };
        untold.said.retain(|(of, _)| *of > edition);
        if untold.said.is_empty() && untold.begin.is_none() {
            state.untold = None;
        }
    }
}

#[cfg(test)]
mod tests {
    /// What each stream costs: a field more is a decision (docs/performance.md).
    #[test]
    fn a_stream_as_others_find_it_stays_small() {
        assert!(size_of::<super::Live>() <= 112);
        assert!(size_of::<crate::session::Opening>() <= 96);
        assert!(size_of::<crate::auth::Grant>() <= 16);
    }
}
