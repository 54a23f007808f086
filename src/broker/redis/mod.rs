//! The log in Redis: a stream that every node tails, and scripts that judge and append in one step.
//!
//! Keys, all below `{prefix}:` and for this module alone:
//! `log` the stream · `log:meta` epoch, count, last trimmed entry · `log:milestones` every so many-th entry · `state:{id}` a
//! job's state · `stream:{hash}` edits of a stream by its name · `u:{job}:{digest}` an `updateId` · `o:{name}` an append's name ·
//! `inbox` position in the durable inbox · `inbox:lease` who reads it · `marks` the mark counter ·
//! `ticket:{hash}` a ticket · `cookies:{user}` the cookies of spent ones ·
//! `roster:{document}` who is at a document · `rosters:deadlines`, `rosters:nodes`, `rosters:node:{node}`, `rosters:beats` what of
//! that ends when.
//! Channels: `{prefix}:marks`, `{prefix}:ephemeral`, `{prefix}:calls`, `{prefix}:node:{node}`, `{prefix}:roster:{document}`.

mod append;
mod calls;
mod codec;
mod inbox;
mod link;
mod pack;
mod pushes;
mod raw;
mod reading;
mod resp;
#[cfg(test)]
mod resp_tests;
mod rosters;
mod tail;
mod tickets;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use redis::Script;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::broker::BrokerError;
use crate::broker::EventAppend;
use crate::broker::JobAppend;
use crate::broker::JobOutcome;
use crate::broker::KnownJob;
use crate::broker::Located;
use crate::broker::Outputs;
use crate::broker::Standing;
use crate::event::Cursor;
use crate::event::Entry;
use crate::event::Epoch;
use crate::event::Event;
use crate::event::Id;
use crate::event::LogId;
use crate::event::WindowLimits;
use crate::jobs::TerminalStatuses;
use crate::telemetry::Metrics;
use codec::Reader;
pub use inbox::InboxReader;
use link::Link;
use pack::Packed;
pub(super) use rosters::RedisRosters;
pub(super) use tickets::RedisTickets;

/// How often this node trims the log by age, in milliseconds; any node's append may do it.
const TRIM_EVERY_MS: u64 = 250;
/// A probe older than this means: not ready.
const PROBE_AGE_MAX: Duration = Duration::from_secs(10);

/// What the Redis log needs to know.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the fields are settings of the same names")]
pub struct RedisSettings {
    pub url: crate::config::Secret,
    pub prefix: String,
    pub job_updates_channel: String,
    pub channel_events_channel: String,
    pub retention: Duration,
    pub entries_max: usize,
    pub window: WindowLimits,
}

/// The log in Redis. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RedisBroker {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    settings: RedisSettings,
    keys: Keys,
    scripts: Scripts,
    link: Link,
    terminal: TerminalStatuses,
    metrics: Metrics,
    /// Random; tells this process's marks and leases from those of others.
    node: u64,
    started: Instant,
    epoch: AtomicU64,
    /// Numbers this node's questions to the others.
    calls: AtomicU64,
    asked: calls::Waiting,
    last_trim_ms: AtomicU64,
    packed: Mutex<Packed>,
    /// Milliseconds since `started` when the last own mark came back, plus one; 0: never.
    mark_heard: AtomicU64,
    /// Said in this node's marks, and to which subscription it belongs.
    standing: Mutex<(u64, Standing)>,
    /// The same for the last answer to the tail.
    tail_heard: AtomicU64,
}

#[derive(Debug)]
struct Keys {
    log: String,
    meta: String,
    milestones: String,
    marks: String,
    inbox: String,
    lease: String,
    marks_channel: String,
    ephemeral_channel: String,
    calls_channel: String,
}

#[derive(Debug)]
struct Scripts {
    append: Script,
    publish: Script,
    locate: Script,
    probe: Script,
}

