//! The folded state of a job. Values are kept as the JSON text that clients get, so that Redis and Rust agree byte for byte.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::value::RawValue;

use crate::event::Id;

/// Statuses that end a job.
#[derive(Debug, Clone)]
pub struct TerminalStatuses(Arc<BTreeSet<String>>);

impl TerminalStatuses {
    /// From the setting `TERMINAL_STATUSES`.
    #[must_use]
    pub fn new(statuses: BTreeSet<String>) -> Self {
        Self(Arc::new(statuses))
    }

    /// Whether this status ends a job.
    #[must_use]
    pub fn contains(&self, status: &str) -> bool {
        self.0.contains(status)
    }
}

/// What is known of a job. Optional texts are JSON values on one line, ready to be put into an event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JobState {
    /// Lower-case word, `running`.
    pub status: String,
    /// Whether the status ends the job.
    pub terminal: bool,
    /// JSON number, 0…100.
    pub progress: Option<String>,
    /// JSON string.
    pub message: Option<String>,
    /// JSON object with `code` and `message`.
    pub error: Option<String>,
    /// The attempt, when attempts are numbered.
    pub attempt: Option<u64>,
    /// The newest sequence number within the attempt.
    pub seq: Option<u64>,
    /// JSON object.
    pub data: Option<String>,
    /// JSON string, RFC 3339; shown to people, decides nothing.
    pub timestamp: String,
}

/// The largest integer that every JavaScript engine reads back exactly: 2^53 - 1.
const SAFE_INTEGER_MAX: u64 = (1 << 53) - 1;

/// `attempt` and `seq` as we write them: a number, or a string where a number would be rounded.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Integer {
    Number(u64),
    Text(String),
}

impl Integer {
    fn value(&self) -> Option<u64> {
        match self {
            Self::Number(value) => Some(*value),
            Self::Text(text) => text.parse().ok(),
        }
    }
}

#[derive(serde::Deserialize)]
struct Wire<'a> {
    status: String,
    terminal: bool,
    #[serde(borrow)]
    progress: Option<&'a RawValue>,
    #[serde(borrow)]
    message: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    attempt: Option<Integer>,
    seq: Option<Integer>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    timestamp: &'a RawValue,
}

impl JobState {
    /// Reads back what `to_json` wrote; `None` for anything else.
    #[must_use]
    pub fn from_json(text: &str) -> Option<Self> {
        let wire: Wire<'_> = serde_json::from_str(text).ok()?;
        let own = |raw: Option<&RawValue>| raw.map(|raw| raw.get().to_owned());
        Some(Self {
            status: wire.status,
            terminal: wire.terminal,
            progress: own(wire.progress),
            message: own(wire.message),
            error: own(wire.error),
            attempt: wire.attempt.and_then(|integer| integer.value()),
            seq: wire.seq.and_then(|integer| integer.value()),
            data: own(wire.data),
            timestamp: wire.timestamp.get().to_owned(),
        })
    }

    /// The data of `job:update`: one JSON object on one line, the whole state.
    #[must_use]
    pub fn to_json(&self, job: &Id) -> String {
        self.render(job, "")
    }

    /// The same with `snapshot:true`, as it answers a subscription.
    #[must_use]
    pub fn to_snapshot_json(&self, job: &Id) -> String {
        self.render(job, ",\"snapshot\":true")
    }

    fn render(&self, job: &Id, tail: &str) -> String {
        let mut out = String::with_capacity(256);
        self.view().render(job.as_str(), tail, &mut out);
        out
    }

    /// The same, borrowed.
    #[must_use]
    pub fn view(&self) -> JobView<'_> {
        JobView {
            status: &self.status,
            terminal: self.terminal,
            progress: self.progress.as_deref(),
            message: self.message.as_deref(),
            error: self.error.as_deref(),
            attempt: self.attempt,
            seq: self.seq,
            data: self.data.as_deref(),
            timestamp: &self.timestamp,
        }
    }
}

/// A `JobState` that borrows its texts: to be shown without being copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of `JobState`")]
pub struct JobView<'a> {
    pub status: &'a str,
    pub terminal: bool,
    pub progress: Option<&'a str>,
    pub message: Option<&'a str>,
    pub error: Option<&'a str>,
    pub attempt: Option<u64>,
    pub seq: Option<u64>,
    pub data: Option<&'a str>,
    pub timestamp: &'a str,
}

impl JobView<'_> {
    /// With texts of its own.
    #[must_use]
    pub fn to_state(&self) -> JobState {
        let own = |text: Option<&str>| text.map(str::to_owned);
        JobState {
            status: self.status.to_owned(),
            terminal: self.terminal,
            progress: own(self.progress),
            message: own(self.message),
            error: own(self.error),
            attempt: self.attempt,
            seq: self.seq,
            data: own(self.data),
            timestamp: self.timestamp.to_owned(),
        }
    }

    /// The data of `job:update`, with `tail` before the last brace.
    pub fn render(&self, job: &str, tail: &str, out: &mut String) {
        // Ids and statuses have grammars without quotes, backslashes and control characters: no escaping to do.
        for text in [
            "{\"type\":\"job.update\",\"channel\":\"jobs.",
            job,
            "\",\"jobId\":\"",
            job,
            "\",\"status\":\"",
            self.status,
        ] {
            out.push_str(text);
        }
        out.push_str(if self.terminal { "\",\"terminal\":true" } else { "\",\"terminal\":false" });
        let mut put = |name: &str, value: Option<&str>| {
            if let Some(value) = value {
                out.push_str(name);
                out.push_str(value);
            }
        };
        put(",\"progress\":", self.progress);
        put(",\"message\":", self.message);
        put(",\"error\":", self.error);
        push_integer(out, ",\"attempt\":", self.attempt);
        push_integer(out, ",\"seq\":", self.seq);
        let texts = [",\"data\":", self.data.unwrap_or_default(), ",\"timestamp\":", self.timestamp, tail, "}"];
        texts.into_iter().skip(if self.data.is_some() { 0 } else { 2 }).for_each(|text| out.push_str(text));
    }
}

/// A number that `JSON.parse` would round is written as a string.
fn push_integer(out: &mut String, name: &str, value: Option<u64>) {
    let Some(value) = value else { return };
    let quote = if value > SAFE_INTEGER_MAX { "\"" } else { "" };
    for text in [name, quote, &value.to_string(), quote] {
        out.push_str(text);
    }
}
