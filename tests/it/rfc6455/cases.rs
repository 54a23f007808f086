//! What a client may say, and what has to come back: the list of the Autobahn test suite, sections 1 to 7, 9 and 10.
//!
//! A message is a JSON object with an id, and its answer has that id; so what was understood can be seen without an echo.

use serde_json::Value;
use serde_json::json;

use crate::support::ws::frame;

const TEXT: u8 = 0x81;
const TEXT_BEGINS: u8 = 0x01;
const MORE: u8 = 0x00;
const LAST: u8 = 0x80;
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8A;

/// What comes back.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Heard {
    pub(super) pongs: Vec<Vec<u8>>,
    /// Ids of answers, null where the message was not understood; of an echo the texts.
    pub(super) answers: Vec<Value>,
    pub(super) close: Option<u16>,
}

#[derive(Debug, Clone)]
pub(super) struct Case {
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
    pub(super) heard: Heard,
}

impl Case {
    fn new(name: &str, bytes: impl Into<Vec<u8>>) -> Self {
        Self { name: name.to_owned(), bytes: bytes.into(), heard: Heard::default() }
    }

    fn answered(mut self, ids: &[u64]) -> Self {
        self.heard.answers = ids.iter().map(|id| json!(id)).collect();
        self
    }

    fn refused(mut self) -> Self {
        self.heard.answers.push(Value::Null);
        self
    }

    fn ponged(mut self, payloads: &[&[u8]]) -> Self {
        self.heard.pongs = payloads.iter().map(|payload| payload.to_vec()).collect();
        self
    }

    fn closed(mut self, code: u16) -> Self {
        self.heard.close = Some(code);
        self
    }

    /// The same at an echo: what was sent, put together, comes back as it was.
    pub(super) fn echoed(mut self) -> Self {
        if self.heard.close.is_none() {
            self.heard.answers = texts(&self.bytes).into_iter().map(Value::from).collect();
        }
        self
    }
}

/// The texts in these frames, which must be right.
fn texts(mut bytes: &[u8]) -> Vec<String> {
    let (mut texts, mut text) = (Vec::new(), Vec::new());
    while let [first, second, rest @ ..] = bytes {
        let (length, rest) = match second & 0x7F {
            126 => (usize::from(u16::from_be_bytes(rest[..2].try_into().unwrap())), &rest[2..]),
            127 => (u64::from_be_bytes(rest[..8].try_into().unwrap()) as usize, &rest[8..]),
            short => (usize::from(short), rest),
        };
        let (mask, rest) = rest.split_at(4);
        let (payload, rest) = rest.split_at(length);
        bytes = rest;
        if first & 0x0F < 8 {
            text.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
            if first & LAST != 0 {
                texts.push(String::from_utf8(std::mem::take(&mut text)).unwrap());
            }
        }
    }
    texts
}

/// A message of exactly so many bytes, which is answered with its id.
pub(super) fn message(id: u64, length: usize) -> Vec<u8> {
    let bare = json!({ "type": "?", "id": id, "x": "" }).to_string();
    let filler = "*".repeat(length.saturating_sub(bare.len()));
    json!({ "type": "?", "id": id, "x": filler }).to_string().into_bytes()
}

/// A message that carries this text, which need not be text.
fn carrying(id: u64, text: &[u8]) -> Vec<u8> {
    [format!("{{\"type\":\"?\",\"id\":{id},\"x\":\"").as_bytes(), text, b"\"}"].concat()
}

/// One message in frames of so many bytes, with `between` between each two.
fn fragments(payload: &[u8], size: usize, between: &[u8]) -> Vec<u8> {
    let count = payload.len().div_ceil(size);
    let parts = payload.chunks(size).enumerate().map(|(at, part)| {
        let first = (if at == 0 { TEXT_BEGINS } else { MORE }) | (if at + 1 == count { LAST } else { 0 });
        let gap = if at == 0 { &[] } else { between };
        [gap, &frame(first, part)].concat()
    });
    parts.collect::<Vec<_>>().concat()
}

