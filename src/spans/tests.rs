//! What goes out, byte for byte where it is short, and what a publisher may say.

use crate::event::Trace;
use crate::spans::Span;
use crate::spans::Value;
use crate::spans::otlp;

const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

fn trace() -> Trace {
    Trace::parse(&format!("00-{ID}-00f067aa0ba902b7-01")).unwrap()
}

#[test]
fn a_traceparent_is_read_by_its_grammar() {
    let good = trace();
    assert_eq!(good.to_string(), format!("00-{ID}-00f067aa0ba902b7-01"));
    assert_eq!((good.name().as_str(), good.below(1).to_string().ends_with("-0000000000000001-01")), (ID, true));
    for other in [
        format!("00-{ID}-00f067aa0ba902b7-03"),
        format!("cc-{ID}-00f067aa0ba902b7-01"),
        format!("cc-{ID}-00f067aa0ba902b7-01-what-comes-later"),
    ] {
        assert_eq!(Trace::parse(&other), Some(good), "{other}");
    }
    let zero = "0".repeat(32);
    for none in [
        String::new(),
        format!("00-{ID}-00f067aa0ba902b7-00"),
        format!("00-{ID}-00f067aa0ba902b7-01-more"),
        format!("00-{ID}-00f067aa0ba902b7-01."),
        format!("cc-{ID}-00f067aa0ba902b7-01."),
        format!("ff-{ID}-00f067aa0ba902b7-01"),
        format!("00-{zero}-00f067aa0ba902b7-01"),
        format!("00-{ID}-0000000000000000-01"),
        format!("00-{}-00f067aa0ba902b7-01", ID.to_uppercase()),
        format!("00-{ID}-00f067aa0ba902b7"),
        format!("00-{ID}00f067aa0ba902b7--01"),
        format!("00-{ID}-+0f067aa0ba902b7-01"),
        format!("00-{ID}-00f067aa0ba902bä-01"),
        "-".repeat(55),
    ] {
        assert_eq!(Trace::parse(&none), None, "{none}");
    }
}

/// Checked against the tags of `trace.proto` by hand; `tests/it/traces.rs` reads it with somebody else's decoder.
#[test]
fn a_request_is_protobuf() {
    let span = Span {
        trace: trace(),
        id: 0x0102_0304_0506_0708,
        name: "append",
        begun_us: 2,
        ended_us: 1,
        attributes: vec![("n", Value::Number(3))],
        failed: true,
    };
    let bytes = otlp::request(&[("service.name", "t".to_owned())], vec![span]);
    let holds = |part: &[u8]| bytes.windows(part.len()).any(|window| window == part);
    assert!(holds(b"\x0a\x10\x4b\xf9\x2f\x35"), "field 1, 16 bytes: the trace");
    assert!(holds(b"\x12\x08\x01\x02\x03\x04\x05\x06\x07\x08\x22\x08\x00\xf0\x67"), "fields 2 and 4: span and parent");
    assert!(
        holds(b"\x2a\x06append\x30\x01\x39\xd0\x07\0\0\0\0\0\0\x41\xd0\x07\0\0"),
        "5 to 8; an end is not before its beginning"
    );
    assert!(holds(b"\x0a\x01n\x12\x02\x18\x03"), "an attribute that is a number");
    assert!(holds(b"\x7a\x02\x18\x02\x85\x01\x01\0\0\0"), "15 and 16: an error, sampled");
}
