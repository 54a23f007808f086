//! An event that somebody asks about: whether the log has it, and whether the user may see it.

use crate::event::Channel;
use crate::event::Cursor;
use crate::event::Entry;
use crate::event::Kind;
use crate::event::LogId;
use crate::inspect::Finding;
use crate::inspect::Logged;
use crate::session::Sessions;
use crate::session::Sought;

/// The last position before this one.
fn before(at: LogId) -> LogId {
    match at.seq.checked_sub(1) {
        Some(seq) => LogId { ms: at.ms, seq },
        None => LogId { ms: at.ms.saturating_sub(1), seq: u64::MAX },
    }
}

fn missing(at: LogId, logged: Logged) -> Finding {
    let at = at.to_string();
    Finding { at, cursor: None, logged, channel: None, event: None, bytes: None, accepted_ms: None }
}

impl Sessions {
    /// The newest entries in memory, newest first.
    pub(super) fn newest(&self, channel: Option<&Channel>, max: usize) -> Vec<Finding> {
        let window = self.hub.window();
        window.newest(channel, max).iter().map(|entry| self.finding(entry, channel)).collect()
    }

    /// Looks an event up: in memory, then in the log.
    pub(super) async fn find(&self, channel: &Channel, sought: Sought) -> Finding {
        let window = self.hub.window();
        let ((generation, floor, _), head) = (window.extent(), window.head());
        if generation == 0 {
            return missing(sought.at, Logged::Unavailable);
        }
        if sought.cursor.is_some_and(|cursor| cursor.epoch != head.epoch) {
            return missing(sought.at, Logged::Trimmed);
        }
        if let Some(entry) = window.entry(sought.at) {
            return self.proven(&entry, channel, sought);
        }
        if sought.at > head.at {
            return missing(sought.at, Logged::NotYet);
        }
        if sought.at > floor {
            return missing(sought.at, Logged::NoSuchEntry);
        }
        self.find_in_log(channel, sought).await
    }

    async fn find_in_log(&self, channel: &Channel, sought: Sought) -> Finding {
        if self.broker.redis().is_none() {
            return missing(sought.at, Logged::Trimmed);
        }
        let first = self.broker.read_after(LogId::ZERO, 1);
        let (found, first) = tokio::join!(self.broker.read_after(before(sought.at), 1), first);
        let (Ok(found), Ok(first)) = (found, first) else { return missing(sought.at, Logged::Unavailable) };
        match found.first().filter(|entry| entry.id == sought.at) {
            Some(entry) => self.proven(entry, channel, sought),
            None if first.first().is_none_or(|first| sought.at < first.id) => missing(sought.at, Logged::Trimmed),
            None => missing(sought.at, Logged::NoSuchEntry),
        }
    }

    /// The entry at that position, if it is the one that is meant.
    fn proven(&self, entry: &Entry, channel: &Channel, sought: Sought) -> Finding {
        match sought.cursor {
            Some(cursor) if cursor.print != entry.print => missing(sought.at, Logged::Rewritten),
            _ => self.finding(entry, Some(channel)),
        }
    }

    fn finding(&self, entry: &Entry, channel: Option<&Channel>) -> Finding {
        let (event, epoch) = (entry.event.as_ref(), self.hub.window().head().epoch);
        let other = event.is_some_and(|event| channel.is_some_and(|channel| *channel != event.channel));
        let logged = match event {
            None => Logged::Rejected,
            Some(_) if other => Logged::OtherChannel,
            Some(_) => Logged::Logged,
        };
        let judged = entry.judged.as_ref().map(|(job, _)| Channel::of(Kind::Jobs, job).to_string());
        Finding {
            at: entry.id.to_string(),
            cursor: Some(Cursor { epoch, at: entry.id, print: entry.print }.to_string()),
            logged,
            channel: event.map(|event| event.channel.to_string()).or(judged),
            event: event.map(|event| event.name.as_str().to_owned()),
            bytes: event.map(|event| event.data.len()),
            accepted_ms: event.map(|event| event.accepted_us / 1000).filter(|at| *at > 0),
        }
    }
}
