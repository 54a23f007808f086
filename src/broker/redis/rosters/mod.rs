//! Rosters in Redis: a hash for each document, changed by a script that also says when to look at a device again.
//!
//! All nodes look for what is due, each with its beat. Finding it and taking it out are two scripts: the second one looks again, so
//! whoever is second finds nothing to do.

mod hear;
mod text;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use redis::Cmd;
use redis::Script;
use tokio::sync::mpsc;

use crate::broker::Beat;
use crate::broker::BrokerError;
use crate::broker::NODE_LEASE;
use crate::broker::RedisBroker;
use crate::broker::Roster;
use crate::broker::RosterNews;
use crate::broker::RosterStep;
use crate::broker::RosterVersion;
use crate::broker::Rosters;
use crate::broker::TYPING;
use crate::broker::redis::link::Link;
use crate::broker::rosters::millis;
use crate::event::Id;
use hear::Ear;
use hear::Listening;
use text::Step;

/// How long the version of a roster without members is remembered.
const EMPTY_KEPT: Duration = Duration::from_secs(3600);
/// What one look finds at most, and looks of one beat.
const FOUND_MAX: usize = 128;
const LOOKS_MAX: usize = 32;
/// Documents that are swept at once.
const SWEEPS_MAX: usize = 16;
/// Versions that are asked for at once.
const VERSIONS_MAX: usize = 1024;
/// Epochs have 19 digits at most: the script has no larger numbers to compare them with.
const EPOCH_MAX: u64 = 1 << 63;

/// The rosters that all nodes share, as this one sees them.
#[derive(Debug)]
pub(crate) struct RedisRosters {
    broker: RedisBroker,
    change: Script,
    beat: Script,
    keys: Keys,
    /// This node, as the scripts know it: its number is too large for theirs.
    node: String,
    idle_ms: u64,
    listening: Listening,
    /// The last beat has said that this node was not known, to whoever asked.
    told: AtomicBool,
    /// It was said that a roster is not as we write it.
    warned: AtomicBool,
}

/// Those of documents begin otherwise than all others: a document may have any name.
#[derive(Debug)]
struct Keys {
    /// The document follows.
    roster: String,
    deadlines: String,
    nodes: String,
    /// The node follows.
    held: String,
    beats: String,
}

/// What a look at the clock has found.
#[derive(Debug)]
struct Found {
    anew: bool,
    due: Vec<Vec<u8>>,
    /// By turns a dead node and an entry that it held.
    lost: Vec<Vec<u8>>,
}

impl RedisRosters {
    pub(crate) fn new(broker: RedisBroker, idle_after: Duration) -> Self {
        let key = |name: &str| format!("{}:{name}", broker.shared.settings.prefix);
        let keys = Keys {
            roster: key("roster:"),
            deadlines: key("rosters:deadlines"),
            nodes: key("rosters:nodes"),
            held: key("rosters:node:"),
            beats: key("rosters:beats"),
        };
        Self {
            change: Script::new(include_str!("roster.lua")),
            beat: Script::new(include_str!("beat.lua")),
            keys,
            node: broker.node().to_string(),
            idle_ms: millis(idle_after),
            listening: Listening::default(),
            told: AtomicBool::new(false),
            warned: AtomicBool::new(false),
            broker,
        }
    }

    fn link(&self) -> &Link {
        &self.broker.shared.link
    }

    fn key(&self, document: &Id) -> String {
        format!("{}{document}", self.keys.roster)
    }

    async fn take(&self, document: &Id, steps: &[Step<'_>]) -> Result<RosterVersion, BrokerError> {
        let steps = serde_json::to_string(steps).map_err(|_| BrokerError::Garbled)?;
        let mut call = redis::cmd("EVALSHA");
        call.arg(self.change.get_hash()).arg(3).arg(self.key(document)).arg(&self.keys.deadlines).arg(&self.keys.nodes);
        call.arg(document.as_str()).arg(&self.node).arg(fastrand::u64(1..EPOCH_MAX));
        call.arg(millis(TYPING)).arg(self.idle_ms).arg(millis(NODE_LEASE)).arg(&self.keys.held);
        call.arg(millis(EMPTY_KEPT)).arg(steps);
        let answer: String = self.link().call(&self.change, &call).await?;
        text::version(&answer).ok_or(BrokerError::Garbled)
    }

    async fn read_now(&self, document: &Id) -> Result<Roster, BrokerError> {
        let mut command = redis::cmd("HGETALL");
        command.arg(self.key(document));
        let fields: Vec<(Vec<u8>, Vec<u8>)> = self.link().query(&command).await?;
        let mut roster = Roster::default();
        for (name, value) in fields {
            if name.is_empty() {
                roster.version = std::str::from_utf8(&value).ok().and_then(text::version).unwrap_or_default();
                continue;
            }
            let user = std::str::from_utf8(&name).ok().and_then(|name| Id::parse(name).ok());
            match user.zip(text::member(&value)) {
                Some((user, member)) => drop(roster.members.insert(user, member)),
                None => self.warn(document),
            }
        }
        Ok(roster)
    }

    /// Once: whoever writes there may do it for ever.
    fn warn(&self, document: &Id) {
        self.broker.shared.metrics.reject("rosters", "unreadable");
        if !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(document.id = %document, "redis: a roster is not as we write it");
        }
    }

    async fn versions_now(&self, documents: &[Id]) -> Result<Vec<RosterVersion>, BrokerError> {
        let mut versions = Vec::with_capacity(documents.len());
        for documents in documents.chunks(VERSIONS_MAX) {
            let mut pipe = redis::pipe();
            for document in documents {
                pipe.hget(self.key(document), "");
            }
            let texts: Vec<Option<Vec<u8>>> = self.link().pipe(&pipe).await?;
            let version = |text: Vec<u8>| std::str::from_utf8(&text).ok().and_then(text::version);
            versions.extend(texts.into_iter().map(|text| text.and_then(version).unwrap_or_default()));
        }
        Ok(versions)
    }

