//! Questions from node to node, over channels of their own and a connection of their own: a flood of job updates must not hold
//! them up.
//!
//! `{prefix}:calls` carries `node call question` to every node; answers go to `{prefix}:node:{node}` as `call answer`. `PUBLISH`
//! says how many nodes hear a question, so whoever asks knows when all have answered.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use redis::AsyncConnectionConfig;
use redis::ProtocolVersion;
use redis::PushInfo;
use redis::PushKind;
use redis::Value;
use redis::aio::MultiplexedConnection;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::broker::Answers;
use crate::broker::BrokerError;
use crate::broker::Call;
use crate::broker::Heard;
use crate::broker::Record;
use crate::broker::RedisBroker;
use crate::broker::redis::Shared;
use crate::broker::redis::link::Backoff;
use crate::event::LogId;

/// Messages that may wait between the connection and us.
const WAITING_MAX: usize = 4096;
/// Answers that are being worked out at once; more questions go without one.
const ANSWERS_MAX: usize = 256;
/// How often the connection has to prove that it is there.
const PING_EVERY: Duration = Duration::from_secs(2);
/// Longest question or answer, in bytes.
const TEXT_BYTES_MAX: usize = 256 * 1024;
/// Marks a record as one of a stream that was there, also before its first edit.
const THERE: &str = "";

/// Who waits for answers to which call.
pub(super) type Waiting = parking_lot::Mutex<HashMap<u64, mpsc::Sender<String>>>;

/// Forgets the call when whoever asked is gone.
struct Asked<'a> {
    waiting: &'a Waiting,
    call: u64,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.waiting.lock().remove(&self.call);
    }
}

impl RedisBroker {
    pub(in crate::broker) async fn ask_nodes(
        &self,
        question: &str,
        patience: Duration,
    ) -> Result<Answers, BrokerError> {
        let shared = &self.shared;
        let until = Instant::now() + patience;
        let call = shared.calls.fetch_add(1, Ordering::Relaxed);
        let (sender, mut incoming) = mpsc::channel(ANSWERS_MAX);
        shared.asked.lock().insert(call, sender);
        let _asked = Asked { waiting: &shared.asked, call };
        let mut publish = redis::cmd("PUBLISH");
        publish.arg(&shared.keys.calls_channel).arg(format!("{} {call} {question}", shared.node));
        let hearing: usize = shared.link.query(&publish).await?;
        // All but this one. When this one does not hear itself at the moment, one too few is waited for, and the rest still counts.
        let others = hearing.saturating_sub(1);
        let mut answers = Vec::new();
        while answers.len() < others {
            match tokio::time::timeout_at(until, incoming.recv()).await {
                Ok(Some(answer)) => answers.push(answer),
                Ok(None) | Err(_) => break,
            }
        }
        let complete = hearing > 0 && answers.len() >= others;
        Ok(Answers { answers, complete })
    }

    pub(in crate::broker) async fn hear_nodes(&self, heard: mpsc::Sender<Heard>) {
        let mut backoff = Backoff::default();
        while !heard.is_closed() {
            if let Err(error) = self.shared.hear(&heard, &mut backoff).await {
                tracing::debug!(%error, "redis: questions of other nodes can't be heard");
                self.shared.metrics.broker_restarts.with_label_values(&["calls"]).inc();
            }
            tokio::time::sleep(backoff.next()).await;
        }
    }

    pub(in crate::broker) async fn open_record(&self, key: &str, kept: Duration) -> Result<Record, BrokerError> {
        let key = self.shared.record_key(key);
        let mut pipe = redis::pipe();
        pipe.atomic().hset(&key, THERE, "1").ignore();
        pipe.cmd("PEXPIRE").arg(&key).arg(millis(kept)).ignore();
        pipe.hgetall(&key);
        let (record,): (Vec<(String, String)>,) = self.shared.link.pipe(&pipe).await?;
        let edits = record.into_iter().filter(|(channel, _)| channel != THERE);
        Ok(edits.map(|(channel, since)| (channel, since.parse().ok())).collect())
    }

    pub(in crate::broker) async fn edit_record(
        &self,
        key: &str,
        edits: &[(&str, Option<LogId>)],
        kept: Duration,
    ) -> Result<(), BrokerError> {
        let key = self.shared.record_key(key);
        let mut fields = vec![(THERE, "1".to_owned())];
        let since = |at: &Option<LogId>| at.map_or("gone".to_owned(), |at| at.to_string());
        fields.extend(edits.iter().map(|(channel, at)| (*channel, since(at))));
        let mut pipe = redis::pipe();
        pipe.atomic().hset_multiple(&key, &fields).ignore();
        pipe.cmd("PEXPIRE").arg(&key).arg(millis(kept)).ignore();
        self.shared.link.pipe::<()>(&pipe).await
    }