fn lengths() -> Vec<Case> {
    let mut cases = vec![Case::new("1.1.1 empty text", frame(TEXT, b"")).refused()];
    for length in [60, 125, 126, 127, 128, 65_535, 65_536] {
        cases.push(Case::new(&format!("1.1 text of {length}"), frame(TEXT, &message(1, length))).answered(&[1]));
    }
    for length in [0, 125, 126, 127, 128, 65_535, 65_536] {
        cases.push(Case::new(&format!("1.2 binary of {length}"), frame(BINARY, &vec![0xFE; length])).closed(1003));
    }
    // The payload's length in more bytes than it needs is taken as what it says (as most do) or refused, but never misread.
    cases.push(Case::new("9.1 text of 65537", frame(TEXT, &message(1, 65_537))).closed(1009));
    cases.push(Case::new("9.1 text of 2^63", [0x81, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0]).closed(1009));
    cases.push(Case::new("9.1 text of 2^32", [0x81, 0xFF, 0, 0, 0, 1, 0, 0, 0, 0]).closed(1009));
    cases.push(Case::new("9.3 one byte too many in fragments", fragments(&message(1, 65_537), 4096, b"")).closed(1009));
    cases
        .push(Case::new("10.1.1 65536 in fragments of 1300", fragments(&message(1, 65_536), 1300, b"")).answered(&[1]));
    cases
}

fn pings() -> Vec<Case> {
    let (full, binary): (Vec<u8>, Vec<u8>) = (vec![0xFE; 125], (0..=124).collect());
    let ten: Vec<Vec<u8>> = (0..10).map(|n| format!("payload {n}").into_bytes()).collect();
    let ten_bytes = ten.iter().map(|payload| frame(PING, payload)).collect::<Vec<_>>().concat();
    let ten: Vec<&[u8]> = ten.iter().map(Vec::as_slice).collect();
    vec![
        Case::new("2.1 empty ping", frame(PING, b"")).ponged(&[b""]),
        Case::new("2.2 ping", frame(PING, b"Hello, world!")).ponged(&[b"Hello, world!"]),
        Case::new("2.3 binary ping", frame(PING, &binary)).ponged(&[&binary]),
        Case::new("2.4 ping of 125", frame(PING, &full)).ponged(&[&full]),
        Case::new("2.5 ping of 126", frame(PING, &[0xFE; 126])).closed(1002),
        Case::new("2.7 pong without payload", frame(PONG, b"")),
        Case::new("2.8 pong nobody asked for", frame(PONG, b"unsolicited")),
        Case::new("2.9 pong, then ping", [frame(PONG, b"unsolicited"), frame(PING, b"ping")].concat())
            .ponged(&[b"ping"]),
        Case::new("2.10 ten pings", ten_bytes).ponged(&ten),
    ]
}

fn reserved() -> Vec<Case> {
    let mut cases = Vec::new();
    for bits in 1..=7_u8 {
        for opcode in [TEXT, PING, CLOSE] {
            let bytes = frame(opcode | bits << 4, b"");
            cases.push(Case::new(&format!("3 reserved bits {bits} of {opcode:02x}"), bytes).closed(1002));
        }
    }
    for opcode in (3..=7).chain(11..=15_u8) {
        cases.push(Case::new(&format!("4.1 opcode {opcode}"), frame(LAST | opcode, b"")).closed(1002));
        cases.push(
            Case::new(&format!("4.2 opcode {opcode} with payload"), frame(LAST | opcode, b"payload")).closed(1002),
        );
    }
    cases.push(Case::new("5.1 RFC: no mask", [0x81, 0x02, b'{', b'}']).closed(1002));
    cases.push(Case::new("5.1 RFC: ping without mask", [0x89, 0x00]).closed(1002));
    cases
}

