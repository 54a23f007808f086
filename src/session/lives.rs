//! Which streams this node has, and how many of them are whose.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::ops::Bound;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::event::Id;
use crate::hub::ConnectionId;
use crate::session::live::Live;

/// The streams of this node, by user and number. A set of pointers: there are tens of thousands, and each knows its own key.
#[derive(Debug, Default)]
pub struct Lives {
    lives: Mutex<BTreeSet<Entry>>,
    /// Of users who are just asking for some: how many.
    reserved: Mutex<HashMap<Id, usize>>,
}

/// One stream that its user may open. Once the stream is there this has to go, or it would count twice.
#[derive(Debug)]
pub(super) struct Reserved {
    lives: Arc<Lives>,
    user: Id,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let mut reserved = self.lives.reserved.lock();
        if let Some(count) = reserved.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                reserved.remove(&self.user);
            }
        }
    }
}

#[derive(Debug)]
struct Entry(Arc<Live>);

/// Where a stream stands in the order, also for looking one up of which only the key is known.
trait Keyed {
    fn key(&self) -> (&Id, ConnectionId);
}

impl Keyed for Entry {
    fn key(&self) -> (&Id, ConnectionId) {
        (&self.0.user, self.0.id)
    }
}

impl Keyed for (Id, ConnectionId) {
    fn key(&self) -> (&Id, ConnectionId) {
        (&self.0, self.1)
    }
}

impl PartialEq for dyn Keyed + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for dyn Keyed + '_ {}

impl PartialOrd for dyn Keyed + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for dyn Keyed + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

impl<'a> Borrow<dyn Keyed + 'a> for Entry {
    fn borrow(&self) -> &(dyn Keyed + 'a) {
        self
    }
}

impl Lives {
    /// One more of this user, unless there are so many. What is being opened counts: opening takes a while, and many may ask at once.
    pub(super) fn reserve(lives: &Arc<Self>, user: &Id, max: usize) -> Option<Reserved> {
        let mut reserved = lives.reserved.lock();
        let count = reserved.get(user).copied().unwrap_or(0);
        if lives.count_of(user, max) + count >= max {
            return None;
        }
        *reserved.entry(user.clone()).or_default() += 1;
        Some(Reserved { lives: Arc::clone(lives), user: user.clone() })
    }

    /// Streams of this user, as far as `max`.
    fn count_of(&self, user: &Id, max: usize) -> usize {
        let from = (user.clone(), ConnectionId(0));
        let lives = self.lives.lock();
        let range = lives.range::<dyn Keyed, _>((Bound::Included(&from as &dyn Keyed), Bound::Unbounded));
        range.take(max).take_while(|entry| entry.0.user == *user).count()
    }

    pub(super) fn add(&self, live: &Arc<Live>) {
        self.lives.lock().insert(Entry(Arc::clone(live)));
    }

    pub(super) fn remove(&self, live: &Live) {
        let key = (live.user.clone(), live.id);
        self.lives.lock().remove(&key as &dyn Keyed);
    }

    /// This user's streams.
    #[must_use]
    pub fn of(&self, user: &Id) -> Vec<Arc<Live>> {
        let from = (user.clone(), ConnectionId(0));
        let lives = self.lives.lock();
        let range = lives.range::<dyn Keyed, _>((Bound::Included(&from as &dyn Keyed), Bound::Unbounded));
        range.take_while(|entry| entry.0.user == *user).map(|entry| Arc::clone(&entry.0)).collect()
    }

    pub(super) fn get(&self, user: &Id, id: ConnectionId) -> Option<Arc<Live>> {
        let key = (user.clone(), id);
        self.lives.lock().get(&key as &dyn Keyed).map(|entry| Arc::clone(&entry.0))
    }

    /// Up to `max` streams after this one, in the order of their keys.
    pub(super) fn after(&self, last: Option<&Arc<Live>>, max: usize) -> Vec<Arc<Live>> {
        let lives = self.lives.lock();
        let copied = |entry: &Entry| Arc::clone(&entry.0);
        let Some(last) = last else { return lives.iter().take(max).map(copied).collect() };
        let key = (last.user.clone(), last.id);
        let range = lives.range::<dyn Keyed, _>((Bound::Excluded(&key as &dyn Keyed), Bound::Unbounded));
        range.take(max).map(copied).collect()
    }

    /// Streams that have a name.
    pub(super) fn named(&self) -> Vec<Arc<Live>> {
        let lives = self.lives.lock();
        lives.iter().filter(|entry| entry.0.session.is_some()).map(|entry| Arc::clone(&entry.0)).collect()
    }

    /// Streams.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lives.lock().len()
    }
}
