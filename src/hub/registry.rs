//! Who listens to what: connections in slots, channels with the slots that listen.
//!
//! Both sides of a subscription know where the other one stands, so that leaving a channel of ten thousand costs what leaving
//! a channel of one does, and an event finds its subscribers with one look-up.

use std::hash::BuildHasher as _;

use hashbrown::DefaultHashBuilder;
use hashbrown::HashTable;
use slab::Slab;
use smallvec::SmallVec;

use crate::event::Channel;
use crate::hub::wire::Key;

/// Connections `T` and their subscriptions.
#[derive(Debug)]
pub(super) struct Registry<T> {
    members: Slab<Member<T>>,
    topics: Slab<Topic>,
    by_channel: HashTable<u32>,
    hasher: DefaultHashBuilder,
    generation: u32,
}

#[derive(Debug)]
struct Member<T> {
    generation: u32,
    value: T,
    subscriptions: Box<[Subscription]>,
}

#[derive(Debug)]
struct Topic {
    channel: Channel,
    subscribers: SmallVec<[Subscriber; 2]>,
}

/// A channel that somebody listens to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct TopicKey(u32);

/// A subscription as its member sees it.
#[derive(Debug, Clone, Copy)]
struct Subscription {
    topic: u32,
    /// Place among the topic's subscribers.
    place: u32,
}

/// A subscription as its channel sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subscriber {
    pub(super) slot: u32,
    /// Place among the member's subscriptions.
    place: u32,
}

fn number(index: usize) -> u32 {
    u32::try_from(index).expect("a process has fewer than 2^32 connections and channels")
}

impl<T> Default for Registry<T> {
    fn default() -> Self {
        Self {
            members: Slab::new(),
            topics: Slab::new(),
            by_channel: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            generation: 0,
        }
    }
}

impl<T> Registry<T> {
    /// Where the next member will be.
    pub(super) fn next_key(&self) -> Key {
        Key { slot: number(self.members.vacant_key()), generation: self.generation.wrapping_add(1) }
    }

    /// Adds a member at `next_key`.
    pub(super) fn insert(&mut self, value: T, channels: &[Channel]) -> Key {
        let key = self.next_key();
        self.generation = key.generation;
        let subscriptions = channels.iter().enumerate();
        let subscriptions = subscriptions.map(|(place, channel)| self.subscribe(channel, key.slot, number(place)));
        let subscriptions = subscriptions.collect();
        self.members.insert(Member { generation: key.generation, value, subscriptions });
        key
    }

    fn subscribe(&mut self, channel: &Channel, slot: u32, place: u32) -> Subscription {
        let topic = self.topic(channel).unwrap_or_else(|| self.add_topic(channel));
        let subscriber = Subscriber { slot, place };
        let subscribers = &mut self.topics.get_mut(topic as usize).expect("the index names topics").subscribers;
        subscribers.push(subscriber);
        Subscription { topic, place: number(subscribers.len() - 1) }
    }

    /// Subscribes a member to one more channel. Answers whether it was not yet.
    pub(super) fn add(&mut self, slot: u32, channel: &Channel) -> bool {
        if self.place(slot, channel).is_some() {
            return false;
        }
        let Some(place) = self.members.get(slot as usize).map(|member| member.subscriptions.len()) else {
            return false;
        };
        let subscription = self.subscribe(channel, slot, number(place));
        let Some(member) = self.members.get_mut(slot as usize) else { return false };
        let mut subscriptions = std::mem::take(&mut member.subscriptions).into_vec();
        subscriptions.push(subscription);
        member.subscriptions = subscriptions.into();
        true
    }

    /// Takes a member off one channel. Answers whether it was on it.
    pub(super) fn drop_one(&mut self, slot: u32, channel: &Channel) -> bool {
        let Some(place) = self.place(slot, channel) else { return false };
        let Some(member) = self.members.get_mut(slot as usize) else { return false };
        let mut subscriptions = std::mem::take(&mut member.subscriptions).into_vec();
        let subscription = subscriptions.swap_remove(place);
        let moved = subscriptions.get(place).copied();
        member.subscriptions = subscriptions.into();
        if let Some(moved) = moved
            && let Some(topic) = self.topics.get_mut(moved.topic as usize)
            && let Some(subscriber) = topic.subscribers.get_mut(moved.place as usize)
        {
            subscriber.place = number(place);
        }
        self.leave(subscription);
        true
    }

    /// Where among its subscriptions a member has this channel.
    fn place(&self, slot: u32, channel: &Channel) -> Option<usize> {
        let topic = self.topic(channel)?;
        let member = self.members.get(slot as usize)?;
        member.subscriptions.iter().position(|subscription| subscription.topic == topic)
    }