impl RedisBroker {
    /// Prepares the log; `run` connects.
    ///
    /// # Errors
    /// The URL can't be read.
    pub fn new(settings: RedisSettings, terminal: TerminalStatuses, metrics: Metrics) -> Result<Self, BrokerError> {
        let link = Link::new(settings.url.expose(), metrics.clone()).map_err(|e| BrokerError::Unavailable(Some(e)))?;
        let key = |name: &str| format!("{}:{name}", settings.prefix);
        let keys = Keys {
            log: key("log"),
            meta: key("log:meta"),
            milestones: key("log:milestones"),
            marks: key("marks"),
            inbox: key("inbox"),
            lease: key("inbox:lease"),
            marks_channel: key("marks"),
            ephemeral_channel: key("ephemeral"),
            calls_channel: key("calls"),
        };
        let with_log = |text: &str| Script::new(&format!("{}\n{text}", include_str!("log.lua")));
        let scripts = Scripts {
            append: with_log(include_str!("append.lua")),
            publish: with_log(include_str!("publish.lua")),
            locate: Script::new(include_str!("locate.lua")),
            probe: Script::new(include_str!("probe.lua")),
        };
        let shared = Shared {
            settings,
            keys,
            scripts,
            link,
            terminal,
            metrics,
            node: fastrand::u64(1..),
            started: Instant::now(),
            epoch: AtomicU64::new(0),
            calls: AtomicU64::new(0),
            asked: calls::Waiting::default(),
            last_trim_ms: AtomicU64::new(0),
            packed: Mutex::default(),
            mark_heard: AtomicU64::new(0),
            standing: Mutex::default(),
            tail_heard: AtomicU64::new(0),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Connects once, for a clear error at the start; also says what is risky about this Redis.
    ///
    /// # Errors
    /// Redis can't be reached or refuses the credentials.
    pub async fn check(&self) -> Result<Vec<&'static str>, BrokerError> {
        self.shared.link.check().await
    }

    /// This node's random number, as in its marks.
    #[must_use]
    pub fn node(&self) -> u64 {
        self.shared.node
    }

    /// What this node's marks say from now on; ignored when it is about a subscription that is no more.
    pub fn announce(&self, subscription: u64, standing: Standing) {
        let mut said = self.shared.standing.lock();
        if said.0 == subscription {
            said.1 = standing;
        }
    }

    pub(super) fn epoch(&self) -> Epoch {
        Epoch(self.shared.epoch.load(Ordering::Acquire))
    }

    pub(super) fn is_ready(&self) -> bool {
        let young = |heard: &AtomicU64| self.shared.age(heard).is_some_and(|age| age < PROBE_AGE_MAX);
        young(&self.shared.mark_heard) && young(&self.shared.tail_heard)
    }

    pub(super) async fn run(&self, outputs: Outputs, stop: CancellationToken) {
        let shared = &self.shared;
        let tail_sender = outputs.tail.clone();
        tokio::join!(
            shared.link.run(stop.clone()),
            tail::run(shared, outputs.tail, stop.clone()),
            raw::run(shared, outputs.raw, tail_sender, stop.clone()),
        );
    }

    pub(super) async fn append_jobs(&self, batch: &[JobAppend<'_>]) -> Result<Vec<JobOutcome>, BrokerError> {
        let shared = &self.shared;
        let mut outcomes = Vec::with_capacity(batch.len());
        let mut rest = batch;
        while !rest.is_empty() {
            let (call, prints) = shared.append_call(rest);
            let answer: String = shared.link.call(&shared.scripts.append, &call).await?;
            outcomes.extend(pack::outcomes(&answer, &prints, self.epoch()).ok_or(BrokerError::Garbled)?);
            rest = rest.get(prints.len()..).unwrap_or_default();
        }
        Ok(outcomes)
    }

    pub(super) async fn append_events(&self, batch: &[EventAppend<'_>]) -> Result<Vec<Cursor>, BrokerError> {
        let shared = &self.shared;
        let mut cursors = Vec::with_capacity(batch.len());
        while let Some(rest) = batch.get(cursors.len()..).filter(|rest| !rest.is_empty()) {
            let (call, count) = shared.publish_call(rest);
            let answer: String = shared.link.call(&shared.scripts.publish, &call).await?;
            let before = cursors.len();
            for word in answer.split(',') {
                cursors.push(pack::cursor(word, self.epoch()).ok_or(BrokerError::Garbled)?);
            }
            if cursors.len() - before != count {
                return Err(BrokerError::Garbled);
            }
        }
        Ok(cursors)
    }

    pub(super) async fn publish_ephemeral(&self, event: &Event) -> Result<(), BrokerError> {
        let mut command = redis::cmd("PUBLISH");
        command.arg(&self.shared.keys.ephemeral_channel).arg(codec::ephemeral(event));
        self.shared.link.query::<i64>(&command).await.map(drop)
    }

    pub(super) async fn job(&self, id: &Id) -> Result<Option<KnownJob>, BrokerError> {
        let mut command = redis::cmd("GET");
        command.arg(self.shared.job_key(id));
        let state: Option<String> = self.shared.link.query(&command).await?;
        Ok(state.and_then(|state| pack::read_state(&state)))
    }

    pub(super) async fn locate(&self, cursor: &Cursor) -> Result<Located, BrokerError> {
        let shared = &self.shared;
        let mut invocation = shared.scripts.locate.prepare_invoke();
        invocation.key(&shared.keys.log).key(&shared.keys.meta);
        invocation.arg(cursor.epoch.0).arg(cursor.at.to_string()).arg(cursor.print.0);
        let answer: String = shared.link.invoke(invocation).await?;
        match answer.as_str() {
            "found" => Ok(Located::Found),
            "ahead" => Ok(Located::Ahead),
            _ => Ok(Located::Gone),
        }
    }

    pub(super) async fn read_after(&self, at: LogId, count: usize) -> Result<Vec<Entry>, BrokerError> {
        let mut command = redis::cmd("XRANGE");
        command.arg(&self.shared.keys.log).arg(format!("({at}")).arg("+").arg("COUNT").arg(count);
        let answer: redis::Value = self.shared.link.query(&command).await?;
        Ok(Reader::default().entries(&answer))
    }
}

impl Shared {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn touch(&self, heard: &AtomicU64) {
        heard.store(self.now_ms() + 1, Ordering::Release);
    }

    fn age(&self, heard: &AtomicU64) -> Option<Duration> {
        let at = heard.load(Ordering::Acquire).checked_sub(1)?;
        Some(Duration::from_millis(self.now_ms().saturating_sub(at)))
    }

    fn job_key(&self, id: &Id) -> String {
        format!("{}:state:{}", self.settings.prefix, id.as_str())
    }

    fn once_key(&self, name: &str) -> String {
        format!("{}:o:{name}", self.settings.prefix)
    }

    /// Whether this append should trim by age: one of this node's appends every now and then.
    fn trims(&self) -> bool {
        let now = self.now_ms() + TRIM_EVERY_MS;
        let last = self.last_trim_ms.load(Ordering::Relaxed);
        let due = now >= last + TRIM_EVERY_MS;
        due && self.last_trim_ms.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}
