//! From a worker's bytes to a valid update. Workers are semi-trusted: what they send reaches browsers.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::Digest as _;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::event::Id;
use crate::event::Trace;
use crate::jobs::compact_object;

/// Longest update, in bytes.
pub const UPDATE_BYTES_MAX: usize = 64 * 1024;
/// Deepest nesting of an update.
const DEPTH_MAX: usize = 16;
const MESSAGE_BYTES_MAX: usize = 4 * 1024;
const ERROR_CODE_BYTES_MAX: usize = 128;
const DATA_BYTES_MAX: usize = 16 * 1024;
const UPDATE_ID_BYTES_MAX: usize = 64;
const TIMESTAMP_BYTES_MAX: usize = 64;

/// Why an update was dropped. The word is a metric label and the `reason` of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "`as_str` says it")]
pub enum Reject {
    TooLarge,
    NotUtf8,
    TooDeep,
    NotJson,
    NotObject,
    DuplicateKey,
    JobId,
    JobIdDiffers,
    Status,
    Progress,
    Message,
    Error,
    Data,
    Timestamp,
    Attempt,
    Seq,
    UpdateId,
    Type,
    /// Judged: the same update again.
    Duplicate,
    /// Judged: an older attempt or sequence number.
    Stale,
    /// Judged: the job had ended.
    Terminal,
    /// More is waiting than is allowed to wait.
    Overflow,
}

impl Reject {
    /// A word from a fixed set.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::NotUtf8 => "not_utf8",
            Self::TooDeep => "too_deep",
            Self::NotJson => "not_json",
            Self::NotObject => "not_object",
            Self::DuplicateKey => "duplicate_key",
            Self::JobId => "job_id",
            Self::JobIdDiffers => "job_id_differs",
            Self::Status => "status",
            Self::Progress => "progress",
            Self::Message => "message",
            Self::Error => "error",
            Self::Data => "data",
            Self::Timestamp => "timestamp",
            Self::Attempt => "attempt",
            Self::Seq => "seq",
            Self::UpdateId => "update_id",
            Self::Type => "type",
            Self::Duplicate => "duplicate",
            Self::Stale => "stale",
            Self::Terminal => "terminal",
            Self::Overflow => "overflow",
        }
    }

    /// The field of the update that is wrong, for `details.field`.
    #[must_use]
    pub fn field(self) -> Option<&'static str> {
        Some(match self {
            Self::JobId | Self::JobIdDiffers => "jobId",
            Self::Status => "status",
            Self::Progress => "progress",
            Self::Message => "message",
            Self::Error => "error",
            Self::Data => "data",
            Self::Timestamp => "timestamp",
            Self::Attempt => "attempt",
            Self::Seq => "seq",
            Self::UpdateId => "updateId",
            Self::Type => "type",
            _ => return None,
        })
    }
}

/// A field of an update: not given, cleared, or set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Field {
    /// Keeps its value.
    #[default]
    Keep,
    /// Was `null`.
    Clear,
    /// A JSON value on one line.
    Set(String),
}

/// A valid update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobUpdate {
    /// Which job.
    pub job: Id,
    /// Lower-case word.
    pub status: String,
    /// JSON number, clamped to 0…100.
    pub progress: Field,
    /// JSON string.
    pub message: Field,
    /// JSON object with `code` and `message`.
    pub error: Field,
    /// JSON object.
    pub data: Field,
    /// JSON string, RFC 3339; `None`: the time of acceptance.
    pub timestamp: Option<String>,
    /// Number of the attempt.
    pub attempt: Option<u64>,
    /// Number within the attempt.
    pub seq: Option<u64>,
    /// SHA-256 of the publisher's `updateId`, as hex: safe in a key whatever the publisher sent.
    pub update_id: Option<String>,
    /// SHA-256 of the bytes as they came, as hex.
    pub digest: String,
    /// The trace that it is a part of, if somebody records one.
    pub trace: Option<Box<Trace>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    job_id: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    status: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    progress: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    message: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    error: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    timestamp: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    attempt: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    seq: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    update_id: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present", rename = "type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow, default)]
    traceparent: Option<&'a RawValue>,
}

/// `Option<&RawValue>` alone reads `null` as absent, and the two mean different things here.
fn present<'de, D: serde::Deserializer<'de>>(source: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(source).map(Some)
}

