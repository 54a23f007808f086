//! One atomic step on one roster: the Rust twin of `roster.lua`, without clock, locks or IO.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::broker::rosters::Aspect;
use crate::broker::rosters::DeviceName;
use crate::broker::rosters::DeviceRecord;
use crate::broker::rosters::Hold;
use crate::broker::rosters::LeaveCause;
use crate::broker::rosters::MemberRecord;
use crate::broker::rosters::NODE_LEASE;
use crate::broker::rosters::Outcome;
use crate::broker::rosters::Patch;
use crate::broker::rosters::RosterChange;
use crate::broker::rosters::RosterStep;
use crate::broker::rosters::TYPING;
use crate::event::Id;

/// No deadline is further away, in milliseconds: ten years. What is added to a clock must not wrap around.
const AHEAD_MS_MAX: u64 = 10 * 366 * 24 * 3600 * 1000;

/// A duration that can be added to a clock, in milliseconds.
pub(in crate::broker) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(AHEAD_MS_MAX).min(AHEAD_MS_MAX)
}

/// Nodes, and until when each is there.
pub(super) type Nodes = HashMap<u64, u64>;

/// A person, as the store keeps it.
#[derive(Debug)]
pub(super) struct Member {
    joined_ms: u64,
    profile: Arc<str>,
    devices: BTreeMap<DeviceName, Device>,
}

/// A device, as the store keeps it. Times are in milliseconds of the store's clock.
#[derive(Debug, Default)]
struct Device {
    /// The node that holds it; of one that lingers, the node that all have last been told: when it comes back there, nothing has
    /// changed.
    node: Option<u64>,
    /// Why it will have left, if it lingers.
    lingers: Option<LeaveCause>,
    /// When its lease ends, or its lingering.
    ends_ms: Option<u64>,
    active_ms: u64,
    idle: bool,
    typing_ends_ms: Option<u64>,
    state: BTreeMap<Aspect, Arc<str>>,
    /// When it is looked at next; never later than the first thing that is due.
    looked_at_ms: Option<u64>,
}

impl Device {
    fn is_held_by(&self, node: u64) -> bool {
        self.node == Some(node) && self.lingers.is_none()
    }

    fn record(&self) -> DeviceRecord {
        DeviceRecord {
            node: self.node.filter(|_| self.lingers.is_none()),
            active_ms: self.active_ms,
            idle: self.idle,
            state: self.state.clone(),
        }
    }
}

impl Member {
    pub(super) fn record(&self) -> MemberRecord {
        MemberRecord {
            joined_ms: self.joined_ms,
            profile: Arc::clone(&self.profile),
            devices: self.devices.iter().map(|(name, device)| (Arc::clone(name), device.record())).collect(),
        }
    }

    pub(super) fn devices_of(&self, node: u64) -> impl Iterator<Item = &DeviceName> {
        self.devices.iter().filter(move |(_, device)| device.is_held_by(node)).map(|(name, _)| name)
    }

    /// The place of the one that lingers and ends first.
    fn take_over(&mut self) -> Option<Device> {
        let lingering = self.devices.iter().filter(|(_, device)| device.lingers.is_some());
        let name = lingering.min_by_key(|(_, device)| device.ends_ms).map(|(name, _)| Arc::clone(name))?;
        let device = self.devices.remove(&name)?;
        Some(Device { looked_at_ms: None, ..device })
    }
}

/// A step that the store takes by itself.
#[derive(Debug)]
pub(super) enum Sweep {
    /// Something of this device may be due.
    Due(Id, DeviceName),
    /// The node that had this device is dead.
    Lost(Id, DeviceName, u64),
}

/// What a step needs to know.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    pub(super) members: &'a mut BTreeMap<Id, Member>,
    pub(super) nodes: &'a Nodes,
    /// Who takes the steps.
    pub(super) node: u64,
    pub(super) now_ms: u64,
    pub(super) idle_ms: u64,
    /// Who is concerned, and why if by leaving.
    pub(super) seen: Vec<(Id, Option<LeaveCause>)>,
    /// Devices, and when to look at them.
    pub(super) due: Vec<(u64, Id, DeviceName)>,
}

