//! The task of a room: tells the others what is said here, hears what they say, and reads the roster where that may have failed.

use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::broker::BrokerError;
use crate::event::Channel;
use crate::event::Id;
use crate::event::Kind;
use crate::event::Moved;
use crate::presence::Node;
use crate::presence::Told;
use crate::presence::room::Room;

/// What is said in a room is gathered for so long: about thirty times a second.
const TICK: Duration = Duration::from_millis(33);
/// Who comes and goes is told at once, and about as often at most. What moves is gathered for longer where so many move before so many that more than this would be told in a second, so that what a room costs
/// stays bounded as it grows: 70 people who all move see each other thirty times a second, 200 four times.
const TOLD_PER_SECOND_MAX: u64 = 150_000;
const TICK_MAX: Duration = Duration::from_secs(20);
/// How long a store that is away is given before it is tried again.
const RETRY: Duration = Duration::from_millis(250);
/// How often a room looks round that nothing has woken.
const LOOK_ROUND: Duration = Duration::from_secs(5);
const LOOK_ROUND_IN_DOUBT: Duration = Duration::from_millis(500);
/// What is still to be said when the app stops has so long.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// A room and what goes on in it.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) document: Id,
    pub(super) room: Mutex<Room>,
    /// Something is to be said, or was heard.
    pub(super) bell: Notify,
    /// Something has been said, or taken in.
    pub(super) progress: watch::Sender<()>,
}

impl Place {
    pub(super) fn new(document: &Id, room: Room) -> Self {
        let (document, bell, progress) = (document.clone(), Notify::new(), watch::Sender::new(()));
        Self { document, room: Mutex::new(room), bell, progress }
    }

    /// Until nobody here needs the room any more.
    pub(super) async fn run(&self, node: &Node) {
        let mut listens = false;
        let (mut next, mut next_urgent) = (Instant::now(), Instant::now());
        loop {
            if self.room.lock().wants_reading() && self.read(node, &mut listens).await.is_err() {
                tokio::time::sleep(RETRY).await;
            }
            let moved = self.room.lock().absorb(Instant::now());
            self.tell(node, moved).await;
            let now = Instant::now();
            let (moves, urgent) = self.room.lock().has_steps();
            if (moves && next <= now) || (urgent && next_urgent <= now) {
                let all = next <= now;
                let pause = self.say(node, all).await;
                next_urgent = now + pause.min(RETRY);
                next = if all { now + pause } else { next };
            }
            self.progress.send_replace(());
            let rest = self.rest(next, next_urgent);
            tokio::select! {
                () = self.bell.notified() => {}
                () = tokio::time::sleep_until(rest) => {
                    if node.close(self) {
                        node.rosters.ignore(&self.document).await;
                        return;
                    }
                }
            }
        }
    }

    /// When to look again if nothing happens.
    fn rest(&self, next: Instant, next_urgent: Instant) -> Instant {
        let room = self.room.lock();
        let pause = if room.is_doubtful() || room.is_unused() { LOOK_ROUND_IN_DOUBT } else { LOOK_ROUND };
        let later = Instant::now() + pause;
        match room.has_steps() {
            (_, true) => next_urgent.min(next).min(later),
            (true, false) => next.min(later),
            (false, false) => later,
        }
    }

    async fn read(&self, node: &Node, listens: &mut bool) -> Result<(), BrokerError> {
        if !*listens {
            node.rosters.listen(&self.document).await?;
            *listens = true;
        }
        let roster = node.rosters.read(&self.document).await?;
        let moved = self.room.lock().replace(roster, Instant::now());
        self.tell(node, moved).await;
        Ok(())
    }

    async fn tell(&self, node: &Node, moved: Vec<Moved>) {
        if !moved.is_empty() {
            let channel = Channel::of(Kind::Presence, &self.document);
            // A receiver is gone only when the app stops.
            drop(node.told.send(Told { channel, moved }).await);
        }
    }

    /// Says what is to be said: all, or only who comes and goes. Answers how long to gather before the next time.
    async fn say(&self, node: &Node, all: bool) -> Duration {
        let (flight, members) = {
            let mut room = self.room.lock();
            (room.take_steps(all), room.members())
        };
        let steps = flight.steps.len();
        match node.rosters.change(&self.document, &flight.steps).await {
            Ok(version) => {
                self.room.lock().arrived(flight, version);
                if all { tick(steps, members) } else { TICK }
            }
            Err(error) => {
                tracing::debug!(%error, "presence can't be told");
                self.room.lock().failed(flight);
                RETRY
            }
        }
    }

    /// The app stops: what is still to be said is said once.
    pub(super) async fn last_words(&self, node: &Node) {
        if !node.silenced.load(Ordering::Acquire) && self.room.lock().has_steps() != (false, false) {
            drop(tokio::time::timeout(LAST_WORDS, self.say(node, true)).await);
        }
    }
}

fn tick(steps: usize, members: usize) -> Duration {
    let told = (steps as u64).saturating_mul(members as u64);
    Duration::from_millis(told.saturating_mul(1000) / TOLD_PER_SECOND_MAX).clamp(TICK, TICK_MAX)
}

#[cfg(test)]
mod tests {
    use super::TICK;
    use super::TICK_MAX;
    use super::TOLD_PER_SECOND_MAX;
    use super::tick;

    #[test]
    fn what_a_room_costs_stays_bounded_as_it_grows() {
        assert_eq!(tick(25, 50), TICK, "fifty people in two halves: thirty times a second");
        for people in [100, 200, 400, 380] {
            let told = (people * people) as f64 / tick(people, people).as_secs_f64();
            assert!(told <= TOLD_PER_SECOND_MAX as f64 * 1.05, "{people}: {told}");
        }
        assert_eq!(tick(5, 200), TICK, "many who watch few");
        assert_eq!(tick(10_000, 10_000), TICK_MAX);
    }
}
