//! What a client says on a WebSocket: bytes in, whole messages out (RFC 6455 §5). Between two messages nothing is kept.

use std::io::Cursor;

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::frame::coding::Control;
use tungstenite::protocol::frame::coding::Data;
use tungstenite::protocol::frame::coding::OpCode;

use crate::hub::CloseReason;

/// Longest message, in bytes; also the longest frame.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// Frames of one message at most: smaller pieces would cost more than they carry.
const FRAGMENTS_MAX: u32 = 256;
/// Longest payload of a control frame (RFC 6455 §5.5).
const CONTROL_BYTES_MAX: u64 = 125;

/// Something whole.
#[derive(Debug, PartialEq, Eq)]
pub enum Message {
    /// Text.
    Text(String),
    /// A ping, to be answered with the same bytes.
    Ping(Vec<u8>),
    /// An answer to a ping of ours, or to none.
    Pong,
    /// The client leaves, with this code.
    Close(Option<u16>),
}

/// The state between two reads; empty between two messages.
#[derive(Debug, Default)]
pub struct Incoming {
    /// Bytes of a frame that is not whole yet.
    partial: Vec<u8>,
    /// Payload of the frames of a message before its last one.
    message: Vec<u8>,
    /// Of how many frames that is; 0: none is under way.
    fragments: u32,
}

impl Incoming {
    /// Takes bytes as they come and hands out messages, until one breaks a rule.
    ///
    /// # Errors
    /// Why the connection has to end.
    pub fn take(&mut self, bytes: &[u8], mut heard: impl FnMut(Message)) -> Result<(), CloseReason> {
        // Without a copy as long as frames come whole, as they nearly always do.
        let joined = (!self.partial.is_empty()).then(|| {
            let mut joined = std::mem::take(&mut self.partial);
            joined.extend_from_slice(bytes);
            joined
        });
        let mut rest = joined.as_deref().unwrap_or(bytes);
        while let Some((header, payload, left)) = split(rest)? {
            rest = left;
            if let Some(message) = self.frame(&header, payload)? {
                heard(message);
            }
        }
        self.partial = rest.to_vec();
        Ok(())
    }

    fn frame(&mut self, header: &FrameHeader, masked: &[u8]) -> Result<Option<Message>, CloseReason> {
        let mask = header.mask.ok_or(CloseReason::BadFrame)?;
        let payload = || masked.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key);
        let data = match header.opcode {
            OpCode::Control(control) => return control_frame(control, payload().collect()).map(Some),
            OpCode::Data(data) => data,
        };
        match (data, self.fragments) {
            (Data::Text, 0) | (Data::Continue, 1..) => {}
            (Data::Binary, 0) => return Err(CloseReason::BadKind),
            _ => return Err(CloseReason::BadFrame),
        }
        self.fragments += 1;
        if self.message.len() + masked.len() > MESSAGE_BYTES_MAX || self.fragments > FRAGMENTS_MAX {
            return Err(CloseReason::TooBig);
        }
        self.message.extend(payload());
        if !header.is_final {
            return Ok(None);
        }
        self.fragments = 0;
        let text = String::from_utf8(std::mem::take(&mut self.message)).map_err(|_| CloseReason::BadText)?;
        Ok(Some(Message::Text(text)))
    }
}

/// A frame's header and payload, still masked, and what follows it.
type First<'a> = (FrameHeader, &'a [u8], &'a [u8]);

/// The first frame and what follows it; `None`: it is not whole yet.
fn split(bytes: &[u8]) -> Result<Option<First<'_>>, CloseReason> {
    let mut cursor = Cursor::new(bytes);
    let parsed = FrameHeader::parse(&mut cursor).map_err(|_| CloseReason::BadFrame)?;
    let Some((header, length)) = parsed else {
        // What is there says enough to refuse what must not come.
        return early(bytes).map_or(Ok(None), Err);
    };
    check(&header, length)?;
    let from = usize::try_from(cursor.position()).unwrap_or(usize::MAX);
    let to = from.saturating_add(usize::try_from(length).unwrap_or(usize::MAX));
    let (Some(payload), Some(rest)) = (bytes.get(from..to), bytes.get(to..)) else { return Ok(None) };
    Ok(Some((header, payload, rest)))
}

fn check(header: &FrameHeader, length: u64) -> Result<(), CloseReason> {
    let reserved = header.rsv1 || header.rsv2 || header.rsv3;
    let unknown = match header.opcode {
        OpCode::Data(data) => matches!(data, Data::Reserved(_)),
        OpCode::Control(control) => matches!(control, Control::Reserved(_)),
    };
    let is_control = matches!(header.opcode, OpCode::Control(_));
    if reserved || unknown || header.mask.is_none() || (is_control && (!header.is_final || length > CONTROL_BYTES_MAX))
    {
        return Err(CloseReason::BadFrame);
    }
    // Said before it is sent: nothing of it is waited for.
    if length > MESSAGE_BYTES_MAX as u64 { Err(CloseReason::TooBig) } else { Ok(()) }
}

/// What is wrong with a header that is not whole yet: reserved bits, no mask, a length beyond everything.
fn early(bytes: &[u8]) -> Option<CloseReason> {
    let is_reserved = bytes.first().is_some_and(|first| first & 0x70 != 0);
    let second = bytes.get(1).copied();
    if is_reserved || second.is_some_and(|second| second & 0x80 == 0) {
        return Some(CloseReason::BadFrame);
    }
    let length = bytes.get(2..).and_then(|rest| rest.first_chunk::<8>()).filter(|_| second == Some(0xFF))?;
    (u64::from_be_bytes(*length) > MESSAGE_BYTES_MAX as u64).then_some(CloseReason::TooBig)
}

fn control_frame(control: Control, payload: Vec<u8>) -> Result<Message, CloseReason> {
    match control {
        Control::Ping => Ok(Message::Ping(payload)),
        Control::Pong => Ok(Message::Pong),
        Control::Close => close(&payload),
        Control::Reserved(_) => Err(CloseReason::BadFrame),
    }
}

/// Nothing, or a code that may be sent and text (RFC 6455 §7.4).
fn close(payload: &[u8]) -> Result<Message, CloseReason> {
    let Some((code, text)) = payload.split_first_chunk::<2>() else {
        return if payload.is_empty() { Ok(Message::Close(None)) } else { Err(CloseReason::BadFrame) };
    };
    let code = u16::from_be_bytes(*code);
    if !CloseCode::from(code).is_allowed() {
        return Err(CloseReason::BadFrame);
    }
    match std::str::from_utf8(text) {
        Ok(_) => Ok(Message::Close(Some(code))),
        Err(_) => Err(CloseReason::BadText),
    }
}
