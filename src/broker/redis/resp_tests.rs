//! Our reader of RESP against bytes of all kinds, cut everywhere.

use proptest::prelude::*;
use redis::Value;

use crate::broker::redis::resp::Garbled;
use crate::broker::redis::resp::Scan;
use crate::broker::redis::resp::error;
use crate::broker::redis::resp::parse;

fn spell(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Nil => out.extend_from_slice(b"$-1\r\n"),
        Value::Int(number) => out.extend_from_slice(format!(":{number}\r\n").as_bytes()),
        Value::Okay => out.extend_from_slice(b"+OK\r\n"),
        Value::SimpleString(text) => out.extend_from_slice(format!("+{text}\r\n").as_bytes()),
        Value::BulkString(bytes) => {
            out.extend_from_slice(format!("${}\r\n", bytes.len()).as_bytes());
            out.extend_from_slice(bytes);
            out.extend_from_slice(b"\r\n");
        }
        Value::Array(values) => {
            out.extend_from_slice(format!("*{}\r\n", values.len()).as_bytes());
            values.iter().for_each(|value| spell(value, out));
        }
        other => unreachable!("{other:?} is not RESP 2"),
    }
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Nil),
        Just(Value::Okay),
        any::<i64>().prop_map(Value::Int),
        "[a-z ]{0,8}".prop_map(|text| Value::SimpleString(format!("{text}x"))),
        proptest::collection::vec(any::<u8>(), 0..20).prop_map(Value::BulkString),
        proptest::sample::select(vec!["\r\n", "$3\r\n", "*1\r\n"]).prop_map(|text| Value::BulkString(text.into())),
    ];
    leaf.prop_recursive(5, 60, 8, |inner| proptest::collection::vec(inner, 0..8).prop_map(Value::Array))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    /// However it is cut on its way, an answer is found to end where it ends, and is read as it was written.
    #[test]
    fn an_answer_reads_back(value in any_value(), step in 1_usize..9, more in 0_usize..3) {
        let mut bytes = Vec::new();
        spell(&value, &mut bytes);
        let length = bytes.len();
        bytes.extend(std::iter::repeat_n(b'+', more));
        let mut scan = Scan::default();
        for come in (0..length).step_by(step) {
            prop_assert_eq!(scan.end(&bytes[..come]), Ok(None));
        }
        prop_assert_eq!(scan.end(&bytes), Ok(Some(length)));
        prop_assert_eq!(parse(&bytes[..length]), Ok(value));
        prop_assert!(parse(&bytes[..length - 1]).is_err());
    }

    /// Whatever comes, nothing panics, and nothing is reserved for what only a number promises.
    #[test]
    fn anything_may_come(bytes in "[$*:+\\-0-9\r\na]{0,40}") {
        let end = Scan::default().end(bytes.as_bytes());
        if let Ok(Some(end)) = end {
            drop(parse(&bytes.as_bytes()[..end]));
        }
        drop(parse(bytes.as_bytes()));
    }
}

#[test]
fn what_is_no_answer_is_said_to_be_none() {
    for bytes in [&b"?\r\n"[..], b"$x\r\n", b"$-2\r\n", b"*99999999999999999999\r\n", b"$\r\n", b"*600000000\r\n"] {
        assert_eq!(Scan::default().end(bytes), Err(Garbled), "{}", bytes.escape_ascii());
    }
    assert_eq!(error(b"-NOSCRIPT No such\r\n").as_deref(), Some("NOSCRIPT No such"));
    assert_eq!(error(b"+OK\r\n"), None);
    let deep = [b"*1\r\n".repeat(1000), b"$-1\r\n".to_vec()].concat();
    assert!(parse(&deep).is_err());
}
