//! What nodes and operators are told. Names, positions and sizes; never the data of an event, and nothing secret.

use serde::Deserialize;
use serde::Serialize;

use crate::event::Channel;
use crate::event::LogId;
use crate::inspect::Note;
use crate::inspect::Recent;
use crate::inspect::Standing;
use crate::inspect::ledger::name;
use crate::inspect::life::Life;

/// Channels of a life that are told by name.
const CHANNELS_TOLD: usize = 32;

/// What became of one event for one life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was written.
    Written,
    /// It waits for the client to read.
    Queued,
    /// A newer event of the channel was sent instead.
    Conflated,
    /// The stream is still being told what was before.
    CatchingUp,
    /// This node's log has not come so far.
    NotReached,
    /// It came before the stream began.
    Before,
    /// It came after the stream had ended.
    After,
    /// The stream ended before it could be written.
    NotWritten,
    /// The stream had been told to forget everything.
    Reset,
    /// The channel was refused.
    Denied,
    /// The stream never asked for the channel.
    NotSubscribed,
    /// The channel joined the stream later.
    NotYetSubscribed,
    /// The channel had left the stream.
    Left,
    /// The channel left before it was written.
    TakenBack,
    /// It is too long ago: details are forgotten.
    Unknown,
}

/// What became of one event for one life, in a sentence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fate {
    /// The event's position.
    pub at: String,
    /// In a word.
    pub outcome: Outcome,
    /// In a sentence.
    pub says: String,
}

/// What waits for a client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// Events.
    pub events: usize,
    /// Bytes.
    pub bytes: usize,
    /// The position of the first of them.
    pub from: Option<String>,
}

/// A life as it is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LifeView {
    /// As in `connected`.
    pub connection: String,
    /// `sse`, `ws` or `poll`.
    pub transport: String,
    /// The client's own name for it.
    pub session: Option<String>,
    /// Milliseconds since the Unix epoch.
    pub opened_ms: u64,
    /// `live`, `resumed` or `reset`.
    pub verdict: String,
    /// Why it was reset.
    pub reset: Option<String>,
    /// Where it went on.
    pub resumed_from: Option<String>,
    /// Where it became live; nothing: it is catching up, or never did.
    pub joined: Option<String>,
    /// Polls of which it is made; 1 for a stream.
    pub connections: u64,
    /// What it carries.
    pub channels: Vec<String>,
    /// Channels beyond those that are listed.
    pub more_channels: usize,
    /// What it was refused, and why.
    pub denied: Vec<(String, String)>,
    /// Superseded progress that it was spared.
    pub superseded: u64,
    /// Ephemeral events that it missed because it lagged.
    pub dropped: u64,
    /// What waits for it, while it is live.
    pub waiting: Option<Waiting>,
    /// The reason of its end.
    pub ended: Option<String>,
    /// When that was.
    pub ended_ms: Option<u64>,
    /// What became of the events that were asked for, in their order.
    pub fates: Vec<Fate>,
}

impl LifeView {
    /// `live`: how it stands, if a lane carries it; `head`: how far this node's log has come.
    pub(super) fn of(life: &Life, events: Option<(&Channel, &[LogId])>, live: Option<&Standing>, head: LogId) -> Self {
        let live = live.filter(|_| life.ended.is_none());
        let fates =
            events.map(|(channel, positions)| positions.iter().map(|at| life.fate(channel, *at, live, head)).collect());
        let text = |at: Option<LogId>| at.map(|at| at.to_string());
        let waiting = live.filter(|live| live.events > 0 || live.waiting_from.is_some());
        Self {
            connection: name(life.connection),
            transport: life.transport.to_owned(),
            session: life.session.as_ref().map(ToString::to_string),
            opened_ms: life.opened_ms,
            verdict: life.verdict.to_owned(),
            reset: life.reset.map(str::to_owned),
            resumed_from: text(life.resume),
            joined: text(life.joined),
            connections: life.connections,
            channels: life.carried.iter().take(CHANNELS_TOLD).map(|carried| carried.channel.to_string()).collect(),
            more_channels: life.carried.len().saturating_sub(CHANNELS_TOLD),
            denied: life.denied.iter().map(|(name, code)| (name.clone(), (*code).to_owned())).collect(),
            superseded: life.superseded,
            dropped: life.dropped,
            waiting: waiting.map(|live| Waiting {
                events: live.events,
                bytes: live.bytes,
                from: text(live.waiting_from),
            }),
            ended: life.ended.map(|(reason, _)| reason.to_owned()),
            ended_ms: life.ended.map(|(_, at)| at),
            fates: fates.unwrap_or_default(),
        }
    }
}