fn fragmented() -> Vec<Case> {
    let (one, two) = (message(1, 60), message(2, 60));
    let cut = |bytes: &[u8]| (bytes[..20].to_vec(), bytes[20..].to_vec());
    let (begin, end) = cut(&one);
    let ping = frame(PING, b"in between");
    let cases = [
        Case::new("5.1 ping in fragments", [frame(0x09, b"frag"), frame(LAST, b"ment")].concat()).closed(1002),
        Case::new("5.2 pong in fragments", [frame(0x0A, b"frag"), frame(LAST, b"ment")].concat()).closed(1002),
        Case::new("5.1 close in fragments", [frame(0x08, &[3]), frame(LAST, &[232])].concat()).closed(1002),
        Case::new("5.3 text in two", fragments(&one, 30, b"")).answered(&[1]),
        Case::new("5.5 text in frames of one byte", fragments(&one, 1, b"")).answered(&[1]),
        Case::new("5.6 a ping in between", fragments(&one, 30, &ping)).answered(&[1]).ponged(&[b"in between"]),
        Case::new("5.7 a pong in between", fragments(&one, 30, &frame(PONG, b""))).answered(&[1]),
        Case::new("5.8 empty frames in between", fragments(&one, 30, &frame(MORE, b""))).answered(&[1]),
        Case::new("5.9 the rest of nothing", frame(LAST, &one)).closed(1002),
        Case::new("5.11 more of nothing", frame(MORE, &one)).closed(1002),
        Case::new("5.12 the rest of nothing, then text", [frame(LAST, &one), frame(TEXT, &two)].concat()).closed(1002),
        Case::new("5.15 more after the last", [fragments(&one, 30, b""), frame(MORE, b"")].concat()).closed(1002),
        Case::new("5.18 text within text", [frame(TEXT_BEGINS, &begin), frame(TEXT, &end)].concat()).closed(1002),
        Case::new("5.18 binary within text", [frame(TEXT_BEGINS, &begin), frame(BINARY, &end)].concat()).closed(1002),
        Case::new("5.19 pings between five", fragments(&one, 12, &ping))
            .answered(&[1])
            .ponged(&[&b"in between"[..]; 4]),
        Case::new("5.20 two after each other", [fragments(&one, 7, b""), fragments(&two, 60, b"")].concat())
            .answered(&[1, 2]),
        Case::new("6.1.2 empty text in three", [frame(0x01, b""), frame(0x00, b""), frame(LAST, b"")].concat())
            .refused(),
        Case::new("6.1.3 all in the middle", [frame(0x01, b""), frame(0x00, &one), frame(LAST, b"")].concat())
            .answered(&[1]),
    ];
    cases.to_vec()
}

const VALID: &[&str] = &[
    "Hello-\u{b5}@\u{df}\u{f6}\u{e4}\u{fc}\u{e0}\u{e1}-UTF-8!!",
    "\u{3ba}\u{1f79}\u{3c3}\u{3bc}\u{3b5}",
    "\u{7f}",
    "\u{80}",
    "\u{7ff}",
    "\u{800}",
    "\u{d7ff}",
    "\u{e000}",
    "\u{fffd}",
    "\u{fffe}\u{ffff}",
    "\u{10000}",
    "\u{1fffe}",
    "\u{10ffff}",
    "\u{feff}",
];

