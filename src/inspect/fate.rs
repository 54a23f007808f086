//! What became of an event, from the turning points of a life and from where the event stands.

use crate::event::Channel;
use crate::event::LogId;
use crate::inspect::Fate;
use crate::inspect::Outcome;
use crate::inspect::Way;
use crate::inspect::life::Carried;
use crate::inspect::life::Life;
use crate::inspect::life::Past;

/// How a live stream stands, as its lane says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Standing {
    /// How far the lane has come.
    pub head: LogId,
    /// The first position that is not written.
    pub waiting_from: Option<LogId>,
    /// Events that wait.
    pub events: usize,
    /// Bytes of them.
    pub bytes: usize,
}

type Verdict = (Outcome, String);

impl Life {
    /// `live`: how it stands, if a lane carries it now; `head`: how far this node's log has come.
    pub(super) fn fate(&self, channel: &Channel, at: LogId, live: Option<&Standing>, head: LogId) -> Fate {
        let (outcome, says) = self.judge(channel, at, live, head);
        Fate { at: at.to_string(), outcome, says }
    }

    fn judge(&self, channel: &Channel, at: LogId, live: Option<&Standing>, head: LogId) -> Verdict {
        if let Some(past) = self.past.iter().rev().find(|past| past.holds(channel, at)) {
            return self.while_past(past, at);
        }
        match self.carried.iter().find(|carried| carried.channel == *channel) {
            Some(Carried { from: None, .. }) if self.ended.is_none() => {
                (Outcome::CatchingUp, "the stream is being opened; the present state comes with it".to_owned())
            }
            Some(Carried { from: None, .. }) => (Outcome::NotWritten, self.never_live()),
            Some(Carried { from: Some(from), .. }) if at > *from => self.while_carried(channel, at, live, head),
            Some(Carried { from: Some(from), later, .. }) => self.before(channel, at, *from, *later),
            None => self.elsewhere(channel, at),
        }
    }

    fn while_past(&self, past: &Past, at: LogId) -> Verdict {
        if let Some(verdict) = self.superseded(&past.channel, at) {
            return verdict;
        }
        if past.unwritten.is_some_and(|from| at >= from) {
            let said = format!("the channel left the stream ({}) before it was written", past.why);
            return (if past.why == "reset" { Outcome::Reset } else { Outcome::TakenBack }, said);
        }
        self.written(at)
    }

    fn while_carried(&self, channel: &Channel, at: LogId, live: Option<&Standing>, head: LogId) -> Verdict {
        if let Some(verdict) = self.superseded(channel, at) {
            return verdict;
        }
        if let Some(stopped) = self.stopped {
            if at > stopped.at && self.ended.is_none() {
                return (Outcome::CatchingUp, "the stream catches up anew, or is just ending".to_owned());
            }
            let reason = self.ended.map_or("it is being closed", |(reason, _)| reason);
            if at > stopped.at {
                return (Outcome::After, format!("the stream had ended at {} ({reason})", stopped.at));
            }
            if stopped.unwritten.is_some_and(|from| at >= from) {
                let said = format!("it waited when the stream ended ({reason}); a client that resumes is given it");
                return (Outcome::NotWritten, said);
            }
            return self.written(at);
        }
        if let Some((reason, _)) = self.ended {
            return match (self.joined, self.transport) {
                (None, _) => (Outcome::NotWritten, format!("the stream ended ({reason}) while it was catching up")),
                (Some(_), "poll") => self.written(at),
                // Its lane has yet to say up to where it was written.
                (Some(_), _) => (Outcome::Unknown, format!("the stream has just ended ({reason})")),
            };
        }
        if at > head {
            return (Outcome::NotReached, format!("the log of this instance has come to {head} only"));
        }
        match live {
            Some(live) if at > live.head => {
                (Outcome::NotReached, format!("the lane of the stream has come to {} only", live.head))
            }
            Some(live) if live.waiting_from.is_some_and(|from| at >= from) => {
                let said =
                    format!("it waits for the client to read, among {} events and {} bytes", live.events, live.bytes);
                (Outcome::Queued, said)
            }
            Some(_) => self.written(at),
            None => (Outcome::CatchingUp, "the stream is being told what was before".to_owned()),
        }
    }

