//! The hub's parts against models.

mod ages;
mod bench;
mod edits;
mod lane;
mod outbox;
mod panic;
mod registry;
mod rooms;

use std::sync::LazyLock;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

use crate::event::Channel;
use crate::event::Cursor;
use crate::event::Delivery;
use crate::event::Epoch;
use crate::event::Event;
use crate::event::EventName;
use crate::event::Fingerprint;
use crate::event::Id;
use crate::event::LogId;
use crate::hub::Holder;

fn event(n: u64, channel: u8, delivery: Delivery, size: usize) -> Event {
    Event {
        channel: Channel::parse(&format!("jobs.{channel}")).unwrap(),
        name: EventName::JOB_UPDATE,
        data: format!("{{\"n\":{n},\"x\":\"{}\"}}", "a".repeat(size)).into(),
        delivery,
        terminal: false,
        accepted_us: 0,
    }
}

fn cursor(n: u64) -> Cursor {
    Cursor { epoch: Epoch(1), at: LogId { ms: n, seq: 0 }, print: Fingerprint(n) }
}

/// A stream that is edited as the test says.
#[derive(Debug, Default)]
struct Stream {
    edition: AtomicU32,
    applied: AtomicU32,
}

impl Holder for Stream {
    fn user(&self) -> &Id {
        static ADA: LazyLock<Id> = LazyLock::new(|| Id::parse("ada").unwrap());
        &ADA
    }

    fn edition(&self) -> u32 {
        self.edition.load(Ordering::Relaxed)
    }

    fn applied(&self, edition: u32) {
        self.applied.store(edition, Ordering::Relaxed);
    }
}

#[test]
fn the_metrics_know_the_kinds() {
    let kinds = crate::event::Kind::ALL.map(crate::event::Kind::as_str);
    assert_eq!(kinds, crate::telemetry::CHANNEL_KINDS, "`kind as usize` is the place among the labels");
}
