//! The words, and the window against a naive model.

use std::sync::Arc;

use proptest::prelude::*;

use crate::event::Channel;
use crate::event::Cursor;
use crate::event::Delivery;
use crate::event::Entry;
use crate::event::Epoch;
use crate::event::Event;
use crate::event::EventLog;
use crate::event::EventName;
use crate::event::Fingerprint;
use crate::event::Kind;
use crate::event::LogId;
use crate::event::Lookup;
use crate::event::WindowLimits;

#[test]
fn b20_to_b24_channel_names_have_one_spelling() {
    let long = format!("jobs.{}", "a".repeat(129));
    let bad = [
        "",
        "jobs",
        "jobs.",
        ".jobs",
        "jobs.*",
        "jobs.>",
        "jobs.#",
        "jobs.[a-z]",
        "*",
        "JOBS.1",
        "jobs/1",
        "jobs..1",
        "Jobs.1",
        "jobs%2e1",
        "jobs.%31",
        "jobs.\u{ff0e}1",
        "jobs.é",
        "jobs.e\u{301}",
        "jobs.\u{200b}1",
        "jobs.1\u{202e}",
        "jobs.1\0",
        "jobs.1\r\n",
        "jobs.1\n",
        " jobs.1",
        "jobs. 1",
        "jobs.1'; DROP TABLE jobs;--",
        "jobs.1 OR 1=1",
        "jobs.$1",
        "jobs.-1",
        "jobs.\r\n*1\r\n$8\r\nFLUSHALL",
        "jobs.{tag}",
        "jobs.__meta",
        "jobs.🎉",
        "rooms.1",
        "admin.1",
        "job.1",
        &long,
    ];
    for name in bad {
        assert!(Channel::parse(name).is_err(), "{name:?}");
    }
    let good = [
        "jobs.1",
        "jobs.1.2",
        "docs.a:b",
        "user.auth0|5f7c",
        "presence.a@b~c-d_e",
        "jobs.1e3",
        "jobs.9223372036854775808",
    ];
    for name in good {
        let channel = Channel::parse(name).expect(name);
        assert_eq!(channel.as_str(), name);
        assert_eq!(format!("{}.{}", channel.kind().as_str(), channel.id()), name);
    }
}

#[test]
fn event_names_are_safe_on_a_line_and_ours_are_ours() {
    for name in ["", "A", "1a", "a b", "a\nb", "a\rdata: x", &"a".repeat(65), "é"] {
        assert!(EventName::parse_published(name).is_err(), "{name:?}");
    }
    for name in [
        "connected",
        "ready",
        "reset",
        "end",
        "heartbeat",
        "problem",
        "error",
        "job:update",
        "presence:update",
        "presence:x",
    ] {
        assert!(EventName::parse_published(name).is_err(), "{name}");
    }
    for name in ["doc:update", "notification", "comment.added", "job:finished", "x"] {
        assert!(EventName::parse_published(name).is_ok(), "{name}");
    }
}

#[test]
fn b50_garbage_is_no_cursor_and_a_cursor_is_short_and_plain() {
    let long = "a".repeat(255);
    let garbage = [
        "",
        "0",
        "-1",
        "99999999999999-0",
        "1:",
        &long,
        "é",
        "\0",
        "[[[0,13,[9]]]]",
        "a,b",
        "1.0.0-0",
        "1.0.0-0.0.0",
        "2.0.0-0.0",
        "1.A.0-0.0",
        "1.00.0-0.0",
        "1.zzzzzzzzzzzzzz.0-0.0",
        "1.+1.0-0.0",
    ];
    for text in garbage {
        assert!(text.parse::<Cursor>().is_err(), "{text:?}");
    }
    let largest =
        Cursor { epoch: Epoch(u64::MAX), at: LogId { ms: u64::MAX, seq: u64::MAX }, print: Fingerprint(u64::MAX) };
    let text = largest.to_string();
    assert!(text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)), "{text}");
}

proptest! {
    #[test]
    fn a_cursor_reads_back(epoch: u64, ms: u64, seq: u64, print: u64) {
        let cursor = Cursor { epoch: Epoch(epoch), at: LogId { ms, seq }, print: Fingerprint(print) };
        prop_assert_eq!(cursor.to_string().parse::<Cursor>(), Ok(cursor));
    }

    #[test]
    fn b50_any_text_is_a_cursor_or_is_not(text in "\\PC{0,80}") {
        if let Ok(cursor) = text.parse::<Cursor>() {
            prop_assert_eq!(cursor.to_string(), text);
        }
    }

    #[test]
    fn a_version_keeps_the_order_of_the_log(a in 0u64..(1 << 42), b in 0u64..(1 << 42), x in 0u64..(1 << 20), y in 0u64..(1 << 20)) {
        let (one, two) = (LogId { ms: a, seq: x }, LogId { ms: b, seq: y });
        prop_assert_eq!(one.cmp(&two), one.version().cmp(&two.version()));
        prop_assert_eq!(LogId::from_version(one.version()), one);
    }
}

