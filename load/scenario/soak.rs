//! Soak: streams come and go while updates go on. Nothing may be lost across any gap, and memory may not grow.

use std::time::Duration;

use serde_json::Value;

use crate::Failure;
use crate::field::Field;
use crate::field::Shape;
use crate::number::round;
use crate::options::Setup;
use crate::plot;
use crate::plot::Plot;
use crate::report;
use crate::report::Column;
use crate::scenario::Bench;
use crate::scenario::finish;

const STREAMS: u64 = 2_000;
const RATE: f64 = 2_000.0;
const SECONDS: f64 = 60.0;
const LOOK_EVERY: Duration = Duration::from_secs(1);

const COLUMNS: [Column; 14] = [
    ("server", "server"),
    ("way", "way"),
    ("streams", "streams"),
    ("updates/s", "rate"),
    ("come and go/s", "churn"),
    ("delivered", "delivered"),
    ("p99 ms", "latencyUs.p99"),
    ("lost", "lost"),
    ("repeated", "repeated"),
    ("order", "outOfOrder"),
    ("resets", "resets"),
    ("cut", "disconnected"),
    ("RSS MiB first", "firstMib"),
    ("RSS MiB last", "lastMib"),
];

const MEMORY: Plot =
    Plot { name: "soak", title: "Memory while streams come and go", x: ("s", ""), y: ("MiB", "rssMib"), scale: 1.0 };

pub(crate) async fn run(setup: &Setup, churn: f64) -> Result<bool, Failure> {
    let bench = Bench::new(setup.clone()).await?;
    let rows = measure(&bench, churn).await?;
    print(&rows);
    draw(setup, &rows)?;
    finish(setup, "soak", vec![("soak", rows)])
}

pub(crate) fn draw(setup: &Setup, rows: &[Value]) -> Result<(), Failure> {
    plot::draw_series(setup.plots.as_deref(), MEMORY, rows)
}

pub(crate) fn print(rows: &[Value]) {
    report::print("Soak: streams come and go", rows, &COLUMNS);
}

pub(crate) async fn measure(bench: &Bench, churn: f64) -> Result<Vec<Value>, Failure> {
    let setup = &bench.setup;
    let streams = setup.streams.unwrap_or(STREAMS);
    let rate = setup.rates.first().copied().unwrap_or(RATE);
    let seconds = setup.seconds.unwrap_or(SECONDS);
    let mut rows = Vec::new();
    for (server, way) in bench.rounds() {
        let shape = Shape { reconnect: true, ..Shape::own(streams) };
        let mut field = bench.open(server, way, shape).await?;
        rows.push(one(&mut field, rate, seconds, churn).await?);
    }
    Ok(rows)
}

async fn one(field: &mut Field, rate: f64, seconds: f64, churn: f64) -> Result<Value, Failure> {
    field.begin(rate, 0.0, seconds)?;
    let meter = field.meter();
    field.ask_reader(&format!("churn {churn}"))?;
    let mut series = Vec::new();
    let started = tokio::time::Instant::now();
    while started.elapsed().as_secs_f64() < seconds - 1.0 {
        tokio::time::sleep(LOOK_EVERY).await;
        let mib = field.memory().rss_kib / 1024.0;
        series.push(serde_json::json!([round(started.elapsed().as_secs_f64()), round(mib)]));
    }
    field.ask_reader("churn 0")?;
    field.open_all("open")?;
    let mut row = field.end(rate, &meter)?;
    let mib = |at: Option<&Value>| at.map_or(Value::Null, |point| point[1].clone());
    row["churn"] = churn.into();
    row["firstMib"] = mib(series.first());
    row["lastMib"] = mib(series.last());
    row["rssMib"] = series.into();
    Ok(row)
}
