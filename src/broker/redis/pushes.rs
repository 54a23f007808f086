//! A connection that Redis pushes messages over, and what waits between its task and ours: bounded, and given up when it is full.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::AsyncConnectionConfig;
use redis::ProtocolVersion;
use redis::PushInfo;
use redis::PushKind;
use redis::Value;
use redis::aio::MultiplexedConnection;
use tokio::sync::mpsc;

use crate::broker::BrokerError;
use crate::broker::redis::link::Link;

/// Messages and bytes that may wait between the connection and us; beyond them the connection is given up.
const WAITING_MAX: usize = 65_536;
const WAITING_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Messages that are handed on together.
pub(super) const GROUP_MAX: usize = 256;

/// What waits between the connection's task and ours.
pub(super) struct Pushes {
    messages: mpsc::Receiver<PushInfo>,
    bytes: Arc<AtomicUsize>,
    /// More came than may wait, and was dropped.
    lost: Arc<AtomicBool>,
    pub(super) connection: MultiplexedConnection,
}

fn size(push: &PushInfo) -> usize {
    push.data.iter().map(|value| if let Value::BulkString(bytes) = value { bytes.len() } else { 0 }).sum()
}

impl Pushes {
    /// A connection that is subscribed to nothing yet. It takes so long at most to connect, and for each answer.
    pub(super) async fn open(link: &Link, patience: Duration) -> Result<Self, redis::RedisError> {
        let (sender, messages) = mpsc::channel::<PushInfo>(WAITING_MAX);
        let bytes = Arc::new(AtomicUsize::new(0));
        let lost = Arc::new(AtomicBool::new(false));
        let (waiting, overflown) = (Arc::clone(&bytes), Arc::clone(&lost));
        // The crate drops what this refuses, without a word.
        let push = move |push: PushInfo| {
            let full = waiting.fetch_add(size(&push), Ordering::Relaxed) > WAITING_BYTES_MAX;
            if full || sender.try_send(push).is_err() {
                overflown.store(true, Ordering::Release);
                return Err(());
            }
            Ok(())
        };
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(patience))
            .set_response_timeout(Some(patience))
            .set_push_sender(push);
        let info = link.client().get_connection_info().clone();
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let client = redis::Client::open(info.set_redis_settings(settings))?;
        let connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        Ok(Self { messages, bytes, lost, connection })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// The next messages, appended to `group`. Nothing is lost when this is given up before it answers.
    ///
    /// # Errors
    /// The connection has ended, or lost some.
    pub(super) async fn next(&mut self, group: &mut Vec<PushInfo>) -> Result<(), BrokerError> {
        let before = group.len();
        let count = self.messages.recv_many(group, GROUP_MAX).await;
        let pushed = || group.iter().skip(before);
        self.bytes.fetch_sub(pushed().map(size).sum(), Ordering::Relaxed);
        let ended = pushed().any(|push| push.kind == PushKind::Disconnection);
        if count == 0 || ended || self.lost.load(Ordering::Acquire) {
            return Err(BrokerError::Unavailable(None));
        }
        Ok(())
    }
}
