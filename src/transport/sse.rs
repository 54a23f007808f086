//! `text/event-stream`: the encoder, and a stream's body.
//!
//! Our own encoder, because axum's panics on a carriage return and encodes for every subscriber anew.

use std::sync::Arc;

use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::Response;
use axum::http::header;
use bytes::BufMut as _;
use bytes::Bytes;
use bytes::BytesMut;
use futures_util::StreamExt as _;

use crate::clock;
use crate::error::ApiError;
use crate::hub::CloseReason;
use crate::hub::Format;
use crate::hub::Frame;
use crate::session::Output;
use crate::session::Session;
use crate::session::Transport;
use crate::transport::Uptake;
use crate::transport::uptake::noted;

/// Bytes of comment with which a stream begins: enough to make buffering proxies and browsers let go.
const PADDING: usize = 512;

/// One frame as it stands in the stream: `id:` if it carries a cursor, `event:`, one `data:` line, a blank line.
#[must_use]
pub fn encode(frame: &Frame) -> Bytes {
    let mut out = BytesMut::with_capacity(frame.weight() + 16);
    if let Some(cursor) = frame.cursor() {
        out.put_slice(b"id: ");
        out.put_slice(cursor.to_string().as_bytes());
        out.put_u8(b'\n');
    }
    out.put_slice(b"event: ");
    out.put_slice(frame.name().as_bytes());
    out.put_slice(b"\ndata: ");
    put_line(&mut out, frame.data());
    out.put_slice(b"\n\n");
    out.freeze()
}

/// Data is JSON on one line by construction. Should that ever fail, a line break must still not become one in the stream:
/// inside JSON it can only stand between tokens, where a space means the same.
fn put_line(out: &mut BytesMut, data: &str) {
    if data.bytes().any(|byte| byte == b'\n' || byte == b'\r') {
        out.put_slice(data.replace(['\n', '\r'], " ").as_bytes());
    } else {
        out.put_slice(data.as_bytes());
    }
}

/// A jittered reconnect time, so that clients that were cut together don't come back together.
fn retry(base_ms: u64) -> String {
    format!("retry: {}\n\n", fastrand::u64(base_ms..=base_ms * 3))
}

/// The first bytes of every stream.
pub(super) fn opening() -> Bytes {
    Bytes::from(format!(":{}\n\n{}", " ".repeat(PADDING), retry(700)))
}

/// The answer that opens a stream through a queue, and notes for the task that carries it whether it is taken.
#[must_use]
pub fn respond(session: Session, uptake: Arc<Uptake>) -> Response<Body> {
    let first = futures_util::stream::once(async { opening() });
    let frames = session.into_stream(Transport::Sse, uptake.kill()).map(|output| bytes_of(&output));
    response(Body::from_stream(noted(first.chain(frames), uptake)))
}

/// The answer to an `EventSource` that can't be served now: it would give up for good on any status but 200.
#[must_use]
pub fn refuse(error: &ApiError) -> Response<Body> {
    let mut text = match error.retry_after_ms {
        // A time of its own, and not earlier.
        Some(ms) => format!("retry: {}\n\n", u64::from(ms) + fastrand::u64(0..=u64::from(ms) / 4)),
        None => retry(u64::from(error.retry_after_s.unwrap_or(2)) * 1000),
    };
    text.push_str(std::str::from_utf8(&problem(error)).unwrap_or(""));
    response(Body::from(text))
}

pub(super) fn problem(error: &ApiError) -> Bytes {
    encode(&Frame::control("problem", error.to_json(&clock::rfc3339(clock::now_us())), None))
}

pub(super) fn response(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    let fixed = [
        (header::CONTENT_TYPE, "text/event-stream; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store, no-transform"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// What is ready for a client goes out as one piece, so that it costs one write.
fn bytes_of(output: &Output) -> Bytes {
    match output {
        Output::Frames(frames) => {
            let mut frames = frames.iter();
            match (frames.next(), frames.len()) {
                (None, _) => Bytes::new(),
                (Some(only), 0) => only.encoded(Format::Sse, encode),
                (Some(first), _) => join(first, frames),
            }
        }
        Output::Problem(error) => problem(error),
        Output::End(reason) if reason.is_said() => end(*reason),
        Output::End(_) => Bytes::new(),
    }
}

fn join<'a>(first: &Frame, rest: impl Iterator<Item = &'a Frame>) -> Bytes {
    let mut out = BytesMut::from(&*first.encoded(Format::Sse, encode));
    for frame in rest {
        out.put_slice(&frame.encoded(Format::Sse, encode));
    }
    out.freeze()
}

/// How soon a client that is to come back may do so, jittered, in milliseconds.
fn retry_after(reason: CloseReason) -> u64 {
    if reason.reconnect() { fastrand::u64(100..1000) } else { 0 }
}

fn end_object(reason: CloseReason, retry_after_ms: u64) -> String {
    let code = reason.code().map_or("null".to_owned(), |code| format!("\"{}\"", code.as_str()));
    let (word, reconnect) = (reason.as_str(), reason.reconnect());
    let now = clock::rfc3339(clock::now_us());
    format!(
        "{{\"reason\":\"{word}\",\"code\":{code},\"reconnect\":{reconnect},\"retryAfterMs\":{retry_after_ms},\"timestamp\":\"{now}\"}}",
    )
}

/// The data of `end`, if a client is told of this reason.
pub(super) fn end_data(reason: CloseReason) -> Option<String> {
    reason.is_said().then(|| end_object(reason, retry_after(reason)))
}

pub(super) fn end(reason: CloseReason) -> Bytes {
    let retry_after_ms = retry_after(reason);
    let data = end_object(reason, retry_after_ms);
    let mut out = BytesMut::new();
    if reason.reconnect() {
        // A bare EventSource knows only this line.
        out.put_slice(format!("retry: {retry_after_ms}\n").as_bytes());
    }
    out.put_slice(&encode(&Frame::control("end", data, None)));
    out.freeze()
}
