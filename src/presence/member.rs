//! A member as it is shown: several devices, one person.
//!
//! The rule: "do not disturb" on any device counts for all; else the most present device does (online, idle, away, offline). Of each
//! other thing the newest word counts: that of the device which was active last among those that say something of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::broker::Aspect;
use crate::broker::DeviceRecord;
use crate::broker::MemberRecord;
use crate::clock;
use crate::event::Id;
use crate::presence::color::color;

/// The most present first; "do not disturb" stands before them all.
const STATUSES: [&str; 5] = ["dnd", "online", "idle", "away", "offline"];

/// What others see of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shown {
    profile: Arc<str>,
    status: &'static str,
    /// Cursor, selection, typing, data: as JSON.
    said: BTreeMap<Aspect, Arc<str>>,
    devices: usize,
    joined_ms: u64,
    seen_ms: u64,
}

/// How many have which status, in a fixed order.
#[derive(Debug, Default)]
pub(super) struct Counts([usize; STATUSES.len()]);

fn rank(device: &DeviceRecord) -> usize {
    let said = device.state.get(&Aspect::Status).map(|text| text.trim_matches('"'));
    let rank = |status: &str| STATUSES.iter().position(|known| *known == status);
    match said.unwrap_or("online") {
        // Nobody is at it any more, whatever was said before.
        "online" if device.idle => rank("idle"),
        status => rank(status),
    }
    .unwrap_or(1)
}

impl Shown {
    pub(super) fn of(record: &MemberRecord) -> Self {
        let devices = record.devices.values();
        let status = devices.clone().map(rank).min().and_then(|rank| STATUSES.get(rank)).copied().unwrap_or("online");
        let mut said: BTreeMap<Aspect, (u64, &Arc<str>)> = BTreeMap::new();
        for device in devices.clone() {
            for (aspect, text) in device.state.iter().filter(|(aspect, _)| **aspect != Aspect::Status) {
                let newest = said.get(aspect).is_none_or(|(active, _)| *active <= device.active_ms);
                if newest {
                    said.insert(*aspect, (device.active_ms, text));
                }
            }
        }
        Self {
            profile: Arc::clone(&record.profile),
            status,
            said: said.into_iter().map(|(aspect, (_, text))| (aspect, Arc::clone(text))).collect(),
            devices: record.devices.len(),
            joined_ms: record.joined_ms,
            seen_ms: devices.map(|device| device.active_ms).max().unwrap_or(0),
        }
    }

    /// The members of a `Member`, without braces.
    pub(super) fn put(&self, user: &Id, out: &mut String) {
        let time = |ms: u64| clock::rfc3339(ms.saturating_mul(1000));
        put_text(out, "userId", user.as_str());
        out.push(',');
        out.push_str(&self.profile);
        put_text(sep(out), "color", color(user));
        put_text(sep(out), "status", self.status);
        for (aspect, text) in &self.said {
            put_raw(sep(out), aspect.as_str(), text);
        }
        put_raw(sep(out), "devices", &self.devices.to_string());
        put_text(sep(out), "joinedAt", &time(self.joined_ms));
        put_text(sep(out), "lastSeen", &time(self.seen_ms));
    }

    /// What has changed since `old`, each with a comma before it.
    pub(super) fn put_changes(&self, old: &Self, out: &mut String) {
        if self.profile != old.profile {
            sep(out).push_str(&self.profile);
        }
        if self.status != old.status {
            put_text(sep(out), "status", self.status);
        }
        for aspect in Aspect::ALL {
            let (now, before) = (self.said.get(&aspect), old.said.get(&aspect));
            if now != before {
                put_raw(sep(out), aspect.as_str(), now.map_or("null", |text| text));
            }
        }
        if self.devices != old.devices {
            put_raw(sep(out), "devices", &self.devices.to_string());
        }
    }
}

/// Whether a record can be shown as it is: whoever wrote it, it must not break out of the line that it becomes a part of.
pub(super) fn is_sound(record: &MemberRecord) -> bool {
    let said = record.devices.values().flat_map(|device| device.state.values());
    is_json(&["{", &record.profile, "}"].concat()) && said.map(|text| &**text).all(is_json)
}

fn is_json(text: &str) -> bool {
    let one_line = text.bytes().all(|byte| byte >= b' ');
    one_line && serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}

