//! Updates, seeds and states as one text each: parts that each end with `\0`. The headers of `append.lua` say which.
//!
//! No part can hold a `\0`: ids and statuses have grammars without it, everything else is JSON on one line, where control
//! characters are escaped. `Packed::part` sees to it all the same.

use crate::broker::JobAppend;
use crate::broker::JobOutcome;
use crate::broker::KnownJob;
use crate::broker::Once;
use crate::broker::Seed;
use crate::clock;
use crate::event::Cursor;
use crate::event::Epoch;
use crate::event::Fingerprint;
use crate::event::LogId;
use crate::event::RawName;
use crate::event::Trace;
use crate::jobs::Field;
use crate::jobs::JobState;
use crate::jobs::JobView;
use crate::jobs::Reject;
use crate::jobs::TerminalStatuses;

/// What ends a part.
pub(super) const END: u8 = 0;

/// A text that is being packed.
#[derive(Debug, Default)]
pub(super) struct Packed {
    bytes: Vec<u8>,
    /// The last time of acceptance as a timestamp: what was heard together has the same.
    stamp: (u64, String),
}

impl Packed {
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn truncate(&mut self, bytes: usize) {
        self.bytes.truncate(bytes);
    }

    pub(super) fn shrink(&mut self, bytes: usize) {
        self.bytes.shrink_to(bytes);
    }

    /// A part. A control character can only be a blank between two tokens of somebody else's JSON: it becomes one.
    fn part(&mut self, text: &str) {
        let from = self.bytes.len();
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.iter_mut().skip(from).filter(|byte| **byte < b' ').for_each(|byte| *byte = b' ');
        self.bytes.push(END);
    }

    fn stamp(&mut self, accepted_us: u64) {
        if self.stamp.0 != accepted_us || self.stamp.1.is_empty() {
            self.stamp = (accepted_us, format!("\"{}\"", clock::rfc3339(accepted_us)));
        }
        self.bytes.extend_from_slice(self.stamp.1.as_bytes());
        self.bytes.push(END);
    }

    fn flag(&mut self, set: bool) {
        self.part(if set { "1" } else { "" });
    }

    fn digits(&mut self, number: u64) {
        let mut digits = [0_u8; 20];
        let (mut at, mut rest) = (digits.len(), number);
        while at == digits.len() || rest > 0 {
            at -= 1;
            let digit = u8::try_from(rest % 10).unwrap_or(0);
            digits.iter_mut().skip(at).take(1).for_each(|slot| *slot = b'0' + digit);
            rest /= 10;
        }
        self.bytes.extend_from_slice(digits.get(at..).unwrap_or(b"0"));
    }

    /// A letter for the count of digits, then the digits: texts that compare as the numbers do.
    fn sortable(&mut self, number: u64) {
        let digits = number.checked_ilog10().unwrap_or(0);
        self.bytes.push(b'a' + u8::try_from(digits).unwrap_or(0));
        self.digits(number);
    }

    fn number(&mut self, number: Option<u64>) {
        if let Some(number) = number {
            self.sortable(number);
        }
        self.bytes.push(END);
    }

    fn raw_name(&mut self, name: Option<RawName>) {
        if let Some(RawName { mark, offset }) = name {
            self.sortable(mark);
            self.sortable(offset);
        }
    }

    fn field(&mut self, field: &Field) {
        match field {
            Field::Keep => self.part(""),
            Field::Clear => self.part("-"),
            Field::Set(value) => self.part(value),
        }
    }

    fn id(&mut self, id: LogId) {
        self.digits(id.ms);
        self.bytes.push(b'-');
        self.digits(id.seq);
        self.bytes.push(END);
    }

    /// `fingerprint accepted_us job raw trace` of an entry; `job raw` only where something is judged, `trace` where there is one.
    pub(super) fn head(
        &mut self,
        print: Fingerprint,
        accepted_us: u64,
        judged: Option<(&str, Option<RawName>)>,
        trace: Option<&Trace>,
    ) {
        self.digits(print.0);
        self.bytes.push(b' ');
        self.digits(accepted_us);
        if let Some((job, raw)) = judged {
            self.bytes.push(b' ');
            self.bytes.extend_from_slice(job.as_bytes());
            self.bytes.push(b' ');
            self.raw_name(raw);
        }
        if let Some(trace) = trace {
            self.bytes.push(b' ');
            self.bytes.extend_from_slice(trace.to_string().as_bytes());
        }
    }

    /// An argument of `append.lua`. Answers the fingerprint of the entry that it may become.
    pub(super) fn update(&mut self, append: &JobAppend<'_>, terminal: &TerminalStatuses) -> Fingerprint {
        let (update, print) = (append.update, Fingerprint::random());
        let (raw, late) = match append.once {
            Once::Raw(raw) => (Some(raw), false),
            Once::LateRaw(raw) => (Some(raw), true),
            Once::Named(_) | Once::Source(_) => (None, false),
        };
        self.head(print, append.accepted_us, Some((update.job.as_str(), raw)), update.trace.as_deref());
        self.bytes.push(END);
        self.part(&update.digest);
        self.raw_name(raw);
        self.bytes.push(END);
        self.flag(late);
        self.part(&update.status);
        self.flag(terminal.contains(&update.status));
        match &update.timestamp {
            Some(timestamp) => self.part(timestamp),
            None => self.stamp(append.accepted_us),
        }
        self.number(update.attempt);
        self.number(update.seq);
        for field in [&update.progress, &update.message, &update.error, &update.data] {
            self.field(field);
        }
        self.more(append);
        print
    }

