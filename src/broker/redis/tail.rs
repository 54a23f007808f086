//! Tailing the log from an exact id. Continuity is checked whenever there may have been a gap, and given up when it can't be proven.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::broker::BrokerError;
use crate::broker::TailMessage;
use crate::broker::redis::Shared;
use crate::broker::redis::codec::Reader;
use crate::broker::redis::link::BLOCK;
use crate::broker::redis::link::Backoff;
use crate::broker::redis::pack;
use crate::broker::redis::reading::Reading;
use crate::event::Cursor;
use crate::event::Entry;
use crate::event::Epoch;
use crate::event::Fingerprint;
use crate::event::LogId;

/// Entries of one read.
const READ_COUNT: usize = 1000;
/// How often the own end of the log is checked for having been rewritten.
const CHECK_EVERY: Duration = Duration::from_millis(1000);

/// Sent as they are: about once a second, over a connection that asks one thing at a time.
const LOCATE: &str = include_str!("locate.lua");
const OPEN: &str = include_str!("open.lua");

/// Delivers the log until `stop`.
pub(super) async fn run(shared: &Shared, tail: mpsc::Sender<TailMessage>, stop: CancellationToken) {
    let mut head: Option<Cursor> = None;
    let mut backoff = Backoff::default();
    loop {
        let done = tokio::select! {
            () = stop.cancelled() => return,
            done = follow(shared, &tail, &mut head, &mut backoff) => done,
        };
        match done {
            Ok(()) => return, // nobody reads any more
            Err(error) => tracing::warn!(error = %chain(&error), "redis: tail interrupted"),
        }
        shared.metrics.broker_restarts.with_label_values(&["tail"]).inc();
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(backoff.next()) => {}
        }
    }
}

fn unavailable(error: redis::RedisError) -> BrokerError {
    BrokerError::Unavailable(Some(error))
}

fn chain(error: &BrokerError) -> String {
    let source = std::error::Error::source(error).map(|source| format!(": {source}"));
    format!("{error}{}", source.unwrap_or_default())
}

/// One connection's life: prove or reopen, then read on. `Ok` means that the receiver is gone.
async fn follow(
    shared: &Shared,
    tail: &mpsc::Sender<TailMessage>,
    head: &mut Option<Cursor>,
    backoff: &mut Backoff,
) -> Result<(), BrokerError> {
    let mut connection = Reading::open(&shared.link).await.map_err(unavailable)?;
    let mut checked = tokio::time::Instant::now();
    let mut reader = Reader::default();
    let mut at = match *head {
        Some(cursor) if is_proven(shared, &mut connection, &cursor).await? => cursor,
        _ => {
            let (cursor, opened) = open(shared, &mut connection, &mut reader).await?;
            *head = Some(cursor);
            if tail.send(opened).await.is_err() {
                return Ok(());
            }
            cursor
        }
    };
    loop {
        // Before reading on: after a long pause the position may be trimmed away, and a read would skip what went with it.
        if checked.elapsed() >= CHECK_EVERY {
            if !is_proven(shared, &mut connection, &at).await? {
                *head = None;
                return Err(BrokerError::Garbled);
            }
            checked = tokio::time::Instant::now();
        }
        let entries = read(shared, &mut connection, &mut reader, at.at).await?;
        shared.touch(&shared.tail_heard);
        backoff.reset();
        if let Some(last) = entries.last() {
            at = Cursor { epoch: at.epoch, at: last.id, print: last.print };
            *head = Some(at);
            if tail.send(TailMessage::Entries(entries.into_iter().map(Arc::new).collect())).await.is_err() {
                return Ok(());
            }
        }
    }
}

async fn is_proven(shared: &Shared, connection: &mut Reading, at: &Cursor) -> Result<bool, BrokerError> {
    let mut command = redis::cmd("EVAL");
    command.arg(LOCATE).arg(2).arg(&shared.keys.log).arg(&shared.keys.meta);
    command.arg(at.epoch.0).arg(at.at.to_string()).arg(at.print.0);
    let answer = connection.ask(&command).await.map_err(unavailable)?;
    Ok(matches!(answer, Value::BulkString(text) if text == b"found"))
}

