//! What goes into a broker and what comes out of it.

use std::sync::Arc;

use crate::event::Cursor;
use crate::event::Entry;
use crate::event::Epoch;
use crate::event::Event;
use crate::event::Fingerprint;
use crate::event::LogId;
use crate::event::RawName;
use crate::event::Trace;
use crate::jobs::JobState;
use crate::jobs::JobUpdate;
use crate::jobs::Reject;

/// Under which name an append is remembered, so that repeating it does nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Once {
    /// A name in the memory of the log: hex or digits only, at most 96 bytes.
    Named(String),
    /// A raw `PUBLISH`, by its name. In order: one at or before the last judged of its job is answered `Behind`.
    Raw(RawName),
    /// A raw `PUBLISH` that was passed over; applied once, whatever came after it.
    LateRaw(RawName),
    /// An entry of the durable inbox, by its id; one at or before the last applied is answered `Done`.
    Source(LogId),
}

/// What the database knows of a job of which the broker knows nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seed {
    /// Its state; `None`: no row, or a row without a status.
    pub state: Option<JobState>,
    /// The version of that state; zero when Tidings never wrote it.
    pub version: LogId,
}

/// An update to judge and append.
#[derive(Debug, Clone)]
pub struct JobAppend<'a> {
    /// The update.
    pub update: &'a JobUpdate,
    /// Its identity.
    pub once: Once,
    /// Given when the broker answered `Unknown`.
    pub seed: Option<&'a Seed>,
    /// When it was accepted, microseconds since the Unix epoch.
    pub accepted_us: u64,
}

/// Under which name an event is appended once: hex or digits only, at most 96 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventOnce {
    /// Of a publisher's key: it may come again in another request.
    Keyed(String),
    /// Of this request alone: asked for again only when no answer came.
    Fresh(String),
    /// Of a message that every node heard. The entry says which one it was, so that nobody else has to append it.
    Heard {
        /// Under which it is appended once.
        name: String,
        /// The message.
        raw: RawName,
    },
}

impl EventOnce {
    /// A name that nobody else has.
    #[must_use]
    pub fn fresh() -> Self {
        Self::Fresh(format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..)))
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Keyed(name) | Self::Fresh(name) | Self::Heard { name, .. } => name,
        }
    }

    pub(super) fn may_come_again(&self) -> bool {
        !matches!(self, Self::Fresh(_))
    }

    /// The message that the entry is about.
    pub(super) fn raw(&self) -> Option<RawName> {
        match self {
            Self::Heard { raw, .. } => Some(*raw),
            Self::Keyed(_) | Self::Fresh(_) => None,
        }
    }
}

/// An event to append.
#[derive(Debug, Clone)]
pub struct EventAppend<'a> {
    /// The event.
    pub event: &'a Event,
    /// Its identity.
    pub once: &'a EventOnce,
    /// The trace that it is a part of, if somebody records one.
    pub trace: Option<&'a Trace>,
}

/// What became of an update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobOutcome {
    /// Appended; the cursor names the entry.
    Applied(Cursor),
    /// Judged and dropped.
    Rejected(Reject),
    /// Not judged: the broker does not know the job, or an earlier update of it in the same batch was not judged. Ask again,
    /// with a seed.
    Unknown,
    /// A raw update at or before the last one judged: the log up to this position shows whether it was this one.
    Behind(LogId),
    /// The same append was applied or judged before.
    Done,
}

/// The state of a job as the broker remembers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownJob {
    /// The state.
    pub state: JobState,
    /// The log position of its last change.
    pub version: LogId,
}

/// What the log says about a cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Located {
    /// Everything after it is in the log.
    Found,
    /// Trimmed away, rewritten, or of another log.
    Gone,
    /// The log ends before it.
    Ahead,
}

/// The log as a node sees it.
#[derive(Debug, Clone)]
pub enum TailMessage {
    /// A beginning: what was known before is no longer proven. Comes first, and again when continuity is lost.
    Opened {
        /// Which log.
        epoch: Epoch,
        /// The entry before the first one of `entries`.
        before: (LogId, Fingerprint),
        /// The newest part of the log.
        entries: Vec<Arc<Entry>>,
    },
    /// The next entries.
    Entries(Vec<Arc<Entry>>),
    /// An event that is not logged.
    Ephemeral(Event),
}

/// What a node says of itself with each mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    /// The first mark that it heard since it subscribed; 0: none yet. The smaller, the more it has heard.
    pub since: u64,
    /// How many messages it heard before that mark: among those that began with the same one, the more the older.
    pub before: u64,
    /// Everything that it heard before this mark is judged.
    pub floor: u64,
    /// Nothing from before its subscription is left for others to append: it may append itself.
    pub caught_up: bool,
}

/// What arrives over the raw channels, in order.
#[derive(Debug, Clone)]
pub enum RawMessage {
    /// The subscription is new: messages before this may have been missed.
    Subscribed {
        /// No other node hears what this one hears.
        alone: bool,
        /// Counts subscriptions, for `announce`.
        number: u64,
    },
    /// A numbered mark of a node.
    Mark {
        /// Its number, larger than that of every mark before it.
        number: u64,
        /// The node that set it.
        node: u64,
        /// What the node says of itself.
        standing: Standing,
    },
    /// Bytes of a job update.
    Update(Vec<u8>),
    /// Bytes of an event for a document or user.
    Event(Vec<u8>),
}

/// An entry of the durable inbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceEntry {
    /// Its id in the stream.
    pub id: LogId,
    /// The field `data`; `None` when the entry has no such field.
    pub data: Option<Vec<u8>>,
}

/// The broker could not do it.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// Redis can't be reached, or did not answer in time.
    #[error("the log can't be reached")]
    Unavailable(#[source] Option<redis::RedisError>),
    /// Redis answered that it can't: out of memory, read-only, disk full.
    #[error("the log refuses to append")]
    Refused(#[source] redis::RedisError),
    /// Redis answered something that we did not write.
    #[error("the log answered in an unknown way")]
    Garbled,
}
