//! The way of a stream to its lane: `connected`, replay, snapshots, then it may join; when continuity is lost all of it anew.
//!
//! Catching up is pulled by whoever writes the stream: nothing is queued for a client faster than it reads. Only the last few
//! entries are copied by the lane, in the turn in which it also subscribes, so that nothing can fall between.

use std::collections::HashMap;
use std::collections::HashSet;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::broker::Located;
use crate::clock;
use crate::error::ApiError;
use crate::event::Channel;
use crate::event::Cursor;
use crate::event::Entry;
use crate::event::Kind;
use crate::event::LogId;
use crate::hub::CloseReason;
use crate::hub::Frame;
use crate::hub::Refused;
use crate::hub::Register;
use crate::hub::Seat;
use crate::session::LEEWAY_S;
use crate::session::ResetReason;
use crate::session::Session;
use crate::session::Sessions;
use crate::session::Verdict;
use crate::session::catchup::Current;

/// Entries of one page of a replay.
const PAGE: usize = 128;
/// How long the window is waited for when a state from elsewhere is newer than it.
const STATE_AHEAD_WAIT: Duration = Duration::from_millis(2000);
/// How long an open stream that lost continuity waits for a dependency before it ends.
const OPEN_PATIENCE: Duration = Duration::from_secs(30);

/// An open stream, from its first byte to its last. Counts itself, however it ends.
#[derive(Debug)]
pub struct Opening {
    session: Session,
    transport: &'static str,
    reason: CloseReason,
    said_hello: bool,
    /// The stream has joined before: it waits for what is away, or all would come back together.
    was_live: bool,
    /// Only while it catches up.
    progress: Option<Box<Progress>>,
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
}

/// Where a stream is while it catches up.
#[derive(Debug)]
struct Progress {
    channels: Vec<Channel>,
    at: Cursor,
    generation: u64,
    /// Nothing of the log was sent yet: a fresh stream may still choose where it begins.
    untouched: bool,
    /// Job channels of which the replay said something, and whether that was an end.
    said: HashMap<Channel, bool>,
    /// Snapshots are sent.
    is_ready: bool,
}

enum Page {
    Frames(VecDeque<Frame>),
    CaughtUp,
    Lost,
}

impl Drop for Opening {
    fn drop(&mut self) {
        let metrics = &self.session.sessions.metrics;
        metrics.active_connections.with_label_values(&[self.transport]).dec();
        metrics.ended.with_label_values(&[self.reason.as_str()]).inc();
        tracing::debug!(connection.id = %format_args!("{:016x}", self.session.id.0), reason = self.reason.as_str(), "stream ended");
    }
}

impl Opening {
    /// The beginning of a stream over this transport.
    #[must_use]
    pub fn new(session: Session, transport: &'static str) -> Self {
        session.sessions.metrics.active_connections.with_label_values(&[transport]).inc();
        let reason = CloseReason::ClientGone;
        Self { session, transport, reason, said_hello: false, was_live: false, progress: None }
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
        if let Step::Frames(frames) = &step {
            let sent = &self.session.sessions.metrics.messages_sent;
            frames.iter().map(Frame::labels).for_each(|(kind, name)| sent.with_label_values(&[kind, name]).inc());
        }
        step
    }