    async fn look(&self, told: bool) -> Result<Found, BrokerError> {
        let mut call = redis::cmd("EVALSHA");
        call.arg(self.beat.get_hash()).arg(3).arg(&self.keys.nodes).arg(&self.keys.beats).arg(&self.keys.deadlines);
        call.arg(&self.node).arg(millis(NODE_LEASE)).arg(&self.keys.held).arg(FOUND_MAX);
        call.arg(if told { "1" } else { "" });
        let (anew, due, lost) = self.link().call(&self.beat, &call).await?;
        Ok(Found { anew, due, lost })
    }

    async fn beat_now(&self) -> Result<Beat, BrokerError> {
        // Unless this very beat is answered, the script says it again: the answer that was lost may have been the one that counts.
        let mut told = self.told.swap(false, Ordering::Relaxed);
        let mut anew = false;
        for _ in 0..LOOKS_MAX {
            let found = self.look(told).await?;
            (told, anew) = (false, found.anew);
            self.sweep(&found).await?;
            if found.due.len() + found.lost.len() / 2 < FOUND_MAX {
                break;
            }
        }
        self.told.store(anew, Ordering::Relaxed);
        Ok(Beat { anew })
    }

    /// Takes out what was found, one step for each document.
    async fn sweep(&self, found: &Found) -> Result<(), BrokerError> {
        let mut sweeps: BTreeMap<Id, Vec<Step<'_>>> = BTreeMap::new();
        for due in &found.due {
            match parse(due) {
                Some((document, user, device)) => {
                    sweeps.entry(document).or_default().push(Step::due(user, device));
                }
                None => self.forget(redis::cmd("ZREM").arg(&self.keys.deadlines).arg(due)).await?,
            }
        }
        for pair in found.lost.chunks_exact(2) {
            let [node, entry] = pair else { continue };
            let Ok(node) = std::str::from_utf8(node) else { continue };
            match parse(entry) {
                Some((document, user, device)) => {
                    sweeps.entry(document).or_default().push(Step::lost(user, device, node));
                }
                None => self.forget(redis::cmd("SREM").arg(format!("{}{node}", self.keys.held)).arg(entry)).await?,
            }
        }
        let sweeps: Vec<_> = sweeps.iter().map(|(document, steps)| self.swept(document, steps)).collect();
        let mut done = futures_util::stream::iter(sweeps).buffer_unordered(SWEEPS_MAX);
        let mut worst = Ok(());
        while let Some(done) = done.next().await {
            worst = worst.and(done);
        }
        worst
    }

    /// What Redis refuses for one document must not keep the others from being swept.
    async fn swept(&self, document: &Id, steps: &[Step<'_>]) -> Result<(), BrokerError> {
        match self.take(document, steps).await {
            Err(BrokerError::Unavailable(error)) => Err(BrokerError::Unavailable(error)),
            Err(_) => {
                self.warn(document);
                Ok(())
            }
            Ok(_) => Ok(()),
        }
    }

    /// What we did not write, and would find again and again.
    async fn forget(&self, command: &Cmd) -> Result<(), BrokerError> {
        self.broker.shared.metrics.reject("rosters", "unreadable");
        self.link().query::<i64>(command).await.map(drop)
    }
}

fn parse(entry: &[u8]) -> Option<(Id, &str, &str)> {
    text::entry(std::str::from_utf8(entry).ok()?)
}

impl Rosters for RedisRosters {
    fn node(&self) -> u64 {
        self.broker.node()
    }

    fn change<'a>(
        &'a self,
        document: &'a Id,
        steps: &'a [RosterStep],
    ) -> BoxFuture<'a, Result<RosterVersion, BrokerError>> {
        async move { self.take(document, &steps.iter().map(Step::of).collect::<Vec<_>>()).await }.boxed()
    }

    fn read<'a>(&'a self, document: &'a Id) -> BoxFuture<'a, Result<Roster, BrokerError>> {
        self.read_now(document).boxed()
    }

    fn versions<'a>(&'a self, documents: &'a [Id]) -> BoxFuture<'a, Result<Vec<RosterVersion>, BrokerError>> {
        self.versions_now(documents).boxed()
    }

    fn listen<'a>(&'a self, document: &'a Id) -> BoxFuture<'a, Result<(), BrokerError>> {
        self.listening.begin(document).boxed()
    }

    fn ignore<'a>(&'a self, document: &'a Id) -> BoxFuture<'a, ()> {
        self.listening.end(document).boxed()
    }

    fn beat(&self) -> BoxFuture<'_, Result<Beat, BrokerError>> {
        self.beat_now().boxed()
    }

    fn leave(&self) -> BoxFuture<'_, ()> {
        async move {
            let mut command = redis::cmd("ZADD");
            command.arg(&self.keys.nodes).arg(0).arg(&self.node);
            // Without an answer its lease ends by itself.
            if let Err(error) = self.link().query::<i64>(&command).await {
                tracing::debug!(%error, "redis: can't say that this node leaves the rosters");
            }
        }
        .boxed()
    }

    fn hear(&self, news: mpsc::Sender<RosterNews>) -> BoxFuture<'_, ()> {
        async move {
            let (shared, listening, stem) = (&self.broker.shared, &self.listening, self.keys.roster.as_str());
            Ear { shared, listening, stem }.hear(&news).await;
        }
        .boxed()
    }
}
