//! Lives and what follows from them, and the bounds of what is remembered.

use std::collections::HashMap;

use arcstr::ArcStr;

use crate::event::Channel;
use crate::event::Id;
use crate::event::LogId;
use crate::inspect::Conflated;
use crate::inspect::Inspector;
use crate::inspect::LifeView;
use crate::inspect::Opened;
use crate::inspect::Outcome;
use crate::inspect::Standing;
use crate::inspect::Way;
use crate::inspect::ledger::ENDED_MAX;
use crate::inspect::ledger::ENDED_OF_USER_MAX;
use crate::inspect::ledger::Ledger;
use crate::inspect::ledger::OPEN_MAX;
use crate::inspect::life::CONFLATED_MAX;
use crate::inspect::life::DENIED_MAX;
use crate::inspect::life::PAST_MAX;
use crate::telemetry::Metrics;

fn at(ms: u64) -> LogId {
    LogId { ms, seq: 0 }
}

fn channel(name: &str) -> Channel {
    Channel::parse(name).unwrap()
}

fn ledger() -> (Ledger, Id) {
    (Ledger::new(Metrics::new()), Id::parse("ada").unwrap())
}

fn opening<'a>(user: &'a Id, connection: u64, channels: &[&str], resume: Option<u64>) -> Opened<'a> {
    Opened {
        connection,
        user,
        session: None,
        transport: "sse",
        channels: channels.iter().map(|name| channel(name)).collect(),
        denied: Vec::new(),
        verdict: if resume.is_some() { "resumed" } else { "live" },
        reset: None,
        resume: resume.map(at),
    }
}

fn lives(ledger: &Ledger, user: &Id, of: &str, ms: u64, live: &[(u64, Standing)]) -> Vec<LifeView> {
    let live: HashMap<u64, Standing> = live.iter().copied().collect();
    ledger.account("n".to_owned(), user, Some((&channel(of), &[at(ms)])), &live, at(1000)).lives
}

/// Of the newest life, which a lane carries that has come to `head` and has written everything before `from`.
fn fate(ledger: &Ledger, user: &Id, of: &str, ms: u64, (head, from): (u64, Option<u64>)) -> (Outcome, String) {
    let open = ledger.open_of(user).first().copied().unwrap_or_default();
    let standing = Standing { head: at(head), waiting_from: from.map(at), events: 3, bytes: 900 };
    let life = lives(ledger, user, of, ms, &[(open, standing)]).remove(0);
    (life.fates[0].outcome, life.fates[0].says.clone())
}

#[test]
fn an_interval_says_what_was_before_in_and_after_it() {
    let (ledger, ada) = ledger();
    ledger.opened(opening(&ada, 1, &["jobs.a"], None));
    assert_eq!(fate(&ledger, &ada, "jobs.a", 5, (10, None)).0, Outcome::CatchingUp);
    ledger.settled(1, at(10));
    ledger.joined(1, at(12), Way::Socket);
    let of = |ms, head, from| fate(&ledger, &ada, "jobs.a", ms, (head, from)).0;
    assert_eq!(of(10, 20, None), Outcome::Before);
    assert_eq!(of(11, 20, None), Outcome::Written);
    assert_eq!(of(20, 20, None), Outcome::Written);
    assert_eq!(of(21, 20, None), Outcome::NotReached, "the lane is behind");
    assert_eq!(of(1001, 1000, None), Outcome::NotReached, "the log of this node is behind");
    assert_eq!((of(14, 20, Some(15)), of(15, 20, Some(15))), (Outcome::Written, Outcome::Queued));
    assert_eq!(fate(&ledger, &ada, "jobs.b", 15, (20, None)).0, Outcome::NotSubscribed);
    ledger.stopped(1, at(30), Some(at(28)));
    ledger.ended(1, "slow");
    let of = |ms| fate(&ledger, &ada, "jobs.a", ms, (1000, None)).0;
    assert_eq!([of(27), of(28), of(31)], [Outcome::Written, Outcome::NotWritten, Outcome::After]);
}

