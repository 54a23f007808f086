//! Whether the other end of a stream takes what it is offered, where hyper carries the stream.
//!
//! hyper asks a body for more only when it has room. A body that has given something and is not asked again stands before an end
//! that does not read, and nobody but the connection's own task can end it.

use std::convert::Infallible;
use std::future::Future as _;
use std::pin::Pin;
use std::pin::pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;

use bytes::Bytes;
use futures_util::Stream;
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::transport::plain::STALLED_MAX;

/// What a stream and the task that carries it know of each other. In the extensions of its request.
#[derive(Debug, Default)]
pub struct Uptake {
    /// Ends the task: on HTTP/1.1 the connection, on HTTP/2 one stream of it.
    kill: CancellationToken,
    /// Since when something waits to be taken.
    offered: Mutex<Option<Instant>>,
}

impl Uptake {
    /// Cuts the stream.
    #[must_use]
    pub fn kill(&self) -> CancellationToken {
        self.kill.clone()
    }

    /// Ends when the stream was cut, or when it has taken nothing for 30 s. To be polled after whatever polls the stream.
    pub async fn given_up(&self) {
        tokio::select! {
            () = self.kill.cancelled() => {}
            () = self.stalled() => {}
        }
    }

    async fn stalled(&self) {
        let mut alarm = pin!(tokio::time::sleep(STALLED_MAX));
        std::future::poll_fn(|cx| {
            let Some(offered) = *self.offered.lock() else { return Poll::Pending };
            if alarm.deadline() != offered + STALLED_MAX {
                alarm.as_mut().reset(offered + STALLED_MAX);
            }
            alarm.as_mut().poll(cx)
        })
        .await;
    }
}

/// The same pieces, noting when each is offered and when the next is asked for.
pub(super) fn noted<S: Stream<Item = Bytes>>(pieces: S, uptake: Arc<Uptake>) -> Noted<S> {
    Noted { pieces: Box::pin(pieces), uptake }
}

/// Of a type of its own: a generator around the pieces would have room for them twice.
#[derive(Debug)]
pub(super) struct Noted<S> {
    pieces: Pin<Box<S>>,
    uptake: Arc<Uptake>,
}

impl<S: Stream<Item = Bytes>> Stream for Noted<S> {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        *self.uptake.offered.lock() = None;
        let piece = self.pieces.as_mut().poll_next(cx);
        if let Poll::Ready(Some(_)) = piece {
            *self.uptake.offered.lock() = Some(Instant::now());
        }
        piece.map(|piece| piece.map(Ok))
    }
}
