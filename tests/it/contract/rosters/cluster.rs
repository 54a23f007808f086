//! Nodes at the same rosters, and what each of them has heard.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidings::broker::Aspect;
use tidings::broker::DeviceRecord;
use tidings::broker::Hold;
use tidings::broker::LeaveCause;
use tidings::broker::MemberRecord;
use tidings::broker::MemoryRosters;
use tidings::broker::Outcome;
use tidings::broker::RedisSettings;
use tidings::broker::Roster;
use tidings::broker::RosterChange;
use tidings::broker::RosterNews;
use tidings::broker::RosterStep;
use tidings::broker::RosterVersion;
use tidings::broker::Rosters;
use tidings::event::Id;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::contract::broker::Bench;
use crate::support::eventually;

/// How long anything may take that nothing is in the way of.
pub(super) const SOON: Duration = Duration::from_secs(5);
/// After so long without a word a device is idle here.
pub(super) const IDLE_AFTER: Duration = Duration::from_secs(1);

/// A node, with everything that it has heard.
pub(super) struct Node {
    pub(super) rosters: Arc<dyn Rosters>,
    heard: Arc<Mutex<Vec<RosterNews>>>,
    hearing: [JoinHandle<()>; 2],
    bench: Option<Bench>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.hearing.iter().for_each(JoinHandle::abort);
    }
}

impl Node {
    fn new(rosters: Arc<dyn Rosters>, bench: Option<Bench>) -> Self {
        let (sender, mut news) = mpsc::channel(16);
        let heard = Arc::<Mutex<Vec<RosterNews>>>::default();
        let (hears, into) = (Arc::clone(&rosters), Arc::clone(&heard));
        let hearing = [
            tokio::spawn(async move { hears.hear(sender).await }),
            tokio::spawn(async move {
                while let Some(next) = news.recv().await {
                    into.lock().push(next);
                }
            }),
        ];
        Self { rosters, heard, hearing, bench }
    }

    pub(super) async fn redis(settings: RedisSettings) -> Self {
        let bench = Bench::redis_with(settings).await;
        Self::new(bench.broker.rosters(IDLE_AFTER), Some(bench))
    }

    pub(super) async fn stop(mut self) {
        self.bench.take().unwrap().stop().await;
    }

    pub(super) async fn does(&self, document: &str, steps: &[RosterStep]) -> RosterVersion {
        self.rosters.change(&id(document), steps).await.unwrap()
    }

    pub(super) async fn sees(&self, document: &str) -> Roster {
        self.rosters.read(&id(document)).await.unwrap()
    }

    pub(super) async fn listens(&self, document: &str) {
        eventually("it can listen", SOON, async || self.rosters.listen(&id(document)).await.ok()).await;
    }

    /// Whether it was new.
    pub(super) async fn beats(&self) -> bool {
        self.rosters.beat().await.unwrap().anew
    }

    /// This node's number, as it stands in the records.
    pub(super) async fn number(&self) -> u64 {
        let document = format!("number-{:x}", fastrand::u64(..));
        self.does(&document, &[put("who", "d")]).await;
        let node = self.sees(&document).await.members["who"].devices["d"].node.unwrap();
        self.does(&document, &[expel("who", LeaveCause::Closed)]).await;
        node
    }

    pub(super) fn forgets_what_it_heard(&self) {
        self.heard.lock().clear();
    }

    pub(super) fn interruptions(&self) -> usize {
        self.heard.lock().iter().filter(|news| **news == RosterNews::Interrupted).count()
    }

    /// What it has heard of one roster.
    pub(super) fn heard_of(&self, document: &str) -> Vec<(RosterVersion, Vec<(Id, Outcome)>)> {
        let heard = self.heard.lock().clone();
        let of = heard.into_iter().filter_map(|news| match news {
            RosterNews::Changed { document: of, version, members } => {
                (of.as_str() == document).then_some((version, members))
            }
            RosterNews::Interrupted => None,
        });
        of.collect()
    }

    /// The same, as soon as it has heard of this version.
    pub(super) async fn heard_up_to(
        &self,
        document: &str,
        version: RosterVersion,
    ) -> Vec<(RosterVersion, Vec<(Id, Outcome)>)> {
        let what = format!("news of {document} up to {version:?}");
        eventually(&what, SOON, async || {
            let heard = self.heard_of(document);
            heard.last().is_some_and(|(last, _)| *last == version).then_some(heard)
        })
        .await
    }

