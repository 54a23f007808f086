//! The life of a stream: `connected`, replay, snapshots, `ready`, live, and when continuity is lost all of it anew.
//!
//! Catching up is pulled by the reader: nothing is queued for a client faster than it reads. Only the last few entries are
//! copied by the lane, in the turn in which it also subscribes, so that nothing can fall between.

use std::collections::HashMap;
use std::collections::HashSet;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_stream::stream;
use futures_util::Stream;
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
use crate::hub::Drained;
use crate::hub::Frame;
use crate::hub::Outbox;
use crate::hub::Refused;
use crate::hub::Register;
use crate::session::LEEWAY_S;
use crate::session::ResetReason;
use crate::session::Session;
use crate::session::Verdict;
use crate::session::catchup::Current;

/// Entries of one page of a replay.
const PAGE: usize = 128;
/// How long the window is waited for when a state from elsewhere is newer than it.
const STATE_AHEAD_WAIT: Duration = Duration::from_millis(2000);
/// How long an open stream that lost continuity waits for a dependency before it ends.
const OPEN_PATIENCE: Duration = Duration::from_secs(30);

/// What comes out of a stream.
#[derive(Debug)]
pub enum Output {
    /// Frames to send, in this order.
    Frames(VecDeque<Frame>),
    /// The stream can't go on: say so and end.
    Problem(ApiError),
    /// The end, for this reason.
    End(CloseReason),
}

/// Undoes what the stream did, however it ends.
struct Leaving {
    session: Session,
    outbox: Arc<Outbox>,
    transport: &'static str,
    reason: CloseReason,
}

impl Leaving {
    fn because(&mut self, reason: CloseReason) {
        self.reason = reason;
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.outbox.finish();
        self.session.sessions.hub.leave(self.session.id);
        let metrics = &self.session.sessions.metrics;
        metrics.active_connections.with_label_values(&[self.transport]).dec();
        metrics.ended.with_label_values(&[self.reason.as_str()]).inc();
        tracing::debug!(connection.id = %format_args!("{:016x}", self.session.id.0), reason = self.reason.as_str(), "stream ended");
    }
}

/// Where a stream is while it catches up.
struct Progress {
    at: Cursor,
    generation: u64,
    /// Nothing of the log was sent yet: a fresh stream may still choose where it begins.
    untouched: bool,
    /// Job channels of which the replay said something, and whether that was an end.
    said: HashMap<Channel, bool>,
}

