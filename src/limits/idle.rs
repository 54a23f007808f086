//! Connections that carry nothing at the moment.
//!
//! Where all places are taken, the one that has been idle for longest gives way to who comes: who means it asks at once, and who
//! only holds a place has to ask again and again to keep it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Weak;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// How long one that gives way may take to go.
const ROOM_MAX: Duration = Duration::from_secs(1);

/// The idle connections of one app.
#[derive(Debug, Default)]
pub(super) struct Idle {
    queue: Mutex<Queue>,
    /// A socket has gone.
    left: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    next: u64,
    /// In the order in which they became idle.
    waiting: BTreeMap<u64, Weak<Activity>>,
    /// Connections that have never asked for anything.
    silent: usize,
    /// Those who were told to give way and have not gone yet.
    leaving: usize,
}

impl Queue {
    fn enter(&mut self, turn: &mut Turn, activity: Weak<Activity>) {
        turn.number = self.next;
        self.next += 1;
        self.waiting.insert(turn.number, activity);
    }

    fn leave(&mut self, turn: &mut Turn) {
        if std::mem::take(&mut turn.told) {
            self.leaving -= 1;
        } else {
            self.waiting.remove(&turn.number);
        }
    }
}

impl Idle {
    /// Ends when a place is free, and until then nobody else should be accepted: in the kernel's queue they are safe. `false`: none
    /// will be.
    pub(super) async fn make_room(&self) -> bool {
        let (evicted, leaving) = self.evict();
        if let Some(evicted) = evicted {
            evicted.wake.notify_one();
        }
        leaving > 0 && tokio::time::timeout(ROOM_MAX, self.left.notified()).await.is_ok()
    }

    /// The one that was told, and how many have been and are still there. To be dropped without the lock: it may be the last that
    /// holds it.
    fn evict(&self) -> (Option<Arc<Activity>>, usize) {
        let mut queue = self.queue.lock();
        while let Some((_, oldest)) = queue.waiting.pop_first() {
            // One that is just going has nobody left to be told.
            if let Some(evicted) = oldest.upgrade() {
                evicted.turn.lock().told = true;
                queue.leaving += 1;
                return (Some(evicted), queue.leaving);
            }
        }
        (None, queue.leaving)
    }

    pub(super) fn has_left(&self) {
        self.left.notify_one();
    }

    /// Connections that have never asked for anything, and all others that carry nothing.
    pub(super) fn counts(&self) -> (usize, usize) {
        let queue = self.queue.lock();
        let all = queue.waiting.len() + queue.leaving;
        (queue.silent, all.saturating_sub(queue.silent))
    }
}

/// What one connection carries. While it is nothing, it may have to give way.
#[derive(Debug)]
pub struct Activity {
    idle: Arc<Idle>,
    /// Locked with the queue's lock held.
    turn: Mutex<Turn>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Turn {
    requests: u32,
    asked: bool,
    told: bool,
    /// In the queue, where it is idle.
    number: u64,
}

impl Activity {
    /// Of a connection that was accepted, and has yet to say something.
    pub(super) fn new(idle: Arc<Idle>) -> Arc<Self> {
        let activity = Arc::new(Self { idle, turn: Mutex::default(), wake: Notify::new() });
        let mut queue = activity.idle.queue.lock();
        queue.silent += 1;
        queue.enter(&mut activity.turn.lock(), Arc::downgrade(&activity));
        drop(queue);
        activity
    }

    /// A request is there; it is under way until what this returns is dropped.
    #[must_use]
    pub fn request(self: &Arc<Self>) -> Busy {
        let mut queue = self.idle.queue.lock();
        let mut turn = self.turn.lock();
        if !std::mem::replace(&mut turn.asked, true) {
            queue.silent -= 1;
        }
        if turn.requests == 0 {
            queue.leave(&mut turn);
        }
        turn.requests += 1;
        drop((turn, queue));
        Busy(Arc::clone(self))
    }

    /// Ends when it has to give way. To be polled after whatever hears it: what it asks may have come at the same moment.
    pub async fn evicted(&self) {
        loop {
            self.wake.notified().await;
            let _queue = self.idle.queue.lock();
            if self.turn.lock().told {
                return;
            }
        }
    }
}

impl Drop for Activity {
    fn drop(&mut self) {
        let mut queue = self.idle.queue.lock();
        let turn = self.turn.get_mut();
        if !turn.asked {
            queue.silent -= 1;
        }
        if turn.requests == 0 {
            queue.leave(turn);
        }
    }
}

/// A request of a connection, from its head to the end of what makes its answer.
#[derive(Debug)]
pub struct Busy(Arc<Activity>);

impl Drop for Busy {
    fn drop(&mut self) {
        let mut queue = self.0.idle.queue.lock();
        let mut turn = self.0.turn.lock();
        turn.requests -= 1;
        if turn.requests == 0 {
            queue.enter(&mut turn, Arc::downgrade(&self.0));
        }
    }
}