#[test]
fn channels_come_and_go() {
    let (ledger, ada) = ledger();
    ledger.opened(Opened {
        denied: vec![("docs.d".to_owned(), "PERMISSION_DENIED"), ("user.me".to_owned(), "CONNECTION_LOST")],
        ..opening(&ada, 1, &["jobs.a"], None)
    });
    ledger.joined(1, at(10), Way::Queue);
    let of = |name: &str, ms| fate(&ledger, &ada, name, ms, (100, None));
    assert_eq!(
        of("docs.d", 20),
        (Outcome::Denied, "the stream asked for the channel and was refused (PERMISSION_DENIED)".into())
    );
    assert_eq!(of("user.ada", 20).0, Outcome::Denied, "by the client's own spelling");
    ledger.channel_joined(1, &channel("docs.d"), at(30));
    assert_eq!((of("docs.d", 30).0, of("docs.d", 31).0), (Outcome::NotYetSubscribed, Outcome::Written));
    ledger.leaving(1, &[channel("docs.d")], |_| "revoked");
    ledger.channel_left(1, &channel("docs.d"), at(40), Some(at(38)));
    assert_eq!(
        [of("docs.d", 37).0, of("docs.d", 38).0, of("docs.d", 41).0],
        [Outcome::Written, Outcome::TakenBack, Outcome::Left]
    );
    assert!(of("docs.d", 41).1.contains("revoked"));
    ledger.channel_joined(1, &channel("docs.d"), at(50));
    assert_eq!(
        [of("docs.d", 45).0, of("docs.d", 51).0, of("docs.d", 37).0],
        [Outcome::Left, Outcome::Written, Outcome::Written]
    );
    assert_eq!(ledger.recent().revocations.back().unwrap().what, "revoked");
    assert_eq!(ledger.recent().refusals.len(), 1);
}

#[test]
fn a_resumed_stream_has_the_replay_and_a_reset_one_has_not() {
    let (ledger, ada) = ledger();
    ledger.opened(opening(&ada, 1, &["jobs.a"], Some(10)));
    ledger.settled(1, at(50));
    ledger.joined(1, at(50), Way::Socket);
    let (outcome, says) = fate(&ledger, &ada, "jobs.a", 20, (60, None));
    assert!(outcome == Outcome::Written && says.contains("replay"), "{says}");
    assert_eq!(fate(&ledger, &ada, "jobs.a", 10, (60, None)).0, Outcome::Before);
    assert!(!fate(&ledger, &ada, "jobs.a", 55, (60, None)).1.contains("replay"));
    ledger.stopped(1, at(60), Some(at(58)));
    ledger.reset(1, "history_rewritten", at(70));
    ledger.joined(1, at(70), Way::Socket);
    let of = |ms| fate(&ledger, &ada, "jobs.a", ms, (90, None)).0;
    assert_eq!([of(57), of(59), of(65), of(71)], [Outcome::Written, Outcome::Reset, Outcome::Reset, Outcome::Written]);
}

#[test]
fn what_was_superseded_is_known_by_runs() {
    let (ledger, ada) = ledger();
    ledger.opened(opening(&ada, 1, &["jobs.a"], None));
    ledger.joined(1, at(10), Way::Socket);
    let superseded = |from, into| Conflated { channel: channel("jobs.a"), from: at(from), into: at(into) };
    ledger.unsent(1, (20..40).map(|n| superseded(n, n + 1)).collect(), None);
    let of = |ms| fate(&ledger, &ada, "jobs.a", ms, (100, None));
    assert_eq!(of(20).0, Outcome::Conflated);
    assert!(of(20).1.contains("40-0"), "what was sent instead: {}", of(20).1);
    assert_eq!((of(39).0, of(40).0, of(19).0), (Outcome::Conflated, Outcome::Written, Outcome::Written));
    // Runs that do not follow each other, one more than are remembered: what was before is not claimed any more.
    for n in 0..CONFLATED_MAX as u64 {
        ledger.unsent(1, vec![superseded(50 + 10 * n, 55 + 10 * n)], None);
    }
    assert_eq!((of(25).0, of(41).0), (Outcome::Unknown, Outcome::Written));
    assert_eq!(lives(&ledger, &ada, "jobs.a", 1, &[])[0].superseded, 20 + CONFLATED_MAX as u64);
}

#[test]
fn polls_of_one_client_are_one_life() {
    let (ledger, ada) = ledger();
    let poll = |connection, session: Option<&str>, resume| Opened {
        transport: "poll",
        session: session.map(ArcStr::from),
        ..opening(&ada, connection, &["jobs.a"], resume)
    };
    let told = |connection, upto| {
        ledger.joined(connection, at(upto), Way::Queue);
        ledger.told(connection, at(upto));
        ledger.stopped(connection, at(upto + 5), None);
        ledger.ended(connection, "client_gone");
    };
    ledger.opened(poll(1, Some("tab-0001"), None));
    told(1, 10);
    assert_eq!(fate(&ledger, &ada, "jobs.a", 12, (100, None)).0, Outcome::NotWritten, "no answer has told it");
    ledger.opened(poll(2, Some("tab-0001"), Some(10)));
    told(2, 20);
    ledger.opened(poll(3, Some("tab-0002"), None));
    told(3, 20);
    // Without a name, by the cursor.
    ledger.opened(poll(4, None, None));
    told(4, 30);
    ledger.opened(poll(5, None, Some(30)));
    told(5, 40);
    let lives = lives(&ledger, &ada, "jobs.a", 15, &[]);
    assert_eq!(lives.iter().map(|life| life.connections).collect::<Vec<_>>(), [2, 1, 2]);
    assert_eq!(lives[2].fates[0].outcome, Outcome::Written, "{:?}", lives[2]);
    // One that says nothing of where it is begins anew, under the same name.
    ledger.opened(poll(6, Some("tab-0001"), None));
    ledger.joined(6, at(50), Way::Queue);
    assert_eq!(fate(&ledger, &ada, "jobs.a", 40, (100, None)).0, Outcome::Reset);
    assert_eq!(ledger.check(), (3, 1));
}