impl JobUpdate {
    /// Parses an update; `job` is the id from the path, where there is one.
    ///
    /// # Errors
    /// The first broken rule of protocol §3.
    pub fn parse(bytes: &[u8], job: Option<&Id>) -> Result<Self, Reject> {
        let text = checked_text(bytes)?;
        let wire = envelope(text)?;
        Ok(Self {
            job: job_id(wire.job_id, job)?,
            status: status(wire.status)?,
            progress: field(wire.progress, progress)?,
            message: field(wire.message, message)?,
            error: field(wire.error, error)?,
            data: field(wire.data, |raw| {
                compact_object(raw.get(), DATA_BYTES_MAX).map(Cow::into_owned).ok_or(Reject::Data)
            })?,
            timestamp: given(wire.timestamp).map(timestamp).transpose()?,
            attempt: given(wire.attempt).map(|raw| unsigned(raw, Reject::Attempt)).transpose()?,
            seq: given(wire.seq).map(|raw| unsigned(raw, Reject::Seq)).transpose()?,
            update_id: given(wire.update_id).map(update_id).transpose()?,
            digest: hex_digest(bytes),
            trace: wire.traceparent.and_then(trace).map(Box::new),
        })
        .and_then(|update| kind(wire.kind).map(|()| update))
    }
}

fn checked_text(bytes: &[u8]) -> Result<&str, Reject> {
    if bytes.len() > UPDATE_BYTES_MAX {
        return Err(Reject::TooLarge);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| Reject::NotUtf8)?;
    if depth(text.as_bytes()) > DEPTH_MAX { Err(Reject::TooDeep) } else { Ok(text) }
}

/// Deepest nesting, by counting brackets outside of strings; exact for valid JSON, harmless for the rest.
fn depth(bytes: &[u8]) -> usize {
    // `[` and `{` differ in one bit. Most updates have fewer than may be nested.
    let opened = bytes.iter().filter(|byte| **byte | 0x20 == b'{').count();
    if opened <= DEPTH_MAX {
        return opened;
    }
    let (mut deepest, mut now, mut in_string, mut escaped) = (0_usize, 0_usize, false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' | b'[' => {
                now += 1;
                deepest = deepest.max(now);
            }
            b'}' | b']' => now = now.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

fn envelope(text: &str) -> Result<Wire<'_>, Reject> {
    let parsed = serde_json::from_str(text);
    // A derived struct also reads an array, by position.
    let object = text.trim_start().starts_with('{');
    parsed.as_ref().map(drop).map_err(|error| match error.classify() {
        serde_json::error::Category::Data if object => Reject::DuplicateKey,
        serde_json::error::Category::Data => Reject::NotObject,
        _ => Reject::NotJson,
    })?;
    if object { parsed.map_err(|_| Reject::NotJson) } else { Err(Reject::NotObject) }
}

fn given(raw: Option<&RawValue>) -> Option<&RawValue> {
    raw.filter(|raw| raw.get() != "null")
}

fn field(raw: Option<&RawValue>, check: impl Fn(&RawValue) -> Result<String, Reject>) -> Result<Field, Reject> {
    match raw {
        None => Ok(Field::Keep),
        Some(raw) if raw.get() == "null" => Ok(Field::Clear),
        Some(raw) => check(raw).map(Field::Set),
    }
}

/// What stands between the quotes of a JSON string in which nothing is escaped. It is also our own spelling: line breaks and
/// the like must be escaped, so there are none.
fn plain(raw: &RawValue) -> Option<&str> {
    let inner = raw.get().strip_prefix('"')?.strip_suffix('"')?;
    (!inner.as_bytes().contains(&b'\\')).then_some(inner)
}

fn string(raw: &RawValue, bytes_max: usize) -> Option<Cow<'_, str>> {
    let text = match plain(raw) {
        Some(text) => Cow::Borrowed(text),
        None => Cow::Owned(serde_json::from_str::<String>(raw.get()).ok()?),
    };
    (text.len() <= bytes_max).then_some(text)
}

