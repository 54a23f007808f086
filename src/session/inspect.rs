//! What operators ask of streams and nodes: here, and of all others over the same calls as edits.

use std::collections::HashMap;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;

use crate::broker::RedisBroker;
use crate::clock;
use crate::event::Channel;
use crate::event::Cursor;
use crate::event::Id;
use crate::event::LogId;
use crate::hub::ConnectionId;
use crate::inspect::Account;
use crate::inspect::BusyChannel;
use crate::inspect::Explanation;
use crate::inspect::Instances;
use crate::inspect::LogTail;
use crate::inspect::LogView;
use crate::inspect::Overview;
use crate::inspect::Standing;
use crate::session::Sessions;
use crate::session::Transport;
use crate::session::remote::Outcome;
use crate::session::remote::Question;

/// How long other nodes may take to answer.
const PATIENCE: Duration = Duration::from_millis(1500);
/// Events of a channel that are explained when none is named.
const EVENTS_EXPLAINED: usize = 10;
/// Positions that a node is asked about at once.
const POSITIONS_MAX: usize = 32;
/// What is busy is counted over so long, in milliseconds, and over so many entries at most.
const BUSY_MS: u64 = 10_000;
const BUSY_ENTRIES_MAX: usize = 20_000;
/// Busy channels that are told.
const BUSY_TOLD: usize = 12;

/// What a node is asked on behalf of an operator.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Asked {
    /// How it does.
    Overview { recent: bool },
    /// What it knows of a user's streams, and of these events of a channel.
    Account { user: String, channel: Option<String>, positions: Vec<String> },
}

/// What it answers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Told {
    Overview(Box<Overview>),
    Account(Box<Account>),
}

/// How much is remembered here so that nobody has to be asked.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Remembered {
    /// States of quiet jobs.
    states: usize,
    /// States that only the database knows.
    rows: usize,
    /// Jobs that polls were told of.
    polled: usize,
    /// Streams of other nodes.
    elsewhere: usize,
    /// Answers about permissions.
    permissions: usize,
    /// Users.
    users: usize,
}

/// An event by its cursor, or by its place in the log alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sought {
    /// Where.
    pub at: LogId,
    /// Which entry has to stand there.
    pub cursor: Option<Cursor>,
}

impl Sought {
    /// Reads a cursor (of any transport), or a position `ms-seq`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if let Ok(cursor) = crate::session::ToldMark::split(text).0.parse::<Cursor>() {
            return Some(Self { at: cursor.at, cursor: Some(cursor) });
        }
        text.parse().ok().map(|at| Self { at, cursor: None })
    }
}

impl Sessions {
    /// This node's name, as others see it.
    #[must_use]
    pub fn node(&self) -> String {
        format!("{:016x}", self.broker.redis().map_or(1, RedisBroker::node))
    }

    /// How much is remembered here.
    #[must_use]
    pub fn memory(&self) -> Remembered {
        let (permissions, users) = self.authorizer.remembered();
        Remembered {
            states: self.known.entries(),
            rows: self.known_rows.entries(),
            polled: self.polled.entries(),
            elsewhere: self.elsewhere.entries(),
            permissions,
            users,
        }
    }

    /// All nodes, this one first. `recent`: and what happened there of late.
    pub async fn instances(&self, recent: bool) -> Instances {
        let others = self.ask_others(Asked::Overview { recent }, |told| match told {
            Told::Overview(overview) => Some(*overview),
            Told::Account(_) => None,
        });
        let (own, (others, complete)) = tokio::join!(self.overview(recent), others);
        Instances { instances: std::iter::once(own).chain(others).collect(), complete }
    }

    /// What all nodes know of a user's streams, this one first, and whether all have answered.
    pub async fn accounts(&self, user: &Id, channel: Option<&Channel>, positions: &[LogId]) -> (Vec<Account>, bool) {
        let asked = Asked::Account {
            user: user.to_string(),
            channel: channel.map(ToString::to_string),
            positions: positions.iter().map(ToString::to_string).collect(),
        };
        let others = self.ask_others(asked, |told| match told {
            Told::Account(account) => Some(*account),
            Told::Overview(_) => None,
        });
        let (own, (others, complete)) = tokio::join!(self.account(user, channel, positions), others);
        (std::iter::once(own).chain(others).collect(), complete)
    }

    /// Why a user did or did not get an event of a channel; without one, the newest of the channel.
    pub async fn explain(&self, user: &Id, channel: &Channel, sought: Option<Sought>) -> Explanation {
        let events = match sought {
            Some(sought) => vec![self.find(channel, sought).await],
            None => self.newest(Some(channel), EVENTS_EXPLAINED).into_iter().rev().collect(),
        };
        let positions: Vec<LogId> = events.iter().filter_map(|event| event.at.parse().ok()).collect();
        let (accounts, permission) =
            tokio::join!(self.accounts(user, Some(channel), &positions), self.authorizer.present(user, channel));
        let (instances, complete) = accounts;
        let (user, channel, permission) = (user.to_string(), channel.to_string(), permission.to_owned());
        Explanation { user, channel, permission, events, instances, complete, says: Vec::new() }.concluded()
    }

