//! Steps, members and news as `roster.lua` reads and writes them. Its header says what each letter stands for.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;

use crate::broker::Aspect;
use crate::broker::DeviceName;
use crate::broker::DeviceRecord;
use crate::broker::Hold;
use crate::broker::LeaveCause;
use crate::broker::MemberRecord;
use crate::broker::Outcome;
use crate::broker::Patch;
use crate::broker::RosterChange;
use crate::broker::RosterNews;
use crate::broker::RosterStep;
use crate::broker::RosterVersion;
use crate::broker::rosters::millis;
use crate::event::Id;

/// A step of the script.
#[derive(Debug, Default, Serialize)]
pub(super) struct Step<'a> {
    k: &'static str,
    u: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    d: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    c: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p: Option<&'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    f: BTreeMap<&'static str, &'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    n: Option<&'a str>,
}

fn said(patch: &Patch) -> BTreeMap<&'static str, &str> {
    patch.iter().map(|(aspect, text)| (aspect.as_str(), text.as_deref().unwrap_or_default())).collect()
}

impl<'a> Step<'a> {
    pub(super) fn of(step: &'a RosterStep) -> Self {
        let step_of = |k, device: &'a DeviceName| Self { k, u: step.user.as_str(), d: Some(device), ..Self::default() };
        match &step.what {
            RosterChange::Put { device, hold, profile, patch } => {
                let ms = match hold {
                    Hold::Node => None,
                    Hold::Lease(lease) => Some(millis(*lease)),
                };
                Self { ms, p: Some(profile), f: said(patch), ..step_of("put", device) }
            }
            RosterChange::Say { device, patch } => Self { f: said(patch), ..step_of("say", device) },
            RosterChange::Linger { device, cause, stays } => {
                // What is shorter than a millisecond is not nothing.
                let ms = millis(*stays).max(u64::from(*stays > Duration::ZERO));
                Self { c: Some(cause.as_str()), ms: Some(ms), ..step_of("linger", device) }
            }
            RosterChange::Drop { device, cause } => Self { c: Some(cause.as_str()), ..step_of("drop", device) },
            RosterChange::Expel { cause } => {
                Self { k: "expel", u: step.user.as_str(), c: Some(cause.as_str()), ..Self::default() }
            }
        }
    }

    /// Something of a device may be due.
    pub(super) fn due(user: &'a str, device: &'a str) -> Self {
        Self { k: "due", u: user, d: Some(device), ..Self::default() }
    }

    /// The node that had a device is dead.
    pub(super) fn lost(user: &'a str, device: &'a str, node: &'a str) -> Self {
        Self { k: "lost", u: user, d: Some(device), n: Some(node), ..Self::default() }
    }
}

/// `document/user/device`; no id has a `/`.
pub(super) fn entry(text: &str) -> Option<(Id, &str, &str)> {
    let (document, rest) = text.split_once('/')?;
    let (user, device) = rest.split_once('/')?;
    Id::parse(user).ok()?;
    Some((Id::parse(document).ok()?, user, device))
}

/// `epoch number`
pub(super) fn version(text: &str) -> Option<RosterVersion> {
    let (epoch, number) = text.split_once(' ')?;
    Some(RosterVersion { epoch: epoch.parse().ok()?, number: number.parse().ok()? })
}

#[derive(Deserialize)]
struct MemberText {
    j: u64,
    p: Arc<str>,
    d: BTreeMap<DeviceName, DeviceText>,
}

#[derive(Deserialize)]
struct DeviceText {
    n: Option<String>,
    t: Option<u64>,
    c: Option<String>,
    a: u64,
    #[serde(default)]
    i: bool,
    f: BTreeMap<String, Arc<str>>,
}

#[derive(Deserialize)]
struct NewsText<'a> {
    #[serde(borrow)]
    e: Cow<'a, str>,
    n: u64,
    #[serde(borrow)]
    m: Vec<(Cow<'a, str>, Cow<'a, str>, Option<MemberText>)>,
}

impl MemberText {
    fn record(self) -> Option<MemberRecord> {
        let devices: Option<BTreeMap<_, _>> =
            self.d.into_iter().map(|(name, device)| Some((name, device.record()?))).collect();
        let devices = devices.filter(|devices| !devices.is_empty())?;
        Some(MemberRecord { joined_ms: self.j, profile: self.p, devices })
    }
}

impl DeviceText {
    fn record(self) -> Option<DeviceRecord> {
        // One that nobody holds and that never ends.
        if self.t.is_none() && (self.n.is_none() || self.c.is_some()) {
            return None;
        }
        let node = match self.n.filter(|_| self.c.is_none()) {
            Some(node) => Some(node.parse().ok()?),
            None => None,
        };
        // An aspect that this version does not know is somebody else's business.
        let state = self.f.into_iter().filter_map(|(name, text)| Some((Aspect::parse(&name)?, text))).collect();
        Some(DeviceRecord { node, active_ms: self.a, idle: self.i, state })
    }
}

/// A member as it stands in the roster; `None`: we did not write that.
pub(super) fn member(text: &[u8]) -> Option<MemberRecord> {
    serde_json::from_slice::<MemberText>(text).ok()?.record()
}

/// What a change of this roster says; `None`: we did not write that.
pub(super) fn news(document: Id, text: &[u8]) -> Option<RosterNews> {
    let news: NewsText<'_> = serde_json::from_slice(text).ok()?;
    let version = RosterVersion { epoch: news.e.parse().ok()?, number: news.n };
    let mut members = Vec::with_capacity(news.m.len());
    for (user, cause, member) in news.m {
        let outcome = match member {
            Some(member) => Outcome::Here(member.record()?),
            None => Outcome::Left(LeaveCause::parse(&cause)?),
        };
        members.push((Id::parse(&user).ok()?, outcome));
    }
    Some(RosterNews::Changed { document, version, members })
}
