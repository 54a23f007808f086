//! A batch of job states on its way into the database, as both databases want it.

use std::collections::BTreeMap;

use crate::event::Id;
use crate::event::LogId;
use crate::jobs::JobState;
use crate::store::answer::unix_ms;

/// One row to be written. Values are those of the columns, not JSON.
#[derive(Debug, Clone)]
pub(super) struct Write {
    pub id: String,
    pub status: String,
    pub progress: Option<f64>,
    pub message: Option<String>,
    pub error: Option<String>,
    pub data: Option<String>,
    pub attempt: Option<String>,
    pub seq: Option<String>,
    pub version: i64,
    pub updated_ms: Option<i64>,
}

/// The newest state of each job, in order of the ids: two instances that write overlapping batches lock rows in the same
/// order, and of two states of one job in a statement the database would take any.
pub(super) fn newest(states: &[(Id, JobState, LogId)]) -> Vec<Write> {
    let mut newest: BTreeMap<&Id, (&JobState, LogId)> = BTreeMap::new();
    for (id, state, version) in states {
        let slot = newest.entry(id).or_insert((state, *version));
        if slot.1 < *version {
            *slot = (state, *version);
        }
    }
    newest.into_iter().map(|(id, (state, version))| write(id, state, version)).collect()
}

fn write(id: &Id, state: &JobState, version: LogId) -> Write {
    Write {
        id: id.as_str().to_owned(),
        status: state.status.clone(),
        progress: state.progress.as_deref().and_then(|p| p.parse().ok()),
        message: state.message.as_deref().and_then(message),
        error: state.error.clone(),
        data: state.data.clone(),
        attempt: state.attempt.map(|n| n.to_string()),
        seq: state.seq.map(|n| n.to_string()),
        version: version.version(),
        updated_ms: unix_ms(&state.timestamp),
    }
}

/// The text of a JSON string; Postgres has no NUL in text, so it becomes the character that stands for what can't be shown.
fn message(json: &str) -> Option<String> {
    let text: String = serde_json::from_str(json).ok()?;
    Some(text.replace('\0', "\u{FFFD}"))
}
