//! The encoder against the parser of the HTML standard.

use proptest::prelude::*;

use crate::event::Cursor;
use crate::hub::Frame;
use crate::transport::sse::encode;

/// The parser of the HTML standard, for one frame: everything that ends a line is a line break.
fn parse(bytes: &[u8]) -> Vec<(String, String, String)> {
    let text = String::from_utf8(bytes.to_vec()).unwrap().replace("\r\n", "\n").replace('\r', "\n");
    let (mut events, mut id, mut event, mut data) = (Vec::new(), String::new(), String::new(), Vec::new());
    for line in text.split('\n') {
        let (field, value) = line.split_once(':').map_or((line, ""), |(f, v)| (f, v.strip_prefix(' ').unwrap_or(v)));
        match field {
            "" if line.is_empty() && !data.is_empty() => {
                events.push((id.clone(), std::mem::take(&mut event), std::mem::take(&mut data).join("\n")));
            }
            "id" => value.clone_into(&mut id),
            "event" => value.clone_into(&mut event),
            "data" => data.push(value.to_owned()),
            _ => {}
        }
    }
    events
}

proptest! {
    #[test]
    fn b39_a_frame_parses_to_exactly_one_event(text in "\\PC*|[\\x00-\\x1f:a ]*", cursor in proptest::bool::ANY) {
        let data = serde_json::json!({ "message": text }).to_string();
        let cursor = cursor.then(Cursor::default);
        let events = parse(&encode(&Frame::control("problem", data.clone(), cursor)));
        let id = cursor.map(|cursor| cursor.to_string()).unwrap_or_default();
        prop_assert_eq!(events, vec![(id, "problem".to_owned(), data)]);
    }

    #[test]
    fn a_line_break_between_tokens_does_not_end_the_frame(breaks in "[\\r\\n ]{0,5}") {
        let events = parse(&encode(&Frame::control("problem", format!("{{\"a\":{breaks}1}}"), None)));
        prop_assert_eq!(events.len(), 1);
        prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&events[0].2).unwrap(), serde_json::json!({ "a": 1 }));
    }
}
