//! Parsing and folding, row by row. `b30…b46` are rows of the catalogue of hostile input.

use std::collections::BTreeSet;

use proptest::prelude::*;

use crate::event::Delivery;
use crate::event::Id;
use crate::jobs::Field;
use crate::jobs::JobState;
use crate::jobs::JobUpdate;
use crate::jobs::Judgement;
use crate::jobs::Reject;
use crate::jobs::TerminalStatuses;
use crate::jobs::judge;

fn parse(text: &str) -> Result<JobUpdate, Reject> {
    JobUpdate::parse(text.as_bytes(), None)
}

fn good(fields: &str) -> JobUpdate {
    parse(&format!("{{\"jobId\":\"42\",\"status\":\"running\"{fields}}}")).expect("a valid update")
}

fn bad(fields: &str) -> Reject {
    parse(&format!("{{\"jobId\":\"42\",\"status\":\"running\"{fields}}}")).expect_err("an invalid update")
}

fn terminal() -> TerminalStatuses {
    TerminalStatuses::new(BTreeSet::from(["completed", "failed", "cancelled"].map(str::to_owned)))
}

#[test]
fn b30_what_is_no_json_object_is_dropped() {
    let cases: [(&[u8], Reject); 11] = [
        (b"", Reject::NotJson),
        (b"x", Reject::NotJson),
        (b"null", Reject::NotObject),
        (b"[]", Reject::NotObject),
        (b"\"x\"", Reject::NotObject),
        (b"17", Reject::NotObject),
        (b"{\"jobId\":\"42\"", Reject::NotJson),
        (b"{\"jobId\":\"42\",\"status\":\"running\"}{}", Reject::NotJson),
        (b"\xef\xbb\xbf{\"jobId\":\"42\",\"status\":\"running\"}", Reject::NotJson),
        (b"{\0\"\0}\0", Reject::NotJson),
        (b"{'jobId':'42'}", Reject::NotJson),
    ];
    for (bytes, reject) in cases {
        assert_eq!(JobUpdate::parse(bytes, None), Err(reject), "{bytes:?}");
    }
}

#[test]
fn b31_broken_text_is_dropped() {
    assert_eq!(JobUpdate::parse(b"{\"jobId\":\"\xff\",\"status\":\"running\"}", None), Err(Reject::NotUtf8));
    assert_eq!(
        JobUpdate::parse(b"{\"jobId\":\"4\",\"status\":\"running\",\"x\":\"\xc0\xaf\"}", None),
        Err(Reject::NotUtf8)
    );
    assert_eq!(bad(",\"message\":\"\\ud800\""), Reject::Message);
    assert_eq!(bad(",\"data\":{\"a\":\"\\ud800\"}"), Reject::Data);
    assert_eq!(parse("{\"jobId\":\"42\",\"status\":\"running\",\"message\":\"a\nb\"}"), Err(Reject::NotJson));
}

#[test]
fn b32_the_whole_is_bounded() {
    let fill = |len: usize| format!("{{\"jobId\":\"42\",\"status\":\"running\",\"x\":\"{}\"}}", "a".repeat(len));
    let frame = fill(0).len();
    assert!(parse(&fill(64 * 1024 - frame)).is_ok());
    assert_eq!(parse(&fill(64 * 1024 - frame + 1)), Err(Reject::TooLarge));
    assert_eq!(JobUpdate::parse(&vec![b'a'; 10 << 20], None), Err(Reject::TooLarge));
}

#[test]
fn b33_depth_and_size_are_bounded_without_recursion() {
    let nested = |depth: usize| {
        format!("{{\"jobId\":\"1\",\"status\":\"running\",\"x\":{}{}}}", "[".repeat(depth), "]".repeat(depth))
    };
    assert!(parse(&nested(15)).is_ok());
    for depth in [16, 33, 129, 30_000] {
        assert_eq!(parse(&nested(depth)), Err(Reject::TooDeep), "{depth}");
    }
    let digits = format!("{{\"jobId\":\"1\",\"status\":\"running\",\"progress\":{}}}", "9".repeat(60_000));
    assert!(matches!(parse(&digits), Err(Reject::Progress | Reject::NotJson)));
    let keys: String = (0..6000).map(|n| format!(",\"k{n}\":1")).collect();
    assert!(parse(&format!("{{\"jobId\":\"1\",\"status\":\"running\"{keys}}}")).is_ok());
}