    fn topic(&self, channel: &Channel) -> Option<u32> {
        let hash = self.hasher.hash_one(channel.as_str());
        let same = |topic: &u32| self.topics.get(*topic as usize).is_some_and(|topic| topic.channel == *channel);
        self.by_channel.find(hash, same).copied()
    }

    fn add_topic(&mut self, channel: &Channel) -> u32 {
        let topic = number(self.topics.insert(Topic { channel: channel.clone(), subscribers: SmallVec::new() }));
        let hash = self.hasher.hash_one(channel.as_str());
        let (topics, hasher) = (&self.topics, &self.hasher);
        let rehash = |topic: &u32| topics.get(*topic as usize).map_or(0, |t| hasher.hash_one(t.channel.as_str()));
        self.by_channel.insert_unique(hash, topic, rehash);
        topic
    }

    /// The slots that listen to a channel, if any do, and what names it until one of them leaves.
    pub(super) fn subscribers(&self, channel: &Channel) -> Option<(TopicKey, &[Subscriber])> {
        let key = self.topic(channel)?;
        self.topics.get(key as usize).map(|topic| (TopicKey(key), &*topic.subscribers))
    }

    /// The member in a slot.
    pub(super) fn at(&mut self, slot: u32) -> Option<&mut T> {
        self.members.get_mut(slot as usize).map(|member| &mut member.value)
    }

    /// The member of that key, if it is still there.
    pub(super) fn get(&mut self, key: Key) -> Option<&mut T> {
        let member = self.members.get_mut(key.slot as usize)?;
        (member.generation == key.generation).then_some(&mut member.value)
    }

    /// The key of what is in a slot now.
    pub(super) fn key(&self, slot: u32) -> Option<Key> {
        self.members.get(slot as usize).map(|member| Key { slot, generation: member.generation })
    }

    /// Everybody.
    pub(super) fn iter(&mut self) -> impl Iterator<Item = (Key, &mut T)> {
        self.members
            .iter_mut()
            .map(|(slot, member)| (Key { slot: number(slot), generation: member.generation }, &mut member.value))
    }

    /// Members.
    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    /// Takes a member off its channels. Answers how many these were.
    pub(super) fn unsubscribe(&mut self, slot: u32) -> usize {
        let Some(member) = self.members.get_mut(slot as usize) else { return 0 };
        let subscriptions = std::mem::take(&mut member.subscriptions);
        for subscription in &subscriptions {
            self.leave(*subscription);
        }
        subscriptions.len()
    }

    fn leave(&mut self, subscription: Subscription) {
        let Some(topic) = self.topics.get_mut(subscription.topic as usize) else { return };
        topic.subscribers.swap_remove(subscription.place as usize);
        if let Some(moved) = topic.subscribers.get(subscription.place as usize) {
            let member = self.members.get_mut(moved.slot as usize);
            // A member that is just leaving has no subscriptions any more.
            if let Some(moved) = member.and_then(|member| member.subscriptions.get_mut(moved.place as usize)) {
                moved.place = subscription.place;
            }
        } else if topic.subscribers.is_empty() {
            self.remove_topic(subscription.topic);
        }
    }

    fn remove_topic(&mut self, topic: u32) {
        let channel = self.topics.remove(topic as usize).channel;
        let hash = self.hasher.hash_one(channel.as_str());
        if let Ok(entry) = self.by_channel.find_entry(hash, |other| *other == topic) {
            entry.remove();
        }
    }

    /// Takes a member out.
    pub(super) fn remove(&mut self, slot: u32) -> Option<T> {
        self.unsubscribe(slot);
        self.members.try_remove(slot as usize).map(|member| member.value)
    }

    /// Gives memory back that a crowd left behind.
    pub(super) fn shrink(&mut self) {
        if self.members.len() * 4 < self.members.capacity() {
            self.members.shrink_to_fit();
        }
        if self.topics.len() * 4 < self.topics.capacity() {
            self.topics.shrink_to_fit();
            let (topics, hasher) = (&self.topics, &self.hasher);
            let rehash = |topic: &u32| topics.get(*topic as usize).map_or(0, |t| hasher.hash_one(t.channel.as_str()));
            self.by_channel.shrink_to_fit(rehash);
        }
    }

    /// Channels that somebody listens to.
    pub(super) fn topics(&self) -> usize {
        debug_assert_eq!(self.topics.len(), self.by_channel.len(), "every topic is in the index once");
        self.topics.len()
    }
}
