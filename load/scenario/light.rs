//! S5: light load. What is left of the latency when nothing waits for anything.

use serde_json::Value;

use crate::Failure;
use crate::field::Shape;
use crate::options::Setup;
use crate::report;
use crate::scenario::Bench;
use crate::scenario::finish;
use crate::scenario::medians;

const STREAMS: u64 = 100;
const RATE: f64 = 100.0;
const SECONDS: f64 = 10.0;

pub(crate) async fn run(setup: &Setup) -> Result<bool, Failure> {
    let bench = Bench::new(setup.clone()).await?;
    let rows = measure(&bench).await?;
    print(&rows);
    finish(setup, "light", vec![("light", rows)])
}

pub(crate) fn print(rows: &[Value]) {
    report::print("S5, light load: worker to page", rows, &report::DELIVERY);
}

pub(crate) async fn measure(bench: &Bench) -> Result<Vec<Value>, Failure> {
    let setup = &bench.setup;
    let rate = setup.rates.first().copied().unwrap_or(RATE);
    let mut rows = Vec::new();
    for (server, way) in bench.rounds() {
        let mut field = bench.open(server, way, Shape::own(setup.streams.unwrap_or(STREAMS))).await?;
        rows.push(field.publish(rate, setup.warmup, setup.seconds.unwrap_or(SECONDS))?);
    }
    Ok(medians(rows, &["server", "way"]))
}
