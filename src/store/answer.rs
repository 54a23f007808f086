//! From what stands in a row to values that hold. Pure; shared by both databases.
//!
//! Everything arrives as optional text, whatever the column's type: a type that differs in somebody's view must not fail
//! the whole batch.

use std::borrow::Cow;

use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::event::Id;
use crate::event::LogId;
use crate::jobs::JobState;
use crate::jobs::TerminalStatuses;
use crate::jobs::compact_object;
use crate::jobs::is_status;
use crate::store::JobRow;
use crate::store::User;

/// Bytes of a message, and of an error's message.
const MESSAGE_BYTES_MAX: usize = 4 * 1024;
const DATA_BYTES_MAX: usize = 16 * 1024;
const ERROR_CODE_BYTES_MAX: usize = 128;
const NAME_CHARS_MAX: usize = 256;
const AVATAR_BYTES_MAX: usize = 2048;
/// What is shown where the database has no time.
const NO_TIME: &str = "\"1970-01-01T00:00:00.000Z\"";

/// A row of `jobs` as text.
#[derive(Debug, Default)]
pub(super) struct RawJob {
    pub owner: Option<String>,
    pub status: Option<String>,
    pub progress: Option<String>,
    pub message: Option<String>,
    pub error: Option<String>,
    pub data: Option<String>,
    pub attempt: Option<String>,
    pub seq: Option<String>,
    pub version: Option<String>,
    /// Milliseconds since the Unix epoch, perhaps with a fraction.
    pub updated_ms: Option<String>,
}

pub(super) fn user(id: Id, name: Option<&str>, avatar_url: Option<String>, disabled: bool) -> User {
    let name = name.map(shown_name).filter(|name| !name.is_empty());
    let name = name.unwrap_or_else(|| id.as_str().to_owned());
    User { id, name, avatar_url: avatar_url.filter(|url| is_avatar(url)), disabled }
}

fn shown_name(name: &str) -> String {
    let line = name.chars().map(|c| if c.is_control() { ' ' } else { c });
    let line: String = line.filter(|c| !is_direction(*c)).take(NAME_CHARS_MAX).collect();
    line.trim().to_owned()
}

/// Characters that turn the direction of the text after them: a name could rewrite the page around it.
fn is_direction(c: char) -> bool {
    matches!(c, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}' | '\u{200E}' | '\u{200F}' | '\u{2028}' | '\u{2029}')
}

/// Not `javascript:` and the like.
fn is_avatar(url: &str) -> bool {
    let known = ["https://", "http://", "/"].iter().any(|start| url.starts_with(start));
    known && url.len() <= AVATAR_BYTES_MAX && url.chars().all(|c| !c.is_control() && !c.is_whitespace() && c != '"')
}

pub(super) fn job(raw: RawJob, terminal: &TerminalStatuses) -> JobRow {
    let owner = raw.owner.as_deref().and_then(|owner| Id::parse(owner).ok());
    let version = raw.version.as_deref().and_then(|v| v.parse().ok()).map_or(LogId::ZERO, LogId::from_version);
    JobRow { owner, version, state: state(raw, terminal) }
}

fn state(raw: RawJob, terminal: &TerminalStatuses) -> Option<JobState> {
    let status = raw.status?.to_ascii_lowercase();
    is_status(&status).then(|| JobState {
        terminal: terminal.contains(&status),
        progress: raw.progress.as_deref().and_then(progress),
        message: raw.message.filter(|m| m.len() <= MESSAGE_BYTES_MAX).map(|m| quoted(&m)),
        error: raw.error.as_deref().and_then(error),
        attempt: raw.attempt.and_then(|n| n.parse().ok()),
        seq: raw.seq.and_then(|n| n.parse().ok()),
        data: raw.data.and_then(|text| compact_object(&text, DATA_BYTES_MAX).map(Cow::into_owned)),
        timestamp: raw.updated_ms.as_deref().and_then(timestamp).unwrap_or_else(|| NO_TIME.to_owned()),
        status,
    })
}

/// The spelling of `jobs`: a whole number without a fraction.
fn progress(text: &str) -> Option<String> {
    let value: f64 = text.parse().ok().filter(|value: &f64| (0.0..=100.0).contains(value))?;
    let value = value + 0.0; // turns -0 into 0
    Some(if value.fract() == 0.0 { format!("{value:.0}") } else { serde_json::Value::from(value).to_string() })
}

fn error(text: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Wire {
        code: String,
        message: String,
    }
    let wire: Wire = serde_json::from_str(text).ok()?;
    let good = wire.code.len() <= ERROR_CODE_BYTES_MAX && wire.message.len() <= MESSAGE_BYTES_MAX;
    // serde reads a struct from an array as well
    let good = good && text.trim_start().starts_with('{');
    good.then(|| format!("{{\"code\":{},\"message\":{}}}", quoted(&wire.code), quoted(&wire.message)))
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A JSON string such as `"2026-11-20T10:00:00.123Z"` from milliseconds since the Unix epoch.
#[expect(clippy::cast_possible_truncation, reason = "the range is checked in the line above")]
fn timestamp(ms: &str) -> Option<String> {
    let ms: f64 = ms.parse().ok().filter(|ms: &f64| ms.abs() < 4e14)?;
    let nanos = i128::from(ms.round() as i64) * 1_000_000;
    let time =
        OffsetDateTime::from_unix_timestamp_nanos(nanos).ok().filter(|time| (0..=9999).contains(&time.year()))?;
    let (date, clock) = (time.date(), time.time());
    Some(format!(
        "\"{date}T{:02}:{:02}:{:02}.{:03}Z\"",
        clock.hour(),
        clock.minute(),
        clock.second(),
        clock.millisecond()
    ))
}

/// Milliseconds since the Unix epoch of a JSON string with an RFC 3339 time.
pub(super) fn unix_ms(timestamp: &str) -> Option<i64> {
    let text: String = serde_json::from_str(timestamp).ok()?;
    let time = OffsetDateTime::parse(&text, &Rfc3339).ok()?;
    i64::try_from(time.unix_timestamp_nanos() / 1_000_000).ok()
}
