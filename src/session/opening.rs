//! The way of a stream to its lane: `connected`, replay, snapshots, then it may join; when continuity is lost all of it anew.
//!
//! Catching up is pulled by whoever writes the stream: nothing is queued for a client faster than it reads. Only the last few
//! entries are copied by the lane, in the turn in which it also subscribes, so that nothing can fall between.

use std::collections::HashSet;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::auth::Grant;
use crate::clock;
use crate::error::ApiError;
use crate::event::Channel;
use crate::event::Kind;
use crate::hub::CloseReason;
use crate::hub::Frame;
use crate::hub::Refused;
use crate::hub::Register;
use crate::hub::Seat;
use crate::session::LEEWAY_S;
use crate::session::Live;
use crate::session::ResetReason;
use crate::session::Session;
use crate::session::Sessions;
use crate::session::Verdict;
use crate::session::live::Begin;
use crate::session::replay::Page;
use crate::session::replay::Progress;

/// How long an open stream that lost continuity waits for a dependency before it ends.
const OPEN_PATIENCE: Duration = Duration::from_secs(30);

/// An open stream, from its first byte to its last. Counts itself, however it ends.
#[derive(Debug)]
pub struct Opening {
    session: Session,
    transport: Transport,
    reason: CloseReason,
    said_hello: bool,
    /// The stream has joined before: it waits for what is away, or all would come back together.
    was_live: bool,
    /// The last edit that it has seen, and what it may see since then.
    edition: u32,
    grants: Arc<[Grant]>,
    /// Only while it catches up.
    progress: Option<Box<Progress>>,
}

/// How it travels; also the metric's label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// `text/event-stream`.
    Sse,
    /// WebSocket.
    Ws,
    /// Long-poll.
    Poll,
}

impl Transport {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Sse, Self::Ws, Self::Poll];

    /// The label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sse => "sse",
            Self::Ws => "ws",
            Self::Poll => "poll",
        }
    }
}

/// What comes next.
#[derive(Debug)]
pub enum Step {
    /// Frames to send, in this order.
    Frames(VecDeque<Frame>),
    /// The stream has caught up: let it join.
    Join,
    /// The stream can't go on: say so and end.
    Problem(ApiError),
    /// The stream is over, for this reason.
    End(CloseReason),
}

impl Drop for Opening {
    fn drop(&mut self) {
        let sessions = &self.session.sessions;
        if self.transport == Transport::Poll {
            let jobs = self.session.live.channels().into_iter().filter(|channel| channel.kind() == Kind::Jobs);
            jobs.for_each(|job| sessions.polled.insert(job, ()));
        }
        sessions.lives.remove(&self.session.live);
        sessions.part_for(&self.session.live, self.reason);
        let metrics = &self.session.sessions.metrics;
        metrics.active_connections.with_label_values(&[self.transport.as_str()]).dec();
        metrics.ended.with_label_values(&[self.reason.as_str()]).inc();
        tracing::debug!(connection.id = %self.session.live.name(), reason = self.reason.as_str(), "stream ended");
    }
}

impl Opening {
    /// The beginning of a stream over this transport.
    #[must_use]
    pub fn new(mut session: Session, transport: Transport) -> Self {
        session.sessions.metrics.active_connections.with_label_values(&[transport.as_str()]).inc();
        session.sessions.lives.add(&session.live);
        session.wanted.iter_mut().for_each(|wanted| drop(wanted.reserved.take()));
        let reason = CloseReason::ClientGone;
        let grants = session.live.grants();
        let (said_hello, was_live) = (false, false);
        Self { session, transport, reason, said_hello, was_live, edition: 0, grants, progress: None }
    }

    /// The stream as others find it.
    #[must_use]
    pub fn live(&self) -> &Arc<Live> {
        &self.session.live
    }

    /// The app's sessions.
    #[must_use]
    pub fn sessions(&self) -> &Arc<Sessions> {
        &self.session.sessions
    }

    /// Why it ends, for the count.
    pub fn because(&mut self, reason: CloseReason) {
        self.reason = reason;
    }

    /// What to do next: send frames, join, or give up.
    pub async fn next(&mut self) -> Step {
        let step = self.step().await.unwrap_or_else(|error| {
            self.because(CloseReason::Problem);
            Step::Problem(error)
        });
        match &step {
            Step::Frames(frames) => {
                let sent = &self.session.sessions.metrics.messages_sent;
                frames.iter().map(Frame::labels).for_each(|(kind, name)| sent.with_label_values(&[kind, name]).inc());
            }
            Step::End(reason) => self.because(*reason),
            Step::Join | Step::Problem(_) => {}
        }
        step
    }

