//! The subscription manager of this node: matches events to subscriptions.
//!
//! It must not know HTTP, Redis, SQL or how frames look on a wire.

mod ages;
mod batch;
mod close;
mod connection;
mod counts;
mod delivery;
mod edits;
mod frame;
mod hearing;
mod joining;
mod lane;
mod message;
mod outbox;
mod poller;
mod registry;
mod rooms;
mod survey;
#[cfg(test)]
mod tests;
mod timers;
mod window;
mod wire;
mod writer;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use close::CloseReason;
pub use frame::Format;
pub use frame::Frame;
pub use message::ConnectionId;
pub use message::Edit;
pub use message::Found;
pub use message::Join;
pub use message::LIVELY;
pub use message::LaneSettings;
pub use message::Pending;
pub use message::Register;
pub use message::Standings;
pub use message::Survey;
pub use outbox::Drained;
pub use outbox::Outbox;
pub use outbox::OutboxLimits;
pub use window::Window;
pub use wire::Holder;
pub use wire::Keeper;
pub use wire::Refused;
pub use wire::Reply;
pub use wire::Seat;
pub use wire::States;
pub use wire::Wire;

use crate::event::Channel;
use crate::event::Entry;
use crate::event::Epoch;
use crate::event::Event;
use crate::event::Fingerprint;
use crate::event::LogId;
use crate::event::Moved;
use crate::inspect::Inspector;
use crate::spans::Spans;
use crate::telemetry::Metrics;
use lane::Lane;
use message::LaneMessage;
use poller::Bell;
use poller::Poller;

/// Messages that may wait for a lane. A full lane holds the tail back, and with it the whole node.
const LANE_WAITING_MAX: usize = 1024;

/// What the hub is fed with, in log order.
#[derive(Debug, Clone)]
pub enum Feed {
    /// A beginning, also after continuity was lost.
    Opened {
        /// Which log.
        epoch: Epoch,
        /// The entry before the first one of `entries`.
        before: (LogId, Fingerprint),
        /// The newest part of the log.
        entries: Vec<Arc<Entry>>,
    },
    /// The next entries.
    Entries(Arc<[Arc<Entry>]>),
    /// An event that is not logged.
    Ephemeral(Event),
}

/// The handle to all lanes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Hub {
    /// A lane has panicked.
    failed: CancellationToken,
    lanes: Arc<[LaneHandle]>,
    window: Window,
    metrics: Metrics,
    inspector: Inspector,
    spans: Spans,
}

#[derive(Debug)]
struct LaneHandle {
    messages: mpsc::Sender<LaneMessage>,
    bell: Arc<Bell>,
}

/// Goes off when its thread panics.
#[derive(Debug)]
struct Alarm(CancellationToken);

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.cancel();
        }
    }
}

impl LaneHandle {
    async fn send(&self, message: LaneMessage) {
        // A lane is gone only when the app stops.
        drop(self.messages.send(message).await);
        self.bell.ring();
    }
}