#[test]
fn b34_progress_is_a_number_clamped_to_a_hundred() {
    let cases = [
        ("50", "50"),
        ("-1", "0"),
        ("100.0001", "100"),
        ("101", "100"),
        ("1e308", "100"),
        ("-0", "0"),
        ("-0.0", "0"),
        ("33.5", "33.5"),
        ("0", "0"),
        ("12.25", "12.25"),
    ];
    for (given, kept) in cases {
        assert_eq!(good(&format!(",\"progress\":{given}")).progress, Field::Set(kept.to_owned()), "{given}");
    }
    for given in ["\"50\"", "true", "[]", "{}", "1e400"] {
        let text = format!("{{\"jobId\":\"1\",\"status\":\"running\",\"progress\":{given}}}");
        assert!(matches!(parse(&text), Err(Reject::Progress | Reject::NotJson)), "{given}");
    }
    for given in ["NaN", "Infinity", "-Infinity", "+1", "01"] {
        let text = format!("{{\"jobId\":\"1\",\"status\":\"running\",\"progress\":{given}}}");
        assert_eq!(parse(&text), Err(Reject::NotJson), "{given}");
    }
    assert_eq!(good(",\"progress\":null").progress, Field::Clear);
    assert_eq!(good("").progress, Field::Keep);
}

#[test]
fn b35_a_status_is_a_lower_case_word() {
    for (given, kept) in [("RUNNING", "running"), ("timed_out", "timed_out"), ("step-2", "step-2")] {
        let update = parse(&format!("{{\"jobId\":\"1\",\"status\":\"{given}\"}}")).expect("valid");
        assert_eq!(update.status, kept);
    }
    let long = "a".repeat(33);
    for given in ["", "1st", "_x", "é", "a b", "completed\\nevent: reset", "a.b", &long, &"x".repeat(60_000)] {
        let text = format!("{{\"jobId\":\"1\",\"status\":\"{given}\"}}");
        assert_eq!(parse(&text), Err(Reject::Status), "{}", &given[..given.len().min(20)]);
    }
    for text in ["{\"jobId\":\"1\"}", "{\"jobId\":\"1\",\"status\":null}", "{\"jobId\":\"1\",\"status\":7}"] {
        assert_eq!(parse(text), Err(Reject::Status), "{text}");
    }
}

#[test]
fn b36_a_job_id_follows_the_grammar() {
    for given in
        ["", " 1", "a b", "../x", "a/b", "a\\u0000b", "é", "-1", ".x", "a\\r\\nb", "{x}", "a*", &"a".repeat(129)]
    {
        let text = format!("{{\"jobId\":\"{given}\",\"status\":\"running\"}}");
        assert_eq!(parse(&text), Err(Reject::JobId), "{given}");
    }
    for given in ["[]", "{}", "42", "null", "true"] {
        assert_eq!(parse(&format!("{{\"jobId\":{given},\"status\":\"running\"}}")), Err(Reject::JobId), "{given}");
    }
    assert_eq!(parse("{\"status\":\"running\"}"), Err(Reject::JobId));
    let path = Id::parse("42").expect("an id");
    assert!(JobUpdate::parse(b"{\"status\":\"running\"}", Some(&path)).is_ok());
    assert_eq!(JobUpdate::parse(b"{\"jobId\":\"43\",\"status\":\"running\"}", Some(&path)), Err(Reject::JobIdDiffers));
}

#[test]
fn b37_known_keys_come_once_and_unknown_ones_are_ignored() {
    assert_eq!(bad(",\"jobId\":\"43\""), Reject::DuplicateKey);
    assert_eq!(bad(",\"progress\":1,\"progress\":2"), Reject::DuplicateKey);
    good(",\"__proto__\":{\"x\":1},\"constructor\":1,\"channel\":\"user.eve\",\"event\":\"end\"");
}

#[test]
fn b38_line_breaks_between_tokens_do_not_survive() {
    let update =
        parse("{\"jobId\":\"42\",\n\r\n\"status\":\"running\",\n\"data\":{\n\"a\" : [1,\r\n2]}}").expect("valid");
    assert_eq!(update.data, Field::Set("{\"a\":[1,2]}".to_owned()));
}

#[test]
fn b39_what_looks_like_a_frame_stays_inside_one_string() {
    for text in [
        "\\r\\n\\r\\nevent: x\\ndata: {}",
        "\\r",
        "\\n\\n",
        "\\nid: 0",
        "\u{2028}\u{2029}\u{85}",
        "\\u0000",
        "\u{feff}x",
        " x",
        ":x",
    ] {
        let Field::Set(message) = good(&format!(",\"message\":\"{text}\"")).message else { panic!("set") };
        assert!(!message.contains(['\n', '\r', '\0']), "{message:?}");
        let (given, kept): (String, String) =
            (serde_json::from_str(&format!("\"{text}\"")).unwrap(), serde_json::from_str(&message).unwrap());
        assert_eq!(given, kept);
    }
}

