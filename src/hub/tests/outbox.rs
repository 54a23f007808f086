//! The outbox against a model: the ladder.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;

use futures_util::task::noop_waker;
use proptest::prelude::*;

use crate::event::Channel;
use crate::event::Delivery;
use crate::event::Event;
use crate::event::EventName;
use crate::hub::CloseReason;
use crate::hub::Drained;
use crate::hub::Frame;
use crate::hub::Outbox;
use crate::hub::OutboxLimits;
use crate::hub::outbox::Pushed;
use crate::hub::tests::cursor;
use crate::hub::tests::event;

fn frame(n: u64, channel: u8, delivery: Delivery, size: usize) -> Frame {
    let event = event(n, channel, delivery, size);
    Frame::event(&event, (delivery != Delivery::Ephemeral).then(|| cursor(n)))
}

fn drain(outbox: &Outbox) -> Option<Drained> {
    let waker = noop_waker();
    match outbox.poll_drain(&mut Context::from_waker(&waker)) {
        Poll::Ready(drained) => Some(drained),
        Poll::Pending => None,
    }
}

fn number(frame: &Frame) -> u64 {
    serde_json::from_str::<serde_json::Value>(frame.data()).unwrap()["n"].as_u64().unwrap()
}

#[test]
fn little_that_waits_is_kept_whole() {
    let outbox = Outbox::new(OutboxLimits { events_max: 40, bytes_max: 1 << 20, told: false });
    for n in 0..9 {
        assert_eq!(outbox.push(frame(n, 1, Delivery::Latest, 10)), Pushed::Queued);
    }
    let Some(Drained::Frames(frames)) = drain(&outbox) else { panic!("frames") };
    assert_eq!(frames.iter().map(number).collect::<Vec<_>>(), (0..9).collect::<Vec<_>>());
}

#[test]
fn a_client_that_lags_gets_the_newest_progress_and_every_durable_event() {
    let outbox = Outbox::new(OutboxLimits { events_max: 16, bytes_max: 1 << 20, told: false });
    let mut conflated = 0;
    for n in 0..1000 {
        let delivery = if n % 100 == 0 { Delivery::Durable } else { Delivery::Latest };
        match outbox.push(frame(n, 1, delivery, 10)) {
            Pushed::Conflated(count) => conflated += count,
            Pushed::Queued => {}
            other => panic!("{other:?}"),
        }
    }
    let Some(Drained::Frames(frames)) = drain(&outbox) else { panic!("frames") };
    let numbers: Vec<u64> = frames.iter().map(number).collect();
    assert!(numbers.is_sorted() && numbers.last() == Some(&999), "{numbers:?}");
    assert_eq!(numbers.iter().filter(|n| *n % 100 == 0).count(), 10);
    assert_eq!(conflated + numbers.len(), 1000);
}

#[test]
fn a_durable_event_that_does_not_fit_ends_the_stream_and_frees_its_memory() {
    let outbox = Outbox::new(OutboxLimits { events_max: 16, bytes_max: 1 << 20, told: false });
    let pushed: Vec<Pushed> = (0..18).map(|n| outbox.push(frame(n, 1, Delivery::Durable, 10))).collect();
    assert_eq!(&pushed[15..], [Pushed::Queued, Pushed::Overflow, Pushed::Closed]);
    assert!(outbox.is_empty());
    assert!(matches!(drain(&outbox), Some(Drained::End(CloseReason::Slow))));
}

#[test]
fn an_ephemeral_event_that_does_not_fit_is_dropped() {
    let outbox = Outbox::new(OutboxLimits { events_max: 8, bytes_max: 1 << 20, told: false });
    for n in 0..8 {
        outbox.push(frame(n, 1, Delivery::Durable, 10));
    }
    assert_eq!(outbox.push(frame(9, 2, Delivery::Ephemeral, 10)), Pushed::Dropped);
    assert!(!outbox.is_closing());
}

