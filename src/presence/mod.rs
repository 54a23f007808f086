//! Who is at which document, with leases (protocol §2, §5, §9): joined, moved, left, once each, on every node.
//!
//! Streams say here what they have to say and are told here what changes. Shared truth is in the broker (`broker::Rosters`). This module
//! must not know HTTP, the hub or permissions: whoever calls has asked.

mod color;
mod flight;
mod member;
mod node;
mod place;
mod room;
mod saying;
mod telling;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use saying::Saying;

use crate::broker::BrokerError;
use crate::broker::DeviceName;
use crate::broker::Hold;
use crate::broker::LeaveCause;
use crate::broker::Patch;
use crate::broker::RosterChange;
use crate::broker::Rosters;
use crate::event::Channel;
use crate::event::Event;
use crate::event::Id;
use crate::event::Kind;
use crate::event::Moved;
use crate::telemetry::Metrics;
use place::Place;
use room::Room;

/// How long a stream that opens waits until it is there.
const PATIENCE: Duration = Duration::from_secs(3);
/// Changes that may wait between the store's connection and the rooms.
const NEWS_MAX: usize = 1024;
/// How much longer than `PRESENCE_GRACE` those may take who were sent away by a drain, each at its time.
const DRAIN_GRACE: Duration = Duration::from_secs(10);
/// The device of those who have no stream.
const LEASE: &str = "lease";

/// What streams of this node are to be told of one room.
#[derive(Debug)]
pub struct Told {
    /// `presence.{documentId}`
    pub channel: Channel,
    /// In this order.
    pub moved: Vec<Moved>,
}

/// The store can't be asked at the moment.
#[derive(Debug, thiserror::Error)]
#[error("presence can't be told at the moment")]
pub struct PresenceAway;

/// Why a stream is not there any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parting {
    /// Its connection is gone; it may come back.
    Gone,
    /// It was sent away, and told when to come back.
    Drained,
    /// It wants to leave.
    Unsubscribed,
    /// It may not be there any more, and neither may the same person by any other way.
    Revoked,
}

/// A stream and its person.
#[derive(Debug, Clone, Copy)]
pub struct Visitor<'a> {
    /// The stream's number.
    pub stream: u64,
    /// Who.
    pub user: &'a Id,
    /// Their name.
    pub name: &'a str,
    /// Their picture.
    pub avatar: Option<&'a str>,
    /// It looks without being there.
    pub observes: bool,
}

/// How long things last.
#[derive(Debug, Clone, Copy)]
pub struct PresenceSettings {
    /// `PRESENCE_GRACE_MS`: a reconnect within it is no leave.
    pub grace: Duration,
    /// `PRESENCE_TIMEOUT_MS`: the life of a lease that is not renewed.
    pub timeout: Duration,
}

/// Who is where, for this node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Presence(Arc<Node>);

#[derive(Debug)]
struct Node {
    rosters: Arc<dyn Rosters>,
    settings: PresenceSettings,
    rooms: Mutex<HashMap<Id, Arc<Place>>>,
    told: mpsc::Sender<Told>,
    metrics: Metrics,
    tasks: TaskTracker,
    runtime: Handle,
    stop: CancellationToken,
    /// Nothing is said any more, as if the process was dead.
    silenced: AtomicBool,
}