impl Turn<'_> {
    pub(super) fn take(&mut self, step: &RosterStep) {
        let user = &step.user;
        match &step.what {
            RosterChange::Put { device, hold, profile, patch } => self.put(user, device, *hold, profile, patch),
            RosterChange::Say { device, patch } => self.say(user, device, patch),
            RosterChange::Linger { device, cause, stays } => self.linger(user, device, *cause, *stays),
            RosterChange::Drop { device, cause } => self.drop_device(user, device, *cause),
            RosterChange::Expel { cause } => {
                if self.members.remove(user).is_some() {
                    self.saw(user, Some(*cause));
                }
            }
        }
    }

    pub(super) fn sweep(&mut self, sweep: &Sweep) {
        match sweep {
            Sweep::Due(user, name) => self.look_at(user, name),
            Sweep::Lost(user, name, node) => {
                let dead = self.nodes.get(node).is_none_or(|until| *until <= self.now_ms);
                if dead && self.device(user, name).is_some_and(|device| device.is_held_by(*node)) {
                    self.drop_device(user, name, LeaveCause::NodeLost);
                }
            }
        }
    }

    /// What all are told: everybody who is concerned, once. Nobody is told where a device is that lingers, so its return is news.
    pub(super) fn outcomes(&mut self) -> Vec<(Id, Outcome)> {
        let mut outcomes = Vec::with_capacity(self.seen.len());
        for (user, left) in std::mem::take(&mut self.seen) {
            let member = self.members.get_mut(&user);
            let outcome = match (member, left) {
                (Some(member), _) => {
                    let lingering = member.devices.values_mut().filter(|device| device.lingers.is_some());
                    lingering.for_each(|device| device.node = None);
                    Outcome::Here(member.record())
                }
                (None, cause) => Outcome::Left(cause.unwrap_or(LeaveCause::Closed)),
            };
            outcomes.push((user, outcome));
        }
        outcomes
    }

    fn device(&mut self, user: &Id, name: &str) -> Option<&mut Device> {
        self.members.get_mut(user)?.devices.get_mut(name)
    }

    fn saw(&mut self, user: &Id, left: Option<LeaveCause>) {
        match self.seen.iter_mut().find(|(seen, _)| seen == user) {
            Some(seen) => seen.1 = left,
            None => self.seen.push((user.clone(), left)),
        }
    }

    fn put(&mut self, user: &Id, name: &DeviceName, hold: Hold, profile: &Arc<str>, patch: &Patch) {
        let (now_ms, mut visible) = (self.now_ms, false);
        let member = self.members.entry(user.clone()).or_insert_with(|| {
            visible = true;
            Member { joined_ms: now_ms, profile: Arc::clone(profile), devices: BTreeMap::new() }
        });
        if member.profile != *profile {
            visible = true;
            member.profile = Arc::clone(profile);
        }
        if !member.devices.contains_key(name) {
            visible = true;
            let device = member.take_over().unwrap_or_else(|| Device { active_ms: now_ms, ..Device::default() });
            member.devices.insert(Arc::clone(name), device);
        }
        let node = self.node;
        let Some(device) = self.device(user, name) else { return };
        let enters = !device.is_held_by(node);
        visible |= device.hold(hold, node, now_ms);
        visible |= device.say(patch, now_ms);
        if visible {
            self.saw(user, None);
        }
        // Of a node that has not said yet that it is there nobody would notice when it dies.
        let stranger = enters && hold == Hold::Node && !self.nodes.contains_key(&node);
        self.plan(user, name, stranger.then(|| now_ms + millis(NODE_LEASE)));
    }

    fn say(&mut self, user: &Id, name: &DeviceName, patch: &Patch) {
        let now_ms = self.now_ms;
        let Some(device) = self.device(user, name) else { return };
        if device.say(patch, now_ms) {
            self.saw(user, None);
        }
        self.plan(user, name, None);
    }

    fn linger(&mut self, user: &Id, name: &DeviceName, cause: LeaveCause, stays: Duration) {
        let (node, now_ms) = (self.node, self.now_ms);
        let Some(device) = self.device(user, name).filter(|device| device.is_held_by(node)) else { return };
        if stays.is_zero() {
            return self.drop_device(user, name, cause);
        }
        device.lingers = Some(cause);
        device.ends_ms = Some(now_ms + millis(stays));
        self.plan(user, name, None);
    }

    fn drop_device(&mut self, user: &Id, name: &str, cause: LeaveCause) {
        let Some(member) = self.members.get_mut(user) else { return };
        if member.devices.remove(name).is_none() {
            return;
        }
        let left = member.devices.is_empty();
        if left {
            self.members.remove(user);
        }
        self.saw(user, left.then_some(cause));
    }

    fn look_at(&mut self, user: &Id, name: &DeviceName) {
        let (now_ms, idle_ms) = (self.now_ms, self.idle_ms);
        let Some(device) = self.members.get_mut(user).and_then(|member| member.devices.get_mut(name)) else { return };
        if device.ends_ms.is_some_and(|ends| ends <= now_ms) {
            let cause = device.lingers.unwrap_or(LeaveCause::Timeout);
            return self.drop_device(user, name, cause);
        }
        // A node that has never said that it is there. Those that have said it are dead when their lease is over, and found by that.
        let stranger = device.node.filter(|_| device.lingers.is_none()).is_some_and(|n| !self.nodes.contains_key(&n));
        if stranger {
            return self.drop_device(user, name, LeaveCause::NodeLost);
        }
        device.looked_at_ms = None;
        if device.let_go(now_ms, idle_ms) {
            self.saw(user, None);
        }
        self.plan(user, name, None);
    }

    /// Sees to it that the device is looked at in time. One that is looked at earlier is not planned anew: whoever moves a pointer
    /// would do that with each move.
    fn plan(&mut self, user: &Id, name: &DeviceName, also: Option<u64>) {
        let idle_ms = self.idle_ms;
        let Some(device) = self.device(user, name) else { return };
        let Some(first) = device.first_due_ms(idle_ms).into_iter().chain(also).min() else { return };
        if device.looked_at_ms.is_none_or(|planned| first < planned) {
            device.looked_at_ms = Some(first);
            self.due.push((first, user.clone(), Arc::clone(name)));
        }
    }

    /// Whether this is the look that was planned, and not one that an earlier one has replaced.
    pub(super) fn is_planned(members: &BTreeMap<Id, Member>, at_ms: u64, user: &Id, name: &str) -> bool {
        let device = members.get(user).and_then(|member| member.devices.get(name));
        device.is_some_and(|device| device.looked_at_ms == Some(at_ms))
    }
}

