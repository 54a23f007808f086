//! The current states of jobs: from the window, from the broker, from the database, in this order.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::TryStreamExt as _;
use futures_util::stream;
use tokio::time::Instant;

use crate::broker::KnownJob;
use crate::error::ApiError;
use crate::event::Channel;
use crate::event::Delivery;
use crate::event::Event;
use crate::event::EventName;
use crate::event::Id;
use crate::event::Kind;
use crate::event::LogId;
use crate::session::Sessions;

/// Questions of one stream to the broker that are under way at once.
const ASKED_AT_ONCE: usize = 16;

/// How old the answer about a row of the database may be.
pub const ROW_AGE_MAX: Duration = Duration::from_secs(5);

/// What was learnt of a job that is not in the window.
#[derive(Debug, Clone)]
pub struct Known {
    /// `None`: neither log nor database know a state.
    current: Option<Arc<Current>>,
    /// The beginning of the log, and the position in it, at which that was so.
    generation: u64,
    as_of: LogId,
    asked: Instant,
}

/// The newest known state of a channel.
#[derive(Debug, Clone)]
pub(super) struct Current {
    /// Its log position.
    pub(super) version: LogId,
    /// Known from the log itself, which the window will reach; a row's version may be that of a log that is no more.
    pub(super) in_log: bool,
    /// Whether the job has ended.
    pub(super) terminal: bool,
    /// The state as an event.
    pub(super) event: Event,
}

impl Sessions {
    /// The states of these channels that have one, as of `upto` where the window knows them, else as new as they are known.
    ///
    /// # Errors
    /// The broker or the database is away.
    pub(super) async fn states(
        &self,
        channels: &[Channel],
        upto: LogId,
    ) -> Result<HashMap<Channel, Current>, ApiError> {
        let mut states = HashMap::new();
        let mut elsewhere = Vec::new();
        for channel in channels.iter().filter(|channel| channel.kind() == Kind::Jobs) {
            match self.in_window(channel, upto).map(Some).or_else(|| self.remembered(channel)) {
                Some(current) => drop(current.map(|current| states.insert(channel.clone(), current))),
                None => elsewhere.push(channel.clone()),
            }
        }
        if elsewhere.is_empty() {
            return Ok(states);
        }
        // Bounded: after a loss of continuity every stream asks at once.
        let _turn = self.catchups.acquire().await.map_err(|_| ApiError::unavailable("stopping"))?;
        // Before the question: the answer is at least as new as this.
        let (generation, _, as_of) = self.hub.window().extent();
        let mut asked = HashMap::new();
        let unknown = self.ask_broker(elsewhere.clone(), &mut asked).await?;
        self.ask_store(&unknown, &mut asked).await?;
        // A row newer than the log at the time of the question was written back after the log was asked: its entry is still on its
        // way to us, and the snapshot must wait for it. If the log still doesn't know the job, the row is of another log.
        let newer = asked.iter().filter(|(_, current)| !current.in_log && current.version > as_of);
        let newer: Vec<Channel> = newer.map(|(channel, _)| channel.clone()).collect();
        self.ask_broker(newer, &mut asked).await?;
        let now = Instant::now();
        for channel in elsewhere {
            let current = asked.get(&channel).cloned().map(Arc::new);
            // Rows are changed by others as well, and are then not in the log.
            let from_log = current.as_ref().is_some_and(|current| current.in_log);
            let known = if from_log { &self.known } else { &self.known_rows };
            known.insert(channel, Known { current, generation, as_of, asked: now });
        }
        states.extend(asked);
        Ok(states)
    }

    /// What was said of a quiet job before, as long as nothing can have happened to it since: the window reaches back to the
    /// question, and has nothing of it. So those who come back after a deploy are served from memory.
    fn remembered(&self, channel: &Channel) -> Option<Option<Current>> {
        let young = |known: &Known| known.asked.elapsed() < ROW_AGE_MAX;
        let known = self.known.get(channel).or_else(|| self.known_rows.get(channel).filter(young))?;
        let (generation, floor, _) = self.hub.window().extent();
        let untouched = known.generation == generation && floor <= known.as_of;
        untouched.then(|| known.current.as_deref().cloned())
    }

    pub(super) fn in_window(&self, channel: &Channel, upto: LogId) -> Option<Current> {
        let entry = self.hub.window().last(channel, upto)?;
        let event = entry.event.clone()?;
        Some(Current { version: entry.id, in_log: true, terminal: event.terminal, event })
    }

    /// Answers the channels of which the broker knows nothing.
    async fn ask_broker(
        &self,
        channels: Vec<Channel>,
        states: &mut HashMap<Channel, Current>,
    ) -> Result<Vec<(Channel, Id)>, ApiError> {
        let named = channels.into_iter().filter_map(|channel| Id::parse(channel.id()).ok().map(|id| (channel, id)));
        let asked = stream::iter(named).map(|(channel, id)| async move {
            let known = self.broker.job(&id).await;
            known.map(|known| (channel, id, known))
        });
        let answers: Vec<_> = asked.buffer_unordered(ASKED_AT_ONCE).try_collect().await.map_err(|error| {
            tracing::warn!(%error, "the broker can't be asked about a job");
            ApiError::unavailable("broker")
        })?;
        let mut unknown = Vec::new();
        for (channel, id, known) in answers {
            match known {
                Some(known) => drop(states.insert(channel, current(&id, &known, true))),
                None => unknown.push((channel, id)),
            }
        }
        Ok(unknown)
    }

    async fn ask_store(&self, jobs: &[(Channel, Id)], states: &mut HashMap<Channel, Current>) -> Result<(), ApiError> {
        if jobs.is_empty() {
            return Ok(());
        }
        let ids: Vec<Id> = jobs.iter().map(|(_, id)| id.clone()).collect();
        let mut rows = self.store.jobs(&ids, &self.terminal).await.map_err(|error| {
            tracing::warn!(%error, "the database can't be asked about jobs");
            ApiError::unavailable("database")
        })?;
        for (channel, id) in jobs {
            let Some(row) = rows.remove(id) else { continue };
            let Some(state) = row.state else { continue };
            states.insert(channel.clone(), current(id, &KnownJob { state, version: row.version }, false));
        }
        Ok(())
    }
}

fn current(id: &Id, known: &KnownJob, in_log: bool) -> Current {
    let event = Event {
        channel: Channel::of(Kind::Jobs, id),
        name: EventName::JOB_UPDATE,
        data: known.state.to_json(id).into(),
        delivery: Delivery::Durable,
        terminal: known.state.terminal,
        accepted_us: 0,
    };
    Current { version: known.version, in_log, terminal: known.state.terminal, event }
}
