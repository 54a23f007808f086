//! Who is at which document, with leases (protocol §2, §5, §9): joined, moved, left, once each, on every node.
//!
//! Streams say here what they have to say and are told here what changes. Shared truth is in the broker (`broker::Rosters`). This module
//! must not know HTTP, the hub or permissions: whoever calls has asked.

mod color;
mod member;
mod place;
mod room;
mod saying;
mod telling;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use saying::Saying;

use crate::broker::Aspect;
use crate::broker::BEAT;
use crate::broker::BrokerError;
use crate::broker::DeviceName;
use crate::broker::Hold;
use crate::broker::LeaveCause;
use crate::broker::Patch;
use crate::broker::RosterChange;
use crate::broker::RosterNews;
use crate::broker::RosterVersion;
use crate::broker::Rosters;
use crate::clock;
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
/// How often each room is compared with the store, and how long a change may be on its way.
const COMPARE_EVERY: Duration = Duration::from_secs(2);
const ON_ITS_WAY: Duration = Duration::from_millis(300);
/// Rosters that are compared by one question.
const COMPARED: usize = 500;
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
    stop: CancellationToken,
}

impl Presence {
    /// Nobody is anywhere yet. What streams are to be told goes to `told`; rooms are tasks of `tasks` until `stop`.
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
        Self(Arc::new(Node { rosters, settings, rooms: Mutex::default(), told, metrics, tasks, stop }))
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

    /// Somebody is there without a stream, for `PRESENCE_TIMEOUT` from now on, and says something.
    ///
    /// # Errors
    /// The store is away.
    pub async fn lease(&self, document: &Id, visitor: Visitor<'_>, patch: Patch) -> Result<(), PresenceAway> {
        self.0.count(&patch);
        let (device, hold) = (DeviceName::from(LEASE), Hold::Lease(self.0.settings.timeout));
        let profile = member::profile(visitor.name, visitor.avatar);
        let change = RosterChange::Put { device: Arc::clone(&device), hold, profile, patch };
        self.0.change(document, visitor.user, device, change).await
    }

    /// Somebody without a stream leaves.
    ///
    /// # Errors
    /// The store is away.
    pub async fn end_lease(&self, document: &Id, user: &Id) -> Result<(), PresenceAway> {
        let device = DeviceName::from(LEASE);
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

impl Place {
    /// Waits until the room is as wanted, or time is up.
    async fn until(&self, patience: Duration, wanted: impl Fn(&Room) -> bool) {
        let mut progress = self.progress.subscribe();
        let waiting = async {
            while !wanted(&self.room.lock()) {
                if progress.changed().await.is_err() {
                    return;
                }
            }
        };
        // Whoever waits looks again.
        drop(tokio::time::timeout(patience, waiting).await);
    }
}

impl Node {
    fn find(&self, document: &Id) -> Option<Arc<Place>> {
        self.rooms.lock().get(document).cloned()
    }

    /// Does something in a room that does not close meanwhile.
    fn enter(self: &Arc<Self>, document: &Id, act: impl FnOnce(&mut Room)) -> Arc<Place> {
        let mut rooms = self.rooms.lock();
        let place = rooms.entry(document.clone()).or_insert_with(|| self.open(document));
        act(&mut place.room.lock());
        let place = Arc::clone(place);
        drop(rooms);
        place.bell.notify_one();
        place
    }

    fn open(self: &Arc<Self>, document: &Id) -> Arc<Place> {
        // Numbers grow from room to room: a stream may remember one of the room that was here before.
        let place = Arc::new(Place::new(document, Room::new(document, self.rosters.node(), clock::now_us())));
        let (node, opened) = (Arc::clone(self), Arc::clone(&place));
        self.metrics.presence_rooms.inc();
        self.tasks.spawn(async move {
            if node.stop.run_until_cancelled(opened.run(&node)).await.is_none() {
                opened.last_words(&node).await;
            }
            node.metrics.presence_rooms.dec();
        });
        place
    }

    /// Lets go of a room that nobody here needs.
    fn close(&self, place: &Place) -> bool {
        let mut rooms = self.rooms.lock();
        let unused = place.room.lock().is_unused();
        if unused {
            rooms.remove(&place.document);
        }
        unused
    }

    /// Says something of a device that is not here, and waits until it is said.
    async fn change(
        self: &Arc<Self>,
        document: &Id,
        user: &Id,
        device: DeviceName,
        change: RosterChange,
    ) -> Result<(), PresenceAway> {
        let place = self.enter(document, |room| room.add_elsewhere(user.clone(), Arc::clone(&device), change));
        place.until(PATIENCE, |room| !room.is_waiting(user, &device)).await;
        let said = !place.room.lock().is_waiting(user, &device);
        if said { Ok(()) } else { Err(PresenceAway) }
    }

    fn count(&self, patch: &Patch) {
        self.metrics.presence_updates.inc();
        if patch.contains_key(&Aspect::Cursor) {
            self.metrics.cursor_updates.inc();
        }
    }

    fn all(&self) -> Vec<Arc<Place>> {
        self.rooms.lock().values().cloned().collect()
    }

    async fn hear(&self, mut news: mpsc::Receiver<RosterNews>) {
        while let Some(news) = news.recv().await {
            match news {
                RosterNews::Changed { document, version, members } => {
                    let Some(place) = self.find(&document) else { continue };
                    place.room.lock().hear(version, members);
                    place.bell.notify_one();
                }
                RosterNews::Interrupted => self.everywhere(Room::doubt),
            }
        }
    }

    fn everywhere(&self, act: impl Fn(&mut Room)) {
        for place in self.all() {
            act(&mut place.room.lock());
            place.bell.notify_one();
        }
    }

    async fn beat(&self) {
        let mut missed = false;
        loop {
            match self.rosters.beat().await {
                Ok(beat) => {
                    if beat.anew {
                        self.everywhere(Room::reassert);
                    }
                    missed = false;
                }
                Err(error) => {
                    if !std::mem::replace(&mut missed, true) {
                        tracing::warn!(%error, "presence: this node can't say that it is there");
                    }
                }
            }
            tokio::time::sleep(BEAT).await;
        }
    }

    /// The last change of a room may have got lost: then nothing that follows would tell.
    async fn compare(&self) {
        loop {
            tokio::time::sleep(COMPARE_EVERY).await;
            let watched: Vec<Arc<Place>> =
                self.all().into_iter().filter(|place| place.room.lock().is_loaded()).collect();
            for places in watched.chunks(COMPARED) {
                let documents: Vec<Id> = places.iter().map(|place| place.document.clone()).collect();
                let Ok(versions) = self.rosters.versions(&documents).await else { break };
                let behind = |(place, version): &(&Arc<Place>, RosterVersion)| place.room.lock().version() != *version;
                let different: Vec<_> = places.iter().zip(versions).filter(behind).collect();
                if different.is_empty() {
                    continue;
                }
                tokio::time::sleep(ON_ITS_WAY).await;
                for (place, version) in different {
                    let mut room = place.room.lock();
                    let known = room.version();
                    if known.epoch != version.epoch || known.number < version.number {
                        room.doubt();
                        place.bell.notify_one();
                    }
                }
            }
        }
    }
}

/// A stream's device is named as the stream is.
fn name_of(stream: u64) -> DeviceName {
    format!("{stream:016x}").into()
}

fn away(error: &BrokerError) -> PresenceAway {
    tracing::warn!(%error, "presence can't be asked for");
    PresenceAway
}