    async fn step(&mut self) -> Result<Step, ApiError> {
        if self.session.live.expires_at().saturating_add(LEEWAY_S) <= clock::now_s() {
            return Ok(Step::End(CloseReason::TokenExpired));
        }
        // A replay can take long, and what it shows must be allowed at that moment.
        let changed = self.session.sessions.authorizer.changes().now();
        if std::mem::replace(&mut self.session.asked, changed) != changed {
            // Rare, and large: not a part of every stream's room.
            Box::pin(self.session.sessions.recheck(vec![Arc::clone(&self.session.live)])).await;
        }
        if !std::mem::replace(&mut self.said_hello, true) {
            let connected = Frame::control("connected", self.session.connected(), None);
            return Ok(Step::Frames(VecDeque::from([connected])));
        }
        loop {
            if let Some(step) = self.missed_edits() {
                return Ok(step);
            }
            let Some(mut progress) = self.progress.take() else {
                let progress = self.session.begin(self.channels());
                let reset = self.session.reset(&progress.channels);
                self.progress = Some(Box::new(progress));
                if let Some(reset) = reset {
                    return Ok(Step::Frames(VecDeque::from([reset])));
                }
                continue;
            };
            if progress.is_ready {
                self.progress = Some(progress);
                // Who comes is there before it is told who is.
                self.session.sessions.visit(&self.session.live, self.grants.iter().map(Grant::channel)).await?;
                return Ok(Step::Join);
            }
            let patience = if self.was_live { OPEN_PATIENCE } else { Duration::ZERO };
            let frames = match self.session.page(&mut progress).await? {
                Page::Frames(frames) => Some(frames),
                Page::CaughtUp => self.session.snapshots_patiently(&mut progress, patience).await?,
                Page::Lost => {
                    self.lost();
                    continue;
                }
            };
            self.progress = Some(progress);
            if let Some(frames) = frames.filter(|frames| !frames.is_empty()) {
                return Ok(Step::Frames(frames));
            }
        }
    }

    fn channels(&self) -> Vec<Channel> {
        self.grants.iter().map(|grant| grant.channel().clone()).collect()
    }

    /// What has happened to the stream since it last looked.
    fn missed_edits(&mut self) -> Option<Step> {
        let missed = self.session.live.missed(self.edition)?;
        (self.edition, self.grants) = (missed.edition, missed.grants);
        if let Some(reason) = missed.end {
            return Some(Step::End(reason));
        }
        if let Some(begin) = missed.begin {
            self.session.begin = Some(Box::new(begin));
            self.progress = None;
        }
        let channels = self.channels();
        let at = self.progress.as_mut().map(|progress| progress.carry(channels));
        let frames: VecDeque<Frame> = missed.unsaid.into_iter().map(|said| said.frame(at)).collect();
        if frames.is_empty() { None } else { Some(Step::Frames(frames)) }
    }

    /// The wish to join, after `Step::Join`; it goes to the hub with the seat.
    pub fn register(&mut self, seat: Seat) -> Register {
        self.register_parts()(seat)
    }

    /// The same in two steps, for a seat that takes this stream with it.
    pub fn register_parts(&mut self) -> impl FnOnce(Seat) -> Register + use<> {
        let session = &self.session;
        let channels = || self.grants.iter().map(|grant| grant.channel().clone()).collect();
        let progress = self.progress.get_or_insert_with(|| Box::new(session.begin(channels())));
        let pending = |channel: &&Channel| !progress.said.get(channel).copied().unwrap_or(false);
        let jobs = || progress.channels.iter().filter(pending).cloned().collect::<HashSet<_>>();
        let until_done = session.until_done.then(|| Box::new(jobs()));
        let (holder, grants, edition) = (Arc::clone(&session.live), Arc::clone(&self.grants), self.edition);
        let (from, generation) = (progress.at.at, progress.generation);
        let expires_at = holder.expires_at().saturating_add(LEEWAY_S);
        let id = holder.id;
        move |seat| Register { id, grants, seat, from, generation, until_done, expires_at, holder, edition }
    }

    /// The stream has joined, as far as its own side knows: what catching up needed is not needed any more.
    pub fn joined(&mut self) {
        if !std::mem::replace(&mut self.was_live, true) {
            self.session.sessions.pace.joined();
        }
        self.progress = None;
        (self.session.begin, self.session.wanted) = (None, None);
        // From here on changes find it; what was announced between the question and now may have missed it.
        let sessions = &self.session.sessions;
        if sessions.authorizer.changes().now() != self.session.asked {
            sessions.recheck_soon(&self.session.live);
        }
    }

    /// The lane does not carry it, or not any more.
    pub fn refused(&mut self, why: Refused) {
        match why {
            Refused::Behind | Refused::Edited => {
                self.progress.iter_mut().for_each(|progress| progress.is_ready = false);
            }
            Refused::Reopened | Refused::Stopped => self.lost(),
        }
    }

    /// Continuity was lost: the next steps start over.
    fn lost(&mut self) {
        let verdict = Verdict::Reset(ResetReason::HistoryRewritten);
        self.session.begin = Some(Box::new(Begin { verdict, resume: None, generation: 0 }));
        self.progress = None;
    }
}