impl Hub {
    /// Starts `lanes` lanes, each on a thread of `tasks`; they end with `stop`.
    ///
    /// # Errors
    /// The system is out of descriptors.
    pub fn start(
        lanes: usize,
        settings: &LaneSettings,
        window: Window,
        metrics: &Metrics,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> io::Result<Self> {
        let failed = CancellationToken::new();
        let start = |_| {
            let (messages, receiver) = mpsc::channel(LANE_WAITING_MAX);
            let (poller, sockets, bell) = Poller::new(receiver)?;
            let lane = Lane::new(settings.clone(), window.clone(), metrics, sockets);
            let (stop, alarm) = (stop.clone(), Alarm(failed.clone()));
            // A thread of its own: a lane waits in its poller, and a large fan-out must not hold up anybody else's tasks.
            tasks.spawn_blocking(move || {
                let _alarm = alarm;
                poller.run(lane, &stop);
            });
            Ok(LaneHandle { messages, bell })
        };
        let lanes = (0..lanes.max(1)).map(start).collect::<io::Result<Arc<[LaneHandle]>>>()?;
        let (metrics, inspector, spans) = (metrics.clone(), settings.inspector.clone(), settings.spans.clone());
        Ok(Self { failed, lanes, window, metrics, inspector, spans })
    }

    /// Waits until a lane has panicked: its streams are gone, and nobody would carry those who come back to it.
    pub async fn failed(&self) {
        self.failed.cancelled().await;
    }

    /// Who remembers what happened to streams.
    #[must_use]
    pub fn inspector(&self) -> &Inspector {
        &self.inspector
    }

    /// The newest part of the log.
    #[must_use]
    pub fn window(&self) -> &Window {
        &self.window
    }

    /// Puts the next part of the log into the window, then gives it to every lane. Called by one task only.
    pub async fn feed(&self, feed: Feed) {
        match feed {
            Feed::Opened { epoch, before, entries } => {
                let generation = self.window.open(epoch, before, entries);
                self.to_all(|| LaneMessage::Opened { generation, head: self.window.head() }).await;
            }
            Feed::Entries(entries) => {
                self.window.extend(&entries);
                self.to_all(|| LaneMessage::Entries(Arc::clone(&entries))).await;
                self.trace(&entries).await;
            }
            Feed::Ephemeral(event) => self.to_all(|| LaneMessage::Ephemeral(event.clone())).await,
        }
        let (entries, bytes) = self.window.size();
        self.metrics.window_entries.set(i64::try_from(entries).unwrap_or(i64::MAX));
        self.metrics.window_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Tells everybody who watches a channel that has a state what has happened there, in this order.
    pub async fn tell(&self, channel: &Channel, moved: Vec<Moved>) {
        let moved: Arc<[Moved]> = moved.into();
        self.to_all(|| LaneMessage::Told(channel.clone(), Arc::clone(&moved))).await;
    }

    /// Lets a stream go live that has caught up to `register.from`. Its seat hears whether it did.
    pub async fn join(&self, register: Register) {
        self.lane(register.id).send(LaneMessage::Register(Box::new(register))).await;
    }

    /// Tells the lane that a stream is gone. Best effort: a lane that misses it notices by the closed outbox.
    pub fn leave(&self, id: ConnectionId) {
        let lane = self.lane(id);
        drop(lane.messages.try_send(LaneMessage::Leave(id)));
        lane.bell.ring();
    }

    /// Changes a live stream. One that is not live, or is there in an older edition, looks at its channels again by itself.
    pub async fn edit(&self, id: ConnectionId, edit: Edit) {
        self.lane(id).send(LaneMessage::Edit(id, Box::new(edit))).await;
    }

    /// The live streams that carry any of these channels.
    pub async fn carriers(&self, channels: &Arc<[Channel]>) -> Found {
        let mut found = Found::new();
        for lane in self.lanes.iter() {
            let (sender, answer) = oneshot::channel();
            lane.send(LaneMessage::Find(Arc::clone(channels), sender)).await;
            found.extend(answer.await.unwrap_or_default());
        }
        found
    }

    /// Ends a stream without a word, as a broken network would.
    pub async fn cut(&self, id: ConnectionId) {
        self.lane(id).send(LaneMessage::Cut(id)).await;
    }

    /// Ends all streams, spread over `within`, each told when to come back.
    pub async fn drain(&self, within: Duration) {
        self.to_all(|| LaneMessage::Drain(within)).await;
    }

    fn lane(&self, id: ConnectionId) -> &LaneHandle {
        let index = usize::try_from(id.0 % self.lanes.len() as u64).unwrap_or(0);
        self.lanes.get(index).expect("the index is below the number of lanes, which is at least one")
    }

    async fn to_all(&self, message: impl Fn() -> LaneMessage) {
        for lane in self.lanes.iter() {
            lane.send(message()).await;
        }
    }
}
