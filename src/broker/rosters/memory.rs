//! The rosters of one process: the same contract as in Redis, kept under one lock.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::collections::BinaryHeap;
use std::collections::HashMap;
use std::collections::HashSet;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Weak;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::broker::BrokerError;
use crate::broker::rosters::Beat;
use crate::broker::rosters::DeviceName;
use crate::broker::rosters::NODE_LEASE;
use crate::broker::rosters::Roster;
use crate::broker::rosters::RosterNews;
use crate::broker::rosters::RosterStep;
use crate::broker::rosters::RosterVersion;
use crate::broker::rosters::Rosters;
use crate::broker::rosters::turn::Member;
use crate::broker::rosters::turn::Nodes;
use crate::broker::rosters::turn::Sweep;
use crate::broker::rosters::turn::Turn;
use crate::broker::rosters::turn::millis;
use crate::clock;
use crate::event::Id;

/// News that wait for whoever hears them; beyond them all are given up, and it is said that something was missed.
const NEWS_MAX: usize = 4096;
/// How long, and of how many rosters without members, the version is remembered.
const EMPTY_KEPT: Duration = Duration::from_secs(3600);
const EMPTY_MAX: usize = 65_536;

/// The rosters of one process, as one node of it sees them.
#[derive(Debug)]
pub struct MemoryRosters {
    shared: Arc<Shared>,
    node: u64,
    idle_ms: u64,
    ear: Arc<Ear>,
}

/// The rosters of one process.
#[derive(Debug)]
pub(in crate::broker) struct Shared {
    /// This process among those that hold devices.
    node: u64,
    started: Instant,
    started_ms: u64,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    rosters: HashMap<Id, KeptRoster>,
    nodes: Nodes,
    /// Devices and when to look at them, soonest first; only the last look that was planned for one is taken.
    due: BinaryHeap<Reverse<(u64, Id, Id, DeviceName)>>,
    /// Rosters without members and when they are forgotten, soonest first.
    empty: VecDeque<(u64, Id)>,
    ears: Vec<Weak<Ear>>,
    beat_ms: Option<u64>,
    quiet_until_ms: u64,
}

#[derive(Debug, Default)]
struct KeptRoster {
    version: RosterVersion,
    members: BTreeMap<Id, Member>,
    /// When it is forgotten, if it has no members.
    forgotten_ms: Option<u64>,
}

/// What one node hears.
#[derive(Debug, Default)]
struct Ear {
    heard: Mutex<Heard>,
    ready: Notify,
}

#[derive(Debug, Default)]
struct Heard {
    documents: HashSet<Id>,
    waiting: VecDeque<RosterNews>,
}

impl Ear {
    fn hears(&self, document: &Id) -> bool {
        self.heard.lock().documents.contains(document)
    }

    fn tell(&self, news: RosterNews) {
        let mut heard = self.heard.lock();
        if heard.waiting.len() >= NEWS_MAX {
            heard.waiting.clear();
            heard.waiting.push_back(RosterNews::Interrupted);
        } else {
            heard.waiting.push_back(news);
        }
        self.ready.notify_one();
    }

    async fn next(&self) -> RosterNews {
        loop {
            let next = self.heard.lock().waiting.pop_front();
            match next {
                Some(news) => return news,
                None => self.ready.notified().await,
            }
        }
    }
}

impl Default for Shared {
    fn default() -> Self {
        let (started, started_ms) = (Instant::now(), clock::now_us() / 1000);
        Self { node: fastrand::u64(1..), started, started_ms, kept: Mutex::default() }
    }
}

impl Shared {
    /// The wall clock at the start, which only ever goes on from there.
    fn now_ms(&self) -> u64 {
        self.started_ms + millis(self.started.elapsed())
    }
}

impl MemoryRosters {
    /// Empty rosters. A device is idle after having said nothing for `idle_after`.
    #[must_use]
    pub fn new(idle_after: Duration) -> Self {
        Self::of(&Arc::default(), idle_after)
    }