    /// The newest entries of this node's part of the log.
    #[must_use]
    pub fn log_tail(&self, channel: Option<&Channel>, max: usize) -> LogTail {
        LogTail { log: self.log_view(), entries: self.newest(channel, max) }
    }

    /// Answers another node.
    pub(super) async fn tell_node(&self, asked: Asked) -> Option<Told> {
        match asked {
            Asked::Overview { recent } => Some(Told::Overview(Box::new(self.overview(recent).await))),
            Asked::Account { user, channel, positions } => {
                let user = Id::parse(&user).ok()?;
                let channel = channel.map(|channel| Channel::parse(&channel)).transpose().ok()?;
                let positions = positions.iter().take(POSITIONS_MAX).map(|at| at.parse());
                let positions: Vec<LogId> = positions.collect::<Result<_, _>>().ok()?;
                Some(Told::Account(Box::new(self.account(&user, channel.as_ref(), &positions).await)))
            }
        }
    }

    async fn ask_others<T>(&self, asked: Asked, pick: impl Fn(Told) -> Option<T>) -> (Vec<T>, bool) {
        let question = serde_json::to_string(&Question::Inspect(asked)).unwrap_or_default();
        match self.broker.ask_nodes(&question, PATIENCE).await {
            Ok(asked) => {
                let outcomes = asked.answers.iter().filter_map(|answer| serde_json::from_str(answer).ok());
                let told = outcomes.filter_map(|outcome| match outcome {
                    Outcome::Told(told) => pick(told),
                    _ => None,
                });
                (told.collect(), asked.complete)
            }
            Err(error) => {
                tracing::debug!(%error, "other instances can't be asked");
                (Vec::new(), false)
            }
        }
    }

    async fn account(&self, user: &Id, channel: Option<&Channel>, positions: &[LogId]) -> Account {
        let head = self.hub.window().head().at;
        let node = self.node();
        let Some(ledger) = self.inspector().ledger() else {
            let (head, lives, refusals, rejections) = (head.to_string(), Vec::new(), Vec::new(), Vec::new());
            return Account { node, inspector: false, since_ms: 0, head, lives, more: 0, refusals, rejections };
        };
        let open: Vec<ConnectionId> = ledger.open_of(user).into_iter().map(ConnectionId).collect();
        let standings = self.hub.look(&open).await;
        let live: HashMap<u64, Standing> = standings.into_iter().map(|(id, standing)| (id.0, standing)).collect();
        ledger.account(node, user, channel.map(|channel| (channel, positions)), &live, head)
    }

    async fn overview(&self, recent: bool) -> Overview {
        let busy = self.busy();
        let names: Vec<Channel> = busy.iter().map(|(channel, _)| channel.clone()).collect();
        let (lanes, streams) = self.hub.survey(&names).await;
        let channels = busy.into_iter().zip(streams).map(|((channel, events), streams)| BusyChannel {
            channel: channel.to_string(),
            events,
            streams,
        });
        let active =
            |transport: Transport| self.metrics.active_connections.with_label_values(&[transport.as_str()]).get();
        Overview {
            node: self.node(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            at_ms: clock::now_us() / 1000,
            uptime_seconds: self.started.elapsed().as_secs(),
            inspector: self.inspector().is_on(),
            ready: self.broker.is_ready() && self.hub.window().generation() > 0,
            draining: lanes.iter().any(|lane| lane.leaving),
            log: self.log_view(),
            streams: Transport::ALL.map(active),
            channels: channels.collect(),
            lanes,
            totals: self.metrics.totals(),
            recent: self.inspector().ledger().filter(|_| recent).map(crate::inspect::Ledger::recent),
        }
    }

    /// The channels with the most entries of late.
    fn busy(&self) -> Vec<(Channel, usize)> {
        let window = self.hub.window();
        let now = window.head().at.ms.max(clock::now_us() / 1000);
        let since = LogId { ms: now.saturating_sub(BUSY_MS), seq: 0 };
        let mut busy: Vec<(Channel, usize)> = window.busy(since, BUSY_ENTRIES_MAX).into_iter().collect();
        busy.sort_by(|one, other| other.1.cmp(&one.1).then_with(|| one.0.cmp(&other.0)));
        busy.truncate(BUSY_TOLD);
        busy
    }

    /// This node's part of the log.
    #[must_use]
    pub fn log_view(&self) -> LogView {
        let window = self.hub.window();
        let (head, (_, floor, _), (entries, bytes)) = (window.head(), window.extent(), window.size());
        LogView { head: head.at.to_string(), cursor: head.to_string(), floor: floor.to_string(), entries, bytes }
    }
}
