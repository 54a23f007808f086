//! The last of what is worth a look: verdicts, refusals, revocations, limits.

use std::collections::VecDeque;

use serde::Deserialize;
use serde::Serialize;

/// Lines of each kind at most.
const RECENT_MAX: usize = 64;

/// Something that happened to somebody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Note {
    /// When, milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// To whom, if it was to somebody.
    pub user: String,
    /// On which connection, if it was on one.
    pub connection: Option<String>,
    /// The channel or channels, separated by commas; those after the first four are only counted.
    pub channels: String,
    /// A word of ours: a verdict, a code, a reason.
    pub what: String,
}

/// The newest of each kind, newest last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recent {
    /// What reconnects were told: `resumed`, or why they were `reset`.
    pub resumes: VecDeque<Note>,
    /// Streams that were not opened, and channels that were not granted.
    pub refusals: VecDeque<Note>,
    /// Channels that were taken away.
    pub revocations: VecDeque<Note>,
    /// Who asked for too much, or was too slow.
    pub limits: VecDeque<Note>,
    /// Updates of jobs that this node took in and the log dropped: whence, and why.
    pub rejections: VecDeque<Note>,
}

/// Adds a line, and drops the oldest beyond the bound.
pub(super) fn push(lines: &mut VecDeque<Note>, note: Note) {
    if lines.len() >= RECENT_MAX {
        lines.pop_front();
    }
    lines.push_back(note);
}
