//! Edits of live streams: what joins is told its state first and everything after it, what leaves is heard of no more.

use std::sync::Arc;

use crate::auth::Grant;
use crate::event::Channel;
use crate::event::Delivery;
use crate::event::LogId;
use crate::hub::CloseReason;
use crate::hub::ConnectionId;
use crate::hub::Edit;
use crate::hub::Frame;
use crate::hub::Join;
use crate::hub::message::LaneMessage;
use crate::hub::tests::bench::Bench;
use crate::hub::tests::bench::Fake;
use crate::hub::tests::bench::GONE;
use crate::hub::tests::bench::WRITABLE;
use crate::hub::tests::event;

fn channel(n: u8) -> Channel {
    Channel::parse(&format!("jobs.{n}")).unwrap()
}

fn join(n: u8, state: Option<(u64, u64)>) -> Join {
    let state = state.map(|(at, number)| (LogId { ms: at, seq: 0 }, event(number, n, Delivery::Durable, 1)));
    Join { grant: Grant::for_test(channel(n).as_str()), said: format!("{{\"channel\":\"jobs.{n}\"}}").into(), state }
}

fn edit(bench: &mut Bench, id: u64, edit: Edit) {
    bench.lane.take(LaneMessage::Edit(ConnectionId(id), Box::new(edit)));
}

/// Name and `n` of every line.
fn lines(fake: &Fake) -> Vec<String> {
    let heard = String::from_utf8(fake.0.lock().heard.clone()).unwrap();
    let line = |line: &str| {
        let mut parts = line.splitn(3, ' ');
        let (name, at, data) = (parts.next().unwrap(), parts.next().unwrap_or(""), parts.next().unwrap_or("{}"));
        let data: serde_json::Value = serde_json::from_str(data).unwrap_or_default();
        match (name, data["n"].as_u64()) {
            ("job:update", Some(n)) if data["snapshot"] == true => format!("snapshot {n}"),
            ("job:update", Some(n)) => format!("{n}"),
            ("subscribed", _) => format!("subscribed at {at}"),
            (name, _) => name.to_owned(),
        }
    };
    heard.lines().map(line).collect()
}

#[test]
fn what_joins_begins_with_its_newest_state_and_nothing_goes_back() {
    let mut bench = Bench::new(64);
    let fake = bench.connect(1, &[1], usize::MAX, false);
    bench.publish(2, Delivery::Durable, 1, false);
    bench.publish(2, Delivery::Durable, 1, false);
    // What was asked for elsewhere is older than what the window has; and of job 3 it is newer than this lane is.
    let joins = vec![join(2, Some((1, 1))), join(3, Some((3, 3))), join(4, Some((1, 40)))];
    edit(&mut bench, 1, Edit { edition: 1, join: joins, ..Edit::default() });
    bench.publish(3, Delivery::Durable, 1, false);
    bench.publish(2, Delivery::Durable, 1, false);
    bench.lane.flush();
    let expected = [
        "hello",
        "ready",
        "subscribed at 2",
        "subscribed at 2",
        "subscribed at 2",
        "snapshot 2",
        "snapshot 40",
        "3",
        "4",
    ];
    assert_eq!(lines(&fake), expected);
    assert_eq!(bench.lane.registry.topics(), 4);
}

#[test]
fn what_leaves_takes_back_what_was_not_written() {
    let mut bench = Bench::new(64);
    let fake = bench.connect(1, &[1, 2, 3], 0, false);
    for n in [1, 2, 3, 2, 1] {
        bench.publish(n, Delivery::Durable, 1, false);
    }
    bench.lane.flush();
    let said = Frame::control("unsubscribed", "{}", None);
    edit(&mut bench, 1, Edit { edition: 1, leave: vec![channel(2)], say: vec![said], ..Edit::default() });
    bench.publish(2, Delivery::Durable, 1, false);
    bench.publish(3, Delivery::Durable, 1, false);
    bench.lane.flush();
    let key = fake.0.lock().key.unwrap();
    fake.0.lock().room = usize::MAX;
    bench.lane.ready(key, WRITABLE);
    assert_eq!(lines(&fake), ["hello", "ready", "1", "3", "5", "unsubscribed", "7"]);
    bench.lane.ready(key, GONE);
    assert_eq!((bench.lane.registry.len(), bench.lane.registry.topics()), (0, 0), "no subscription is left behind");
}

#[test]
fn an_edit_is_done_once_and_one_that_ends_it_ends_it() {
    let mut bench = Bench::new(64);
    let fake = bench.connect(1, &[1], usize::MAX, false);
    let say = || vec![Frame::control("problem", "{}", None)];
    edit(&mut bench, 1, Edit { edition: 1, say: say(), ..Edit::default() });
    edit(&mut bench, 1, Edit { edition: 1, say: say(), ..Edit::default() });
    edit(&mut bench, 7, Edit { edition: 1, say: say(), ..Edit::default() });
    let end = Some(CloseReason::Revoked);
    edit(&mut bench, 1, Edit { edition: 2, leave: vec![channel(1)], end, ..Edit::default() });
    bench.publish(1, Delivery::Durable, 1, false);
    bench.lane.flush();
    assert_eq!(lines(&fake), ["hello", "ready", "problem", "end"]);
    assert_eq!(fake.0.lock().ended, Some(CloseReason::Revoked));
}

#[test]
fn a_stream_of_jobs_that_ends_with_them_minds_those_that_join_and_leave() {
    let mut bench = Bench::new(64);
    let fake = bench.connect(1, &[1], usize::MAX, true);
    edit(&mut bench, 1, Edit { edition: 1, join: vec![join(2, None)], ..Edit::default() });
    bench.publish(1, Delivery::Durable, 1, true);
    bench.lane.flush();
    assert_eq!(fake.0.lock().ended, None, "job 2 goes on");
    edit(&mut bench, 1, Edit { edition: 2, leave: vec![channel(2)], ..Edit::default() });
    assert_eq!(fake.0.lock().ended, Some(CloseReason::Done));
}

#[test]
fn a_credential_is_announced_renewed_and_ended() {
    let mut bench = Bench::new(64);
    let fake = bench.connect(1, &[1], usize::MAX, false);
    let now = crate::clock::now_s();
    edit(&mut bench, 1, Edit { edition: 1, expires_at: Some(now + 80), ..Edit::default() });
    bench.lane.tick();
    bench.lane.tick();
    let count = |name: &str| lines(&fake).iter().filter(|line| *line == name).count();
    assert_eq!(count("token:expiring"), 1, "said once");
    edit(&mut bench, 1, Edit { edition: 2, expires_at: Some(now + 10_000), ..Edit::default() });
    bench.lane.tick();
    assert_eq!((count("token:expiring"), count("end")), (1, 0));
    edit(&mut bench, 1, Edit { edition: 3, expires_at: Some(now), ..Edit::default() });
    bench.lane.tick();
    assert_eq!(fake.0.lock().ended, Some(CloseReason::TokenExpired));
}

#[test]
fn carriers_of_a_channel_are_found() {
    let mut bench = Bench::new(64);
    bench.connect(1, &[1, 2], usize::MAX, false);
    bench.connect(2, &[2], usize::MAX, false);
    let (sender, mut answer) = tokio::sync::oneshot::channel();
    bench.lane.take(LaneMessage::Find(Arc::new([channel(2), channel(9)]), sender));
    let mut found: Vec<u64> = answer.try_recv().unwrap().into_iter().map(|(_, id)| id.0).collect();
    found.sort_unstable();
    assert_eq!(found, [1, 2]);
}
