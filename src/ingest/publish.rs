//! What back ends publish on `docs.*` and `user.*`.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::Deserializer;
use serde::de::MapAccess;
use serde::de::Visitor;
use serde::de::value::MapAccessDeserializer;
use serde_json::value::RawValue;

use crate::broker::EventOnce;
use crate::digest;
use crate::event::Channel;
use crate::event::Delivery;
use crate::event::Event;
use crate::event::EventName;
use crate::event::Kind;
use crate::event::RawName;
use crate::event::Trace;
use crate::jobs::compact_object;
use crate::jobs::trace;
use crate::spans::Ingesting;
use crate::spans::Spans;

/// Longest body of one publication, in bytes.
pub const PUBLICATION_BYTES_MAX: usize = 96 * 1024;
/// Longest `data`, in bytes.
const DATA_BYTES_MAX: usize = 64 * 1024;
/// Longest `idempotencyKey`, in bytes.
const KEY_BYTES_MAX: usize = 256;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire<'a> {
    #[serde(borrow)]
    channel: Cow<'a, str>,
    event: Option<String>,
    #[serde(borrow)]
    data: &'a RawValue,
    #[serde(default)]
    ephemeral: bool,
    idempotency_key: Option<String>,
    #[serde(borrow, default)]
    traceparent: Option<&'a RawValue>,
}

/// An object. A derived struct also reads an array, by position.
struct Object<'a>(Wire<'a>);

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        source.deserialize_map(Members)
    }
}

struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Object<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a publication")
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Object<'de>, A::Error> {
        Wire::deserialize(MapAccessDeserializer::new(members)).map(Object)
    }
}

/// A valid publication, or the name of the field that is wrong.
pub type Parsed = Result<Publication, &'static str>;

/// A valid publication.
#[derive(Debug, Clone)]
pub struct Publication {
    /// The event.
    pub event: Event,
    /// The publisher's own name for it.
    pub key: Option<String>,
    /// The trace that it is a part of, if somebody records one.
    pub trace: Option<Box<Trace>>,
}

/// Which of a batch are part of traces. Nearly always none is, and then nothing is gathered.
#[derive(Debug)]
pub(super) struct Traced {
    spans: Vec<Option<Ingesting>>,
    carried: Vec<Option<Trace>>,
}

impl Traced {
    pub(super) fn of<'a>(
        batch: impl Iterator<Item = &'a Publication> + Clone,
        spans: &Spans,
        source: &'static str,
    ) -> Self {
        if batch.clone().all(|publication| publication.trace.is_none()) {
            return Self { spans: Vec::new(), carried: Vec::new() };
        }
        let begun: Vec<_> = batch.clone().map(|publication| publication.ingesting(spans, source)).collect();
        let carried = batch.zip(&begun).map(|(publication, span)| publication.carried(span.as_ref())).collect();
        Self { spans: begun, carried }
    }

    /// The trace as the entry of this one of the batch carries it.
    pub(super) fn at(&self, at: usize) -> Option<&Trace> {
        self.carried.get(at).and_then(Option::as_ref)
    }

    /// What became of all of them.
    pub(super) fn end(self, word: &'static str, failed: bool) {
        self.spans.into_iter().flatten().for_each(|span| span.end(word, failed));
    }
}

impl Publication {
    /// Parses the body of `POST /v1/publish`.
    ///
    /// # Errors
    /// The name of the field that is wrong.
    pub fn parse(body: &[u8], accepted_us: u64) -> Parsed {
        let text = std::str::from_utf8(body).map_err(|_| "body")?;
        let Object(wire) = serde_json::from_str(text).map_err(|_| "body")?;
        Self::of(wire, accepted_us)
    }

    /// Parses a batch at one go; `None` where one of its items spoils that: each has to be looked at by itself.
    #[must_use]
    pub fn parse_all(body: &[u8], accepted_us: u64) -> Option<Vec<Parsed>> {
        let text = std::str::from_utf8(body).ok()?;
        let items: Vec<Object<'_>> = serde_json::from_str(text).ok()?;
        Some(items.into_iter().map(|Object(wire)| Self::of(wire, accepted_us)).collect())
    }

    fn of(wire: Wire<'_>, accepted_us: u64) -> Parsed {
        let channel = Channel::parse(&wire.channel).map_err(|_| "channel")?;
        if channel.as_str() == "user.me" {
            return Err("channel"); // of a subscriber it means the caller; a publisher has to say who
        }
        let name = match (&wire.event, channel.kind()) {
            // Jobs have a fold and presence has leases: neither is published to from outside.
            (_, Kind::Jobs | Kind::Presence) => return Err("channel"),
            (Some(name), _) => EventName::parse_published(name).map_err(|_| "event")?,
            (None, Kind::Docs) => EventName::DOC_UPDATE,
            (None, Kind::User) => EventName::NOTIFICATION,
        };
        let key = wire.idempotency_key;
        if key.as_ref().is_some_and(|key| key.is_empty() || key.len() > KEY_BYTES_MAX) {
            return Err("idempotencyKey");
        }
        let data = with_channel(wire.data.get(), &channel).ok_or("data")?;
        let delivery = if wire.ephemeral { Delivery::Ephemeral } else { Delivery::Durable };
        let event = Event { channel, name, data: data.into(), delivery, terminal: false, accepted_us };
        let trace = wire.traceparent.and_then(trace).map(Box::new);
        Ok(Self { event, key, trace })
    }

    /// The span of taking it in, if it is a part of a trace.
    fn ingesting(&self, spans: &Spans, source: &'static str) -> Option<Ingesting> {
        spans.ingest(self.trace.as_deref(), source, || self.event.channel.clone(), self.event.accepted_us)
    }

    /// The trace as its entry carries it.
    fn carried(&self, span: Option<&Ingesting>) -> Option<Trace> {
        span.map(Ingesting::carried).or(self.trace.as_deref().copied())
    }

    /// Told to whoever listens now, and not kept.
    #[must_use]
    pub fn is_ephemeral(&self) -> bool {
        self.event.delivery == Delivery::Ephemeral
    }

    /// The name of one that several nodes heard: of the publisher's own key, or the one that it has in the cluster.
    #[must_use]
    pub fn heard_as(&self, raw: RawName) -> EventOnce {
        let name = match self.key {
            Some(_) => self.once("").name().to_owned(),
            None => format!("{:016x}{:016x}", raw.mark, raw.offset),
        };
        EventOnce::Heard { name, raw }
    }

    /// The name under which this is appended once: of the publisher's own key, or a new one for this request alone.
    #[must_use]
    pub fn once(&self, publisher: &str) -> EventOnce {
        match &self.key {
            None => EventOnce::fresh(),
            Some(key) => EventOnce::Keyed(digest::name_of(&[publisher, self.event.channel.as_str(), key])),
        }
    }
}

/// The publisher's object with `channel` in front; a `channel` of its own is replaced.
fn with_channel(data: &str, channel: &Channel) -> Option<String> {
    let line = compact_object(data, DATA_BYTES_MAX)?;
    if !line.contains("\"channel\"") {
        // A channel's name needs no escapes.
        let rest = line.strip_prefix('{')?;
        let comma = if rest == "}" { "\"" } else { "\"," };
        return Some(["{\"channel\":\"", channel.as_str(), comma, rest].concat());
    }
    let mut object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&line).ok()?;
    object.shift_remove("channel");
    let mut whole = serde_json::Map::new();
    whole.insert("channel".to_owned(), channel.as_str().into());
    whole.append(&mut object);
    serde_json::to_string(&whole).ok()
}
