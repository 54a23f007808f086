//! A stream through a queue: for transports that write in a task of their own.

use std::collections::VecDeque;
use std::sync::Arc;

use async_stream::stream;
use futures_util::Stream;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::error::ApiError;
use crate::hub::CloseReason;
use crate::hub::ConnectionId;
use crate::hub::Drained;
use crate::hub::Frame;
use crate::hub::Hub;
use crate::hub::Outbox;
use crate::hub::Refused;
use crate::hub::Seat;
use crate::session::Opening;
use crate::session::Session;
use crate::session::Step;
use crate::session::Transport;

/// What comes out of a stream.
#[derive(Debug)]
pub enum Output {
    /// Frames to send, in this order.
    Frames(VecDeque<Frame>),
    /// The stream can't go on: say so and end.
    Problem(ApiError),
    /// The end, for this reason.
    End(CloseReason),
}

/// The reader's side of the queue: undone however the stream ends.
struct Leaving {
    opening: Opening,
    outbox: Arc<Outbox>,
    hub: Hub,
    id: ConnectionId,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        // A reader that takes nothing is cut before it has taken its end out; one that breaks the rules is ended by its transport.
        if let Some(reason) = self.outbox.closing().or(self.opening.live().end()) {
            self.opening.because(reason);
        }
        self.outbox.finish();
        self.hub.leave(self.id);
    }
}

impl Session {
    /// The frames of this stream, for one transport; `kill` cuts its connection. Nothing happens until it is polled.
    pub fn into_stream(self, transport: Transport, kill: CancellationToken) -> impl Stream<Item = Output> + Send {
        let outbox = Arc::new(Outbox::new(self.sessions.outbox));
        let (hub, id) = (self.sessions.hub.clone(), self.live.id);
        let mut leaving = Leaving { opening: Opening::new(self, transport), outbox, hub, id };
        stream! {
            loop {
                // In a box, which is gone before the stream is live: what a step needs while it is under way is large.
                match Box::pin(leaving.opening.next()).await {
                    Step::Frames(frames) => { yield Output::Frames(frames); continue; }
                    Step::Problem(error) => { yield Output::Problem(error); return; }
                    Step::End(reason) => { yield Output::End(reason); return; }
                    Step::Join => {}
                }
                let (joined, answer) = oneshot::channel();
                let seat = Seat::Queue { outbox: Arc::clone(&leaving.outbox), kill: kill.clone(), joined };
                leaving.hub.join(leaving.opening.register(seat)).await;
                let ended = match answer.await.unwrap_or(Err(Refused::Stopped)) {
                    Err(Refused::Stopped) => Ok(CloseReason::Shutdown),
                    Err(refused) => { leaving.opening.refused(refused); continue; }
                    Ok(cursor) => {
                        tracing::trace!(%cursor, "stream is live");
                        leaving.opening.joined();
                        loop {
                            match std::future::poll_fn(|cx| leaving.outbox.poll_drain(cx)).await {
                                Drained::Frames(frames) => yield Output::Frames(frames),
                                Drained::Resync => break Err(Refused::Reopened),
                                Drained::Recalled => break Err(Refused::Edited),
                                Drained::End(reason) => break Ok(reason),
                            }
                        }
                    }
                };
                match ended {
                    Err(refused) => leaving.opening.refused(refused),
                    Ok(reason) => { leaving.opening.because(reason); yield Output::End(reason); return; }
                }
            }
        }
    }
}