#[test]
fn b40_an_update_id_becomes_a_digest() {
    let update = good(",\"updateId\":\"a\\r\\nb\\u0000<\"");
    assert!(update.update_id.expect("given").bytes().all(|b| b.is_ascii_hexdigit()));
    assert_eq!(bad(&format!(",\"updateId\":\"{}\"", "a".repeat(65))), Reject::UpdateId);
    assert_eq!(bad(",\"updateId\":\"\""), Reject::UpdateId);
    assert_eq!(bad(",\"updateId\":7"), Reject::UpdateId);
    assert_eq!(good(",\"updateId\":null").update_id, None);
}

#[test]
fn b41_timestamps_are_rfc_3339_or_nothing() {
    for given in
        ["2026-11-20T09:30:00Z", "2026-11-20T09:30:00.123456+02:00", "0001-01-01T00:00:00Z", "2016-12-31T23:59:60Z"]
    {
        assert_eq!(good(&format!(",\"timestamp\":\"{given}\"")).timestamp, Some(format!("\"{given}\"")));
    }
    for given in ["\"\"", "\"yesterday\"", "\"275760-09-13T00:00:00Z\"", "1763630000", "-1", "{}", "\"2026-11-20\""] {
        assert_eq!(bad(&format!(",\"timestamp\":{given}")), Reject::Timestamp, "{given}");
    }
    assert_eq!(good(",\"timestamp\":null").timestamp, None);
}

#[test]
fn b42_numbers_are_unsigned_and_large_ones_travel_as_text() {
    assert_eq!(good(",\"seq\":18446744073709551615").seq, Some(u64::MAX));
    for given in ["-1", "1.5", "18446744073709551616", "\"1\"", "[]"] {
        assert_eq!(bad(&format!(",\"seq\":{given}")), Reject::Seq, "{given}");
        assert_eq!(bad(&format!(",\"attempt\":{given}")), Reject::Attempt, "{given}");
    }
    let state = JobState { seq: Some((1 << 53) + 1), attempt: Some(2), ..JobState::default() };
    let json = state.to_json(&Id::parse("1").unwrap());
    assert!(json.contains("\"seq\":\"9007199254740993\"") && json.contains("\"attempt\":2"), "{json}");
}

#[test]
fn b43_markup_is_data() {
    let Field::Set(message) = good(",\"message\":\"<img onerror=x>\\u202e\"").message else { panic!("set") };
    assert_eq!(serde_json::from_str::<String>(&message).unwrap(), "<img onerror=x>\u{202e}");
}

#[test]
fn b45_a_message_that_pretends_to_be_of_another_kind_is_dropped() {
    assert_eq!(bad(",\"type\":\"presence.update\""), Reject::Type);
    assert_eq!(bad(",\"type\":7"), Reject::Type);
    good(",\"type\":\"job.update\"");
    assert_eq!(parse("1795225400584 17 99"), Err(Reject::NotObject));
    assert_eq!(parse("[\"42\",\"running\"]"), Err(Reject::NotObject));
}

#[test]
fn limits_of_each_field_hold_at_the_limit_and_one_beyond() {
    let text = |len: usize| "a".repeat(len);
    good(&format!(",\"message\":\"{}\"", text(4096)));
    assert_eq!(bad(&format!(",\"message\":\"{}\"", text(4097))), Reject::Message);
    good(&format!(",\"error\":{{\"code\":\"{}\",\"message\":\"{}\"}}", text(128), text(4096)));
    assert_eq!(bad(&format!(",\"error\":{{\"code\":\"{}\",\"message\":\"\"}}", text(129))), Reject::Error);
    assert_eq!(bad(&format!(",\"error\":{{\"code\":\"\",\"message\":\"{}\"}}", text(4097))), Reject::Error);
    for error in ["\"boom\"", "{}", "{\"code\":\"x\"}", "[\"a\",\"b\"]", "{\"code\":1,\"message\":\"\"}"] {
        assert_eq!(bad(&format!(",\"error\":{error}")), Reject::Error, "{error}");
    }
    let object = |len: usize| format!(",\"data\":{{\"a\":\"{}\"}}", text(len - 8));
    good(&object(16 * 1024));
    assert_eq!(bad(&object(16 * 1024 + 1)), Reject::Data);
    for data in ["[]", "1", "\"x\"", "{\"a\":1e999}"] {
        let got = parse(&format!("{{\"jobId\":\"1\",\"status\":\"running\",\"data\":{data}}}"));
        assert!(matches!(got, Err(Reject::Data | Reject::NotJson)), "{data}");
    }
}