#[test]
fn what_waits_is_sent_before_the_end() {
    let outbox = Outbox::new(OutboxLimits { events_max: 8, bytes_max: 1 << 20, told: false });
    outbox.push(frame(1, 1, Delivery::Durable, 10));
    outbox.close(CloseReason::Done);
    assert_eq!(outbox.push(frame(2, 1, Delivery::Durable, 10)), Pushed::Closed);
    assert!(matches!(drain(&outbox), Some(Drained::Frames(frames)) if frames.len() == 1));
    assert!(matches!(drain(&outbox), Some(Drained::End(CloseReason::Done))));
    assert!(outbox.is_finished());
}

#[test]
fn a_resync_forgets_what_waits_and_takes_nothing_until_it_is_seen() {
    let outbox = Outbox::new(OutboxLimits { events_max: 8, bytes_max: 1 << 20, told: false });
    outbox.push(frame(1, 1, Delivery::Durable, 10));
    outbox.resync();
    assert_eq!(outbox.push(frame(2, 1, Delivery::Durable, 10)), Pushed::Closed);
    assert!(matches!(drain(&outbox), Some(Drained::Resync)));
    assert_eq!(outbox.push(frame(3, 1, Delivery::Durable, 10)), Pushed::Queued);
}

proptest! {
    /// Whatever is pushed and drained: bounds hold, order holds, no durable event is missing from what was delivered
    /// before an overflow, and of each channel the newest progress arrives.
    #[test]
    fn the_outbox_keeps_its_promises(
        pushes in proptest::collection::vec((0u8..4, 0u8..3, 0usize..300, proptest::bool::weighted(0.1)), 1..300),
        events_max in 8usize..40,
    ) {
        let limits = OutboxLimits { events_max, bytes_max: 4000, told: false };
        let outbox = Outbox::new(limits);
        let (mut durable, mut newest) = (VecDeque::new(), std::collections::HashMap::new());
        let (mut last, mut overflown) = (0, false);
        for (n, (channel, class, size, drains)) in pushes.into_iter().enumerate() {
            let n = n as u64 + 1;
            let delivery = [Delivery::Durable, Delivery::Latest, Delivery::Ephemeral][usize::from(class)];
            match outbox.push(frame(n, channel, delivery, size)) {
                Pushed::Overflow => { overflown = true; break; }
                Pushed::Closed => prop_assert!(false, "closed without a reason"),
                Pushed::Dropped => prop_assert_eq!(delivery, Delivery::Ephemeral),
                Pushed::Queued | Pushed::Conflated(_) => match delivery {
                    Delivery::Durable => durable.push_back(n),
                    Delivery::Latest => { newest.insert(channel, n); }
                    Delivery::Ephemeral => {}
                },
            }
            if drains {
                check(&outbox, limits, &mut durable, &mut newest, &mut last)?;
            }
        }
        if !overflown {
            check(&outbox, limits, &mut durable, &mut newest, &mut last)?;
            prop_assert!(durable.is_empty() && newest.is_empty(), "{durable:?} {newest:?}");
        }
    }
}

type Newest = std::collections::HashMap<u8, u64>;

fn check(
    outbox: &Outbox,
    limits: OutboxLimits,
    durable: &mut VecDeque<u64>,
    newest: &mut Newest,
    last: &mut u64,
) -> Result<(), TestCaseError> {
    let Some(Drained::Frames(frames)) = drain(outbox) else { return Ok(()) };
    prop_assert!(frames.len() <= limits.events_max);
    prop_assert!(frames.iter().map(Frame::weight).sum::<usize>() <= limits.bytes_max);
    for frame in frames {
        let n = number(&frame);
        prop_assert!(n > *last, "order");
        *last = n;
        match frame.delivery() {
            Delivery::Durable => prop_assert_eq!(durable.pop_front(), Some(n)),
            Delivery::Latest => newest.retain(|_, newest| *newest != n),
            Delivery::Ephemeral => {}
        }
    }
    Ok(())
}

#[test]
fn a_snapshot_is_the_event_marked_and_without_a_cursor() {
    let event = Event {
        channel: Channel::parse("jobs.1").unwrap(),
        name: EventName::JOB_UPDATE,
        data: Arc::from("{\"a\":1}"),
        delivery: Delivery::Durable,
        terminal: false,
        accepted_us: 5,
    };
    let frame = Frame::snapshot(&event);
    assert_eq!((frame.data(), frame.cursor(), frame.accepted_us()), ("{\"a\":1,\"snapshot\":true}", None, 0));
}
