//! S1: many streams that hear nothing. What one costs in memory, and how fast they open.

use std::time::Duration;

use serde_json::Value;

use crate::Failure;
use crate::field::Field;
use crate::field::Shape;
use crate::meter::Memory;
use crate::number::round;
use crate::options::Setup;
use crate::report;
use crate::report::Column;
use crate::scenario::Bench;
use crate::scenario::finish;
use crate::scenario::medians;

const STREAMS: u64 = 10_000;
/// An allocator may give memory back a little later.
const REST: Duration = Duration::from_secs(2);

/// A server takes memory once, whatever comes: heaps of its threads, pools, what the first crowd needed while it opened. So the cost of
/// a stream is the difference between this part of the streams and all of them.
const FEW: u64 = 5;

const COLUMNS: [Column; 12] = [
    ("server", "server"),
    ("way", "way"),
    ("streams", "streams"),
    ("KiB each more", "kibEachMore"),
    ("RSS KiB/stream", "rssKibPerStream"),
    ("PSS KiB/stream", "pssKibPerStream"),
    ("empty MiB", "emptyMib"),
    ("closed MiB", "closedMib"),
    ("again KiB/stream", "againKibPerStream"),
    ("connections/s", "connectionsPerSecond"),
    ("again/s", "againPerSecond"),
    ("CPU µs/connection", "cpuUsPerConnection"),
];

pub(crate) async fn run(setup: &Setup) -> Result<bool, Failure> {
    let bench = Bench::new(setup.clone()).await?;
    let rows = measure(&bench).await?;
    print(&rows);
    finish(setup, "idle", vec![("idle", rows)])
}

pub(crate) fn print(rows: &[Value]) {
    report::print("S1, idle streams with a session, a grant and 3 channels", rows, &COLUMNS);
}

pub(crate) async fn measure(bench: &Bench) -> Result<Vec<Value>, Failure> {
    let streams = bench.setup.streams.unwrap_or(STREAMS);
    let quiet = &["user.me", "{other}.load-{run}-{job}"][..];
    let shape = |streams| Shape { session: true, quiet, ..Shape::own(streams) };
    let mut rows = Vec::new();
    for (server, way) in bench.rounds() {
        let few = streams / FEW;
        let base = one(bench.start(server, way, shape(few)).await?, few as f64).await?;
        let mut row = one(bench.start(server, way, shape(streams)).await?, streams as f64).await?;
        let more = row["fullKib"].as_f64().unwrap_or(0.0) - base["fullKib"].as_f64().unwrap_or(0.0);
        row["kibEachMore"] = round(more / (streams - few) as f64).into();
        rows.push(row);
    }
    Ok(medians(rows, &["server", "way"]))
}

async fn one(mut field: Field, streams: f64) -> Result<Value, Failure> {
    let empty = field.memory();
    let meter = field.meter();
    let opened = field.open_all("open")?;
    let used = meter.read();
    tokio::time::sleep(REST).await;
    let full = field.memory();
    field.close_all()?;
    tokio::time::sleep(REST).await;
    let closed = field.memory();
    let opened_again = field.open_all("open")?;
    tokio::time::sleep(REST).await;
    let again = field.memory();
    let seen = field.ask_reader("seen")?;
    let per_second = |opened: &Value| round(streams / opened["seconds"].as_f64().unwrap_or(f64::INFINITY));
    let rss = |memory: Memory| round((memory.rss_kib - empty.rss_kib) / streams);
    let mut row = field.name();
    row["fullKib"] = round(full.rss_kib).into();
    row["rssKibPerStream"] = rss(full).into();
    row["pssKibPerStream"] = round((full.pss_kib - empty.pss_kib) / streams).into();
    row["emptyMib"] = round(empty.rss_kib / 1024.0).into();
    row["closedMib"] = round(closed.rss_kib / 1024.0).into();
    row["againKibPerStream"] = rss(again).into();
    row["connectionsPerSecond"] = per_second(&opened).into();
    row["againPerSecond"] = per_second(&opened_again).into();
    row["cpuUsPerConnection"] = round(used.server_us() / streams).into();
    row["openedUs"] = opened["openedUs"].clone();
    row["cores"] = used.to_json();
    row["disconnected"] = seen["disconnected"].clone();
    Ok(row)
}
