//! A document's room on this node: who is there as this node knows it, and what it has yet to tell the others. No IO.
//!
//! The roster is shared; what streams of this node are told are the differences between what it was and what it is here. So whatever
//! is missed on the way, each stream sees lives that are well formed: joined, changes, left.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::collections::HashSet;
use std::sync::Arc;

use tokio::time::Instant;

use crate::broker::Aspect;
use crate::broker::DeviceName;
use crate::broker::LeaveCause;
use crate::broker::MemberRecord;
use crate::broker::NODE_LEASE;
use crate::broker::Outcome;
use crate::broker::Patch;
use crate::broker::Roster;
use crate::broker::RosterChange;
use crate::broker::RosterVersion;
use crate::event::Channel;
use crate::event::Id;
use crate::event::Kind;
use crate::event::Moved;
use crate::presence::member::Shown;
use crate::presence::member::is_sound;
use crate::presence::telling;

/// Changes of the roster that wait here; with more the roster is read anew.
const NEWS_MAX: usize = 1024;

/// A device whose stream is here.
#[derive(Debug)]
pub(super) struct Local {
    pub(super) user: Id,
    pub(super) profile: Arc<str>,
    /// What it has said here, for the day on which the store forgets it.
    pub(super) said: BTreeMap<Aspect, Arc<str>>,
    /// What of it the others don't know yet.
    pub(super) patch: Patch,
    /// The version in which the store first had it.
    pub(super) since: Option<RosterVersion>,
    /// It is about to leave.
    pub(super) leaving: Option<RosterChange>,
}

/// A member as it is, and as it is shown.
#[derive(Debug)]
pub(super) struct Known {
    record: MemberRecord,
    pub(super) shown: Shown,
    /// The members of the `Member`: made once, and not for each who comes.
    pub(super) text: String,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Room {
    channel: Channel,
    node: u64,
    /// Of the last event that was told.
    number: u64,
    version: RosterVersion,
    members: BTreeMap<Id, Known>,
    /// Members that the store forgot with everything else: their nodes are about to say that they are there.
    doubtful: BTreeMap<Id, Instant>,
    state: Option<Arc<str>>,
    loaded: bool,
    stale: bool,
    news: Vec<(RosterVersion, Vec<(Id, Outcome)>)>,
    /// Streams of this node that watch, most of which are there as well.
    streams: HashSet<DeviceName>,
    pub(super) locals: HashMap<DeviceName, Local>,
    /// Locals of which the others don't know everything.
    pub(super) dirty: BTreeSet<DeviceName>,
    /// Those who come or go.
    pub(super) urgent: BTreeSet<DeviceName>,
    /// Steps about devices that are not here: bare leases, and streams of other nodes.
    pub(super) elsewhere: BTreeMap<(Id, DeviceName), RosterChange>,
    /// Those of them that are under way.
    pub(super) flying: BTreeSet<(Id, DeviceName)>,
}

impl Room {
    /// `number` grows from room to room.
    pub(super) fn new(document: &Id, node: u64, number: u64) -> Self {
        Self {
            channel: Channel::of(Kind::Presence, document),
            node,
            number,
            version: RosterVersion::default(),
            members: BTreeMap::new(),
            doubtful: BTreeMap::new(),
            state: None,
            loaded: false,
            stale: false,
            news: Vec::new(),
            streams: HashSet::new(),
            locals: HashMap::new(),
            dirty: BTreeSet::new(),
            urgent: BTreeSet::new(),
            elsewhere: BTreeMap::new(),
            flying: BTreeSet::new(),
        }
    }

    pub(super) fn version(&self) -> RosterVersion {
        self.version
    }

    pub(super) fn is_loaded(&self) -> bool {
        self.loaded
    }

    /// Somebody here watches, and the roster has to be read (again).
    pub(super) fn wants_reading(&self) -> bool {
        (self.stale || !self.loaded) && !self.streams.is_empty()
    }

    /// What was last said of this device has yet to be told.
    pub(super) fn is_waiting(&self, user: &Id, device: &DeviceName) -> bool {
        let key = (user.clone(), Arc::clone(device));
        self.elsewhere.contains_key(&key) || self.flying.contains(&key)
    }

    /// Members are there of whom it is doubtful.
    pub(super) fn is_doubtful(&self) -> bool {
        !self.doubtful.is_empty()
    }

