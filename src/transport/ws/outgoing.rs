//! What a client is told on a WebSocket: one text frame of one JSON object each (protocol §5).

use bytes::BufMut as _;
use bytes::Bytes;
use bytes::BytesMut;

use crate::clock;
use crate::error::ApiError;
use crate::hub::CloseReason;
use crate::hub::Format;
use crate::hub::Frame;
use crate::hub::Wire;
use crate::transport::sse;

/// First bytes of whole frames (RFC 6455 §5.2).
const TEXT: u8 = 0x81;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8A;

/// Events as text frames.
pub(super) static FRAMED: Wire = Wire { format: Format::WebSocket, encode, end };

/// A frame of the server: never masked.
fn frame(first: u8, payload: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(payload.len() + 10);
    out.put_u8(first);
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(short @ ..126), _) => out.put_u8(short),
        (_, Ok(length)) => {
            out.put_u8(126);
            out.put_u16(length);
        }
        _ => {
            out.put_u8(127);
            out.put_u64(payload.len() as u64);
        }
    }
    out.put_slice(payload);
    out.freeze()
}

/// A message for one client alone. `json` is one object.
#[must_use]
pub fn message(json: &str) -> Frame {
    Frame::verbatim(frame(TEXT, json.as_bytes()))
}

/// An error as the answer to the message of this id, or to none.
#[must_use]
pub fn error(id: Option<u64>, error: &ApiError) -> Frame {
    let body = error.to_json(&clock::rfc3339(clock::now_us()));
    let rest = body.strip_prefix('{').unwrap_or("}");
    let id = id.map_or(String::new(), |id| format!("\"id\":{id},"));
    message(&format!("{{\"type\":\"error\",{id}{rest}"))
}

pub(super) fn ping() -> Frame {
    Frame::verbatim(frame(PING, b""))
}

pub(super) fn pong(payload: &[u8]) -> Frame {
    Frame::verbatim(frame(PONG, payload))
}

/// The answer to a client that leaves: its own code, as browsers expect it.
pub(super) fn closed(code: Option<u16>) -> Frame {
    let payload = code.map(u16::to_be_bytes);
    Frame::verbatim(frame(CLOSE, payload.as_ref().map_or(&[], |payload| payload)))
}

fn encode(event: &Frame) -> Bytes {
    let cursor = event.cursor().map_or(String::new(), |cursor| format!("\"cursor\":\"{cursor}\","));
    let (name, data) = (event.name(), event.data());
    frame(TEXT, format!("{{\"type\":\"event\",\"event\":\"{name}\",{cursor}\"data\":{data}}}").as_bytes())
}

/// `end` as on every transport, unless it is about the connection alone; then the close frame.
fn end(reason: CloseReason) -> Bytes {
    let mut out = BytesMut::new();
    if let Some(text) = sse::end_data(reason).filter(|_| !reason.is_violation()) {
        out.put_slice(&frame(TEXT, format!("{{\"type\":\"event\",\"event\":\"end\",\"data\":{text}}}").as_bytes()));
    }
    let mut payload = code(reason).to_be_bytes().to_vec();
    payload.extend_from_slice(reason.as_str().as_bytes());
    out.put_slice(&frame(CLOSE, &payload));
    out.freeze()
}

fn code(reason: CloseReason) -> u16 {
    match reason {
        CloseReason::Done | CloseReason::Closed | CloseReason::Superseded => 1000,
        CloseReason::Drain | CloseReason::Shutdown | CloseReason::ClientGone | CloseReason::Cut => 1001,
        CloseReason::BadFrame => 1002,
        CloseReason::BadKind => 1003,
        CloseReason::BadText => 1007,
        CloseReason::TooBig => 1009,
        CloseReason::Overloaded | CloseReason::Problem => 1013,
        CloseReason::TokenExpired | CloseReason::Disabled => 4401,
        CloseReason::Revoked | CloseReason::Gone => 4403,
        CloseReason::Slow => 4408,
        CloseReason::TooMuch => 4429,
    }
}