    /// Another node at the same rosters, as there would be in a cluster.
    #[must_use]
    pub fn beside(&self) -> Self {
        Self { node: fastrand::u64(1..), ..Self::of(&self.shared, Duration::from_millis(self.idle_ms)) }
    }

    pub(in crate::broker) fn of(shared: &Arc<Shared>, idle_after: Duration) -> Self {
        let ear = Arc::<Ear>::default();
        {
            let mut kept = shared.kept.lock();
            kept.ears.retain(|ear| ear.strong_count() > 0);
            kept.ears.push(Arc::downgrade(&ear));
        }
        Self { shared: Arc::clone(shared), node: shared.node, idle_ms: millis(idle_after), ear }
    }

    fn change_now(&self, document: &Id, steps: &[RosterStep]) -> RosterVersion {
        let now_ms = self.shared.now_ms();
        let mut kept = self.shared.kept.lock();
        kept.turn(document, self.node, now_ms, self.idle_ms, |turn| steps.iter().for_each(|step| turn.take(step)))
    }

    fn read_now(&self, document: &Id) -> Roster {
        let kept = self.shared.kept.lock();
        let Some(roster) = kept.rosters.get(document) else { return Roster::default() };
        let members = roster.members.iter().map(|(user, member)| (user.clone(), member.record())).collect();
        Roster { version: roster.version, members }
    }

    fn beat_now(&self) -> Beat {
        let now_ms = self.shared.now_ms();
        let mut kept = self.shared.kept.lock();
        let until = kept.nodes.insert(self.node, now_ms + millis(NODE_LEASE));
        let anew = until.is_none_or(|until| until <= now_ms);
        let paused = kept.beat_ms.replace(now_ms).is_none_or(|last| now_ms - last > millis(NODE_LEASE) / 2);
        if paused {
            kept.quiet_until_ms = now_ms + millis(NODE_LEASE);
        }
        if now_ms >= kept.quiet_until_ms {
            kept.sweep(self.node, now_ms, self.idle_ms);
        }
        Beat { anew }
    }
}

impl Kept {
    /// One atomic step on one roster. Answers its version.
    fn turn(
        &mut self,
        document: &Id,
        node: u64,
        now_ms: u64,
        idle_ms: u64,
        act: impl FnOnce(&mut Turn<'_>),
    ) -> RosterVersion {
        let roster = self.rosters.entry(document.clone()).or_default();
        let (seen, due) = (Vec::new(), Vec::new());
        let mut turn = Turn { members: &mut roster.members, nodes: &self.nodes, node, now_ms, idle_ms, seen, due };
        act(&mut turn);
        let outcomes = turn.outcomes();
        let due = turn.due.into_iter().map(|(at_ms, user, name)| Reverse((at_ms, document.clone(), user, name)));
        self.due.extend(due);
        if !outcomes.is_empty() {
            if roster.version.epoch == 0 {
                roster.version.epoch = fastrand::u64(1..);
            }
            roster.version.number += 1;
            let ears = self.ears.iter().filter_map(Weak::upgrade).filter(|ear| ear.hears(document));
            let news = RosterNews::Changed { document: document.clone(), version: roster.version, members: outcomes };
            ears.for_each(|ear| ear.tell(news.clone()));
        }
        let version = roster.version;
        self.forget_later(document, now_ms);
        version
    }

    /// A roster without members is forgotten after a while; one that never had any at once.
    fn forget_later(&mut self, document: &Id, now_ms: u64) {
        let Some(roster) = self.rosters.get_mut(document) else { return };
        if !roster.members.is_empty() {
            roster.forgotten_ms = None;
        } else if roster.version.epoch == 0 {
            self.rosters.remove(document);
        } else if roster.forgotten_ms.is_none() {
            let at_ms = now_ms + millis(EMPTY_KEPT);
            roster.forgotten_ms = Some(at_ms);
            self.empty.push_back((at_ms, document.clone()));
        }
        while let Some((at_ms, document)) = self.empty.front() {
            if *at_ms > now_ms && self.empty.len() <= EMPTY_MAX {
                break;
            }
            if self.rosters.get(document).is_some_and(|roster| roster.forgotten_ms == Some(*at_ms)) {
                self.rosters.remove(document);
            }
            self.empty.pop_front();
        }
    }

    fn sweep(&mut self, node: u64, now_ms: u64, idle_ms: u64) {
        let mut sweeps: BTreeMap<Id, Vec<Sweep>> = BTreeMap::new();
        while let Some(Reverse((at_ms, ..))) = self.due.peek()
            && *at_ms <= now_ms
        {
            let Some(Reverse((at_ms, document, user, name))) = self.due.pop() else { break };
            let planned = |roster: &KeptRoster| Turn::is_planned(&roster.members, at_ms, &user, &name);
            if self.rosters.get(&document).is_some_and(planned) {
                sweeps.entry(document).or_default().push(Sweep::Due(user, name));
            }
        }
        for dead in self.nodes.iter().filter(|(_, until)| **until <= now_ms).map(|(node, _)| *node) {
            for (document, roster) in &self.rosters {
                let held = roster.members.iter().flat_map(|(user, member)| {
                    member.devices_of(dead).map(|name| Sweep::Lost(user.clone(), Arc::clone(name), dead))
                });
                let held: Vec<Sweep> = held.collect();
                if !held.is_empty() {
                    sweeps.entry(document.clone()).or_default().extend(held);
                }
            }
        }
        for (document, sweeps) in sweeps {
            let act = |turn: &mut Turn<'_>| sweeps.iter().for_each(|sweep| turn.sweep(sweep));
            self.turn(&document, node, now_ms, idle_ms, act);
        }
        self.nodes.retain(|_, until| *until > now_ms);
    }
}

impl Rosters for MemoryRosters {
    fn node(&self) -> u64 {
        self.node
    }