async fn read(
    shared: &Shared,
    connection: &mut Reading,
    reader: &mut Reader,
    at: LogId,
) -> Result<Vec<Entry>, BrokerError> {
    let mut command = redis::cmd("XREAD");
    command.arg("COUNT").arg(READ_COUNT).arg("BLOCK").arg(BLOCK.as_millis().to_string());
    command.arg("STREAMS").arg(&shared.keys.log).arg(at.to_string());
    let answer = connection.ask(&command).await.map_err(unavailable)?;
    let entries = of_stream(&answer).map(|entries| reader.entries(entries)).unwrap_or_default();
    // Somebody else writes into our stream: the place is kept, the entry says nothing.
    let foreign = entries.iter().filter(|entry| entry.event.is_none() && entry.judged.is_none());
    foreign.for_each(|_| shared.metrics.reject("log", "unreadable"));
    Ok(entries)
}

/// The entries in an answer to `XREAD` of one stream: `[[name, entries]]`, or a map with RESP3; nothing when none came.
fn of_stream(answer: &Value) -> Option<&Value> {
    match answer {
        Value::Array(streams) => match streams.first()? {
            Value::Array(stream) => stream.get(1),
            _ => None,
        },
        Value::Map(streams) => streams.first().map(|(_, entries)| entries),
        _ => None,
    }
}

/// Reads which log this is and its newest part, as much as the window holds.
async fn open(
    shared: &Shared,
    connection: &mut Reading,
    reader: &mut Reader,
) -> Result<(Cursor, TailMessage), BrokerError> {
    let mut command = redis::cmd("EVAL");
    command.arg(OPEN).arg(1).arg(&shared.keys.meta).arg(fastrand::u64(1..));
    let answer = connection.ask(&command).await.map_err(unavailable)?;
    let answer: Vec<String> = redis::from_redis_value(answer).map_err(|_| BrokerError::Garbled)?;
    let epoch = Epoch(answer.first().and_then(|text| text.parse().ok()).ok_or(BrokerError::Garbled)?);
    let trimmed = answer.get(1).zip(answer.get(2)).map(|(id, print)| format!("{id} {print}"));
    let trimmed = trimmed.and_then(|text| pack::cursor(&text, epoch)).ok_or(BrokerError::Garbled)?;
    shared.epoch.store(epoch.0, Ordering::Release);
    let (before, entries) = load(shared, connection, reader, trimmed).await?;
    let last = entries.last().map_or(before, |entry| (entry.id, entry.print));
    let cursor = Cursor { epoch, at: last.0, print: last.1 };
    Ok((cursor, TailMessage::Opened { epoch, before, entries }))
}

type Position = (LogId, Fingerprint);

/// The newest entries, oldest first, and the entry before them.
async fn load(
    shared: &Shared,
    connection: &mut Reading,
    reader: &mut Reader,
    trimmed: Cursor,
) -> Result<(Position, Vec<Arc<Entry>>), BrokerError> {
    let limits = shared.settings.window;
    let mut newest_first: Vec<Arc<Entry>> = Vec::new();
    let (mut bytes, mut end) = (0, "+".to_owned());
    loop {
        let mut command = redis::cmd("XREVRANGE");
        command.arg(&shared.keys.log).arg(&end).arg("-").arg("COUNT").arg(READ_COUNT);
        let page = connection.ask(&command).await.map_err(unavailable)?;
        let page = reader.entries(&page);
        let Some(oldest) = page.last() else {
            newest_first.reverse();
            return Ok(((trimmed.at, trimmed.print), newest_first));
        };
        end = format!("({}", oldest.id);
        for entry in page {
            bytes += entry.weight();
            if newest_first.len() >= limits.entries_max || bytes > limits.bytes_max {
                newest_first.reverse();
                return Ok(((entry.id, entry.print), newest_first));
            }
            newest_first.push(Arc::new(entry));
        }
    }
}
