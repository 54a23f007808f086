//! Just enough of HTTP/1.1, RESP and JSON.

use std::io::ErrorKind;
use std::io::Read as _;
use std::io::Write as _;
use std::net::SocketAddr;

use memchr::memmem;
use mio::Interest;
use mio::Registry;
use mio::Token;
use mio::net::TcpStream;

use crate::Failure;
use crate::raw::hub::Hub;

/// As many bytes as our cursors have, and the members that we add to a job update.
const CURSOR: &str = "1.k3f9x2m1.m2x1c4d-";
const ADDED: &str = "\"terminal\":false,\"timestamp\":\"2026-01-01T00:00:00.000000Z\",";

#[derive(Debug)]
pub(super) enum Request<'a> {
    /// The channels that it names, with commas between.
    Stream(&'a [u8]),
    Batch(&'a [u8]),
    Other,
}

/// The first request if it has come as a whole, and its length.
pub(super) fn request(bytes: &[u8]) -> Option<(Request<'_>, usize)> {
    let head = memmem::find(bytes, b"\r\n\r\n")? + 4;
    let line = bytes.split(|byte| *byte == b'\r').next().unwrap_or_default();
    if line.starts_with(b"POST ") {
        let length = content_length(bytes.get(..head)?);
        let body = bytes.get(head..head + length)?;
        return Some((Request::Batch(body), head + length));
    }
    let Some(query) = memmem::find(line, b"channels=") else { return Some((Request::Other, head)) };
    let rest = line.get(query + 9..).unwrap_or_default();
    let channels = rest.split(|byte| matches!(byte, b' ' | b'&')).next().unwrap_or_default();
    Some((Request::Stream(channels), head))
}

fn content_length(head: &[u8]) -> usize {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let value = head.split_once("content-length:").and_then(|(_, rest)| rest.lines().next()?.trim().parse().ok());
    value.unwrap_or(0)
}

/// Tells the channel of each publication of a batch, and the members of its data. Reads what our publisher writes: `channel`
/// before `data`, no escapes in either.
pub(super) fn batch(mut body: &[u8], tell: &mut impl FnMut(&[u8], &[u8])) {
    while let Some((channel, rest)) = text_after(body, b"\"channel\":\"") {
        let Some(start) = memmem::find(rest, b"\"data\":{").map(|at| at + 8) else { return };
        let data = rest.get(start..).unwrap_or_default();
        let Some(end) = object_end(data) else { return };
        tell(channel, data.get(..end).unwrap_or_default());
        body = data.get(end..).unwrap_or_default();
    }
}

/// The text between a mark and the next quote, and what comes after it.
fn text_after<'a>(bytes: &'a [u8], mark: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let rest = bytes.get(memmem::find(bytes, mark)? + mark.len()..)?;
    rest.split_at_checked(memchr::memchr(b'"', rest)?)
}

/// Past the brace that closes an object of which the opening one has been read.
fn object_end(bytes: &[u8]) -> Option<usize> {
    let mut depth = 1;
    for at in memchr::memchr2_iter(b'{', b'}', bytes) {
        depth += if bytes.get(at) == Some(&b'{') { 1 } else { -1 };
        if depth == 0 {
            return Some(at + 1);
        }
    }
    None
}

/// An event as we would write it.
pub(super) fn frame(out: &mut Vec<u8>, sequence: u64, channel: &[u8], event: &[u8], members: &[u8]) {
    out.extend_from_slice(b"id: ");
    // Into memory: it can't fail.
    write!(out, "{CURSOR}{sequence:012}").ok();
    out.extend_from_slice(b"\nevent: ");
    out.extend_from_slice(event);
    out.extend_from_slice(b"\ndata: {");
    if event.starts_with(b"job") {
        out.extend_from_slice(b"\"type\":\"job.update\",");
    }
    out.extend_from_slice(b"\"channel\":\"");
    out.extend_from_slice(channel);
    out.extend_from_slice(b"\",");
    if event.starts_with(b"job") {
        out.extend_from_slice(ADDED.as_bytes());
    }
    out.extend_from_slice(members);
    out.extend_from_slice(b"\n\n");
}

/// A subscription to `job-updates`.
#[derive(Debug)]
pub(super) struct Redis {
    socket: TcpStream,
    unread: Vec<u8>,
}

impl Redis {
    pub(super) fn subscribe(addr: SocketAddr, registry: &Registry, token: Token) -> Result<Self, Failure> {
        let mut socket = std::net::TcpStream::connect(addr)?;
        socket.write_all(b"*2\r\n$9\r\nSUBSCRIBE\r\n$11\r\njob-updates\r\n")?;
        socket.set_nonblocking(true)?;
        let mut socket = TcpStream::from_std(socket);
        registry.register(&mut socket, token, Interest::READABLE)?;
        Ok(Self { socket, unread: Vec::new() })
    }

    pub(super) fn read(&mut self, buffer: &mut [u8], hub: &mut Hub) -> Result<(), Failure> {
        loop {
            match self.socket.read(buffer) {
                Ok(0) => return Err("Redis has gone".into()),
                Ok(read) => self.unread.extend_from_slice(buffer.get(..read).unwrap_or_default()),
                Err(none) if none.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(none) if none.kind() == ErrorKind::Interrupted => {}
                Err(failure) => return Err(failure.into()),
            }
            let mut used = 0;
            while let Some((payload, length)) = message(self.unread.get(used..).unwrap_or_default()) {
                used += length;
                update(payload, hub);
            }
            self.unread.drain(..used);
        }
    }
}

fn update(payload: &[u8], hub: &mut Hub) {
    let Some((job, _)) = text_after(payload, b"\"jobId\":\"") else { return };
    let mut channel = [0; 256];
    let Some(place) = channel.get_mut(..job.len() + 5) else { return };
    let (kind, id) = place.split_at_mut(5);
    kind.copy_from_slice(b"jobs.");
    id.copy_from_slice(job);
    hub.publish(place, b"job:update", payload.get(1..).unwrap_or_default());
}

/// The payload of the first message that has come as a whole, and its length; nothing more is ever pushed than arrays whose
/// last element matters.
fn message(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let (mut at, count) = number(bytes, 0)?;
    let mut payload = &bytes[..0];
    for _ in 0..count {
        let (start, length) = number(bytes, at)?;
        if bytes.get(at) == Some(&b':') {
            at = start;
            continue;
        }
        payload = bytes.get(start..start + length)?;
        at = start + length + 2;
    }
    (at <= bytes.len()).then_some((payload, at))
}

/// Of a line such as `*3` or `$11`: where the next one begins, and the number.
fn number(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    let line = bytes.get(at..)?;
    let end = memchr::memchr(b'\n', line)?;
    let digits = line.get(1..end.checked_sub(1)?)?;
    let value = digits.iter().fold(0, |value: usize, digit| value * 10 + usize::from(digit.wrapping_sub(b'0')));
    Some((at + end + 1, value))
}