    fn more(&mut self, append: &JobAppend<'_>) {
        let source = if let Once::Source(id) = append.once { Some(id) } else { None };
        let named = is_named(&append.once);
        let more = source.is_some() || named || append.update.update_id.is_some() || append.seed.is_some();
        self.flag(more);
        if !more {
            return;
        }
        match source {
            Some(id) => self.id(id),
            None => self.part(""),
        }
        self.flag(append.update.update_id.is_some());
        self.flag(named);
        self.flag(append.seed.is_some());
        if let Some(seed) = append.seed {
            self.seed(seed);
        }
    }

    /// As a state that nobody has judged an update of.
    fn seed(&mut self, seed: &Seed) {
        let empty = JobState::default();
        let state = seed.state.as_ref().unwrap_or(&empty);
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        self.id(seed.version);
        self.part("");
        self.part("");
        self.part(&state.status);
        self.flag(state.terminal);
        self.number(state.attempt);
        self.number(state.seq);
        self.part(&text(&state.error));
        self.part(&state.timestamp);
        for value in [&state.progress, &state.message, &state.data] {
            self.part(&text(value));
        }
    }
}

/// Whether the append is remembered under a name of its own.
pub(super) fn is_named(once: &Once) -> bool {
    matches!(once, Once::Named(_) | Once::LateRaw(_))
}

/// The next part of a packed text, and what is left.
fn part<'a>(rest: &mut &'a str) -> Option<&'a str> {
    let (part, left) = rest.split_once('\0')?;
    *rest = left;
    Some(part)
}

fn sortable(text: &str) -> Option<u64> {
    text.get(1..)?.parse().ok()
}

pub(super) fn read_raw_name(text: &str) -> Option<RawName> {
    let second = text.bytes().skip(1).position(|byte| byte.is_ascii_lowercase())? + 1;
    let (mark, offset) = text.split_at_checked(second)?;
    Some(RawName { mark: sortable(mark)?, offset: sortable(offset)? })
}

/// The body of a state, as it also stands in the log; `None` when it has no status.
pub(super) fn read_body(mut rest: &str) -> Option<JobView<'_>> {
    let rest = &mut rest;
    let some = |text| Some(text).filter(|text: &&str| !text.is_empty());
    Some(JobView {
        status: part(rest).filter(|status| !status.is_empty())?,
        terminal: part(rest)? == "1",
        attempt: sortable(part(rest)?),
        seq: sortable(part(rest)?),
        error: some(part(rest)?),
        timestamp: part(rest)?,
        progress: some(part(rest)?),
        message: some(part(rest)?),
        data: some(part(rest)?),
    })
}

/// A state; `None` also for a job that was judged without ever getting one.
pub(super) fn read_state(mut rest: &str) -> Option<KnownJob> {
    let rest = &mut rest;
    let version = part(rest)?.parse().ok()?;
    let (_digest, _raw) = (part(rest)?, part(rest)?);
    Some(KnownJob { state: read_body(rest)?.to_state(), version })
}

/// The answers of `append.lua`; `prints` are the fingerprints that went with the updates.
pub(super) fn outcomes(answer: &str, prints: &[Fingerprint], epoch: Epoch) -> Option<Vec<JobOutcome>> {
    let words: Vec<&str> = answer.split(',').collect();
    let read = || words.iter().zip(prints).map(|(word, print)| outcome(word, *print, epoch)).collect();
    if words.len() == prints.len() { read() } else { None }
}

fn outcome(word: &str, print: Fingerprint, epoch: Epoch) -> Option<JobOutcome> {
    Some(match word.as_bytes().first()? {
        b'0'..=b'9' => JobOutcome::Applied(Cursor { epoch, at: word.parse().ok()?, print }),
        b'P' => JobOutcome::Applied(cursor(word.get(1..)?, epoch)?),
        b'R' => JobOutcome::Rejected(match word {
            "Rd" => Reject::Duplicate,
            "Rs" => Reject::Stale,
            "Rt" => Reject::Terminal,
            _ => return None,
        }),
        b'U' => JobOutcome::Unknown,
        b'B' => JobOutcome::Behind(word.get(1..)?.parse().ok()?),
        b'D' => JobOutcome::Done,
        _ => return None,
    })
}

/// `id fingerprint`
pub(super) fn cursor(text: &str, epoch: Epoch) -> Option<Cursor> {
    let (at, print) = text.split_once(' ')?;
    Some(Cursor { epoch, at: at.parse().ok()?, print: Fingerprint(print.parse().ok()?) })
}