#[test]
fn ended_lives_are_bounded_in_all_and_of_each_user() {
    let (ledger, _) = ledger();
    let user = |n: u64| Id::parse(&format!("u{n}")).unwrap();
    for n in 0..=ENDED_OF_USER_MAX as u64 {
        ledger.opened(opening(&user(0), n, &["jobs.a"], None));
        ledger.ended(n, "done");
    }
    assert_eq!(ledger.check(), (ENDED_OF_USER_MAX, 1));
    for n in 1..=ENDED_MAX as u64 {
        ledger.opened(opening(&user(n), 1000 + n, &["jobs.a"], None));
        ledger.ended(1000 + n, "done");
        if n == 1 {
            assert_eq!(ledger.check(), (ENDED_OF_USER_MAX + 1, 2));
        }
    }
    assert_eq!(ledger.check(), (ENDED_MAX, ENDED_MAX), "the oldest went, and their user with them");
}

#[test]
fn open_lives_are_bounded() {
    let metrics = Metrics::new();
    let inspector = Inspector::new(true, &metrics);
    let ledger = inspector.ledger().unwrap();
    let ada = Id::parse("ada").unwrap();
    (0..OPEN_MAX as u64 + 1).for_each(|n| ledger.opened(opening(&ada, n, &[], None)));
    assert_eq!(ledger.check(), (OPEN_MAX, 1));
    assert_eq!(metrics.inspector_forgotten.with_label_values(&["open"]).get(), 1);
    // What is not remembered changes nothing.
    ledger.joined(OPEN_MAX as u64, at(1), Way::Socket);
    ledger.ended(OPEN_MAX as u64, "done");
    ledger.ended(0, "done");
    assert_eq!(ledger.check(), (OPEN_MAX, 1));
}

#[test]
fn what_a_life_remembers_is_bounded() {
    let (ledger, ada) = ledger();
    let denied = (0..=DENIED_MAX).map(|n| (format!("x{n}"), "CHANNEL_NOT_FOUND")).collect();
    ledger.opened(Opened { denied, ..opening(&ada, 1, &["jobs.a"], None) });
    ledger.joined(1, at(1), Way::Socket);
    ledger.denied(1, vec![("y".to_owned(), "PERMISSION_DENIED")]);
    for n in 1..=PAST_MAX as u64 + 1 {
        ledger.channel_joined(1, &channel("docs.d"), at(10 * n));
        ledger.leaving(1, &[channel("docs.d")], |_| "request");
        ledger.leaving(1, &[channel("docs.d")], |_| "request");
        ledger.channel_left(1, &channel("docs.d"), at(10 * n + 5), None);
    }
    let life = lives(&ledger, &ada, "docs.d", 12, &[]).remove(0);
    assert_eq!(life.denied.len(), DENIED_MAX);
    assert_eq!(life.denied.last().unwrap().0, "y");
    assert_ne!(life.fates[0].outcome, Outcome::Written, "its interval is forgotten: {:?}", life.fates[0]);
    (0..1000).for_each(|_| ledger.refused(&ada, ["jobs.x"].into_iter(), "PERMISSION_DENIED"));
    (0..1000).for_each(|_| ledger.rejected(&channel("jobs.a"), "redis", "terminal"));
    let recent = ledger.recent();
    assert!(recent.refusals.len() < 100 && recent.limits.is_empty(), "{}", recent.refusals.len());
    assert!(recent.rejections.len() < 100 && recent.rejections[0].what == "redis: terminal");
}

#[test]
fn turned_off_it_is_a_pointer_and_asks_nothing() {
    let inspector = Inspector::new(false, &Metrics::new());
    assert!(!inspector.is_on() && inspector.ledger().is_none());
    assert_eq!(size_of::<Inspector>(), size_of::<usize>());
    inspector.note(|_| panic!("nobody wants to know"));
}