impl Presence {
    /// Nobody is anywhere yet. What streams are to be told goes to `told`; rooms are tasks of `tasks` until `stop`,
    /// on the runtime of whoever calls this.
    #[must_use]
    pub fn new(
        rosters: Arc<dyn Rosters>,
        settings: PresenceSettings,
        told: mpsc::Sender<Told>,
        metrics: &Metrics,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Self {
        let (metrics, tasks, stop) = (metrics.clone(), tasks.clone(), stop.clone());
        let runtime = Handle::current();
        Self(Arc::new(Node {
            rosters,
            settings,
            rooms: Mutex::default(),
            told,
            metrics,
            tasks,
            runtime,
            stop,
            silenced: AtomicBool::new(false),
        }))
    }

    /// A stream watches a document, and is there from now on unless it only observes. Again: nothing happens.
    ///
    /// # Errors
    /// The store is away; what was begun goes on until `detach`.
    pub async fn attach(&self, document: &Id, visitor: Visitor<'_>) -> Result<(), PresenceAway> {
        let device = name_of(visitor.stream);
        let who = || (visitor.user.clone(), member::profile(visitor.name, visitor.avatar));
        let who = (!visitor.observes).then(who);
        let place = self.0.enter(document, |room| room.attach(&device, who));
        place.until(PATIENCE, |room| room.is_ready(&device)).await;
        if place.room.lock().is_there(&device) { Ok(()) } else { Err(PresenceAway) }
    }

    /// Says nothing any more, whoever goes. For tests of instances that die.
    pub fn silence(&self) {
        self.0.silenced.store(true, Ordering::Release);
    }

    /// A stream says something. Answers whether it is there.
    #[must_use]
    pub fn say(&self, document: &Id, stream: u64, patch: Patch) -> bool {
        self.0.count(&patch);
        let Some(place) = self.0.find(document) else { return false };
        let said = place.room.lock().say(&name_of(stream), patch);
        place.bell.notify_one();
        said
    }

    /// A stream does not watch a document any more.
    pub fn detach(&self, document: &Id, stream: u64, parting: Parting) {
        let Some(place) = self.0.find(document) else { return };
        let grace = self.0.settings.grace;
        let lingers = |device, cause, stays| RosterChange::Linger { device, cause, stays };
        place.room.lock().detach(&name_of(stream), |device| match parting {
            Parting::Gone => lingers(device, LeaveCause::Closed, grace),
            Parting::Drained => lingers(device, LeaveCause::Drain, grace + DRAIN_GRACE),
            Parting::Unsubscribed => RosterChange::Drop { device, cause: LeaveCause::Closed },
            Parting::Revoked => RosterChange::Expel { cause: LeaveCause::Revoked },
        });
        place.bell.notify_one();
    }

    /// Somebody says something through a stream of theirs that is on another node, if it is there. Told with the next tick.
    pub fn say_elsewhere(&self, document: &Id, user: &Id, stream: u64, patch: Patch) {
        self.0.count(&patch);
        let device = name_of(stream);
        let change = RosterChange::Say { device: Arc::clone(&device), patch };
        self.0.enter(document, |room| room.add_elsewhere(user.clone(), device, change));
    }

    /// Somebody is there without a stream of their own, for `PRESENCE_TIMEOUT` from now on, and says something. `name`: which of
    /// several leases; letters, digits, `_` and `-`.
    ///
    /// # Errors
    /// The store is away.
    pub async fn lease(
        &self,
        document: &Id,
        visitor: Visitor<'_>,
        name: Option<&str>,
        patch: Patch,
    ) -> Result<(), PresenceAway> {
        self.0.count(&patch);
        let (device, hold) = (lease_of(name), Hold::Lease(self.0.settings.timeout));
        let profile = member::profile(visitor.name, visitor.avatar);
        let change = RosterChange::Put { device: Arc::clone(&device), hold, profile, patch };
        self.0.change(document, visitor.user, device, change).await
    }

    /// Such a lease ends.
    ///
    /// # Errors
    /// The store is away.
    pub async fn end_lease(&self, document: &Id, user: &Id, name: Option<&str>) -> Result<(), PresenceAway> {
        let device = lease_of(name);
        let change = RosterChange::Drop { device: Arc::clone(&device), cause: LeaveCause::Closed };
        self.0.change(document, user, device, change).await
    }

    /// Somebody may not see a document any more: they leave it, however they were there.
    pub fn expel(&self, document: &Id, user: &Id) {
        let change = RosterChange::Expel { cause: LeaveCause::Revoked };
        let place = self.0.enter(document, |room| room.add_elsewhere(user.clone(), DeviceName::from(""), change));
        place.bell.notify_one();
    }

    /// Whether this node knows somebody to be at a document.
    #[must_use]
    pub fn knows(&self, document: &Id, user: &Id) -> bool {
        self.0.find(document).is_some_and(|place| place.room.lock().has(user))
    }

    /// Who is there, as the data of `presence:state`.
    ///
    /// # Errors
    /// The store is away.
    pub async fn who(&self, document: &Id) -> Result<Arc<str>, PresenceAway> {
        let known = self.0.find(document).and_then(|place| {
            let mut room = place.room.lock();
            let current = room.is_loaded() && !room.wants_reading() && room.is_watched();
            current.then(|| room.state().0)
        });
        if let Some(state) = known {
            return Ok(state);
        }
        let roster = self.0.rosters.read(document).await.map_err(|error| away(&error))?;
        let mut room = Room::new(document, self.0.rosters.node(), 0);
        room.replace(roster, Instant::now());
        Ok(room.state().0)
    }

    /// What a new stream of a channel is told, and the number of the last event that is part of it. Nothing, where nobody here watches.
    #[must_use]
    pub fn state(&self, channel: &Channel) -> Option<(Event, u64)> {
        let document = Id::parse(channel.id()).ok().filter(|_| channel.kind() == Kind::Presence)?;
        let place = self.0.find(&document)?;
        let mut room = place.room.lock();
        let (data, number) = room.is_loaded().then(|| room.state())?;
        Some((telling::state_event(channel.clone(), data), number))
    }

    /// Says that this node is there, hears the others, and compares. Never returns; run it beside the server.
    pub async fn run(&self) {
        let (sender, news) = mpsc::channel(NEWS_MAX);
        tokio::join!(self.0.rosters.hear(sender), self.0.hear(news), self.0.beat(), self.0.compare());
    }
}

/// A stream's device is named as the stream is.
fn name_of(stream: u64) -> DeviceName {
    format!("{stream:016x}").into()
}

/// No stream has such a name: those are hexadecimal.
fn lease_of(name: Option<&str>) -> DeviceName {
    name.map_or_else(|| LEASE.into(), |name| [LEASE, ".", name].concat().into())
}

fn away(error: &BrokerError) -> PresenceAway {
    tracing::warn!(%error, "presence can't be asked for");
    PresenceAway
}
