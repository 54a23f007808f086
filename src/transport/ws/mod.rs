//! WebSocket: the same session over a socket that can also be heard.
//!
//! After `101` the connection is hyper's no longer. While the stream is live its lane owns the socket, for writing and for reading: an
//! idle one keeps no buffer, no timer and no task. What a client says is done by a task that lives as long as there is something to do.

mod incoming;
mod outgoing;
mod stream;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use parking_lot::Mutex;

pub use outgoing::error;
pub use outgoing::message;
pub use stream::serve;
pub use stream::serve_in_task;

use crate::hub::CloseReason;
use crate::hub::Reply;
use crate::session::Live;
use crate::transport::Workers;
use incoming::Incoming;
use incoming::Message;

/// Messages of one client that wait to be done; one that sends more has had every chance to slow down.
const WAITING_MAX: usize = 256;
/// Pings that may go unanswered.
const UNANSWERED_MAX: u8 = 2;
/// Pings and pongs between two pings of ours that are no sign of an attack.
const CONTROL_FRAMES_MAX: u32 = 500;

/// What `Commands::run` returns.
pub type Done<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// Does what clients ask for.
pub trait Commands: Send + Sync + fmt::Debug {
    /// Does what this message of the stream's client says, and tells the stream what became of it.
    fn run<'a>(&'a self, live: &'a Arc<Live>, text: String) -> Done<'a>;
}

/// What is heard of one client.
#[derive(Debug)]
struct Hearing {
    incoming: Incoming,
    waiting: Arc<Waiting>,
    pulse: Pulse,
}

/// Whether a client is there, and whether it keeps to what a client needs to say about that.
#[derive(Debug, Default)]
struct Pulse {
    unanswered: u8,
    control_frames: u32,
}

impl Pulse {
    /// Whatever it says, it is there.
    fn heard(&mut self, message: &Message) {
        self.unanswered = 0;
        self.control_frames += u32::from(matches!(message, Message::Ping(_) | Message::Pong));
    }

    fn is_flood(&self) -> bool {
        self.control_frames > CONTROL_FRAMES_MAX
    }

    /// It is asked again, unless it has not answered for too long.
    fn ask(&mut self) -> bool {
        self.control_frames = 0;
        let is_there = self.unanswered < UNANSWERED_MAX;
        self.unanswered += 1;
        is_there
    }
}

/// Messages that wait to be done, one after the other.
#[derive(Debug)]
struct Waiting {
    live: Arc<Live>,
    commands: Arc<dyn Commands>,
    workers: Workers,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    texts: VecDeque<String>,
    /// A task is at work.
    running: bool,
}

impl Drop for Hearing {
    fn drop(&mut self) {
        self.waiting.forget();
    }
}

impl Hearing {
    fn new(live: Arc<Live>, commands: Arc<dyn Commands>, workers: Workers) -> Self {
        let waiting = Arc::new(Waiting { live, commands, workers, state: Mutex::default() });
        Self { incoming: Incoming::default(), waiting, pulse: Pulse::default() }
    }

    fn received(&mut self, bytes: &[u8]) -> Reply {
        let mut reply = Reply::default();
        let (waiting, pulse) = (&self.waiting, &mut self.pulse);
        let taken = self.incoming.take(bytes, |message| {
            if reply.end.is_some() {
                return; // after its close frame a client says nothing that counts
            }
            pulse.heard(&message);
            match message {
                Message::Text(text) => {
                    if !waiting.add(text) {
                        reply.end = Some(CloseReason::TooMuch);
                    }
                }
                Message::Ping(payload) => reply.frames.push(outgoing::pong(&payload)),
                Message::Pong => {}
                Message::Close(code) => {
                    reply.frames.push(outgoing::closed(code));
                    reply.end = Some(CloseReason::Closed);
                }
            }
        });
        if self.pulse.is_flood() {
            reply.end = reply.end.or(Some(CloseReason::TooMuch));
        }
        reply.end = reply.end.or(taken.err());
        reply
    }

    fn ping(&mut self) -> Reply {
        if self.pulse.ask() {
            Reply { frames: vec![outgoing::ping()], end: None }
        } else {
            Reply { end: Some(CloseReason::ClientGone), ..Reply::default() }
        }
    }
}

impl Waiting {
    /// Whether there was room.
    fn add(self: &Arc<Self>, text: String) -> bool {
        let mut state = self.state.lock();
        if state.texts.len() >= WAITING_MAX {
            return false;
        }
        state.texts.push_back(text);
        if !std::mem::replace(&mut state.running, true) {
            self.workers.spawn(Arc::clone(self).work());
        }
        true
    }

    async fn work(self: Arc<Self>) {
        loop {
            let text = {
                let mut state = self.state.lock();
                let next = state.texts.pop_front();
                state.running = next.is_some();
                if next.is_none() {
                    state.texts = VecDeque::new();
                }
                next
            };
            let Some(text) = text else { return };
            self.commands.run(&self.live, text).await;
        }
    }

    /// The client is gone: what it still wanted is not done any more.
    fn forget(&self) {
        self.state.lock().texts.clear();
    }
}