impl Session {
    /// The frames of this stream, for one transport. Nothing happens until it is polled.
    pub fn into_stream(self, transport: &'static str) -> impl Stream<Item = Output> + Send {
        let outbox = Arc::new(Outbox::new(self.sessions.outbox));
        self.sessions.metrics.active_connections.with_label_values(&[transport]).inc();
        let mut leaving = Leaving { session: self, outbox, transport, reason: CloseReason::ClientGone };
        stream! {
            let channels = leaving.session.channels();
            let mut verdict = leaving.session.verdict;
            let mut resume = leaving.session.resume;
            // The cursor was judged against the log of that beginning, and means nothing in another.
            let mut generation = Some(leaving.session.generation);
            let connected = Frame::control("connected", leaving.session.connected(), None);
            yield Output::Frames(VecDeque::from([connected]));
            // A new stream is better told at once that it can't be served; one that is open waits, or all would come back together.
            let mut patience = Duration::ZERO;
            'anew: loop {
                if let Verdict::Reset(reason) = verdict {
                    leaving.session.sessions.metrics.resumes.with_label_values(&["reset"]).inc();
                    yield Output::Frames(VecDeque::from([reset(&channels, reason)]));
                }
                let mut progress = leaving.session.begin(resume, generation);
                let joined = loop {
                    loop {
                        match leaving.session.page(&channels, &mut progress).await {
                            Ok(Page::Frames(frames)) => yield Output::Frames(frames),
                            Ok(Page::CaughtUp) => break,
                            Ok(Page::Lost) => { (verdict, resume, generation) = LOST; continue 'anew; }
                            Err(error) => { leaving.because(CloseReason::Problem); yield Output::Problem(error); return; }
                        }
                    }
                    match leaving.session.snapshots_patiently(&channels, &mut progress, patience).await {
                        Ok(Some(frames)) => if !frames.is_empty() { yield Output::Frames(frames) },
                        Ok(None) => continue,
                        Err(error) => { leaving.because(CloseReason::Problem); yield Output::Problem(error); return; }
                    }
                    let register = leaving.session.register(&leaving.outbox, &progress);
                    match leaving.session.sessions.hub.register(register).await {
                        Ok(cursor) => break cursor,
                        Err(Refused::Behind) => {}
                        Err(Refused::Reopened) => { (verdict, resume, generation) = LOST; continue 'anew; }
                        Err(Refused::Stopped) => { leaving.because(CloseReason::Shutdown); yield Output::End(CloseReason::Shutdown); return; }
                    }
                };
                tracing::trace!(cursor = %joined, "stream is live");
                patience = OPEN_PATIENCE;
                loop {
                    let drained = std::future::poll_fn(|cx| leaving.outbox.poll_drain(cx)).await;
                    match drained {
                        Drained::Frames(frames) => yield Output::Frames(frames),
                        Drained::Resync => { (verdict, resume, generation) = LOST; continue 'anew; }
                        Drained::End(reason) => { leaving.because(reason); yield Output::End(reason); return; }
                    }
                }
            }
        }
    }

    fn begin(&self, resume: Option<Cursor>, judged_in: Option<u64>) -> Progress {
        let window = self.sessions.hub.window();
        // The generation first: if the log begins anew in between, the lane refuses the older one.
        let generation = judged_in.filter(|_| resume.is_some()).unwrap_or_else(|| window.generation());
        let at = resume.unwrap_or_else(|| window.head());
        Progress { at, generation, untouched: resume.is_none(), said: HashMap::new() }
    }

    /// The next part of the replay, from the window or, beyond it, from the log itself.
    async fn page(&self, channels: &[Channel], progress: &mut Progress) -> Result<Page, ApiError> {
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
        let entries = match window.page(channels, progress.at.at, head.at, PAGE) {
            Some(page) => {
                let last = page.entries.last().map(|entry| progress.cursor(entry));
                progress.at = if page.complete { head } else { last.unwrap_or(head) };
                page.entries
            }
            None => match self.page_of_log(channels, progress).await? {
                Some(entries) => entries,
                None => return Ok(Page::Lost),
            },
        };
        Ok(Page::Frames(entries.iter().filter_map(|entry| progress.frame(entry)).collect()))
    }

    async fn page_of_log(
        &self,
        channels: &[Channel],
        progress: &mut Progress,
    ) -> Result<Option<Vec<Arc<Entry>>>, ApiError> {
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
        let wanted = |entry: &Entry| entry.event.as_ref().is_some_and(|event| channels.contains(&event.channel));
        Ok(Some(page.into_iter().filter(wanted).map(Arc::new).collect()))
    }

    /// The same, tried again for a while when a dependency is away.
    async fn snapshots_patiently(
        &self,
        channels: &[Channel],
        progress: &mut Progress,
        patience: Duration,
    ) -> Result<Option<VecDeque<Frame>>, ApiError> {
        let until = Instant::now() + patience;
        loop {
            match self.snapshots(channels, progress).await {
                Err(error) if Instant::now() < until => {
                    tracing::debug!(%error, "an open stream waits for a dependency");
                    tokio::time::sleep(Duration::from_millis(fastrand::u64(100..500))).await;
                }
                done => return done,
            }
        }
    }

    /// Snapshots of the jobs of which the replay said nothing, all as of `progress.at`; `None`: a state is newer than that, replay on.
    async fn snapshots(
        &self,
        channels: &[Channel],
        progress: &mut Progress,
    ) -> Result<Option<VecDeque<Frame>>, ApiError> {
        let silent = |channel: &&Channel| channel.kind() == Kind::Jobs && !progress.said.contains_key(*channel);
        let silent: Vec<Channel> = channels.iter().filter(silent).cloned().collect();
        let states = self.sessions.states(&silent, progress.at.at).await?;
        let in_log = states.values().filter(|state| state.in_log);
        let newest = in_log.map(|state| state.version).max().unwrap_or(LogId::ZERO);
        if newest > progress.at.at {
            // What is older than the snapshot would follow it, and take the client back: so first the log, then the snapshot.
            let reached = self.sessions.hub.window().reached(newest, STATE_AHEAD_WAIT).await;
            return if reached { Ok(None) } else { Err(ApiError::unavailable("broker")) };
        }
        progress.untouched = false;
        let mut frames = VecDeque::new();
        for channel in silent {
            let Some(Current { event, terminal, .. }) = states.get(&channel) else { continue };
            frames.push_back(Frame::snapshot(event));
            progress.said.insert(channel, *terminal);
        }
        Ok(Some(frames))
    }

    fn register(&self, outbox: &Arc<Outbox>, progress: &Progress) -> Register {
        let pending = |channel: &Channel| !progress.said.get(channel).copied().unwrap_or(false);
        let until_done = self.until_done.then(|| self.channels().into_iter().filter(pending).collect::<HashSet<_>>());
        Register {
            id: self.id,
            grants: self.grants.iter().map(|(grant, _)| grant.clone()).collect(),
            outbox: Arc::clone(outbox),
            from: progress.at.at,
            generation: progress.generation,
            until_done,
            expires_at: self.principal.expires_at.saturating_add(LEEWAY_S),
            kill: self.kill.clone(),
        }
    }
}

/// After continuity was lost.
const LOST: (Verdict, Option<Cursor>, Option<u64>) = (Verdict::Reset(ResetReason::HistoryRewritten), None, None);

enum Page {
    Frames(VecDeque<Frame>),
    CaughtUp,
    Lost,
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

fn reset(channels: &[Channel], reason: ResetReason) -> Frame {
    let names: Vec<String> = channels.iter().map(|channel| format!("\"{channel}\"")).collect();
    let now = clock::rfc3339(clock::now_us());
    let (names, reason) = (names.join(","), reason.as_str());
    Frame::control("reset", format!("{{\"channels\":[{names}],\"reason\":\"{reason}\",\"timestamp\":\"{now}\"}}"), None)
}