    pub(super) fn doubt(&mut self) {
        self.stale = true;
    }

    pub(super) fn members(&self) -> usize {
        self.members.len()
    }

    pub(super) fn has(&self, user: &Id) -> bool {
        self.members.contains_key(user)
    }

    /// Somebody here watches.
    pub(super) fn is_watched(&self) -> bool {
        !self.streams.is_empty()
    }

    /// Nobody here needs it.
    pub(super) fn is_unused(&self) -> bool {
        self.streams.is_empty() && self.locals.is_empty() && self.elsewhere.is_empty() && self.flying.is_empty()
    }

    /// What a new stream is told, and the number of the last event that is part of it.
    pub(super) fn state(&mut self) -> (Arc<str>, u64) {
        let (members, channel) = (&self.members, &self.channel);
        let state = self.state.get_or_insert_with(|| telling::state(channel, members));
        (Arc::clone(state), self.number)
    }

    // Streams of this node.

    /// A stream watches from now on, and is there if it brings a user and a profile.
    pub(super) fn attach(&mut self, device: &DeviceName, who: Option<(Id, Arc<str>)>) {
        self.streams.insert(Arc::clone(device));
        let Some((user, profile)) = who else { return };
        let local = self.locals.entry(Arc::clone(device)).or_insert_with(|| Local {
            user,
            profile: Arc::clone(&profile),
            said: BTreeMap::new(),
            patch: Patch::new(),
            since: None,
            leaving: None,
        });
        if local.leaving.take().is_some() {
            local.since = None;
        }
        let renamed = std::mem::replace(&mut local.profile, Arc::clone(&profile)) != profile;
        if renamed || local.since.is_none() {
            self.urgent.insert(Arc::clone(device));
        }
    }

    /// The state that a stream would be told has the stream's own device in it.
    pub(super) fn is_ready(&self, device: &DeviceName) -> bool {
        let shown = |local: &Local| {
            let member = self.members.get(&local.user);
            member.is_some_and(|known| known.record.devices.get(device).is_some_and(|d| d.node == Some(self.node)))
        };
        self.loaded && self.locals.get(device).is_none_or(|local| local.since.is_some() && shown(local))
    }

    /// The same, whether this node has heard of it yet or not.
    pub(super) fn is_there(&self, device: &DeviceName) -> bool {
        self.loaded && self.locals.get(device).is_none_or(|local| local.since.is_some())
    }

    /// A stream says something. Answers whether it is there.
    pub(super) fn say(&mut self, device: &DeviceName, patch: Patch) -> bool {
        let Some(local) = self.locals.get_mut(device).filter(|local| local.leaving.is_none()) else { return false };
        for (aspect, said) in &patch {
            match said {
                Some(text) => drop(local.said.insert(*aspect, Arc::clone(text))),
                None => drop(local.said.remove(aspect)),
            }
        }
        local.patch.extend(patch);
        self.dirty.insert(Arc::clone(device));
        true
    }

    /// A stream watches no longer, and if it was there this becomes of it.
    pub(super) fn detach(&mut self, device: &DeviceName, becomes: impl FnOnce(DeviceName) -> RosterChange) {
        self.streams.remove(device);
        if let Some(local) = self.locals.get_mut(device) {
            local.leaving = Some(becomes(Arc::clone(device)));
            self.urgent.insert(Arc::clone(device));
        }
    }

    /// The store may have lost everything that it knew of this node.
    pub(super) fn reassert(&mut self) {
        for (device, local) in &mut self.locals {
            local.since = None;
            self.urgent.insert(Arc::clone(device));
        }
    }

    /// Takes a change in, for `absorb`.
    pub(super) fn hear(&mut self, version: RosterVersion, members: Vec<(Id, Outcome)>) {
        if self.news.len() >= NEWS_MAX {
            self.news.clear();
            self.stale = true;
        }
        self.news.push((version, members));
    }

    /// What follows from what was heard.
    pub(super) fn absorb(&mut self, now: Instant) -> Vec<Moved> {
        let mut told = Vec::new();
        for (version, members) in std::mem::take(&mut self.news) {
            let same = version.epoch == self.version.epoch;
            if !self.loaded || (same && version.number <= self.version.number) {
                continue; // a reading covers it
            }
            let begins = self.version == RosterVersion::default() && version.number == 1;
            if self.stale || !(begins || same && version.number == self.version.number + 1) {
                self.stale = true;
                break;
            }
            members.into_iter().for_each(|(user, outcome)| self.learn(&user, outcome, &mut told));
            self.version = version;
        }
        self.forget_doubtful(now, &mut told);
        told
    }