/// Name and avatar as they stand in a `Member`; an avatar that is gone is said to be.
pub(super) fn profile(name: &str, avatar: Option<&str>) -> Arc<str> {
    let mut out = String::new();
    put_text(&mut out, "name", name);
    match avatar {
        Some(avatar) => put_text(sep(&mut out), "avatar", avatar),
        None => put_raw(sep(&mut out), "avatar", "null"),
    }
    out.into()
}

fn sep(out: &mut String) -> &mut String {
    out.push(',');
    out
}

pub(super) fn put_text(out: &mut String, name: &str, text: &str) {
    put_raw(out, name, &serde_json::to_string(text).unwrap_or_default());
}

fn put_raw(out: &mut String, name: &str, json: &str) {
    out.extend(["\"", name, "\":", json]);
}

impl Counts {
    pub(super) fn add(&mut self, shown: &Shown) {
        let at = STATUSES.iter().position(|status| *status == shown.status);
        if let Some(count) = at.and_then(|at| self.0.get_mut(at)) {
            *count += 1;
        }
    }

    pub(super) fn to_json(&self) -> String {
        let counts: Vec<String> =
            STATUSES.iter().zip(self.0).map(|(status, count)| format!("\"{status}\":{count}")).collect();
        format!("{{{}}}", counts.join(","))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::Shown;
    use super::profile;
    use crate::broker::Aspect;
    use crate::broker::DeviceRecord;
    use crate::broker::MemberRecord;
    use crate::event::Id;

    fn device(active_ms: u64, idle: bool, said: &[(Aspect, &str)]) -> DeviceRecord {
        let state = said.iter().map(|(aspect, text)| (*aspect, Arc::from(*text))).collect();
        DeviceRecord { node: Some(1), active_ms, idle, state }
    }

    fn member(devices: &[DeviceRecord]) -> Shown {
        let devices = devices.iter().enumerate().map(|(at, device)| (Arc::from(at.to_string()), device.clone()));
        Shown::of(&MemberRecord { joined_ms: 5, profile: profile("Ada", None), devices: devices.collect() })
    }

    #[test]
    fn the_most_present_device_counts_and_dnd_before_all() {
        let status = |text: &'static str| device(1, false, &[(Aspect::Status, text)]);
        let plain = device(1, false, &[]);
        let idle = device(1, true, &[]);
        assert_eq!(member(&[plain.clone(), idle.clone()]).status, "online");
        assert_eq!(member(std::slice::from_ref(&idle)).status, "idle");
        assert_eq!(member(&[status("\"away\""), idle.clone()]).status, "idle");
        assert_eq!(member(&[status("\"away\""), status("\"offline\"")]).status, "away");
        assert_eq!(member(&[plain, status("\"dnd\"")]).status, "dnd");
        assert_eq!(member(&[status("\"nonsense\"")]).status, "online", "what Redis says is not trusted");
    }

    #[test]
    fn what_stands_in_redis_is_not_trusted() {
        let with = |profile: &str, cursor: &str| MemberRecord {
            joined_ms: 1,
            profile: profile.into(),
            devices: [(Arc::from("1"), device(1, false, &[(Aspect::Cursor, cursor)]))].into(),
        };
        assert!(super::is_sound(&with("\"name\":\"Ada\"", "{\"x\":1}")));
        for (profile, cursor) in [
            ("\"name\":\"Ada\"", "{\"x\":1\n\nevent: end\ndata: {}"),
            ("\"name\":\"Ada\"},\"x\":{", "1,2"),
            ("\"name\":\n1", "1"),
            ("name", "1"),
        ] {
            assert!(!super::is_sound(&with(profile, cursor)), "{profile} {cursor}");
        }
    }

    #[test]
    fn the_newest_word_counts() {
        let old = device(1, false, &[(Aspect::Cursor, "{\"x\":1,\"y\":1}"), (Aspect::Typing, "true")]);
        let new = device(2, false, &[(Aspect::Cursor, "{\"x\":2,\"y\":2}")]);
        let shown = member(&[old.clone(), new]);
        let (mut all, mut changes) = (String::new(), String::new());
        shown.put(&Id::parse("ada").unwrap(), &mut all);
        assert!(all.contains("\"cursor\":{\"x\":2,\"y\":2},\"typing\":true,\"devices\":2"), "{all}");
        assert!(serde_json::from_str::<serde_json::Value>(&format!("{{{all}}}")).is_ok(), "{all}");
        shown.put_changes(&member(&[old]), &mut changes);
        assert_eq!(changes, ",\"cursor\":{\"x\":2,\"y\":2},\"devices\":2", "only what has changed");
    }
}
