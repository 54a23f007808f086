//! The subscription manager of this node: matches events to subscriptions.
//!
//! It must not know HTTP, Redis, SQL or how frames look on a wire.

mod close;
mod frame;
mod lane;
mod outbox;
#[cfg(test)]
mod tests;
mod window;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use close::CloseReason;
pub use frame::Format;
pub use frame::Frame;
pub use lane::ConnectionId;
pub use lane::LaneSettings;
pub use lane::Refused;
pub use lane::Register;
pub use outbox::Drained;
pub use outbox::Outbox;
pub use outbox::OutboxLimits;
pub use window::Window;

use crate::event::Cursor;
use crate::event::Entry;
use crate::event::Epoch;
use crate::event::Event;
use crate::event::Fingerprint;
use crate::event::LogId;
use crate::telemetry::Metrics;
use lane::Lane;
use lane::LaneMessage;

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
    lanes: Arc<[mpsc::Sender<LaneMessage>]>,
    window: Window,
    metrics: Metrics,
}

impl Hub {
    /// Starts `lanes` lanes as tasks of `tasks`; they end with `stop`.
    #[must_use]
    pub fn start(
        lanes: usize,
        settings: &LaneSettings,
        window: Window,
        metrics: &Metrics,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Self {
        let senders = (0..lanes.max(1)).map(|_| {
            let (sender, receiver) = mpsc::channel(LANE_WAITING_MAX);
            let lane = Lane::new(settings.clone(), window.clone(), metrics.clone());
            tasks.spawn(lane.run(receiver, stop.clone()));
            sender
        });
        Self { lanes: senders.collect(), window, metrics: metrics.clone() }
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
            }
            Feed::Ephemeral(event) => self.to_all(|| LaneMessage::Ephemeral(event.clone())).await,
        }
        let (entries, bytes) = self.window.size();
        self.metrics.window_entries.set(i64::try_from(entries).unwrap_or(i64::MAX));
        self.metrics.window_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Registers a stream that has caught up to `register.from`. Answers the cursor at which it joined the live events.
    ///
    /// # Errors
    /// `Refused`, with the stream's part back, when it has to catch up further or anew.
    pub async fn register(&self, register: Register) -> Result<Cursor, Refused> {
        let (reply, answer) = oneshot::channel();
        let lane = self.lane(register.id);
        if lane.send(LaneMessage::Register(Box::new(register), reply)).await.is_err() {
            return Err(Refused::Stopped);
        }
        answer.await.unwrap_or(Err(Refused::Stopped))
    }

    /// Tells the lane that a stream is gone. Best effort: a lane that misses it notices by the closed outbox.
    pub fn leave(&self, id: ConnectionId) {
        drop(self.lane(id).try_send(LaneMessage::Leave(id)));
    }

    /// Ends a stream without a word, as a broken network would.
    pub async fn cut(&self, id: ConnectionId) {
        drop(self.lane(id).send(LaneMessage::Cut(id)).await);
    }

    /// Ends all streams, spread over `within`, each told when to come back.
    pub async fn drain(&self, within: Duration) {
        self.to_all(|| LaneMessage::Drain(within)).await;
    }

    fn lane(&self, id: ConnectionId) -> &mpsc::Sender<LaneMessage> {
        let index = usize::try_from(id.0 % self.lanes.len() as u64).unwrap_or(0);
        self.lanes.get(index).expect("the index is below the number of lanes, which is at least one")
    }

    async fn to_all(&self, message: impl Fn() -> LaneMessage) {
        for lane in self.lanes.iter() {
            // A lane is gone only when the app stops.
            drop(lane.send(message()).await);
        }
    }
}