    /// The roster as it was read just now: the difference is told.
    pub(super) fn replace(&mut self, roster: Roster, now: Instant) -> Vec<Moved> {
        let mut told = Vec::new();
        let lost = self.version.epoch != 0 && self.version.epoch != roster.version.epoch;
        let gone: Vec<Id> = self.members.keys().filter(|user| !roster.members.contains_key(*user)).cloned().collect();
        for user in gone {
            if lost {
                self.doubtful.entry(user).or_insert(now + NODE_LEASE);
            } else if !self.doubtful.contains_key(&user) {
                self.learn(&user, Outcome::Left(LeaveCause::Timeout), &mut told);
            }
        }
        for (user, record) in roster.members {
            self.learn(&user, Outcome::Here(record), &mut told);
        }
        (self.version, self.loaded, self.stale) = (roster.version, true, false);
        self.find_missing();
        self.forget_doubtful(now, &mut told);
        told
    }

    fn learn(&mut self, user: &Id, outcome: Outcome, told: &mut Vec<Moved>) {
        if matches!(&outcome, Outcome::Here(record) if !is_sound(record)) {
            return tracing::warn!(channel = %self.channel, "presence: somebody else has written to the rosters");
        }
        self.state = None;
        let event = match outcome {
            Outcome::Left(cause) => {
                self.doubtful.remove(user);
                if cause != LeaveCause::Revoked {
                    self.still_here(user, None);
                }
                let left = self.members.remove(user);
                left.map(|_| (telling::left(&self.channel, user, cause), None))
            }
            Outcome::Here(record) => {
                self.doubtful.remove(user);
                self.still_here(user, Some(&record));
                let shown = Shown::of(&record);
                let old = self.members.get(user);
                let mut text = String::with_capacity(256);
                shown.put(user, &mut text);
                let event = match old {
                    None => Some((telling::joined(&self.channel, &text), None)),
                    Some(old) => telling::changed(&self.channel, user, &old.shown, &shown)
                        .map(|event| (event, self.speaker(&old.record, &record))),
                };
                self.members.insert(user.clone(), Known { record, shown, text });
                event
            }
        };
        if let Some((event, by)) = event {
            self.number += 1;
            told.push(Moved { event, number: self.number, by });
        }
    }

    /// The stream of this node that alone has changed something: it knows that already.
    fn speaker(&self, old: &MemberRecord, new: &MemberRecord) -> Option<u64> {
        let mut changed = new.devices.iter().filter(|(name, device)| old.devices.get(*name) != Some(*device));
        let (name, device) = changed.next()?;
        let alone =
            changed.next().is_none() && old.devices.len() == new.devices.len() && old.devices.contains_key(name);
        let mine = alone && device.node == Some(self.node);
        u64::from_str_radix(name, 16).ok().filter(|_| mine)
    }

    /// Devices of this node that others hold to be gone are to be told of again.
    fn still_here(&mut self, user: &Id, record: Option<&MemberRecord>) {
        let mine = Some(self.node);
        for (name, local) in self.locals.iter_mut().filter(|(_, local)| local.user == *user) {
            let known = record.is_some_and(|record| record.devices.get(name).is_some_and(|device| device.node == mine));
            if !known && local.leaving.is_none() && local.since.is_some() {
                local.since = None;
                self.urgent.insert(Arc::clone(name));
            }
        }
    }

    /// The same for users that are not there at all.
    fn find_missing(&mut self) {
        let unknown = |user: &Id| !self.members.contains_key(user) || self.doubtful.contains_key(user);
        let users = self.locals.values().map(|local| &local.user);
        let missing: BTreeSet<Id> = users.filter(|user| unknown(user)).cloned().collect();
        missing.iter().for_each(|user| self.still_here(user, None));
    }

    /// Members whose nodes have not said for too long that they are there.
    fn forget_doubtful(&mut self, now: Instant, told: &mut Vec<Moved>) {
        let over: Vec<Id> =
            self.doubtful.iter().filter(|(_, until)| **until <= now).map(|(user, _)| user.clone()).collect();
        for user in over {
            self.learn(&user, Outcome::Left(LeaveCause::NodeLost), told);
        }
    }
}
