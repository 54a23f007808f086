//! A bounded map whose entries are forgotten in whole generations: no list to keep, and it shrinks.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

use parking_lot::Mutex;
use tokio::time::Duration;
use tokio::time::Instant;

/// Keeps an entry for at least `life` unless more than `entries_max` come, and for at most twice as long once it is used.
#[derive(Debug)]
pub struct Cache<K, V> {
    generations: Mutex<Generations<K, V>>,
    entries_max: usize,
    life: Duration,
}

#[derive(Debug)]
struct Generations<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    since: Instant,
}

impl<K: Eq + Hash, V: Clone> Cache<K, V> {
    /// An empty one.
    #[must_use]
    pub fn new(entries_max: usize, life: Duration) -> Self {
        let generations = Generations { young: HashMap::new(), old: HashMap::new(), since: Instant::now() };
        Self { generations: Mutex::new(generations), entries_max, life }
    }

    /// The value that was inserted last.
    pub fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let generations = self.generations.lock();
        generations.young.get(key).or_else(|| generations.old.get(key)).cloned()
    }

    /// Keeps a value.
    pub fn insert(&self, key: K, value: V) {
        let mut generations = self.generations.lock();
        generations.turn(self.life, self.entries_max / 2);
        generations.young.insert(key, value);
    }

    /// Forgets what is old, also when nothing is inserted any more.
    pub fn prune(&self) {
        self.generations.lock().turn(self.life, self.entries_max / 2);
    }

    /// Entries held.
    pub fn entries(&self) -> usize {
        let generations = self.generations.lock();
        generations.young.len() + generations.old.len()
    }
}

impl<K, V> Generations<K, V> {
    fn turn(&mut self, life: Duration, half: usize) {
        if self.young.len() >= half || self.since.elapsed() >= life {
            self.old = std::mem::take(&mut self.young);
            self.since = Instant::now();
        }
    }
}
