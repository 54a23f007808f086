//! What a stream is given before it is live: the replay, from the window or the log, and the states of quiet jobs.

use std::collections::HashMap;
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
use crate::hub::Frame;
use crate::session::Session;
use crate::session::Verdict;
use crate::session::catchup::Current;
use crate::session::live::Begin;

/// Entries of one page of a replay.
const PAGE: usize = 128;
/// Entries of the first page that is read from the log beyond the window, of one at least, and at most.
const LOG_PAGE: usize = 64;
const LOG_PAGE_MIN: usize = 16;
const LOG_PAGE_MAX: usize = 512;
/// Bytes of such a page, if entries go on as large as they were: many may read at once, and the connection serves others too.
const LOG_PAGE_BYTES: usize = 1024 * 1024;
/// What an entry takes beside its data.
const ENTRY_BYTES: usize = 256;
/// How long the window is waited for when a state from elsewhere is newer than it.
pub(super) const STATE_AHEAD_WAIT: Duration = Duration::from_millis(2000);
/// Where a stream is while it catches up.
#[derive(Debug)]
pub(super) struct Progress {
    pub(super) channels: Vec<Channel>,
    pub(super) at: Cursor,
    pub(super) generation: u64,
    /// Nothing of the log was sent yet: a fresh stream may still choose where it begins.
    pub(super) untouched: bool,
    /// Job channels of which the replay said something, and whether that was an end.
    pub(super) said: HashMap<Channel, bool>,
    /// Snapshots are sent.
    pub(super) is_ready: bool,
    /// Entries of the next page of the log.
    pub(super) log_page: usize,
}

pub(super) enum Page {
    Frames(VecDeque<Frame>),
    CaughtUp,
    Lost,
}

/// How many entries like these make a page of the log.
fn entries_of_a_page(page: &[Entry]) -> usize {
    let data = |entry: &Entry| entry.event.as_ref().map_or(0, |event| event.data.len());
    let bytes: usize = page.iter().map(|entry| data(entry) + ENTRY_BYTES).sum();
    (LOG_PAGE_BYTES * page.len() / bytes.max(1)).clamp(LOG_PAGE_MIN, LOG_PAGE_MAX)
}

impl Session {
    /// Where the stream begins; one that was live goes on from now.
    pub(super) fn begun(&self) -> Begin {
        self.begin.as_deref().copied().unwrap_or(Begin { verdict: Verdict::Live, resume: None, generation: 0 })
    }

    pub(super) fn begin(&self, channels: Vec<Channel>) -> Progress {
        let window = self.sessions.hub.window();
        // The generation first: if the log begins anew in between, the lane refuses the older one. A cursor was judged against
        // the log of that beginning, and means nothing in another.
        let Begin { resume, generation, .. } = self.begun();
        let generation = if resume.is_some() { generation } else { window.generation() };
        let at = resume.unwrap_or_else(|| window.head());
        let untouched = resume.is_none();
        Progress { channels, at, generation, untouched, said: HashMap::new(), is_ready: false, log_page: LOG_PAGE }
    }

    pub(super) fn reset(&self, progress: &Progress) -> Option<Frame> {
        let Verdict::Reset(reason) = self.begun().verdict else { return None };
        self.sessions.inspector().note(|ledger| ledger.reset(self.live.id.0, reason.as_str(), progress.at.at));
        self.sessions.metrics.resumes.with_label_values(&["reset"]).inc();
        let names: Vec<String> = progress.channels.iter().map(|channel| format!("\"{channel}\"")).collect();
        let now = clock::rfc3339(clock::now_us());
        let (names, reason) = (names.join(","), reason.as_str());
        let data = format!("{{\"channels\":[{names}],\"reason\":\"{reason}\",\"timestamp\":\"{now}\"}}");
        Some(Frame::control("reset", data, None))
    }

    /// The next part of the replay, from the window or, beyond it, from the log itself.
    pub(super) async fn page(&self, progress: &mut Progress) -> Result<Page, ApiError> {
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

    pub(super) async fn page_of_log(&self, progress: &mut Progress) -> Result<Option<Vec<Arc<Entry>>>, ApiError> {
        let unavailable = |error| {
            tracing::warn!(%error, "the log can't be read");
            ApiError::unavailable("broker")
        };
        let _turn = self.sessions.catchups.acquire().await.map_err(|_| ApiError::unavailable("stopping"))?;
        let broker = &self.sessions.broker;
        let page = broker.read_after(progress.at.at, progress.log_page).await.map_err(unavailable)?;
        // Asked after reading: as long as the entry before the page is still there, nothing of the page was trimmed away.
        if broker.locate(&progress.at).await.map_err(unavailable)? != Located::Found {
            return Ok(None);
        }
        let Some(last) = page.last() else { return Ok(None) };
        progress.at = progress.cursor(last);
        progress.log_page = entries_of_a_page(&page);
        let channels = &progress.channels;
        let wanted = |entry: &Entry| entry.event.as_ref().is_some_and(|event| channels.contains(&event.channel));
        Ok(Some(page.into_iter().filter(wanted).map(Arc::new).collect()))
    }

    /// Snapshots, tried again for a while when a dependency is away.
    pub(super) async fn snapshots_patiently(
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
    pub(super) async fn snapshots(&self, progress: &mut Progress) -> Result<Option<VecDeque<Frame>>, ApiError> {
        let resumed = self.begun().verdict == Verdict::Resumed;
        let fresh = self.wanted.as_ref().and_then(|wanted| wanted.told.as_ref()).filter(|_| resumed);
        let told = |channel: &Channel| fresh.is_some_and(|fresh| !fresh.contains(channel));
        let silent = |channel: &&Channel| {
            channel.kind() == Kind::Jobs && !progress.said.contains_key(*channel) && !told(channel)
        };
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
    /// Goes on with these channels. Answers from which position on they are there.
    pub(super) fn carry(&mut self, channels: Vec<Channel>) -> Cursor {
        self.said.retain(|channel, _| channels.contains(channel));
        self.channels = channels;
        self.is_ready = false;
        self.at
    }

    pub(super) fn cursor(&self, entry: &Entry) -> Cursor {
        Cursor { epoch: self.at.epoch, at: entry.id, print: entry.print }
    }

    pub(super) fn frame(&mut self, entry: &Arc<Entry>) -> Option<Frame> {
        let event = entry.event.as_ref()?;
        if event.channel.kind() == Kind::Jobs {
            self.said.insert(event.channel.clone(), event.terminal);
        }
        Some(Frame::replayed(event, self.cursor(entry)))
    }
}
