//! Between our values and the texts that stand in Redis. What can't be read is skipped, never trusted.

use redis::streams::StreamId;

use crate::broker::JobOutcome;
use crate::broker::KnownJob;
use crate::broker::Seed;
use crate::broker::Standing;
use crate::event::Channel;
use crate::event::Cursor;
use crate::event::Delivery;
use crate::event::Entry;
use crate::event::Epoch;
use crate::event::Event;
use crate::event::EventName;
use crate::event::Fingerprint;
use crate::event::Id;
use crate::event::LogId;
use crate::event::RawName;
use crate::jobs::Field;
use crate::jobs::JobState;
use crate::jobs::Reject;

/// The fields of a job's hash that make its state, in the order of `known_job`.
pub(super) const JOB_FIELDS: &[&str] = &["st", "tm", "pr", "ms", "er", "at", "sq", "da", "ts", "v"];

pub(super) fn class(event: &Event) -> &'static str {
    match event.delivery {
        _ if event.terminal => "t",
        Delivery::Durable => "d",
        Delivery::Latest => "l",
        Delivery::Ephemeral => "e",
    }
}

fn delivery(class: &str) -> Option<(Delivery, bool)> {
    Some(match class {
        "t" => (Delivery::Durable, true),
        "d" => (Delivery::Durable, false),
        "l" => (Delivery::Latest, false),
        "e" => (Delivery::Ephemeral, false),
        _ => return None,
    })
}

/// Twenty digits: texts of the same length compare like the numbers, which Lua's doubles would not beyond 2^53.
pub(super) fn padded(number: Option<u64>) -> String {
    number.map_or(String::new(), |number| format!("{number:020}"))
}

pub(super) fn field(field: &Field) -> String {
    match field {
        Field::Keep => String::new(),
        Field::Clear => "-".to_owned(),
        Field::Set(value) => format!("={value}"),
    }
}

pub(super) fn push_seed(call: &mut redis::ScriptInvocation<'_>, seed: Option<&Seed>) {
    let Some(seed) = seed else {
        call.arg("");
        return;
    };
    let empty = JobState::default();
    let state = seed.state.as_ref().unwrap_or(&empty);
    call.arg(if seed.state.is_some() { "1" } else { "0" });
    call.arg(&state.status).arg(if state.terminal { "1" } else { "0" });
    for value in [&state.progress, &state.message, &state.error] {
        call.arg(value.as_deref().unwrap_or(""));
    }
    call.arg(padded(state.attempt)).arg(padded(state.seq));
    call.arg(state.data.as_deref().unwrap_or("")).arg(&state.timestamp).arg(seed.version.to_string());
}

pub(super) fn cursor(id: Option<&String>, print: Option<&String>, epoch: Epoch) -> Option<Cursor> {
    let print = Fingerprint(print?.parse().ok()?);
    Some(Cursor { epoch, at: id?.parse().ok()?, print })
}

pub(super) fn job_outcome(answer: &[String], epoch: Epoch) -> Option<JobOutcome> {
    Some(match answer.first()?.as_str() {
        "applied" => JobOutcome::Applied(cursor(answer.get(1), answer.get(2), epoch)?),
        "rejected" => JobOutcome::Rejected(match answer.get(1)?.as_str() {
            "duplicate" => Reject::Duplicate,
            "stale" => Reject::Stale,
            "terminal" => Reject::Terminal,
            _ => return None,
        }),
        "unknown" => JobOutcome::Unknown,
        "behind" => JobOutcome::Behind(answer.get(1)?.parse().ok()?),
        "done" => JobOutcome::Done,
        _ => return None,
    })
}

fn raw_name(text: &str) -> Option<RawName> {
    let (mark, offset) = text.split_once('-')?;
    Some(RawName { mark: mark.parse().ok()?, offset: offset.parse().ok()? })
}

fn some(value: Option<&Option<String>>) -> Option<String> {
    value.and_then(Clone::clone).filter(|text| !text.is_empty())
}

/// `None` when the hash is missing, or holds a job that was judged without ever getting a state.
pub(super) fn known_job(fields: &[Option<String>]) -> Option<KnownJob> {
    let at = |index: usize| some(fields.get(index));
    let number = |index: usize| at(index).and_then(|text| text.parse().ok());
    let state = JobState {
        status: at(0)?,
        terminal: at(1).as_deref() == Some("1"),
        progress: at(2),
        message: at(3),
        error: at(4),
        attempt: number(5),
        seq: number(6),
        data: at(7),
        timestamp: at(8)?,
    };
    let version = at(9).and_then(|text| text.parse().ok()).unwrap_or(LogId::ZERO);
    Some(KnownJob { state, version })
}

/// An entry of the log. One that we did not write keeps its place and says nothing.
pub(super) fn entry(item: &StreamId) -> Entry {
    let id = item.id.parse().unwrap_or(LogId::ZERO);
    let text = |name: &str| item.get::<String>(name);
    let print = Fingerprint(text("f").and_then(|f| f.parse().ok()).unwrap_or(0));
    let judged = text("i").zip(text("j")).and_then(|(job, raw)| Some((Id::parse(&job).ok()?, raw_name(&raw)?)));
    let event = event(&text("c"), &text("e"), &text("k"), &text("d"), &text("a"));
    Entry { id, print, event, judged }
}

type Text = Option<String>;

fn event(channel: &Text, name: &Text, class: &Text, data: &Text, accepted: &Text) -> Option<Event> {
    let (delivery, terminal) = delivery(class.as_deref()?)?;
    let data = data.as_deref()?;
    // Somebody else may write into our stream: a line break here would be a line break in every browser's stream.
    if data.bytes().any(|b| b == b'\n' || b == b'\r') || !data.starts_with('{') {
        return None;
    }
    Some(Event {
        channel: Channel::parse(channel.as_deref()?).ok()?,
        name: EventName::parse_logged(name.as_deref()?).ok()?,
        data: data.into(),
        delivery,
        terminal,
        accepted_us: accepted.as_deref()?.parse().ok()?,
    })
}

/// An ephemeral event on its channel: texts without spaces, then the data.
pub(super) fn ephemeral(event: &Event) -> String {
    format!("{} {} {} {}", event.channel, event.name, event.accepted_us, event.data)
}

pub(super) fn read_ephemeral(text: &str) -> Option<Event> {
    let mut parts = text.splitn(4, ' ');
    let owned = |part: Option<&str>| part.map(str::to_owned);
    let (channel, name) = (owned(parts.next()), owned(parts.next()));
    let (accepted, data) = (owned(parts.next()), owned(parts.next()));
    event(&channel, &name, &Some("e".to_owned()), &data, &accepted)
}

/// What a mark says after its number.
pub(super) fn mark(node: u64, nonce: u64, standing: Standing) -> String {
    let Standing { since, before, floor, caught_up } = standing;
    format!("{node} {nonce} {since} {before} {floor} {}", u8::from(caught_up))
}

/// A mark: its number, its node, the node's nonce and standing.
pub(super) fn read_mark(text: &str) -> Option<(u64, u64, u64, Standing)> {
    let mut parts = text.split(' ').map(|part| part.parse::<u64>().ok());
    let (number, node, nonce) = (parts.next()??, parts.next()??, parts.next()??);
    let (since, before, floor, caught_up) = (parts.next()??, parts.next()??, parts.next()??, parts.next()?? == 1);
    parts.next().is_none().then_some((number, node, nonce, Standing { since, before, floor, caught_up }))
}
