//! Between our values and the texts that stand in Redis. What can't be read is skipped, never trusted.

use std::sync::Arc;

use hashbrown::HashMap;
use redis::Value;

use crate::broker::Standing;
use crate::broker::redis::pack;
use crate::event::Channel;
use crate::event::Delivery;
use crate::event::Entry;
use crate::event::Event;
use crate::event::EventName;
use crate::event::Fingerprint;
use crate::event::Id;
use crate::event::InvalidId;
use crate::event::Kind;
use crate::event::LogId;
use crate::event::Trace;
use crate::jobs::is_status;

/// What the buffer for one event keeps of its size after a large one.
const TEXT_BYTES_KEPT: usize = 4096;

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

/// Jobs whose names the tail shares between entries; then it starts over.
const NAMES_MAX: usize = 16_384;

/// Turns answers of Redis into entries. Names of jobs are kept: thousands of entries of a job share them.
#[derive(Debug, Default)]
pub(super) struct Reader {
    names: HashMap<Id, Channel>,
    text: String,
}

impl Reader {
    /// The entries of an answer to `XRANGE` or of one stream's part of `XREAD`.
    pub(super) fn entries(&mut self, answer: &Value) -> Vec<Entry> {
        let Value::Array(items) = answer else { return Vec::new() };
        items.iter().filter_map(|item| self.entry(item)).collect()
    }

    /// One that we did not write keeps its place and says nothing.
    fn entry(&mut self, item: &Value) -> Option<Entry> {
        let Value::Array(parts) = item else { return None };
        let [id, Value::Array(fields)] = parts.as_slice() else { return None };
        let id = text(id)?.parse().ok()?;
        let entry = self.read(id, fields);
        Some(entry.unwrap_or(Entry { id, print: Fingerprint(0), event: None, judged: None, trace: None }))
    }

    /// `{h: head, class: text}`, or the head alone of an update that was rejected. A head is `fingerprint accepted_us`, then `job raw` if
    /// it judged something, then the trace if there is one: so it is the third word or the fifth.
    fn read(&mut self, id: LogId, fields: &[Value]) -> Option<Entry> {
        let (name, head) = (text(fields.first()?)?, text(fields.get(1)?)?);
        let mut words = head.split(' ');
        let print = Fingerprint(words.next().filter(|_| name == "h")?.parse().ok()?);
        let accepted_us = words.next()?.parse().ok()?;
        let more = [words.next(), words.next(), words.next()];
        let (job, raw, trace) = match more {
            [trace, None, _] => (None, None, trace),
            [job, raw, trace] => (job, raw.and_then(pack::read_raw_name), trace),
        };
        let trace = trace.and_then(Trace::parse).map(Box::new);
        let names = job.map(|job| self.names(job)).transpose().ok()?;
        let class = fields.get(2).zip(fields.get(3)).and_then(|(class, rest)| Some((text(class)?, text(rest)?)));
        let event = match (class, &names) {
            (Some(("e", rest)), _) => event(rest, accepted_us),
            (Some((class, body)), Some((job, channel))) => self.job_event(class, body, job, channel, accepted_us),
            _ => None,
        };
        Some(Entry { id, print, event, judged: names.map(|(job, _)| job).zip(raw), trace })
    }

    fn job_event(&mut self, class: &str, body: &str, job: &Id, channel: &Channel, accepted_us: u64) -> Option<Event> {
        let (delivery, terminal) = delivery(class)?;
        // Somebody else may write into our stream: a line break here would be a line break in every browser's stream.
        if body.bytes().any(|byte| byte < b' ' && byte != pack::END) {
            return None;
        }
        let state = pack::read_body(body).filter(|state| is_status(state.status))?;
        self.text.clear();
        state.render(job.as_str(), "", &mut self.text);
        let data = Arc::from(self.text.as_str());
        self.text.shrink_to(TEXT_BYTES_KEPT);
        Some(Event { channel: channel.clone(), name: EventName::JOB_UPDATE, data, delivery, terminal, accepted_us })
    }

    fn names(&mut self, job: &str) -> Result<(Id, Channel), InvalidId> {
        if let Some((id, channel)) = self.names.get_key_value(job) {
            return Ok((id.clone(), channel.clone()));
        }
        if self.names.len() >= NAMES_MAX {
            self.names.clear();
        }
        let id = Id::parse(job)?;
        let channel = Channel::of(Kind::Jobs, &id);
        self.names.insert(id.clone(), channel.clone());
        Ok((id, channel))
    }
}

fn text(value: &Value) -> Option<&str> {
    let Value::BulkString(bytes) = value else { return None };
    std::str::from_utf8(bytes).ok()
}

/// `channel name class data`
pub(super) fn event_text(event: &Event) -> String {
    format!("{} {} {} {}", event.channel, event.name, class(event), event.data)
}

fn event(text: &str, accepted_us: u64) -> Option<Event> {
    let mut parts = text.splitn(4, ' ');
    let (channel, name) = (parts.next()?, parts.next()?);
    let ((delivery, terminal), data) = (delivery(parts.next()?)?, parts.next()?);
    // Somebody else may write into our stream: a line break here would be a line break in every browser's stream.
    if data.bytes().any(|b| b == b'\n' || b == b'\r') || !data.starts_with('{') {
        return None;
    }
    Some(Event {
        channel: Channel::parse(channel).ok()?,
        name: EventName::parse_logged(name).ok()?,
        data: data.into(),
        delivery,
        terminal,
        accepted_us,
    })
}

/// An ephemeral event on its channel: when it was accepted, then the event.
pub(super) fn ephemeral(event: &Event) -> String {
    format!("{} {}", event.accepted_us, event_text(event))
}

pub(super) fn read_ephemeral(text: &str) -> Option<Event> {
    let (accepted_us, text) = text.split_once(' ')?;
    event(text, accepted_us.parse().ok()?).filter(|event| event.delivery == Delivery::Ephemeral)
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
