//! The words of Tidings: plain values without IO and without async.
//!
//! This module must not know any other module of the crate.

mod channel;
mod cursor;
mod log;
mod name;
#[cfg(test)]
mod tests;
mod trace;

use std::sync::Arc;

pub use channel::Channel;
pub use channel::Id;
pub use channel::InvalidChannel;
pub use channel::InvalidId;
pub use channel::Kind;
pub use cursor::Cursor;
pub use cursor::Epoch;
pub use cursor::Fingerprint;
pub use cursor::InvalidCursor;
pub use cursor::LogId;
pub use log::EventLog;
pub use log::Lookup;
pub use log::WindowLimits;
pub use name::EventName;
pub use name::InvalidEventName;
pub use trace::Trace;

/// What an entry takes beside its texts: itself, the heads of its allocations, its places in the window's indexes.
const ENTRY_BYTES: usize = 328;
/// What a trace takes on top of that.
const TRACE_BYTES: usize = 48;

/// What a lagging client may miss: the delivery class of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Delivery {
    /// Never dropped: changes of status, terminal states, `docs.*`, `user.*`.
    Durable,
    /// Only the newest undelivered one of its channel counts: progress of a job.
    Latest,
    /// Dropped first; never logged.
    Ephemeral,
}

/// Something that happened on a channel. Cheap to clone: all text is shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Where it happened.
    pub channel: Channel,
    /// Its name on the wire, `job:update` for example.
    pub name: EventName,
    /// One JSON object on one line, `channel` included.
    pub data: Arc<str>,
    /// What a lagging client may miss.
    pub delivery: Delivery,
    /// Whether this is the end of a job (only ever true on `jobs.*`).
    pub terminal: bool,
    /// When Tidings accepted it: microseconds since the Unix epoch. Measures latency, decides nothing.
    pub accepted_us: u64,
}

/// An event of a channel that has a state instead of a log: who is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// What happened.
    pub event: Event,
    /// Its place among the events of its channel on this node. A state says which number it includes.
    pub number: u64,
    /// The number of the stream that caused it, which is not told of it.
    pub by: Option<u64>,
}

/// The name of one raw `PUBLISH`, the same on every node that heard it.
///
/// Nodes put numbered marks into the same Redis connection order in which the updates travel, so
/// "the third message after mark 17" names one message for everybody. Names are ordered as the messages were sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RawName {
    /// Number of the last mark that was heard before the message.
    pub mark: u64,
    /// How many messages were heard since that mark, this one included; starts at 1.
    pub offset: u64,
}

/// One entry of the log at its position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its position.
    pub id: LogId,
    /// Random bits that tell this entry from any other that might once have had this position.
    pub print: Fingerprint,
    /// What clients see; `None` for an entry that only records that a raw update was judged.
    pub event: Option<Event>,
    /// The job and the raw update that this entry judged, if it judged one.
    pub judged: Option<(Id, RawName)>,
    /// The trace that it is a part of, if somebody records one.
    pub trace: Option<Box<Trace>>,
}

impl Entry {
    /// Bytes that keeping this entry in a window costs, its place in the indexes included. Measured (`benches/ingest window`) for
    /// a job with two entries that share no name with others; where they share, it is less.
    #[must_use]
    pub fn weight(&self) -> usize {
        let event = self.event.as_ref().map_or(0, |e| e.data.len() + 2 * e.channel.as_str().len());
        event + ENTRY_BYTES + self.trace.as_ref().map_or(0, |_| TRACE_BYTES)
    }
}
