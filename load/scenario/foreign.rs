//! S4: updates that hardly anybody here listens to, as every instance hears those of all the others.

use serde_json::Value;

use crate::Failure;
use crate::field::Shape;
use crate::options::Setup;
use crate::report;
use crate::scenario::Bench;
use crate::scenario::finish;
use crate::scenario::medians;

const STREAMS: u64 = 200;
/// For each job that has a stream there are so many in all.
const JOBS_PER_STREAM: u64 = 100;
const RATE: f64 = 20_000.0;
const SECONDS: f64 = 5.0;

pub(crate) async fn run(setup: &Setup) -> Result<bool, Failure> {
    let bench = Bench::new(setup.clone()).await?;
    let rows = measure(&bench).await?;
    print(&rows);
    finish(setup, "foreign", vec![("foreign", rows)])
}

pub(crate) fn print(rows: &[Value]) {
    report::print("S4, foreign updates: 1 % of the jobs have a stream", rows, &report::DELIVERY);
}

pub(crate) async fn measure(bench: &Bench) -> Result<Vec<Value>, Failure> {
    let setup = &bench.setup;
    let streams = setup.streams.unwrap_or(STREAMS);
    let rate = setup.rates.first().copied().unwrap_or(RATE);
    let jobs = streams * JOBS_PER_STREAM;
    // Each job once before anything is measured: the first update of a job asks the database what was before.
    let warmup = setup.warmup + jobs as f64 / rate;
    let mut rows = Vec::new();
    for (server, way) in bench.rounds() {
        let mut field = bench.open(server, way, Shape { jobs, ..Shape::own(streams) }).await?;
        rows.push(field.publish(rate, warmup, setup.seconds.unwrap_or(SECONDS))?);
    }
    Ok(medians(rows, &["server", "way"]))
}
