//! Framing against the rules of RFC 6455 §5 and §7.4, with frames cut anywhere.

use proptest::prelude::*;

use crate::hub::CloseReason;
use crate::transport::ws::Pulse;
use crate::transport::ws::incoming::Incoming;
use crate::transport::ws::incoming::MESSAGE_BYTES_MAX;
use crate::transport::ws::incoming::Message;

/// A client's frame.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(short @ ..126), _) => out.push(0x80 | short),
        (_, Ok(middle)) => {
            out.push(0x80 | 126);
            out.extend(middle.to_be_bytes());
        }
        _ => {
            out.push(0x80 | 127);
            out.extend((payload.len() as u64).to_be_bytes());
        }
    }
    let mask = [1, 2, 3, 4];
    out.extend(mask);
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
    out
}

/// What is heard when the bytes come in pieces of this size, and how it ends.
fn heard(bytes: &[u8], piece: usize) -> (Vec<Message>, Option<CloseReason>) {
    let (mut incoming, mut messages) = (Incoming::default(), Vec::new());
    for part in bytes.chunks(piece) {
        if let Err(reason) = incoming.take(part, |message| messages.push(message)) {
            return (messages, Some(reason));
        }
    }
    (messages, None)
}

fn text(text: &str) -> Message {
    Message::Text(text.to_owned())
}

#[test]
fn whole_messages_come_out_whatever_they_are_cut_into() {
    let mut bytes = frame(0x81, b"hello");
    bytes.extend(frame(0x01, "gr\u{fc}".as_bytes()));
    bytes.extend(frame(0x89, b"are you there"));
    bytes.extend(frame(0x80, "n".as_bytes()));
    bytes.extend(frame(0x8A, b""));
    bytes.extend(frame(0x81, &vec![b'x'; MESSAGE_BYTES_MAX]));
    bytes.extend(frame(0x88, &[3, 232, b'b', b'y', b'e']));
    for piece in [1, 2, 3, 7, 1000, usize::MAX] {
        let (messages, end) = heard(&bytes, piece.min(bytes.len()));
        assert_eq!(end, None);
        assert_eq!(
            messages,
            [
                text("hello"),
                Message::Ping(b"are you there".to_vec()),
                text("gr\u{fc}n"),
                Message::Pong,
                text(&"x".repeat(MESSAGE_BYTES_MAX)),
                Message::Close(Some(1000)),
            ]
        );
    }
}

#[test]
fn b82_b87_what_breaks_the_framing_ends_it() {
    let unmasked = vec![0x81, 0x05, b'h', b'e', b'l', b'l', b'o'];
    for (bytes, reason) in [
        (unmasked, CloseReason::BadFrame),
        (frame(0xC1, b"compressed"), CloseReason::BadFrame),
        (frame(0xA1, b""), CloseReason::BadFrame),
        (frame(0x91, b""), CloseReason::BadFrame),
        (frame(0x83, b""), CloseReason::BadFrame),
        (frame(0x8B, b""), CloseReason::BadFrame),
        (frame(0x09, b"in pieces"), CloseReason::BadFrame),
        (frame(0x89, &[0; 126]), CloseReason::BadFrame),
        (frame(0x80, b"of nothing"), CloseReason::BadFrame),
        ([frame(0x01, b"a"), frame(0x81, b"b")].concat(), CloseReason::BadFrame),
        ([frame(0x01, b"a"), frame(0x82, b"b")].concat(), CloseReason::BadFrame),
        (frame(0x82, b"binary"), CloseReason::BadKind),
        (frame(0x81, &[0xC3, 0x28]), CloseReason::BadText),
        ([frame(0x01, &[0xC3]), frame(0x80, &[0x28])].concat(), CloseReason::BadText),
        (frame(0x88, &[3]), CloseReason::BadFrame),
        (frame(0x88, &999_u16.to_be_bytes()), CloseReason::BadFrame),
        (frame(0x88, &1005_u16.to_be_bytes()), CloseReason::BadFrame),
        (frame(0x88, &[3, 232, 0xFF]), CloseReason::BadText),
        ([0x81, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0].to_vec(), CloseReason::TooBig),
        (frame(0x81, &vec![b'x'; MESSAGE_BYTES_MAX + 1]), CloseReason::TooBig),
        (frame(0x01, b"x").repeat(300), CloseReason::BadFrame),
        ([frame(0x01, b"x"), frame(0x00, b"x").repeat(300)].concat(), CloseReason::TooBig),
    ] {
        for piece in [1, 5, bytes.len()] {
            assert_eq!(
                heard(&bytes, piece).1,
                Some(reason),
                "{:02x?} in pieces of {piece}",
                bytes.get(..16).unwrap_or(&bytes)
            );
        }
    }
}

#[test]
fn b84_what_is_too_long_is_refused_before_it_is_there() {
    let mut incoming = Incoming::default();
    let head = &frame(0x81, &vec![0; MESSAGE_BYTES_MAX + 1])[..14];
    assert_eq!(incoming.take(head, |_| {}), Err(CloseReason::TooBig));
}

/// b86: two pings may go unanswered; whatever is said answers them. Between two of ours so many of theirs are no flood.
#[test]
fn b86_whoever_does_not_answer_is_gone() {
    let mut pulse = Pulse::default();
    assert!(pulse.ask() && pulse.ask());
    assert!(!pulse.ask(), "two went unanswered");
    for message in [Message::Pong, Message::Ping(Vec::new()), text("{}")] {
        let mut pulse = Pulse::default();
        for _ in 0..10 {
            assert!(pulse.ask() && pulse.ask());
            pulse.heard(&message);
        }
    }
    let mut pulse = Pulse::default();
    for turn in 0..3 {
        (0..500).for_each(|_| pulse.heard(&Message::Ping(Vec::new())));
        assert!(!pulse.is_flood(), "{turn}");
        assert!(pulse.ask());
    }
    (0..501).for_each(|_| pulse.heard(&Message::Pong));
    assert!(pulse.is_flood());
}

/// What an echo on the same framing and limits gives back, for messages as large as they may be, in as many frames as they may have.
#[test]
fn what_comes_in_is_what_was_said() {
    for length in [0, 1, 125, 126, 127, 65_535, MESSAGE_BYTES_MAX] {
        let said = "\u{e9}".repeat(length / 2) + &"x".repeat(length % 2);
        for size in [length.div_ceil(256).max(1), length.div_ceil(7).max(1), length.max(1)] {
            let parts: Vec<&[u8]> = if length == 0 { vec![b""] } else { said.as_bytes().chunks(size).collect() };
            let last = parts.len() - 1;
            let frames = parts.iter().enumerate().map(|(at, part)| {
                let first = u8::from(at == 0) | if at == last { 0x80 } else { 0 };
                frame(first, part)
            });
            let bytes = frames.collect::<Vec<_>>().concat();
            assert_eq!(heard(&bytes, 4096), (vec![text(&said)], None), "{length} bytes in frames of {size}");
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_taken_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400), piece in 1_usize..50) {
        heard(&bytes, piece);
    }

    #[test]
    fn the_pieces_make_no_difference(texts in proptest::collection::vec("\\PC{0,40}", 1..6), piece in 1_usize..90) {
        let bytes: Vec<u8> = texts.iter().flat_map(|text| frame(0x81, text.as_bytes())).collect();
        let expected: Vec<Message> = texts.iter().map(|one| text(one)).collect();
        prop_assert_eq!(heard(&bytes, piece), (expected, None));
    }
}
