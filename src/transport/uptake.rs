//! Whether the other end of a stream takes what it is offered, where hyper carries the stream.
//!
//! hyper asks a body for more only when it has room. A body that has given something and is not asked again stands before an end
//! that does not read, and nobody but the connection's own task can end it.

use std::convert::Infallible;
use std::future::Future as _;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use async_stream::stream;
use bytes::Bytes;
use futures_util::Stream;
use futures_util::StreamExt as _;
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
pub(super) fn noted(
    pieces: impl Stream<Item = Bytes> + Send,
    uptake: Arc<Uptake>,
) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
    stream! {
        let mut pieces = pin!(pieces);
        while let Some(piece) = pieces.next().await {
            *uptake.offered.lock() = Some(Instant::now());
            yield Ok(piece);
            *uptake.offered.lock() = None;
        }
    }
}
