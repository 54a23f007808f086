//! A socket with what could not be written yet.

use std::io::ErrorKind;
use std::io::Read as _;
use std::io::Write as _;
use std::ops::Range;

use mio::net::TcpStream;

/// A reader that is so far behind is cut.
const WAITING_MAX: usize = 16 * 1024 * 1024;

#[derive(Debug)]
pub(super) struct Connection {
    socket: TcpStream,
    /// A request that has not come as a whole.
    pub(super) request: Vec<u8>,
    /// What the socket didn't take.
    waiting: Vec<u8>,
    /// Frames of this turn, as ranges of the arena: neighbours are one range.
    ready: Vec<Range<usize>>,
    pub(super) channels: Vec<u32>,
}

impl Connection {
    pub(super) fn new(socket: TcpStream) -> Self {
        let (request, waiting, ready, channels) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { socket, request, waiting, ready, channels }
    }

    /// Reads everything into `request`. `false`: the peer has gone.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> bool {
        loop {
            match self.socket.read(buffer) {
                Ok(0) => return false,
                Ok(read) => self.request.extend_from_slice(buffer.get(..read).unwrap_or_default()),
                Err(none) if none.kind() == ErrorKind::WouldBlock => return true,
                Err(none) if none.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
    }

    /// Writes now, or keeps what the socket doesn't take. `false`: the peer has gone, or is too far behind.
    pub(super) fn write(&mut self, bytes: &[u8]) -> bool {
        let mut written = 0;
        while self.waiting.is_empty() && written < bytes.len() {
            match self.socket.write(bytes.get(written..).unwrap_or_default()) {
                Ok(some) => written += some,
                Err(full) if full.kind() == ErrorKind::WouldBlock => break,
                Err(none) if none.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        self.waiting.extend_from_slice(bytes.get(written..).unwrap_or_default());
        self.waiting.len() < WAITING_MAX
    }

    /// The socket takes bytes again.
    pub(super) fn write_waiting(&mut self) -> bool {
        if self.waiting.is_empty() {
            return true;
        }
        let waiting = std::mem::take(&mut self.waiting);
        self.write(&waiting)
    }

    /// A frame for the end of the turn; `true` if it is the first one.
    pub(super) fn add(&mut self, frame: Range<usize>) -> bool {
        match self.ready.last_mut() {
            Some(last) if last.end == frame.start => last.end = frame.end,
            Some(_) => self.ready.push(frame),
            None => {
                self.ready.push(frame);
                return true;
            }
        }
        false
    }

    /// One write of everything that became ready in this turn.
    pub(super) fn write_ready(&mut self, arena: &[u8], scratch: &mut Vec<u8>) -> bool {
        let mut ready = std::mem::take(&mut self.ready);
        let sent = match &ready[..] {
            [one] => self.write(arena.get(one.clone()).unwrap_or_default()),
            many => {
                scratch.clear();
                many.iter().for_each(|one| scratch.extend_from_slice(arena.get(one.clone()).unwrap_or_default()));
                self.write(scratch)
            }
        };
        ready.clear();
        self.ready = ready;
        sent
    }
}
