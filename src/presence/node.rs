//! The rooms of this node, and what it hears and says beyond them.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::broker::Aspect;
use crate::broker::BEAT;
use crate::broker::DeviceName;
use crate::broker::Patch;
use crate::broker::RosterChange;
use crate::broker::RosterNews;
use crate::broker::RosterVersion;
use crate::clock;
use crate::event::Id;
use crate::presence::Node;
use crate::presence::PATIENCE;
use crate::presence::PresenceAway;
use crate::presence::place::Place;
use crate::presence::room::Room;

/// How often each room is compared with the store, and how long a change may be on its way.
const COMPARE_EVERY: Duration = Duration::from_secs(2);
const ON_ITS_WAY: Duration = Duration::from_millis(300);
/// Rosters that are compared by one question.
const COMPARED: usize = 500;

impl Place {
    /// Waits until the room is as wanted, or time is up.
    pub(super) async fn until(&self, patience: Duration, wanted: impl Fn(&Room) -> bool) {
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
    pub(super) fn find(&self, document: &Id) -> Option<Arc<Place>> {
        self.rooms.lock().get(document).cloned()
    }

    /// Does something in a room that does not close meanwhile.
    pub(super) fn enter(self: &Arc<Self>, document: &Id, act: impl FnOnce(&mut Room)) -> Arc<Place> {
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
        let run = async move {
            if node.stop.run_until_cancelled(opened.run(&node)).await.is_none() {
                opened.last_words(&node).await;
            }
            node.metrics.presence_rooms.dec();
        };
        // Who comes first may do so on a connection's thread; the room is everybody's.
        drop(self.tasks.spawn_on(run, &self.runtime));
        place
    }

    /// Lets go of a room that nobody here needs.
    pub(super) fn close(&self, place: &Place) -> bool {
        let mut rooms = self.rooms.lock();
        let unused = place.room.lock().is_unused();
        if unused {
            rooms.remove(&place.document);
        }
        unused
    }

    /// Says something of a device that is not here, and waits until it is said.
    pub(super) async fn change(
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

    pub(super) fn count(&self, patch: &Patch) {
        self.metrics.presence_updates.inc();
        if patch.contains_key(&Aspect::Cursor) {
            self.metrics.cursor_updates.inc();
        }
    }

    fn all(&self) -> Vec<Arc<Place>> {
        self.rooms.lock().values().cloned().collect()
    }

    pub(super) async fn hear(&self, mut news: mpsc::Receiver<RosterNews>) {
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

    pub(super) async fn beat(&self) {
        // At the start nobody expects it yet.
        let mut missed = true;
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
    pub(super) async fn compare(&self) {
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
