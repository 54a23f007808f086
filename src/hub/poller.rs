//! The thread of a lane: messages, sockets and the clock, in turns.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::sync::atomic::fence;
use std::time::Duration;

use mio::Events;
use mio::Interest;
use mio::Poll;
use mio::Registry;
use mio::Token;
use mio::Waker;
use mio::event::Event;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::hub::hearing::Seen;
use crate::hub::lane::Lane;
use crate::hub::message::LaneMessage;
use crate::hub::timers::TICK;
use crate::hub::wire::Key;
use crate::hub::wire::Port;
use crate::hub::wire::Socket;

/// Messages of one turn at most; then what they brought is written.
const MESSAGES_PER_TURN: usize = 256;
const EVENTS_PER_TURN: usize = 1024;
/// No slot has this number: a process does not have that many connections.
const BELL: Token = Token(usize::MAX);

/// Wakes a lane that sleeps, and costs nothing while it is awake.
#[derive(Debug)]
pub(super) struct Bell {
    waker: Waker,
    asleep: AtomicBool,
}

impl Bell {
    /// Call after sending.
    pub(super) fn ring(&self) {
        // Pairs with the fence in `sleeps`: either we see it asleep, or it sees our message.
        fence(Ordering::SeqCst);
        if self.asleep.swap(false, Ordering::AcqRel)
            && let Err(error) = self.waker.wake()
        {
            tracing::error!(%error, "a lane can't be woken; it looks by itself ten times a second");
        }
    }

    /// Whether the lane may sleep now.
    fn sleeps(&self, messages: &mpsc::Receiver<LaneMessage>) -> bool {
        self.asleep.store(true, Ordering::Release);
        fence(Ordering::SeqCst);
        let sleeps = messages.is_empty();
        if !sleeps {
            self.asleep.store(false, Ordering::Release);
        }
        sleeps
    }
}

/// The sockets of a lane, watched by epoll or what the system has instead.
#[derive(Debug)]
pub(super) struct Sockets(Registry);

impl Port for Sockets {
    type Handle = TcpStream;
    type Socket = mio::net::TcpStream;

    fn adopt(&mut self, handle: TcpStream, key: Key) -> io::Result<mio::net::TcpStream> {
        let mut socket = mio::net::TcpStream::from_std(handle);
        // What the peer of an `EventSource` says is left to the kernel, unread: there, only its end is of interest.
        self.0.register(&mut socket, token(key), Interest::READABLE | Interest::WRITABLE)?;
        Ok(socket)
    }

    fn release(&mut self, mut socket: mio::net::TcpStream) -> io::Result<TcpStream> {
        self.0.deregister(&mut socket)?;
        Ok(socket.into())
    }
}

impl Socket for mio::net::TcpStream {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        io::Read::read(self, bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        io::Write::write(self, bytes)
    }

    fn finish(&mut self) {
        // An error means that the peer is gone, which the poller says as well.
        drop(self.shutdown(std::net::Shutdown::Write));
    }

    fn give_up_after(&mut self, silence: Duration) {
        if let Err(error) = socket2::SockRef::from(&*self).set_tcp_user_timeout(Some(silence)) {
            tracing::debug!(%error, "a silent peer will be noticed late");
        }
    }
}

fn token(key: Key) -> Token {
    Token(key.slot as usize | (key.generation as usize) << 32)
}

#[expect(clippy::cast_possible_truncation, reason = "the two halves that `token` put together")]
fn key(token: Token) -> Key {
    Key { slot: token.0 as u32, generation: (token.0 >> 32) as u32 }
}

fn seen(event: &Event) -> Seen {
    let broken = event.is_error() || event.is_write_closed();
    Seen { broken, read_closed: event.is_read_closed(), readable: event.is_readable() }
}

/// What a lane's thread owns.
pub(super) struct Poller {
    poll: Poll,
    messages: mpsc::Receiver<LaneMessage>,
    bell: Arc<Bell>,
}

impl Poller {
    /// The poller, its sockets for the lane, and its bell.
    ///
    /// # Errors
    /// The system is out of descriptors.
    pub(super) fn new(messages: mpsc::Receiver<LaneMessage>) -> io::Result<(Self, Sockets, Arc<Bell>)> {
        let poll = Poll::new()?;
        let bell = Arc::new(Bell { waker: Waker::new(poll.registry(), BELL)?, asleep: AtomicBool::new(false) });
        let sockets = Sockets(poll.registry().try_clone()?);
        Ok((Self { poll, messages, bell: Arc::clone(&bell) }, sockets, bell))
    }

    /// Turns until `stop`: take what has come, write what it brings, look at the clock, sleep.
    pub(super) fn run(mut self, mut lane: Lane<Sockets>, stop: &CancellationToken) {
        let mut events = Events::with_capacity(EVENTS_PER_TURN);
        let mut tick = Instant::now() + TICK;
        while !stop.is_cancelled() {
            let Some(more) = self.take(&mut lane) else { break };
            lane.flush();
            let now = Instant::now();
            if now >= tick {
                lane.tick();
                // From the beat on, not from now: late ticks must not make every later one late.
                tick = (tick + TICK).max(now);
            }
            lane.hear_more();
            let more = more || !lane.unread.is_empty();
            let wait = if more || !self.bell.sleeps(&self.messages) { Duration::ZERO } else { tick - now };
            if let Err(error) = self.poll.poll(&mut events, Some(wait))
                && error.kind() != io::ErrorKind::Interrupted
            {
                tracing::error!(%error, "a lane can't poll");
            }
            self.bell.asleep.store(false, Ordering::Release);
            for event in events.iter().filter(|event| event.token() != BELL) {
                lane.ready(key(event.token()), seen(event));
            }
        }
        lane.stop();
    }

    /// Whether there may be more; `None`: nobody is left who could send.
    fn take(&mut self, lane: &mut Lane<Sockets>) -> Option<bool> {
        for _ in 0..MESSAGES_PER_TURN {
            match self.messages.try_recv() {
                Ok(message) => lane.take(message),
                Err(TryRecvError::Empty) => return Some(false),
                Err(TryRecvError::Disconnected) => return None,
            }
        }
        Some(true)
    }
}