/// A JSON string in our own spelling: one line, whatever was in it.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn job_id(raw: Option<&RawValue>, path: Option<&Id>) -> Result<Id, Reject> {
    let body = match raw {
        None => None,
        Some(raw) => {
            let text = string(raw, 128).ok_or(Reject::JobId)?;
            Some(Id::parse(&text).map_err(|_| Reject::JobId)?)
        }
    };
    match (body, path) {
        (Some(body), Some(path)) if body != *path => Err(Reject::JobIdDiffers),
        (Some(id), _) => Ok(id),
        (None, Some(path)) => Ok(path.clone()),
        (None, None) => Err(Reject::JobId),
    }
}

fn status(raw: Option<&RawValue>) -> Result<String, Reject> {
    let text = raw.and_then(|raw| string(raw, 64)).ok_or(Reject::Status)?;
    let text = text.to_ascii_lowercase();
    if is_status(&text) { Ok(text) } else { Err(Reject::Status) }
}

/// `[a-z][a-z0-9_-]{0,31}`
#[must_use]
pub fn is_status(text: &str) -> bool {
    let tail = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'_' || *b == b'-';
    text.len() <= 32 && text.as_bytes().first().is_some_and(u8::is_ascii_lowercase) && text.as_bytes().iter().all(tail)
}

fn progress(raw: &RawValue) -> Result<String, Reject> {
    // The usual spelling is our own.
    let digits = raw.get().as_bytes();
    if matches!(digits, [b'0'..=b'9'] | [b'1'..=b'9', b'0'..=b'9']) {
        return Ok(raw.get().to_owned());
    }
    let value = serde_json::from_str::<f64>(raw.get()).map_err(|_| Reject::Progress)?;
    let clamped = value.clamp(0.0, 100.0) + 0.0; // + 0.0 turns -0 into 0
    let whole = clamped.fract() == 0.0;
    Ok(if whole { format!("{clamped:.0}") } else { serde_json::Value::from(clamped).to_string() })
}

fn message(raw: &RawValue) -> Result<String, Reject> {
    match string(raw, MESSAGE_BYTES_MAX).ok_or(Reject::Message)? {
        Cow::Borrowed(_) => Ok(raw.get().to_owned()),
        Cow::Owned(text) => Ok(quoted(&text)),
    }
}

fn error(raw: &RawValue) -> Result<String, Reject> {
    #[derive(Deserialize)]
    struct Wire {
        code: String,
        message: String,
    }
    let wire: Wire = serde_json::from_str(raw.get()).map_err(|_| Reject::Error)?;
    if !raw.get().starts_with('{') || wire.code.len() > ERROR_CODE_BYTES_MAX || wire.message.len() > MESSAGE_BYTES_MAX {
        return Err(Reject::Error);
    }
    Ok(format!("{{\"code\":{},\"message\":{}}}", quoted(&wire.code), quoted(&wire.message)))
}

fn timestamp(raw: &RawValue) -> Result<String, Reject> {
    let text = string(raw, TIMESTAMP_BYTES_MAX).ok_or(Reject::Timestamp)?;
    OffsetDateTime::parse(&text, &Rfc3339).map_err(|_| Reject::Timestamp)?;
    Ok(quoted(&text))
}

fn unsigned(raw: &RawValue, reject: Reject) -> Result<u64, Reject> {
    serde_json::from_str(raw.get()).map_err(|_| reject)
}

fn update_id(raw: &RawValue) -> Result<String, Reject> {
    let text = string(raw, UPDATE_ID_BYTES_MAX).filter(|text| !text.is_empty());
    text.map(|text| hex_digest(text.as_bytes())).ok_or(Reject::UpdateId)
}

/// One that can't be read is as none: a trace is no reason to drop anything (Trace Context §3.2.2).
pub fn trace(raw: &RawValue) -> Option<Trace> {
    plain(raw).and_then(Trace::parse)
}

fn kind(raw: Option<&RawValue>) -> Result<(), Reject> {
    let good = raw.is_none_or(|raw| string(raw, 64).is_some_and(|text| text == "job.update"));
    if good { Ok(()) } else { Err(Reject::Type) }
}

/// The first 16 bytes of SHA-256 as hex: collisions can't be made on purpose.
fn hex_digest(bytes: &[u8]) -> String {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let hash = sha2::Sha256::digest(bytes);
    let mut out = String::with_capacity(32);
    for byte in hash.iter().take(16) {
        for nibble in [byte >> 4, byte & 15] {
            out.push(char::from(*HEX.get(usize::from(nibble)).unwrap_or(&b'0')));
        }
    }
    out
}