    fn change<'a>(
        &'a self,
        document: &'a Id,
        steps: &'a [RosterStep],
    ) -> BoxFuture<'a, Result<RosterVersion, BrokerError>> {
        async move { Ok(self.change_now(document, steps)) }.boxed()
    }

    fn read<'a>(&'a self, document: &'a Id) -> BoxFuture<'a, Result<Roster, BrokerError>> {
        async move { Ok(self.read_now(document)) }.boxed()
    }

    fn versions<'a>(&'a self, documents: &'a [Id]) -> BoxFuture<'a, Result<Vec<RosterVersion>, BrokerError>> {
        async move {
            let kept = self.shared.kept.lock();
            let version = |id| kept.rosters.get(id).map_or_else(RosterVersion::default, |roster| roster.version);
            Ok(documents.iter().map(version).collect())
        }
        .boxed()
    }

    fn listen<'a>(&'a self, document: &'a Id) -> BoxFuture<'a, Result<(), BrokerError>> {
        async move {
            // Under the lock of the changes: what is under way is heard from its beginning, or not at all.
            let _kept = self.shared.kept.lock();
            self.ear.heard.lock().documents.insert(document.clone());
            Ok(())
        }
        .boxed()
    }

    fn ignore<'a>(&'a self, document: &'a Id) -> BoxFuture<'a, ()> {
        async move {
            self.ear.heard.lock().documents.remove(document);
        }
        .boxed()
    }

    fn beat(&self) -> BoxFuture<'_, Result<Beat, BrokerError>> {
        async move { Ok(self.beat_now()) }.boxed()
    }

    fn leave(&self) -> BoxFuture<'_, ()> {
        async move {
            self.shared.kept.lock().nodes.insert(self.node, 0);
        }
        .boxed()
    }

    fn hear(&self, news: mpsc::Sender<RosterNews>) -> BoxFuture<'_, ()> {
        async move {
            loop {
                tokio::select! {
                    () = news.closed() => return,
                    next = self.ear.next() => if news.send(next).await.is_err() { return },
                }
            }
        }
        .boxed()
    }
}