/// What one node knows of a user's streams.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Account {
    /// Which node.
    pub node: String,
    /// Whether it remembers anything.
    pub inspector: bool,
    /// Since when, milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// How far its log has come.
    pub head: String,
    /// The lives, newest first.
    pub lives: Vec<LifeView>,
    /// Lives beyond those that are listed.
    pub more: usize,
    /// What was refused as a whole, newest first.
    pub refusals: Vec<Note>,
    /// Updates of the channel that came in there and were dropped, newest first.
    #[serde(default)]
    pub rejections: Vec<Note>,
}

/// Whether the log has an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Logged {
    /// It has.
    Logged,
    /// The entry says that an update was judged and dropped.
    Rejected,
    /// It belongs to another channel.
    OtherChannel,
    /// It was trimmed away, or is of a log that is no more.
    Trimmed,
    /// There is no entry of this position.
    NoSuchEntry,
    /// The log ends before it.
    NotYet,
    /// Another entry stands there: the log was rewritten.
    Rewritten,
    /// The log can't be asked.
    Unavailable,
}

/// An event as it is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// Its position.
    pub at: String,
    /// Its cursor, where the window knows it.
    pub cursor: Option<String>,
    /// Whether the log has it.
    pub logged: Logged,
    /// Its channel.
    pub channel: Option<String>,
    /// Its name.
    pub event: Option<String>,
    /// Bytes of its data.
    pub bytes: Option<usize>,
    /// When it was accepted, milliseconds since the Unix epoch.
    pub accepted_ms: Option<u64>,
}

/// Why somebody did or did not get something.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Explanation {
    /// Who.
    pub user: String,
    /// Of which channel.
    pub channel: String,
    /// Whether they may see it now: `granted`, `denied`, `no_such_user`, `unavailable`.
    pub permission: String,
    /// The events: the one that was asked for, or the newest of the channel, oldest first.
    pub events: Vec<Finding>,
    /// What each node knows.
    pub instances: Vec<Account>,
    /// Every node has answered.
    pub complete: bool,
    /// What follows from it, a line each.
    pub says: Vec<String>,
}

/// A part of the log as it is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogView {
    /// The newest position.
    pub head: String,
    /// Its cursor.
    pub cursor: String,
    /// From here on everything is in memory.
    pub floor: String,
    /// Entries in memory.
    pub entries: usize,
    /// Bytes of them.
    pub bytes: usize,
}

/// The newest entries of the log, newest first.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LogTail {
    /// The log.
    pub log: LogView,
    /// The entries.
    pub entries: Vec<Finding>,
}

/// A lane as it is told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LaneView {
    /// It has answered in time.
    pub answers: bool,
    /// Streams that are live.
    pub streams: usize,
    /// Channels that somebody listens to.
    pub channels: usize,
    /// How far it has come.
    pub head: String,
    /// Messages that wait for it.
    pub messages: usize,
    /// Streams for which something waits, and what.
    pub lagging: usize,
    /// Events that wait for clients.
    pub waiting_events: usize,
    /// Bytes of them.
    pub waiting_bytes: usize,
    /// It is letting its streams go.
    pub leaving: bool,
}

/// A channel on which much happens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BusyChannel {
    /// Its name.
    pub channel: String,
    /// Entries of the last ten seconds of the log.
    pub events: usize,
    /// Streams of this node that carry it.
    pub streams: usize,
}

/// A node at a glance. Totals only grow: what happens a second is the difference of two.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Overview {
    /// Which node.
    pub node: String,
    /// Its version.
    pub version: String,
    /// When this was, milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// How long it has been serving.
    pub uptime_seconds: u64,
    /// Whether it remembers what happened to streams.
    pub inspector: bool,
    /// What it publishes comes back to it.
    pub ready: bool,
    /// It is leaving.
    pub draining: bool,
    /// Its part of the log.
    pub log: LogView,
    /// Open streams: `sse`, `ws`, `poll`.
    pub streams: [i64; 3],
    /// Lanes.
    pub lanes: Vec<LaneView>,
    /// Channels on which much happens, the busiest first.
    pub channels: Vec<BusyChannel>,
    /// What it counts.
    pub totals: crate::telemetry::Totals,
    /// What happened of late, if that was asked for.
    pub recent: Option<Recent>,
}

/// All nodes at a glance.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Instances {
    /// Each that has answered; the one that was asked first.
    pub instances: Vec<Overview>,
    /// Every node has answered.
    pub complete: bool,
}