fn entry(n: u64, channel: Option<u8>) -> Arc<Entry> {
    let event = channel.map(|channel| Event {
        channel: Channel::parse(&format!("jobs.{channel}")).unwrap(),
        name: EventName::JOB_UPDATE,
        data: "{}".into(),
        delivery: Delivery::Durable,
        terminal: false,
        accepted_us: 0,
    });
    Arc::new(Entry { id: LogId { ms: n, seq: 0 }, print: Fingerprint(n * 7 + 1), event, judged: None, trace: None })
}

#[derive(Debug, Clone)]
enum Step {
    Push(Option<u8>, u64),
    Trim(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let push = (proptest::option::weighted(0.8, 0u8..5), 1u64..4).prop_map(|(channel, gap)| Step::Push(channel, gap));
    let trim = (0u64..8).prop_map(Step::Trim);
    proptest::collection::vec(prop_oneof![8 => push, 1 => trim], 0..200)
}

proptest! {
    /// The window answers as a plain list of all entries would, and never claims more than it has.
    #[test]
    fn the_window_is_a_suffix_of_the_log(steps in steps(), max in 1usize..40, probe in 0u64..500) {
        let limits = WindowLimits { entries_max: max, bytes_max: usize::MAX };
        let mut log = EventLog::new(Epoch(1), (LogId::ZERO, Fingerprint(0)), limits);
        let mut all: Vec<Arc<Entry>> = Vec::new();
        let mut now = 0;
        for step in steps {
            match step {
                Step::Push(channel, gap) => {
                    now += gap;
                    all.push(entry(now, channel));
                    log.push(Arc::clone(all.last().unwrap()));
                }
                Step::Trim(behind) => log.trim_before(LogId { ms: now.saturating_sub(behind), seq: 0 }),
            }
            log.check_invariants();
        }
        prop_assert!(log.len() <= max);
        let kept: Vec<Arc<Entry>> = all.iter().filter(|e| e.id > log.floor()).cloned().collect();
        prop_assert_eq!(log.iter().cloned().collect::<Vec<_>>(), kept.clone());
        let at = LogId { ms: probe, seq: 0 };
        let channels = [Channel::parse("jobs.1").unwrap(), Channel::parse("jobs.3").unwrap()];
        let wanted: Vec<Arc<Entry>> = kept.iter()
            .filter(|e| e.id > at && e.event.as_ref().is_some_and(|event| channels.contains(&event.channel)))
            .cloned().collect();
        prop_assert_eq!(log.range(channels.iter(), at, LogId { ms: u64::MAX, seq: 0 }, usize::MAX), wanted.clone());
        prop_assert_eq!(log.last(&channels[0], at), kept.iter().rev().find(|e| e.id <= at && e.event.as_ref().is_some_and(|v| v.channel == channels[0])));
        let right = all.iter().find(|e| e.id == at).map(|e| e.print);
        let cursor = |print| Cursor { epoch: Epoch(1), at, print };
        let expected = |print| {
            if at < log.floor() { Lookup::Older }
            else if at > log.head().at { Lookup::Newer }
            else if right == Some(print) || (at == LogId::ZERO && print == Fingerprint(0)) { Lookup::Here }
            else { Lookup::Refuted }
        };
        for print in [Fingerprint(0), right.unwrap_or(Fingerprint(5)), Fingerprint(99_999)] {
            prop_assert_eq!(log.lookup(&cursor(print)), expected(print));
        }
        prop_assert_eq!(log.lookup(&Cursor { epoch: Epoch(2), at, print: Fingerprint(1) }), Lookup::Refuted);
    }
}

#[test]
fn a_window_is_bounded_in_bytes() {
    let mut log =
        EventLog::new(Epoch(1), (LogId::ZERO, Fingerprint(0)), WindowLimits { entries_max: 1000, bytes_max: 2000 });
    for n in 1..100 {
        log.push(entry(n, Some(1)));
        log.check_invariants();
        assert!(log.bytes() <= 2000);
    }
    assert!(log.len() > 2);
}

#[test]
fn kinds_have_the_words_of_the_protocol() {
    assert_eq!(Kind::ALL.map(Kind::as_str), ["jobs", "docs", "presence", "user"]);
}
