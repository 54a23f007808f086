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
use tokio_util::task::TaskTracker;

pub use outgoing::error;
pub use outgoing::message;
pub use stream::Way;
pub use stream::serve;

use crate::hub::CloseReason;
use crate::hub::Reply;
use crate::session::Live;
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
    unanswered: u8,
    control_frames: u32,
}

/// Messages that wait to be done, one after the other.
#[derive(Debug)]
struct Waiting {
    live: Arc<Live>,
    commands: Arc<dyn Commands>,
    tasks: TaskTracker,
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
    fn new(live: Arc<Live>, commands: Arc<dyn Commands>, tasks: TaskTracker) -> Self {
        let waiting = Arc::new(Waiting { live, commands, tasks, state: Mutex::default() });
        Self { incoming: Incoming::default(), waiting, unanswered: 0, control_frames: 0 }
    }

    fn received(&mut self, bytes: &[u8]) -> Reply {
        let mut reply = Reply::default();
        let (waiting, unanswered, controls) = (&self.waiting, &mut self.unanswered, &mut self.control_frames);
        let taken = self.incoming.take(bytes, |message| {
            if reply.end.is_some() {
                return; // after its close frame a client says nothing that counts
            }
            *unanswered = 0; // whatever it says, it is there
            match message {
                Message::Text(text) => {
                    if !waiting.add(text) {
                        reply.end = Some(CloseReason::TooMuch);
                    }
                }
                Message::Ping(payload) => {
                    *controls += 1;
                    reply.frames.push(outgoing::pong(&payload));
                }
                Message::Pong => *controls += 1,
                Message::Close(code) => {
                    reply.frames.push(outgoing::closed(code));
                    reply.end = Some(CloseReason::Closed);
                }
            }
        });
        if self.control_frames > CONTROL_FRAMES_MAX {
            reply.end = reply.end.or(Some(CloseReason::TooMuch));
        }
        reply.end = reply.end.or(taken.err());
        reply
    }

    fn ping(&mut self) -> Reply {
        self.control_frames = 0;
        if self.unanswered >= UNANSWERED_MAX {
            return Reply { end: Some(CloseReason::ClientGone), ..Reply::default() };
        }
        self.unanswered += 1;
        Reply { frames: vec![outgoing::ping()], end: None }
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
            self.tasks.spawn(Arc::clone(self).work());
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
