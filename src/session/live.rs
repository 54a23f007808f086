//! Streams of this node as others find them: what they carry now, and what they have yet to be told.
//!
//! Everything that happens to a stream from outside is an edit with a number. The lane does edits of live streams in order; a stream
//! that is catching up, or that the lane has given back, looks here for those that it has missed. So no edit is lost or told twice.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::auth::Grant;
use crate::auth::Principal;
use crate::event::Channel;
use crate::event::Cursor;
use crate::event::Id;
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
    user: Id,
    /// Its name across reconnects, if the client gave it one.
    pub(super) session: Option<Box<str>>,
    /// It is one poll.
    pub(super) polls: bool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    principal: Principal,
    grants: Arc<[Grant]>,
    edition: u32,
    unsaid: Vec<(u32, Said)>,
    begin: Option<Box<Begin>>,
    end: Option<CloseReason>,
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
    pub(super) begin: Option<Box<Begin>>,
    pub(super) end: Option<CloseReason>,
}

impl Live {
    pub(super) fn new(
        id: ConnectionId,
        principal: Principal,
        grants: Arc<[Grant]>,
        session: Option<Box<str>>,
        polls: bool,
    ) -> Self {
        let user = principal.user.id.clone();
        let state = State { principal, grants, edition: 0, unsaid: Vec::new(), begin: None, end: None };
        Self { id, user, session, polls, state: Mutex::new(state) }
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
        state.unsaid.extend(say.into_iter().map(|said| (edition, said)));
        if state.unsaid.len() > UNSAID_MAX {
            state.unsaid = Vec::new();
            state.end = Some(CloseReason::Slow);
        }
        if let Some(principal) = principal {
            state.principal = principal;
        }
        if let Some(begin) = begin {
            state.begin = Some(Box::new(begin));
        }
        state.end = end.or(state.end);
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
        if state.edition == edition && state.begin.is_none() {
            return None;
        }
        let unsaid = std::mem::take(&mut state.unsaid).into_iter().map(|(_, said)| said).collect();
        let (begin, end) = (state.begin.take(), state.end);
        Some(Missed { edition: state.edition, grants: Arc::clone(&state.grants), unsaid, begin, end })
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
        state.unsaid.retain(|(of, _)| *of > edition);
        if state.unsaid.is_empty() {
            state.unsaid = Vec::new();
        }
    }
}

/// The streams of this node, by user.
#[derive(Debug, Default)]
pub struct Lives(Mutex<BTreeMap<(Id, ConnectionId), Arc<Live>>>);

impl Lives {
    pub(super) fn add(&self, live: &Arc<Live>) {
        self.0.lock().insert((live.user.clone(), live.id), Arc::clone(live));
    }

    pub(super) fn remove(&self, live: &Live) {
        self.0.lock().remove(&(live.user.clone(), live.id));
    }

    /// This user's streams.
    #[must_use]
    pub fn of(&self, user: &Id) -> Vec<Arc<Live>> {
        let lives = self.0.lock();
        let from = (user.clone(), ConnectionId(0));
        lives.range(from..).take_while(|((of, _), _)| of == user).map(|(_, live)| Arc::clone(live)).collect()
    }

    pub(super) fn get(&self, user: &Id, id: ConnectionId) -> Option<Arc<Live>> {
        self.0.lock().get(&(user.clone(), id)).cloned()
    }

    /// Up to `max` streams after this one, in the order of their keys.
    pub(super) fn after(&self, last: Option<&Arc<Live>>, max: usize) -> Vec<Arc<Live>> {
        let from = match last {
            Some(live) => Bound::Excluded((live.user.clone(), live.id)),
            None => Bound::Unbounded,
        };
        self.0.lock().range((from, Bound::Unbounded)).take(max).map(|(_, live)| Arc::clone(live)).collect()
    }

    /// Streams that have a name.
    pub(super) fn named(&self) -> Vec<Arc<Live>> {
        self.0.lock().values().filter(|live| live.session.is_some()).cloned().collect()
    }

    /// Streams.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.lock().len()
    }
}