    /// Why this user has left, each time that this node was told so.
    pub(super) fn told_why(&self, document: &str, user: &str) -> Vec<LeaveCause> {
        let outcomes = self.heard_of(document).into_iter().flat_map(|(_, members)| members);
        let of_user = outcomes.filter(|(who, _)| who.as_str() == user).map(|(_, outcome)| outcome);
        of_user.filter_map(|outcome| if let Outcome::Left(cause) = outcome { Some(cause) } else { None }).collect()
    }

    /// Whoever has heard everything since the beginning knows what whoever asks is answered.
    pub(super) async fn agrees(&self, document: &str) {
        let mut roster = self.sees(document).await;
        let mut known = BTreeMap::new();
        for (at, (version, members)) in self.heard_up_to(document, roster.version).await.into_iter().enumerate() {
            assert_eq!((version.epoch, version.number), (roster.version.epoch, at as u64 + 1), "{document}");
            apply(&mut known, members);
        }
        // Nobody is told that a device lingers.
        for (user, member) in &mut known {
            for (name, device) in &mut member.devices {
                let asked = roster.members.get_mut(user).and_then(|member| member.devices.get_mut(name));
                if asked.is_some_and(|asked| asked.node.is_none()) {
                    device.node = None;
                }
            }
        }
        assert_eq!(roster.members, known, "{document}");
    }
}

/// What somebody knows who is told this.
pub(super) fn apply(known: &mut BTreeMap<Id, MemberRecord>, told: Vec<(Id, Outcome)>) {
    for (user, outcome) in told {
        match outcome {
            Outcome::Here(member) => drop(known.insert(user, member)),
            Outcome::Left(_) => drop(known.remove(&user)),
        }
    }
}

/// Nodes of one process.
pub(super) fn memory<const N: usize>() -> [Node; N] {
    let first = MemoryRosters::new(IDLE_AFTER);
    std::array::from_fn(|_| Node::new(Arc::new(first.beside()), None))
}

/// Nodes that share a Redis.
pub(super) async fn redis<const N: usize>(settings: &RedisSettings) -> [Node; N] {
    let mut nodes = Vec::new();
    for _ in 0..N {
        nodes.push(Node::redis(settings.clone()).await);
    }
    nodes.try_into().ok().unwrap()
}

pub(super) fn id(text: &str) -> Id {
    Id::parse(text).unwrap()
}

fn step(user: &str, what: RosterChange) -> RosterStep {
    RosterStep { user: id(user), what }
}

/// It is there, held by the node that says so, and says nothing.
pub(super) fn put(user: &str, device: &str) -> RosterStep {
    says(user, device, Hold::Node, &[])
}

pub(super) fn says(user: &str, device: &str, hold: Hold, patch: &[(Aspect, Option<&str>)]) -> RosterStep {
    let patch = patch.iter().map(|(aspect, text)| (*aspect, text.map(Arc::from))).collect();
    step(user, RosterChange::Put { device: device.into(), hold, profile: profile(user), patch })
}

pub(super) fn profile(user: &str) -> Arc<str> {
    format!("{{\"name\":\"{user} \\\"ünï\\\" \\u0000\",\"tags\":[],\"n\":12345678901234567890}}").into()
}

pub(super) fn linger(user: &str, device: &str, cause: LeaveCause, stays: Duration) -> RosterStep {
    step(user, RosterChange::Linger { device: device.into(), cause, stays })
}

pub(super) fn gone(user: &str, device: &str, cause: LeaveCause) -> RosterStep {
    step(user, RosterChange::Drop { device: device.into(), cause })
}

pub(super) fn expel(user: &str, cause: LeaveCause) -> RosterStep {
    step(user, RosterChange::Expel { cause })
}

/// The one device of a member that has one.
pub(super) fn only(member: &MemberRecord) -> (&str, &DeviceRecord) {
    assert_eq!(member.devices.len(), 1, "{member:?}");
    let (name, device) = member.devices.first_key_value().unwrap();
    (name, device)
}