    pub(in crate::broker) async fn knows_record(&self, key: &str) -> Result<bool, BrokerError> {
        let mut command = redis::cmd("EXISTS");
        command.arg(self.shared.record_key(key));
        self.shared.link.query(&command).await
    }
}

fn millis(kept: Duration) -> u64 {
    u64::try_from(kept.as_millis()).unwrap_or(u64::MAX)
}

impl Shared {
    fn record_key(&self, key: &str) -> String {
        format!("{}:stream:{key}", self.settings.prefix)
    }

    async fn subscribe_to_nodes(&self) -> Result<(MultiplexedConnection, mpsc::Receiver<PushInfo>), redis::RedisError> {
        let (sender, messages) = mpsc::channel::<PushInfo>(WAITING_MAX);
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(PING_EVERY))
            .set_response_timeout(Some(PING_EVERY))
            // One that is dropped here goes without an answer, and whoever asks is told so.
            .set_push_sender(move |push| sender.try_send(push).map_err(|_| ()));
        let info = self.link.client().get_connection_info().clone();
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let client = redis::Client::open(info.set_redis_settings(settings))?;
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        let own = self.node_channel(&self.node.to_string());
        connection.subscribe(&[self.keys.calls_channel.as_str(), own.as_str()][..]).await?;
        Ok((connection, messages))
    }

    fn node_channel(&self, node: &str) -> String {
        format!("{}:node:{node}", self.settings.prefix)
    }

    async fn hear(&self, heard: &mpsc::Sender<Heard>, backoff: &mut Backoff) -> Result<(), BrokerError> {
        let unavailable = |error| BrokerError::Unavailable(Some(error));
        let (mut connection, mut messages) = self.subscribe_to_nodes().await.map_err(unavailable)?;
        if heard.send(Heard::Anew).await.is_err() {
            return Ok(());
        }
        let mut answers = FuturesUnordered::new();
        let mut ping = tokio::time::interval(PING_EVERY);
        loop {
            tokio::select! {
                push = messages.recv() => {
                    let Some(push) = push.filter(|push| push.kind != PushKind::Disconnection) else {
                        return Err(BrokerError::Unavailable(None));
                    };
                    if let Some((node, call, question)) = self.read_push(&push)
                        && answers.len() < ANSWERS_MAX
                    {
                        let (answer, coming) = oneshot::channel();
                        if heard.send(Heard::Call(Call { question, answer })).await.is_err() {
                            return Ok(());
                        }
                        answers.push(async move { (node, call, coming.await) });
                    }
                }
                Some((node, call, answer)) = answers.next(), if !answers.is_empty() => {
                    // Without an answer whoever asks waits until its patience ends: it must not take silence for a no.
                    if let Ok(answer) = answer {
                        let mut publish = redis::cmd("PUBLISH");
                        publish.arg(self.node_channel(&node)).arg(format!("{call} {answer}"));
                        drop(self.link.query::<i64>(&publish).await);
                    }
                }
                _ = ping.tick() => {
                    redis::cmd("PING").exec_async(&mut connection).await.map_err(unavailable)?;
                    backoff.reset();
                }
            }
        }
    }

    /// Passes an answer to whoever waits for it; a question is the caller's.
    fn read_push(&self, push: &PushInfo) -> Option<(String, u64, String)> {
        if push.kind != PushKind::Message {
            return None;
        }
        let [Value::BulkString(channel), Value::BulkString(payload)] = push.data.as_slice() else { return None };
        let text = std::str::from_utf8(payload).ok().filter(|text| text.len() <= TEXT_BYTES_MAX)?;
        if channel != self.keys.calls_channel.as_bytes() {
            let (call, answer) = text.split_once(' ')?;
            let waiting = self.asked.lock().get(&call.parse().ok()?).cloned();
            // One that comes too late is nobody's.
            waiting.into_iter().for_each(|waiting| drop(waiting.try_send(answer.to_owned())));
            return None;
        }
        let mut parts = text.splitn(3, ' ');
        let (node, call, question) = (parts.next()?, parts.next()?.parse().ok()?, parts.next()?);
        let other = node.parse::<u64>().ok().filter(|node| *node != self.node)?;
        Some((other.to_string(), call, question.to_owned()))
    }
}