impl Device {
    /// Answers whether that can be seen.
    fn hold(&mut self, hold: Hold, node: u64, now_ms: u64) -> bool {
        self.lingers = None;
        let (node, ends_ms) = match hold {
            Hold::Node => (Some(node), None),
            Hold::Lease(lease) => (None, Some(now_ms + millis(lease))),
        };
        self.ends_ms = ends_ms;
        std::mem::replace(&mut self.node, node) != node
    }

    /// Answers whether that can be seen.
    fn say(&mut self, patch: &Patch, now_ms: u64) -> bool {
        for (aspect, said) in patch {
            match said {
                Some(text) => drop(self.state.insert(*aspect, Arc::clone(text))),
                None => drop(self.state.remove(aspect)),
            }
            if *aspect == Aspect::Typing {
                self.typing_ends_ms = said.as_ref().map(|_| now_ms + millis(TYPING));
            }
        }
        if !patch.is_empty() {
            self.active_ms = now_ms;
            self.idle = false;
        }
        !patch.is_empty()
    }

    /// What ends by itself. Answers whether that can be seen.
    fn let_go(&mut self, now_ms: u64, idle_ms: u64) -> bool {
        let typed = self.typing_ends_ms.take_if(|ends| *ends <= now_ms).is_some();
        let untyped = typed && self.state.remove(&Aspect::Typing).is_some();
        let idles = !self.idle && self.active_ms + idle_ms <= now_ms;
        self.idle |= idles;
        untyped || idles
    }

    fn first_due_ms(&self, idle_ms: u64) -> Option<u64> {
        let idles_ms = (!self.idle).then(|| self.active_ms + idle_ms);
        self.ends_ms.into_iter().chain(self.typing_ends_ms).chain(idles_ms).min()
    }
}
