//! What one stream is told at once: an event with a name, data and perhaps a cursor. Encoded once per wire format, shared by all.

use std::sync::Arc;
use std::sync::OnceLock;

use bytes::Bytes;

use crate::clock;
use crate::event::Channel;
use crate::event::Cursor;
use crate::event::Delivery;
use crate::event::Event;
use crate::event::EventName;
use crate::event::Kind;
use crate::event::Moved;

/// A wire format in which a frame can be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `text/event-stream`
    Sse,
    /// The same as a chunk of an HTTP/1.1 body
    SseChunk,
    /// A text frame of a WebSocket
    WebSocket,
}

/// A frame. Cheap to clone: everything is shared.
#[derive(Debug, Clone)]
pub struct Frame(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    /// An event's name is shared with the event where it is one of ours, as nearly all are.
    name: EventName,
    label: &'static str,
    data: Arc<str>,
    cursor: Option<Cursor>,
    delivery: Delivery,
    channel: Option<Channel>,
    accepted_us: u64,
    /// Of an event that has a place in its channel's life instead of the log: which, and the stream that caused it.
    place: Option<(u64, Option<u64>)>,
    sse: OnceLock<Bytes>,
    chunk: OnceLock<Bytes>,
    websocket: OnceLock<Bytes>,
}

impl Frame {
    /// A frame of the protocol itself, such as `connected`. `data` is one JSON object on one line.
    #[must_use]
    pub fn control(name: &'static str, data: impl Into<Arc<str>>, cursor: Option<Cursor>) -> Self {
        Self(Arc::new(Parts {
            name: EventName::of_protocol(name),
            label: name,
            data: data.into(),
            cursor,
            delivery: Delivery::Durable,
            channel: None,
            accepted_us: 0,
            place: None,
            sse: OnceLock::new(),
            chunk: OnceLock::new(),
            websocket: OnceLock::new(),
        }))
    }

    /// Something for one WebSocket alone, in the bytes in which it goes out.
    #[must_use]
    pub fn verbatim(bytes: Bytes) -> Self {
        let mut frame = Self::control("message", "", None);
        if let Some(parts) = Arc::get_mut(&mut frame.0) {
            parts.websocket = OnceLock::from(bytes);
        }
        frame
    }

    /// A frame of the protocol that says only where the log is, and when that was.
    #[must_use]
    pub fn moment(name: &'static str, cursor: Cursor) -> Self {
        let now = clock::rfc3339(clock::now_us());
        Self::control(name, format!("{{\"timestamp\":\"{now}\"}}"), Some(cursor))
    }

    /// A frame of the protocol that says when the credential ends: seconds since the Unix epoch.
    #[must_use]
    pub fn expiring(at: u64) -> Self {
        let (at, now) = (clock::rfc3339(at.saturating_mul(1_000_000)), clock::rfc3339(clock::now_us()));
        Self::control("token:expiring", format!("{{\"expiresAt\":\"{at}\",\"timestamp\":\"{now}\"}}"), None)
    }

    /// The frame of an event; `cursor` is that of its entry, where it is logged.
    #[must_use]
    pub fn event(event: &Event, cursor: Option<Cursor>) -> Self {
        Self::of(event, Arc::clone(&event.data), cursor, event.accepted_us)
    }

    /// The frame of an event of a channel that has a state instead of a log.
    #[must_use]
    pub fn moved(moved: &Moved) -> Self {
        let mut frame = Self::event(&moved.event, None);
        if let Some(parts) = Arc::get_mut(&mut frame.0) {
            parts.place = Some((moved.number, moved.by));
        }
        frame
    }

    /// The frame of an event of the past: it is not late, so it says nothing about latency.
    #[must_use]
    pub fn replayed(event: &Event, cursor: Cursor) -> Self {
        Self::of(event, Arc::clone(&event.data), Some(cursor), 0)
    }

    /// The current state as an answer to a subscription: the event's data, marked as a snapshot, without a cursor.
    #[must_use]
    pub fn snapshot(event: &Event) -> Self {
        let body = event.data.strip_suffix('}').unwrap_or("{");
        let comma = if body.len() > 1 { "," } else { "" };
        Self::of(event, format!("{body}{comma}\"snapshot\":true}}").into(), None, 0)
    }

    fn of(event: &Event, data: Arc<str>, cursor: Option<Cursor>, accepted_us: u64) -> Self {
        Self(Arc::new(Parts {
            name: event.name.clone(),
            label: event.name.label(),
            data,
            cursor,
            delivery: event.delivery,
            channel: Some(event.channel.clone()),
            accepted_us,
            place: None,
            sse: OnceLock::new(),
            chunk: OnceLock::new(),
            websocket: OnceLock::new(),
        }))
    }

    /// The event name: letters, digits and `:._-`.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.name.as_str()
    }

    /// One JSON object on one line.
    #[must_use]
    pub fn data(&self) -> &str {
        &self.0.data
    }

    /// Where the client is after this frame.
    #[must_use]
    pub fn cursor(&self) -> Option<&Cursor> {
        self.0.cursor.as_ref()
    }

    /// What a lagging client may miss.
    #[must_use]
    pub fn delivery(&self) -> Delivery {
        self.0.delivery
    }

    /// Its number among the events of its channel, where that has a state instead of a log, and the stream that caused it.
    #[must_use]
    pub fn place(&self) -> Option<(u64, Option<u64>)> {
        self.0.place
    }

    /// The channel, unless the frame is about the stream itself.
    #[must_use]
    pub fn channel(&self) -> Option<&Channel> {
        self.0.channel.as_ref()
    }

    /// Metric labels: kind of the channel and name of the event.
    #[must_use]
    pub fn labels(&self) -> (&'static str, &'static str) {
        (self.0.channel.as_ref().map_or("stream", |channel| Kind::as_str(channel.kind())), self.0.label)
    }

    /// When the event was accepted, microseconds since the Unix epoch; 0 for what was not just published.
    #[must_use]
    pub fn accepted_us(&self) -> u64 {
        self.0.accepted_us
    }

    /// Bytes that it takes in a queue, roughly those on the wire.
    #[must_use]
    pub fn weight(&self) -> usize {
        let verbatim = self.0.websocket.get().filter(|_| self.0.data.is_empty()).map_or(0, Bytes::len);
        verbatim + self.0.data.len() + self.0.name.as_str().len() + 80
    }

    /// The bytes in a format, made by `encode` the first time that anybody asks.
    pub fn encoded(&self, format: Format, encode: impl FnOnce(&Self) -> Bytes) -> Bytes {
        match format {
            Format::Sse => self.0.sse.get_or_init(|| encode(self)).clone(),
            Format::SseChunk => self.0.chunk.get_or_init(|| encode(self)).clone(),
            Format::WebSocket => self.0.websocket.get_or_init(|| encode(self)).clone(),
        }
    }
}
