//! Rows that no database should hold, but some do.

use std::collections::BTreeSet;

use proptest::prelude::Strategy;
use proptest::prelude::any;
use proptest::proptest;

use crate::event::Id;
use crate::event::LogId;
use crate::jobs::JobState;
use crate::jobs::TerminalStatuses;
use crate::store::Role;
use crate::store::StoreError;
use crate::store::answer;
use crate::store::answer::RawJob;
use crate::store::writes;

fn terminal() -> TerminalStatuses {
    TerminalStatuses::new(BTreeSet::from(["failed".to_owned()]))
}

fn row(change: impl FnOnce(&mut RawJob)) -> Option<JobState> {
    let mut raw = RawJob { status: Some("running".to_owned()), ..RawJob::default() };
    change(&mut raw);
    answer::job(raw, &terminal()).state
}

#[test]
fn statuses() {
    for (status, wanted) in
        [("running", Some(false)), ("Failed", Some(true)), ("", None), ("no way", None), ("a\n", None)]
    {
        let state = row(|raw| raw.status = Some(status.to_owned()));
        assert_eq!(state.map(|state| state.terminal), wanted, "{status:?}");
    }
    assert_eq!(row(|raw| raw.status = None), None);
}

#[test]
fn progress_in_our_spelling_or_absent() {
    let cases = [
        ("50", Some("50")),
        ("50.0", Some("50")),
        ("-0", Some("0")),
        ("100", Some("100")),
        ("12.5", Some("12.5")),
        ("1e1", Some("10")),
        ("100.0001", None),
        ("-1", None),
        ("NaN", None),
        ("Infinity", None),
        ("", None),
        ("fifty", None),
        ("1e400", None),
    ];
    for (text, wanted) in cases {
        assert_eq!(row(|raw| raw.progress = Some(text.to_owned())).unwrap().progress.as_deref(), wanted, "{text}");
    }
}

#[test]
fn times_or_the_beginning_of_time() {
    let cases = [
        ("1763632800123", "\"2025-11-20T10:00:00.123Z\""),
        ("1763632800123.456000", "\"2025-11-20T10:00:00.123Z\""),
        ("0", "\"1970-01-01T00:00:00.000Z\""),
        ("-62167219200000", "\"0000-01-01T00:00:00.000Z\""),
        ("253402300799999", "\"9999-12-31T23:59:59.999Z\""),
        ("253402300800000", "\"1970-01-01T00:00:00.000Z\""),
        ("Infinity", "\"1970-01-01T00:00:00.000Z\""),
        ("soon", "\"1970-01-01T00:00:00.000Z\""),
    ];
    for (ms, wanted) in cases {
        assert_eq!(row(|raw| raw.updated_ms = Some(ms.to_owned())).unwrap().timestamp, wanted, "{ms}");
    }
}

#[test]
fn errors_are_objects_of_two_texts() {
    let good = "{\"code\":\"E\",\"message\":\"m\"}";
    let cases = [
        ("{ \"message\": \"m\", \"code\": \"E\", \"x\": 1 }", Some(good)),
        ("[\"E\",\"m\"]", None),
        ("{\"code\":\"E\"}", None),
        ("\"E\"", None),
        ("null", None),
        ("{", None),
        ("{\"code\":1,\"message\":\"m\"}", None),
    ];
    for (text, wanted) in cases {
        assert_eq!(row(|raw| raw.error = Some(text.to_owned())).unwrap().error.as_deref(), wanted, "{text}");
    }
}

#[test]
fn roles_are_four_words() {
    for role in Role::ALL {
        assert_eq!(Role::parse(role.as_str()), Some(role));
    }
    for word in ["", "Owner", "owner ", "admin", "owner\n", "own"] {
        assert_eq!(Role::parse(word), None, "{word:?}");
    }
    assert_eq!(Role::ALL.map(Role::can_edit), [true, true, false, false]);
}

#[test]
fn the_newest_of_a_batch_is_written() {
    let id = |text: &str| Id::parse(text).unwrap();
    let state =
        |status: &str| JobState { status: status.to_owned(), timestamp: "\"x\"".to_owned(), ..JobState::default() };
    let at = |ms| LogId { ms, seq: 0 };
    let batch = [(id("b"), state("one"), at(1)), (id("a"), state("two"), at(3)), (id("a"), state("three"), at(2))];
    let writes = writes::newest(&batch);
    let told: Vec<_> = writes.iter().map(|w| (w.id.as_str(), w.status.as_str(), w.updated_ms)).collect();
    assert_eq!(told, [("a", "two", None), ("b", "one", None)]);
}

#[test]
fn advice_is_one_line() {
    let error = StoreError::Query { query: "users", source: Box::new(sqlx::Error::Protocol("a\r\nb".repeat(1000))) };
    let advice = error.advice();
    assert!(!advice.contains(['\r', '\n']) && advice.len() < 500);
}

fn text() -> impl Strategy<Value = Option<String>> {
    proptest::option::of(proptest::prelude::prop_oneof![
        ".*",
        "[0-9.e-]{0,30}",
        "\\{.*\\}",
        any::<i64>().prop_map(|n| n.to_string())
    ])
}

proptest! {
    /// I-42: no row panics, and whatever comes out of one is a line of valid JSON.
    #[test]
    fn any_row_is_a_valid_event(fields in proptest::collection::vec(text(), 10)) {
        let mut fields = fields.into_iter();
        let mut next = || fields.next().flatten();
        let raw = RawJob {
            owner: next(), status: Some("running".to_owned()), progress: next(), message: next(), error: next(), data: next(),
            attempt: next(), seq: next(), version: next(), updated_ms: next(),
        };
        let state = answer::job(raw, &terminal()).state.unwrap();
        let json = state.to_json(&Id::parse("j").unwrap());
        assert!(!json.contains(['\n', '\r']));
        serde_json::from_str::<serde_json::Value>(&json).unwrap();
        assert_eq!(writes::newest(&[(Id::parse("j").unwrap(), state, LogId::ZERO)]).len(), 1);
    }

    #[test]
    fn any_name_is_one_line(name in ".*", avatar in text()) {
        let user = answer::user(Id::parse("ada").unwrap(), Some(&name), avatar, false);
        assert!(!user.name.is_empty() && !user.name.contains(char::is_control));
    }
}
