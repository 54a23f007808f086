//! What a room has to tell the others: gathered, taken in steps, told again where it may not have arrived. No IO.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::sync::Arc;

use crate::broker::Aspect;
use crate::broker::DeviceName;
use crate::broker::Hold;
use crate::broker::Patch;
use crate::broker::RosterChange;
use crate::broker::RosterStep;
use crate::broker::RosterVersion;
use crate::event::Id;
use crate::presence::room::Local;
use crate::presence::room::Room;

/// Steps of one change at most.
const STEPS_MAX: usize = 256;
/// Steps that are under way.
#[derive(Debug, Default)]
pub(super) struct Flight {
    pub(super) steps: Vec<RosterStep>,
    patches: HashMap<DeviceName, Patch>,
    left: Vec<DeviceName>,
    elsewhere: BTreeMap<(Id, DeviceName), RosterChange>,
}

impl Room {
    /// Something about a device whose stream is not here, or that has none. What was to be said before and is not yet goes with it.
    pub(super) fn add_elsewhere(&mut self, user: Id, device: DeviceName, mut change: RosterChange) {
        let key = (user, device);
        let before = self.elsewhere.remove(&key);
        if let (Some(RosterChange::Put { patch: old, .. } | RosterChange::Say { patch: old, .. }), Some(new)) =
            (before, patch_of(&mut change))
        {
            add_older(new, old);
        }
        self.elsewhere.insert(key, change);
    }

    /// Whether something is to be told, and whether of that something is urgent.
    pub(super) fn has_steps(&self) -> (bool, bool) {
        let said = |change: &RosterChange| matches!(change, RosterChange::Say { .. });
        let urgent = !self.urgent.is_empty() || !self.elsewhere.values().all(said);
        (urgent || !self.dirty.is_empty() || !self.elsewhere.is_empty(), urgent)
    }

    /// What is to be told, bounded; `all`: also what can wait.
    pub(super) fn take_steps(&mut self, all: bool) -> Flight {
        let mut flight = Flight::default();
        while flight.steps.len() < STEPS_MAX
            && let Some(device) = self.next_device(all)
        {
            self.dirty.remove(&device);
            let Some(local) = self.locals.get_mut(&device) else { continue };
            let user = local.user.clone();
            let last_words = matches!(local.leaving, Some(RosterChange::Linger { .. })) && !local.patch.is_empty();
            if local.leaving.is_none() || last_words {
                let what = local.put(&device, &mut flight);
                flight.steps.push(RosterStep { user: user.clone(), what });
            }
            if let Some(what) = local.leaving.clone() {
                flight.left.push(Arc::clone(&device));
                flight.steps.push(RosterStep { user, what });
            }
        }
        while flight.steps.len() < STEPS_MAX
            && let Some((key, what)) = self.elsewhere.pop_first()
        {
            flight.steps.push(RosterStep { user: key.0.clone(), what: what.clone() });
            self.flying.insert(key.clone());
            flight.elsewhere.insert(key, what);
        }
        flight
    }

    /// Who leaves goes first: who comes may take their place.
    fn next_device(&mut self, all: bool) -> Option<DeviceName> {
        let leaves = |device: &&DeviceName| self.locals.get(*device).is_some_and(|local| local.leaving.is_some());
        let urgent = self.urgent.iter().find(leaves).or(self.urgent.first()).cloned();
        match urgent {
            Some(device) => self.urgent.take(&device),
            None if all => self.dirty.pop_first(),
            None => None,
        }
    }

    /// The store has it.
    pub(super) fn arrived(&mut self, flight: Flight, version: RosterVersion) {
        self.flying.clear();
        for device in flight.patches.into_keys() {
            if let Some(local) = self.locals.get_mut(&device) {
                local.since = local.since.or(Some(version));
            }
        }
        for device in flight.left {
            // Unless it has come back meanwhile.
            if self.locals.get(&device).is_some_and(|local| local.leaving.is_some()) {
                self.locals.remove(&device);
            }
        }
    }

    /// It may have it or not: to be told again.
    pub(super) fn failed(&mut self, flight: Flight) {
        self.flying.clear();
        for (device, patch) in flight.patches {
            let Some(local) = self.locals.get_mut(&device) else { continue };
            add_older(&mut local.patch, patch);
            match local.since {
                None => self.urgent.insert(device),
                Some(_) => self.dirty.insert(device),
            };
        }
        self.urgent.extend(flight.left);
        for ((user, device), mut change) in flight.elsewhere {
            // What was said since is newer.
            match (self.elsewhere.get_mut(&(user.clone(), Arc::clone(&device))), patch_of(&mut change)) {
                (None, _) => drop(self.elsewhere.insert((user, device), change)),
                (Some(newer), Some(old)) => {
                    if let Some(new) = patch_of(newer) {
                        add_older(new, std::mem::take(old));
                    }
                }
                (Some(_), None) => {}
            }
        }
    }
}

/// What was said since is newer.
fn add_older(patch: &mut Patch, older: Patch) {
    for (aspect, said) in older {
        patch.entry(aspect).or_insert(said);
    }
}

fn patch_of(change: &mut RosterChange) -> Option<&mut Patch> {
    match change {
        RosterChange::Put { patch, .. } | RosterChange::Say { patch, .. } => Some(patch),
        _ => None,
    }
}

impl Local {
    /// With everything that it ever said, if the store does not know it.
    fn put(&mut self, device: &DeviceName, flight: &mut Flight) -> RosterChange {
        let mut patch = std::mem::take(&mut self.patch);
        if self.since.is_none() {
            // Typing is true for a moment only, and that may be over.
            let lasting = self.said.iter().filter(|(aspect, _)| **aspect != Aspect::Typing);
            add_older(&mut patch, lasting.map(|(aspect, text)| (*aspect, Some(Arc::clone(text)))).collect());
        }
        flight.patches.insert(Arc::clone(device), patch.clone());
        let (device, profile) = (Arc::clone(device), Arc::clone(&self.profile));
        RosterChange::Put { device, hold: Hold::Node, profile, patch }
    }
}