/// Of sections 6.3 to 6.21: cut short, overlong, surrogates, beyond the last code point, continuation without beginning.
const INVALID: &[&[u8]] = &[
    &[0xCE, 0xBA, 0xE1, 0xBD, 0xB9, 0xCF, 0x83, 0xCE, 0xBC, 0xCE, 0xB5, 0xED, 0xA0, 0x80, 0x65],
    &[0xF4, 0x90, 0x80, 0x80],
    &[0xF8, 0x88, 0x80, 0x80, 0x80],
    &[0xFC, 0x84, 0x80, 0x80, 0x80, 0x80],
    &[0xF7, 0xBF, 0xBF, 0xBF],
    &[0xFB, 0xBF, 0xBF, 0xBF, 0xBF],
    &[0xFD, 0xBF, 0xBF, 0xBF, 0xBF, 0xBF],
    &[0x80],
    &[0xBF],
    &[0x80, 0xBF, 0x80, 0xBF],
    &[0xC0, 0x20],
    &[0xC0],
    &[0xE0, 0x80],
    &[0xF0, 0x80, 0x80],
    &[0xDF],
    &[0xEF, 0xBF],
    &[0xF7, 0xBF, 0xBF],
    &[0xFE],
    &[0xFF],
    &[0xC0, 0xAF],
    &[0xE0, 0x80, 0xAF],
    &[0xF0, 0x80, 0x80, 0xAF],
    &[0xC1, 0xBF],
    &[0xE0, 0x9F, 0xBF],
    &[0xF0, 0x8F, 0xBF, 0xBF],
    &[0xC0, 0x80],
    &[0xED, 0xA0, 0x80],
    &[0xED, 0xBF, 0xBF],
    &[0xED, 0xA0, 0x80, 0xED, 0xB0, 0x80],
];

fn utf8() -> Vec<Case> {
    let mut cases = Vec::new();
    for text in VALID {
        let payload = carrying(1, text.as_bytes());
        cases.push(Case::new(&format!("6.2 {text:?}"), frame(TEXT, &payload)).answered(&[1]));
        cases.push(Case::new(&format!("6.2.3 {text:?} cut anywhere"), fragments(&payload, 1, b"")).answered(&[1]));
        let ping = frame(PING, &[0xFF]);
        let interrupted =
            Case::new(&format!("6.2.4 {text:?} with pings"), fragments(&payload, payload.len() / 2, &ping));
        let pongs = payload.len().div_ceil(payload.len() / 2) - 1;
        cases.push(interrupted.answered(&[1]).ponged(&vec![&[0xFF][..]; pongs]));
    }
    for bytes in INVALID {
        let payload = carrying(1, bytes);
        cases.push(Case::new(&format!("6.3 {bytes:02x?}"), frame(TEXT, &payload)).closed(1007));
        cases.push(Case::new(&format!("6.3.2 {bytes:02x?} cut anywhere"), fragments(&payload, 1, b"")).closed(1007));
    }
    cases.push(Case::new("6.4 half a character at the end", frame(TEXT, &[b'{', 0xCE])).closed(1007));
    cases
}

pub(super) fn closing(code: u16, text: &[u8]) -> Vec<u8> {
    frame(CLOSE, &[&code.to_be_bytes(), text].concat())
}

fn closes() -> Vec<Case> {
    let one = message(1, 60);
    let mut cases = vec![
        Case::new("7.1.2 two closes", [closing(1000, b""), closing(1001, b"")].concat()).closed(1000),
        Case::new("7.1.3 a ping after the close", [closing(1000, b""), frame(PING, b"late")].concat()).closed(1000),
        Case::new("7.1.4 text after the close", [closing(1000, b""), frame(TEXT, &one)].concat()).closed(1000),
        Case::new("7.1.5 a close within a message", [frame(0x01, &one[..9]), closing(1000, b"")].concat()).closed(1000),
        Case::new("7.3.1 without a code", frame(CLOSE, b"")).closed(1005),
        Case::new("7.3.2 half a code", frame(CLOSE, &[3])).closed(1002),
        Case::new("7.3.4 with a reason", closing(1000, b"Hello World!")).closed(1000),
        Case::new("7.3.5 with the longest reason", closing(1000, &[b'*'; 123])).closed(1000),
        Case::new("7.3.6 with too long a reason", closing(1000, &[b'*'; 124])).closed(1002),
        Case::new("7.5.1 with a reason that is no text", closing(1000, INVALID[0])).closed(1007),
    ];
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999] {
        cases.push(Case::new(&format!("7.7 code {code}"), closing(code, b"")).closed(code));
    }
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
        cases.push(Case::new(&format!("7.9 code {code}"), closing(code, b"")).closed(1002));
    }
    cases
}

pub(super) fn all() -> Vec<Case> {
    [lengths(), pings(), reserved(), fragmented(), utf8(), closes()].concat()
}