    async fn step(&mut self) -> Result<Step, ApiError> {
        if !std::mem::replace(&mut self.said_hello, true) {
            let connected = Frame::control("connected", self.session.connected(), None);
            return Ok(Step::Frames(VecDeque::from([connected])));
        }
        loop {
            let Some(mut progress) = self.progress.take() else {
                let progress = self.session.begin();
                let reset = self.session.reset(&progress.channels);
                self.progress = Some(Box::new(progress));
                if let Some(reset) = reset {
                    return Ok(Step::Frames(VecDeque::from([reset])));
                }
                continue;
            };
            if progress.is_ready {
                self.progress = Some(progress);
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

    /// The wish to join, after `Step::Join`; it goes to the hub with the seat.
    pub fn register(&mut self, seat: Seat) -> Register {
        self.register_parts()(seat)
    }

    /// The same in two steps, for a seat that takes this stream with it.
    pub fn register_parts(&mut self) -> impl FnOnce(Seat) -> Register + use<> {
        let session = &self.session;
        let progress = self.progress.get_or_insert_with(|| Box::new(session.begin()));
        let pending = |channel: &&Channel| !progress.said.get(channel).copied().unwrap_or(false);
        let jobs = || progress.channels.iter().filter(pending).cloned().collect::<HashSet<_>>();
        let until_done = session.until_done.then(|| Box::new(jobs()));
        let (id, grants) = (session.id, Arc::clone(&session.grants));
        let (from, generation) = (progress.at.at, progress.generation);
        let expires_at = session.principal.expires_at.saturating_add(LEEWAY_S);
        move |seat| Register { id, grants, seat, from, generation, until_done, expires_at }
    }

    /// The stream has joined, as far as its own side knows: what catching up needed is not needed any more.
    pub fn joined(&mut self) {
        self.was_live = true;
        self.progress = None;
    }

    /// The lane does not carry it, or not any more.
    pub fn refused(&mut self, why: Refused) {
        match why {
            Refused::Behind => self.progress.iter_mut().for_each(|progress| progress.is_ready = false),
            Refused::Reopened | Refused::Stopped => self.lost(),
        }
    }

    /// Continuity was lost: the next steps start over.
    fn lost(&mut self) {
        self.session.verdict = Verdict::Reset(ResetReason::HistoryRewritten);
        self.session.resume = None;
        self.progress = None;
    }
}

impl Session {
    fn begin(&self) -> Progress {
        let window = self.sessions.hub.window();
        // The generation first: if the log begins anew in between, the lane refuses the older one. A cursor was judged against
        // the log of that beginning, and means nothing in another.
        let generation = if self.resume.is_some() { self.generation } else { window.generation() };
        let at = self.resume.unwrap_or_else(|| window.head());
        let untouched = self.resume.is_none();
        Progress { channels: self.channels(), at, generation, untouched, said: HashMap::new(), is_ready: false }
    }

    fn reset(&self, channels: &[Channel]) -> Option<Frame> {
        let Verdict::Reset(reason) = self.verdict else { return None };
        self.sessions.metrics.resumes.with_label_values(&["reset"]).inc();
        let names: Vec<String> = channels.iter().map(|channel| format!("\"{channel}\"")).collect();
        let now = clock::rfc3339(clock::now_us());
        let (names, reason) = (names.join(","), reason.as_str());
        let data = format!("{{\"channels\":[{names}],\"reason\":\"{reason}\",\"timestamp\":\"{now}\"}}");
        Some(Frame::control("reset", data, None))
    }

    /// The next part of the replay, from the window or, beyond it, from the log itself.
    async fn page(&self, progress: &mut Progress) -> Result<Page, ApiError> {
        let window = self.sessions.hub.window();
        let head = window.head();
        if window.generation() != progress.generation {
            return Ok(Page::Lost);
        }
        if progress.at.at >= head.at {
            return Ok(Page::CaughtUp);
        }
        if progress.untouched {
            // Whoever brings no cursor is owed the present, not what happened while the stream was opened.
            progress.at = head;
            return Ok(Page::CaughtUp);
        }
        let entries = match window.page(&progress.channels, progress.at.at, head.at, PAGE) {
            Some(page) => {
                let last = page.entries.last().map(|entry| progress.cursor(entry));
                progress.at = if page.complete { head } else { last.unwrap_or(head) };
                page.entries
            }
            None => match self.page_of_log(progress).await? {
                Some(entries) => entries,
                None => return Ok(Page::Lost),
            },
        };
        Ok(Page::Frames(entries.iter().filter_map(|entry| progress.frame(entry)).collect()))
    }

    async fn page_of_log(&self, progress: &mut Progress) -> Result<Option<Vec<Arc<Entry>>>, ApiError> {
        let unavailable = |error| {
            tracing::warn!(%error, "the log can't be read");
            ApiError::unavailable("broker")
        };
        let _turn = self.sessions.catchups.acquire().await.map_err(|_| ApiError::unavailable("stopping"))?;
        let broker = &self.sessions.broker;
        let page = broker.read_after(progress.at.at, PAGE * 4).await.map_err(unavailable)?;
        // Asked after reading: as long as the entry before the page is still there, nothing of the page was trimmed away.
        if broker.locate(&progress.at).await.map_err(unavailable)? != Located::Found {
            return Ok(None);
        }
        let Some(last) = page.last() else { return Ok(None) };
        progress.at = progress.cursor(last);
        let channels = &progress.channels;
        let wanted = |entry: &Entry| entry.event.as_ref().is_some_and(|event| channels.contains(&event.channel));
        Ok(Some(page.into_iter().filter(wanted).map(Arc::new).collect()))
    }

    /// Snapshots, tried again for a while when a dependency is away.
    async fn snapshots_patiently(
        &self,
        progress: &mut Progress,
        patience: Duration,
    ) -> Result<Option<VecDeque<Frame>>, ApiError> {
        let until = Instant::now() + patience;
        loop {
            match self.snapshots(progress).await {
                Err(error) if Instant::now() < until => {
                    tracing::debug!(%error, "an open stream waits for a dependency");
                    tokio::time::sleep(Duration::from_millis(fastrand::u64(100..500))).await;
                }
                done => return done,
            }
        }
    }

    /// Snapshots of the jobs of which the replay said nothing, all as of `progress.at`; `None`: a state is newer than that, replay on.
    async fn snapshots(&self, progress: &mut Progress) -> Result<Option<VecDeque<Frame>>, ApiError> {
        let silent = |channel: &&Channel| channel.kind() == Kind::Jobs && !progress.said.contains_key(*channel);
        let silent: Vec<Channel> = progress.channels.iter().filter(silent).cloned().collect();
        let states = self.sessions.states(&silent, progress.at.at).await?;
        let in_log = states.values().filter(|state| state.in_log);
        let newest = in_log.map(|state| state.version).max().unwrap_or(LogId::ZERO);
        if newest > progress.at.at {
            // What is older than the snapshot would follow it, and take the client back: so first the log, then the snapshot.
            let reached = self.sessions.hub.window().reached(newest, STATE_AHEAD_WAIT).await;
            return if reached { Ok(None) } else { Err(ApiError::unavailable("broker")) };
        }
        progress.untouched = false;
        progress.is_ready = true;
        let mut frames = VecDeque::new();
        for channel in silent {
            let Some(Current { event, terminal, .. }) = states.get(&channel) else { continue };
            frames.push_back(Frame::snapshot(event));
            progress.said.insert(channel, *terminal);
        }
        Ok(Some(frames))
    }
}

impl Progress {
    fn cursor(&self, entry: &Entry) -> Cursor {
        Cursor { epoch: self.at.epoch, at: entry.id, print: entry.print }
    }

    fn frame(&mut self, entry: &Arc<Entry>) -> Option<Frame> {
        let event = entry.event.as_ref()?;
        if event.channel.kind() == Kind::Jobs {
            self.said.insert(event.channel.clone(), event.terminal);
        }
        Some(Frame::replayed(event, self.cursor(entry)))
    }
}
