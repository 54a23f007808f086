//! What streams are told of a room, as events.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::broker::LeaveCause;
use crate::clock;
use crate::event::Channel;
use crate::event::Delivery;
use crate::event::Event;
use crate::event::EventName;
use crate::event::Id;
use crate::presence::member::Counts;
use crate::presence::member::Shown;
use crate::presence::member::put_text;
use crate::presence::room::Known;

fn begun(channel: &Channel) -> String {
    let mut out = String::with_capacity(256);
    out.push('{');
    put_text(&mut out, "channel", channel.as_str());
    out
}

fn event(channel: &Channel, name: EventName, delivery: Delivery, mut data: String) -> Event {
    data.push('}');
    let accepted_us = clock::now_us();
    Event { channel: channel.clone(), name, data: data.into(), delivery, terminal: false, accepted_us }
}

/// `presence:state` of this channel, with these data.
pub(super) fn state_event(channel: Channel, data: Arc<str>) -> Event {
    let (name, delivery) = (EventName::PRESENCE_STATE, Delivery::Durable);
    Event { channel, name, data, delivery, terminal: false, accepted_us: 0 }
}

/// The data of `presence:state`.
pub(super) fn state(channel: &Channel, members: &BTreeMap<Id, Known>) -> Arc<str> {
    let mut out = begun(channel);
    let mut counts = Counts::default();
    out.push_str(",\"members\":[");
    for (at, known) in members.values().enumerate() {
        out.extend([if at == 0 { "{" } else { ",{" }, known.text.as_str(), "}"]);
        counts.add(&known.shown);
    }
    out.push_str("],\"counts\":");
    out.push_str(&counts.to_json());
    out.push('}');
    out.into()
}

/// `member`: the members of the `Member`.
pub(super) fn joined(channel: &Channel, member: &str) -> Event {
    let mut out = begun(channel);
    out.extend([",", member]);
    event(channel, EventName::PRESENCE_JOINED, Delivery::Durable, out)
}

pub(super) fn left(channel: &Channel, user: &Id, cause: LeaveCause) -> Event {
    let mut out = begun(channel);
    out.push(',');
    put_text(&mut out, "userId", user.as_str());
    out.push(',');
    put_text(&mut out, "cause", cause.as_str());
    event(channel, EventName::PRESENCE_LEFT, Delivery::Durable, out)
}

/// Nothing, where nothing that is shown has changed.
pub(super) fn changed(channel: &Channel, user: &Id, old: &Shown, new: &Shown) -> Option<Event> {
    let mut out = begun(channel);
    out.push(',');
    put_text(&mut out, "userId", user.as_str());
    let before = out.len();
    new.put_changes(old, &mut out);
    (out.len() > before).then(|| event(channel, EventName::PRESENCE_UPDATE, Delivery::Ephemeral, out))
}
