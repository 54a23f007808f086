//! What a lane tells the inspector, and what it answers whoever asks how it does.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::oneshot;

use crate::event::Channel;
use crate::hub::CloseReason;
use crate::hub::ConnectionId;
use crate::hub::Hub;
use crate::hub::LaneHandle;
use crate::hub::Standings;
use crate::hub::Survey;
use crate::hub::connection::Connection;
use crate::hub::lane::Lane;
use crate::hub::message::LaneMessage;
use crate::hub::outbox::Pushes;
use crate::hub::wire::Key;
use crate::hub::wire::Port;
use crate::inspect::Inspector;
use crate::inspect::LaneView;
use crate::inspect::Standing;

/// How long a lane is waited for. One that is busier than that is told as such.
const PATIENCE: Duration = Duration::from_secs(1);

impl Hub {
    /// How these streams stand, as far as they are live here and their lanes answer in time.
    pub async fn look(&self, ids: &[ConnectionId]) -> Standings {
        let ids: Arc<[ConnectionId]> = ids.into();
        let asked = self.lanes.iter().map(|lane| async {
            let (sender, answer) = oneshot::channel();
            lane.ask(LaneMessage::Look(Arc::clone(&ids), sender), answer).await
        });
        join_all(asked).await.into_iter().flatten().flatten().collect()
    }

    /// Every lane at a glance, and how many streams carry each of these channels.
    pub async fn survey(&self, channels: &[Channel]) -> (Vec<LaneView>, Vec<usize>) {
        let wanted: Arc<[Channel]> = channels.into();
        let asked = self.lanes.iter().map(|lane| async {
            let waiting = lane.messages.max_capacity() - lane.messages.capacity();
            let (sender, answer) = oneshot::channel();
            let survey = lane.ask(LaneMessage::Survey(Arc::clone(&wanted), sender), answer).await;
            let (view, carriers) = survey.unwrap_or_default();
            (LaneView { messages: waiting, ..view }, carriers)
        });
        let mut carriers = vec![0; channels.len()];
        let mut views = Vec::with_capacity(self.lanes.len());
        for (view, carry) in join_all(asked).await {
            carriers.iter_mut().zip(carry).for_each(|(sum, more)| *sum += more);
            views.push(view);
        }
        (views, carriers)
    }
}

impl LaneHandle {
    async fn ask<T>(&self, question: LaneMessage, answer: oneshot::Receiver<T>) -> Option<T> {
        let asked = async {
            self.send(question).await;
            answer.await.ok()
        };
        tokio::time::timeout(PATIENCE, asked).await.ok().flatten()
    }
}

/// What a lagging stream was spared, or has missed.
pub(super) fn note_pushes(inspector: &Inspector, id: ConnectionId, pushes: &mut Pushes) {
    if let Some(unsent) = pushes.unsent.take() {
        inspector.note(|ledger| ledger.unsent(id.0, unsent.superseded, unsent.from));
    }
    if pushes.dropped > 0 {
        inspector.note(|ledger| ledger.dropped(id.0, pushes.dropped));
    }
}

impl<P: Port> Lane<P> {
    /// The lane lets go of a stream: up to where it was written.
    pub(super) fn note_leaving(&self, connection: &Connection<P>) {
        let (id, (_, _, unwritten)) = (connection.id, connection.backlog());
        self.settings.inspector.note(|ledger| match connection.ending {
            None => ledger.stopped(id.0, self.head.at, unwritten),
            // What waited was thrown away.
            Some(CloseReason::Slow | CloseReason::Revoked | CloseReason::Cut) => {}
            Some(_) => ledger.flushed(id.0, unwritten),
        });
    }

    /// A channel joins a live stream.
    pub(super) fn note_joined(&mut self, key: Key, channel: &Channel) {
        let Some(id) = self.registry.get(key).map(|connection| connection.id) else { return };
        self.settings.inspector.note(|ledger| ledger.channel_joined(id.0, channel, self.head.at));
    }

    /// Channels leave a live stream.
    pub(super) fn note_left(&mut self, key: Key, channels: &[Channel]) {
        if !self.settings.inspector.is_on() {
            return;
        }
        let Some(connection) = self.registry.get(key) else { return };
        let (id, (_, _, unwritten)) = (connection.id, connection.backlog());
        let at = self.head.at;
        self.settings.inspector.note(|ledger| {
            channels.iter().for_each(|channel| ledger.channel_left(id.0, channel, at, unwritten));
        });
    }

    /// How these streams stand, as far as they are here.
    pub(super) fn look(&mut self, ids: &[ConnectionId], answer: oneshot::Sender<Standings>) {
        let head = self.head.at;
        let standing = |id: &ConnectionId| {
            let key = self.key_of(*id)?;
            let (events, bytes, waiting_from) = self.registry.get(key)?.backlog();
            Some((*id, Standing { head, waiting_from, events, bytes }))
        };
        // Whoever asked may be gone.
        drop(answer.send(ids.iter().filter_map(standing).collect()));
    }

    /// The lane at a glance. Looks at every stream, so it is only done where somebody asks.
    pub(super) fn survey(&mut self, channels: &[Channel], answer: oneshot::Sender<Survey>) {
        let mut view = LaneView {
            answers: true,
            streams: self.by_id.len(),
            channels: self.registry.topics(),
            head: self.head.at.to_string(),
            leaving: self.leaving,
            ..LaneView::default()
        };
        for (_, connection) in self.registry.iter() {
            let (events, bytes, _) = connection.backlog();
            view.lagging += usize::from(bytes > 0);
            view.waiting_events += events;
            view.waiting_bytes += bytes;
        }
        let carriers = |channel| self.registry.subscribers(channel).map_or(0, |(_, subscribers)| subscribers.len());
        drop(answer.send((view, channels.iter().map(carriers).collect())));
    }
}
