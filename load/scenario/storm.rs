//! A storm: a proxy restarts, or an instance goes, and all streams are back at once with their cursors.

use std::time::Duration;

use serde_json::Value;

use crate::Failure;
use crate::field::Field;
use crate::field::Shape;
use crate::number::round;
use crate::options::Server;
use crate::options::Setup;
use crate::queries::Queries;
use crate::report;
use crate::report::Column;
use crate::scenario::Bench;
use crate::scenario::finish;
use crate::scenario::medians;

const STREAMS: u64 = 10_000;
/// Updates a second while the second storm goes on: what comes meanwhile has to be replayed.
const RATE: f64 = 1_000.0;
const FIRST_RATE: f64 = 5_000.0;
const SECONDS: f64 = 8.0;
/// States of jobs go back to the database a second after they changed: the storm waits until nothing is asked for so long.
const SETTLED: Duration = Duration::from_millis(1500);
const SETTLE_LOOKS_MAX: usize = 10;
/// After the publisher has begun.
const CALM: Duration = Duration::from_secs(1);

const COLUMNS: [Column; 14] = [
    ("server", "server"),
    ("way", "way"),
    ("streams", "streams"),
    ("updates/s", "rate"),
    ("seconds", "seconds"),
    ("CPU s", "serverSeconds"),
    ("opened p50 ms", "openedUs.p50"),
    ("opened p99 ms", "openedUs.p99"),
    ("store queries", "queries.store"),
    ("redis commands", "redisCommands"),
    ("lost", "lost"),
    ("repeated", "repeated"),
    ("order", "outOfOrder"),
    ("resets", "resets"),
];

pub(crate) async fn run(setup: &Setup) -> Result<bool, Failure> {
    let bench = Bench::new(setup.clone()).await?;
    let rows = measure(&bench).await?;
    print(&rows);
    finish(setup, "storm", vec![("storm", rows)])
}

pub(crate) fn print(rows: &[Value]) {
    report::print("Storm: all streams are cut and come back", rows, &COLUMNS);
}

pub(crate) async fn measure(bench: &Bench) -> Result<Vec<Value>, Failure> {
    let setup = &bench.setup;
    let streams = setup.streams.unwrap_or(STREAMS);
    let rate = setup.rates.first().copied().unwrap_or(RATE);
    let mut rows = Vec::new();
    for (server, way) in bench.rounds() {
        let mut field = bench.open(server, way, Shape::own(streams)).await?;
        // Each job has said something, so its state is known; what is asked then is the storm's.
        field.publish(FIRST_RATE, 0.0, streams as f64 / FIRST_RATE + setup.warmup)?;
        rows.push(quiet(&mut field).await?);
        // A bare server replays nothing.
        if server == Server::Tidings {
            rows.push(under_load(&mut field, rate, setup.seconds.unwrap_or(SECONDS)).await?);
        }
    }
    Ok(medians(rows, &["server", "way", "rate"]))
}

/// Nothing is published meanwhile, so every query is the storm's.
async fn quiet(field: &mut Field) -> Result<Value, Failure> {
    field.begin_quietly()?;
    settle(field).await?;
    let mut row = blow(field).await?;
    let seen = field.ask_reader("seen")?;
    row["rate"] = 0.into();
    Ok(with(row, &seen))
}

async fn settle(field: &Field) -> Result<(), Failure> {
    let mut before = Queries::of(&field.stack).await?;
    for _ in 0..SETTLE_LOOKS_MAX {
        tokio::time::sleep(SETTLED).await;
        let now = Queries::of(&field.stack).await?;
        if now.since(&before)["store"] == 0.0 {
            break;
        }
        before = now;
    }
    Ok(())
}

async fn under_load(field: &mut Field, rate: f64, seconds: f64) -> Result<Value, Failure> {
    field.begin(rate, 0.0, seconds)?;
    let meter = field.meter();
    tokio::time::sleep(CALM).await;
    let row = blow(field).await?;
    let seen = field.end(rate, &meter)?;
    Ok(with(row, &seen))
}

async fn blow(field: &mut Field) -> Result<Value, Failure> {
    let before = Queries::of(&field.stack).await?;
    let meter = field.meter();
    let opened = field.open_all("cut")?;
    let used = meter.read();
    let queries = Queries::of(&field.stack).await?.since(&before);
    let mut row = field.name();
    row["seconds"] = round(opened["seconds"].as_f64().unwrap_or_default()).into();
    row["serverSeconds"] = round(used.server_us() / 1e6).into();
    row["openedUs"] = opened["openedUs"].clone();
    let commands = queries["redis"].as_object().into_iter().flatten().filter_map(|(_, count)| count.as_f64());
    row["redisCommands"] = commands.sum::<f64>().into();
    row["queries"] = queries;
    row["stormCores"] = used.to_json();
    Ok(row)
}

fn with(mut row: Value, seen: &Value) -> Value {
    if let (Value::Object(row), Value::Object(seen)) = (&mut row, seen) {
        seen.iter().for_each(|(name, value)| {
            row.entry(name.clone()).or_insert_with(|| value.clone());
        });
    }
    row
}