    fn written(&self, at: LogId) -> Verdict {
        if self.transport == "poll" && self.told.is_none_or(|told| at > told) {
            let said = "no answer has told it yet; a poll that goes on is given it";
            return (Outcome::NotWritten, said.to_owned());
        }
        if self.is_forgotten(at) {
            return (Outcome::Unknown, "written, or superseded by a newer one: details are forgotten".to_owned());
        }
        let how = match (self.transport, self.way) {
            ("poll", _) => "it was in the answer of a poll",
            (_, Way::Socket) => "it was written to the socket",
            (_, Way::Queue) => "it was handed to the connection",
        };
        let replayed = self.joined.is_none_or(|joined| at <= joined) && self.resume.is_some();
        let said = if replayed { format!("{how}, as a part of the replay") } else { how.to_owned() };
        (Outcome::Written, said)
    }

    fn superseded(&self, channel: &Channel, at: LogId) -> Option<Verdict> {
        let runs = self.conflated.iter().rev();
        let run = runs.clone().find(|run| run.channel == *channel && (run.first..=run.last).contains(&at))?;
        Some((Outcome::Conflated, format!("the client lagged, and the newer one at {} was sent instead", run.into)))
    }

    /// It came before the channel was carried.
    fn before(&self, channel: &Channel, at: LogId, from: LogId, later: bool) -> Verdict {
        let earlier = self.past.iter().rev().find(|past| past.channel == *channel && at > past.to);
        if let Some(past) = earlier {
            return Self::left(past);
        }
        if self.verdict == "reset" && !later {
            let reason = self.reset.unwrap_or("history_rewritten");
            let said = format!(
                "the stream was told to forget everything ({reason}), and began at {from} with the present state"
            );
            return (Outcome::Reset, said);
        }
        if !later {
            return match self.resume {
                Some(resume) => (Outcome::Before, format!("the client said that it had everything up to {resume}")),
                None => (Outcome::Before, format!("the stream began at {from}, with the present state and no cursor")),
            };
        }
        (Outcome::NotYetSubscribed, format!("the channel joined the stream at {from}"))
    }

    /// The channel is not carried.
    fn elsewhere(&self, channel: &Channel, at: LogId) -> Verdict {
        let earlier = self.past.iter().rev().find(|past| past.channel == *channel);
        match earlier {
            Some(past) if at > past.to => return Self::left(past),
            Some(_) if self.is_forgotten(at) => return Self::forgotten(),
            Some(past) => return (Outcome::Before, format!("the channel joined the stream at {}", past.from)),
            None => {}
        }
        let own = |name: &str| name == channel.as_str() || (name == "user.me" && channel.id() == self.user.as_str());
        match self.denied.iter().find(|(name, _)| own(name)) {
            Some((_, code)) => (Outcome::Denied, format!("the stream asked for the channel and was refused ({code})")),
            None if self.is_forgotten(at) => Self::forgotten(),
            None => (Outcome::NotSubscribed, "the stream never asked for the channel".to_owned()),
        }
    }

    fn is_forgotten(&self, at: LogId) -> bool {
        self.forgotten.is_some_and(|until| at <= until)
    }

    fn forgotten() -> Verdict {
        (Outcome::Unknown, "what the stream carried then is forgotten".to_owned())
    }

    fn left(past: &Past) -> Verdict {
        let outcome = if past.why == "reset" { Outcome::Reset } else { Outcome::Left };
        (outcome, format!("the channel had left the stream at {} ({})", past.to, past.why))
    }

    fn never_live(&self) -> String {
        let reason = self.ended.map_or("", |(reason, _)| reason);
        format!("the stream ended ({reason}) before it was live")
    }
}

impl Past {
    fn holds(&self, channel: &Channel, at: LogId) -> bool {
        self.channel == *channel && at > self.from && at <= self.to
    }
}