/// A worker's life in the words of one test line: `status/attempt/seq`, and what is expected of each.
fn fold(steps: &[(&str, &str)]) {
    let mut state: Option<JobState> = None;
    for (step, expected) in steps {
        let mut parts = step.split('/');
        let status = parts.next().unwrap();
        let number = |name: &str, text: Option<&str>| {
            text.filter(|t| !t.is_empty()).map_or(String::new(), |t| format!(",\"{name}\":{t}"))
        };
        let (attempt, seq) = (number("attempt", parts.next()), number("seq", parts.next()));
        let update = parse(&format!("{{\"jobId\":\"1\",\"status\":\"{status}\"{attempt}{seq}}}")).unwrap();
        let got = match judge(state.as_ref(), &update, &terminal(), "\"now\"") {
            Judgement::Applied(next, delivery) => {
                state = Some(next);
                if delivery == Delivery::Latest { "latest" } else { "durable" }
            }
            Judgement::Rejected(reject) => reject.as_str(),
        };
        assert_eq!(got, *expected, "{step} in {steps:?}");
    }
}

#[test]
fn a_terminal_state_latches_until_a_new_attempt() {
    fold(&[
        ("queued", "durable"),
        ("running", "durable"),
        ("running", "latest"),
        ("completed", "durable"),
        ("running", "terminal"),
        ("queued", "terminal"),
    ]);
    fold(&[
        ("running", "durable"),
        ("failed", "durable"),
        ("running", "terminal"),
        ("queued", "durable"),
        ("running", "durable"),
        ("completed", "durable"),
    ]);
    fold(&[("failed", "durable"), ("retrying", "durable"), ("cancelled", "durable"), ("failed", "terminal")]);
    fold(&[
        ("running/1", "durable"),
        ("failed/1", "durable"),
        ("queued/1", "terminal"),
        ("queued", "terminal"),
        ("queued/2", "durable"),
        ("failed/1", "stale"),
    ]);
    fold(&[("completed", "durable"), ("running/1", "durable"), ("running", "latest")]);
}

#[test]
fn numbers_decide_order_where_they_are_given() {
    fold(&[
        ("running/1/5", "durable"),
        ("running/1/4", "stale"),
        ("running/1/5", "duplicate"),
        ("running/1/6", "latest"),
        ("running", "latest"),
        ("running/1/7", "latest"),
    ]);
    fold(&[
        ("running/2/1", "durable"),
        ("running/1/9", "stale"),
        ("running/3/1", "durable"),
        ("completed/3/2", "durable"),
        ("running/3/3", "terminal"),
    ]);
}

#[test]
fn absent_keeps_null_clears_and_a_new_attempt_clears_all() {
    let step = |state: Option<&JobState>, fields: &str| match judge(state, &good(fields), &terminal(), "\"now\"") {
        Judgement::Applied(state, _) => state,
        Judgement::Rejected(reject) => panic!("{reject:?}"),
    };
    let first = step(None, ",\"progress\":10,\"message\":\"a\",\"data\":{\"x\":1},\"seq\":3");
    let second = step(Some(&first), ",\"message\":null");
    assert_eq!((second.progress.as_deref(), second.message.as_deref()), (Some("10"), None));
    assert_eq!(second.data.as_deref(), Some("{\"x\":1}"));
    let third = step(Some(&second), ",\"attempt\":1");
    assert_eq!((third.progress, third.data, third.seq, third.attempt), (None, None, None, Some(1)));
}

#[test]
fn a_state_reads_back_as_it_was_written() {
    let update = good(
        ",\"progress\":1.5,\"message\":\"a\\\"\",\"error\":{\"code\":\"c\",\"message\":\"m\"},\"data\":{\"k\":[1]},\"attempt\":1,\"seq\":18446744073709551615",
    );
    let Judgement::Applied(state, _) = judge(None, &update, &terminal(), "\"2026-01-01T00:00:00Z\"") else {
        panic!("applied")
    };
    assert_eq!(JobState::from_json(&state.to_json(&update.job)), Some(state.clone()));
    assert!(state.to_snapshot_json(&update.job).ends_with(",\"snapshot\":true}"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    /// Strings and depth: what is usual goes a short way, and comes to the same.
    #[test]
    fn short_ways_come_to_the_same(text in "[a-z\"\\\\nu0\\[{ ü]{0,12}", brackets in 0usize..40) {
        let quoted = format!("\"{text}\"");
        let expected = serde_json::from_str::<String>(&quoted).ok().map(|text| serde_json::to_string(&text).unwrap());
        let update = parse(&format!("{{\"jobId\":\"42\",\"status\":\"running\",\"message\":{quoted}}}"));
        prop_assert_eq!(update.ok().map(|update| update.message), expected.map(Field::Set));
        let nested = format!("{{\"x\":{}{}}}", "[".repeat(brackets), "]".repeat(brackets));
        let update = parse(&format!("{{\"jobId\":\"42\",\"status\":\"running\",\"data\":{nested}}}"));
        prop_assert_eq!(update.err(), (brackets + 2 > 16).then_some(Reject::TooDeep).or((brackets == 0).then_some(Reject::NotJson)));
    }
}
