//! Who listens to what, and the writing.

use std::collections::HashMap;

use mio::event::Event;
use mio::net::TcpStream;

use crate::raw::connection::Connection;
use crate::raw::input;
use crate::raw::input::Request;

/// As long as ours with its headers, and the 512 bytes of comment with which our streams begin.
const OPENING: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\
    Cache-Control: no-store, no-transform\r\nX-Accel-Buffering: no\r\nX-Content-Type-Options: nosniff\r\n\
    Connection: close\r\n\r\n";
const PADDING: usize = 512;
const READY: &str = "retry: 1000\n\nevent: ready\ndata: {\"timestamp\":\"2026-01-01T00:00:00.000000Z\"}\n\n";

#[derive(Debug)]
pub(super) struct Hub {
    coalesce: bool,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    channels: HashMap<Box<[u8]>, u32>,
    /// By channel.
    subscribers: Vec<Vec<usize>>,
    opening: Vec<u8>,
    /// The frames of this turn.
    arena: Vec<u8>,
    touched: Vec<usize>,
    scratch: Vec<u8>,
    sequence: u64,
}

impl Hub {
    pub(super) fn new(coalesce: bool) -> Self {
        Self {
            coalesce,
            connections: Vec::new(),
            free: Vec::new(),
            channels: HashMap::new(),
            subscribers: Vec::new(),
            opening: format!("{OPENING}:{}\n\n{READY}", " ".repeat(PADDING)).into_bytes(),
            arena: Vec::new(),
            touched: Vec::new(),
            scratch: Vec::new(),
            sequence: 0,
        }
    }

    pub(super) fn free_slot(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            self.connections.push(None);
            self.connections.len() - 1
        })
    }

    pub(super) fn insert(&mut self, slot: usize, socket: TcpStream) {
        if let Some(place) = self.connections.get_mut(slot) {
            *place = Some(Connection::new(socket));
        }
    }

    pub(super) fn happened(&mut self, slot: usize, event: &Event, buffer: &mut [u8]) {
        let Some(Some(connection)) = self.connections.get_mut(slot) else { return };
        let mut alive = !event.is_writable() || connection.write_waiting();
        if alive && event.is_readable() {
            alive = connection.read(buffer);
            let mut bytes = std::mem::take(&mut connection.request);
            let used = self.serve(slot, &bytes);
            bytes.drain(..used);
            if let Some(Some(connection)) = self.connections.get_mut(slot).filter(|_| !bytes.is_empty()) {
                connection.request = bytes;
            }
        }
        if !alive {
            self.remove(slot);
        }
    }

    /// Answers whole requests; how many bytes they were.
    fn serve(&mut self, slot: usize, bytes: &[u8]) -> usize {
        let mut used = 0;
        while let Some((request, length)) = input::request(bytes.get(used..).unwrap_or_default()) {
            used += length;
            match request {
                Request::Stream(channels) => self.subscribe(slot, channels),
                Request::Batch(body) => {
                    let mut count = 0;
                    input::batch(body, &mut |channel, data| {
                        count += 1;
                        self.publish(channel, b"doc:update", data);
                    });
                    let answer = format!("{{\"applied\":{count}}}");
                    let head = "HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: ";
                    self.answer(slot, format!("{head}{}\r\n\r\n{answer}", answer.len()).as_bytes());
                }
                Request::Other => self.answer(slot, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
            }
        }
        used
    }

    fn answer(&mut self, slot: usize, bytes: &[u8]) {
        if let Some(Some(connection)) = self.connections.get_mut(slot)
            && !connection.write(bytes)
        {
            self.remove(slot);
        }
    }

    fn subscribe(&mut self, slot: usize, channels: &[u8]) {
        let mut numbers: Vec<u32> = channels.split(|byte| *byte == b',').map(|name| self.channel(name)).collect();
        for number in &numbers {
            if let Some(subscribers) = self.subscribers.get_mut(*number as usize) {
                subscribers.push(slot);
            }
        }
        numbers.shrink_to_fit();
        if let Some(Some(connection)) = self.connections.get_mut(slot) {
            connection.channels = numbers;
        }
        let opening = std::mem::take(&mut self.opening);
        self.answer(slot, &opening);
        self.opening = opening;
    }

    fn channel(&mut self, name: &[u8]) -> u32 {
        if let Some(number) = self.channels.get(name) {
            return *number;
        }
        let number = u32::try_from(self.subscribers.len()).unwrap_or(u32::MAX);
        self.channels.insert(name.into(), number);
        self.subscribers.push(Vec::new());
        number
    }

    /// `members` are those of a JSON object, without the opening brace and with the closing one.
    pub(super) fn publish(&mut self, channel: &[u8], event: &[u8], members: &[u8]) {
        let Some(number) = self.channels.get(channel).map(|number| *number as usize) else { return };
        if self.subscribers.get(number).is_none_or(Vec::is_empty) {
            return;
        }
        self.sequence += 1;
        let start = self.arena.len();
        input::frame(&mut self.arena, self.sequence, channel, event, members);
        let range = start..self.arena.len();
        if self.coalesce {
            self.add_to_all(number, &range);
        } else {
            self.write_to_all(number, start);
            self.arena.truncate(start);
        }
    }

    fn add_to_all(&mut self, number: usize, range: &std::ops::Range<usize>) {
        for slot in self.subscribers.get(number).into_iter().flatten() {
            if let Some(Some(connection)) = self.connections.get_mut(*slot)
                && connection.add(range.clone())
            {
                self.touched.push(*slot);
            }
        }
    }

    fn write_to_all(&mut self, number: usize, start: usize) {
        let frame = self.arena.get(start..).unwrap_or_default();
        let mut gone = Vec::new();
        for slot in self.subscribers.get(number).into_iter().flatten() {
            if let Some(Some(connection)) = self.connections.get_mut(*slot)
                && !connection.write(frame)
            {
                gone.push(*slot);
            }
        }
        gone.into_iter().for_each(|slot| self.remove(slot));
    }

    /// Writes what this turn has made ready.
    pub(super) fn turn_is_over(&mut self) {
        let touched = std::mem::take(&mut self.touched);
        for slot in &touched {
            let Some(Some(connection)) = self.connections.get_mut(*slot) else { continue };
            if !connection.write_ready(&self.arena, &mut self.scratch) {
                self.remove(*slot);
            }
        }
        self.touched = touched;
        self.touched.clear();
        self.arena.clear();
    }

    fn remove(&mut self, slot: usize) {
        let Some(connection) = self.connections.get_mut(slot).and_then(Option::take) else { return };
        for number in &connection.channels {
            if let Some(subscribers) = self.subscribers.get_mut(*number as usize)
                && let Some(at) = subscribers.iter().position(|other| *other == slot)
            {
                subscribers.swap_remove(at);
            }
        }
        self.free.push(slot);
    }
}
