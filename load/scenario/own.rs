//! S3: each stream has a job of its own. The dearest case: every update is a write of its own.

use serde_json::Value;

use crate::Failure;
use crate::field::Shape;
use crate::options::Setup;
use crate::report;
use crate::scenario::Bench;
use crate::scenario::Search;
use crate::scenario::finish;
use crate::scenario::medians;

const STREAMS: u64 = 5_000;
const RATES: [f64; 3] = [5_000.0, 20_000.0, 50_000.0];
const SECONDS: f64 = 3.0;
const P99_US_MAX: u64 = 50_000;
const SEARCH: Search = Search { from: 20_000.0, step: 1.3, p99_us_max: P99_US_MAX };

pub(crate) async fn run(setup: &Setup) -> Result<bool, Failure> {
    let bench = Bench::new(setup.clone()).await?;
    let (fixed, highest) = measure(&bench).await?;
    report::print("S3, own job each: fixed rates", &fixed, &report::DELIVERY);
    if !highest.is_empty() {
        report::print("S3, own job each: highest rate with p99 < 50 ms and nothing lost", &highest, &report::DELIVERY);
    }
    finish(setup, "own", vec![("fixed", fixed), ("highest", highest)])
}

pub(crate) async fn measure(bench: &Bench) -> Result<(Vec<Value>, Vec<Value>), Failure> {
    let setup = &bench.setup;
    let shape = Shape::own(setup.streams.unwrap_or(STREAMS));
    let rates = if setup.rates.is_empty() { RATES.to_vec() } else { setup.rates.clone() };
    let (mut fixed, mut highest) = (Vec::new(), Vec::new());
    for (server, way) in bench.rounds() {
        let mut field = bench.open(server, way, shape.clone()).await?;
        for rate in &rates {
            let row = field.publish(*rate, setup.warmup, setup.seconds.unwrap_or(SECONDS))?;
            let kept_up = row["short"] == false && row["published"]["gaveUp"] == false;
            fixed.push(row);
            if !kept_up {
                break; // a higher rate would measure what is left of this one
            }
        }
        drop(field);
        if !setup.no_search {
            highest.extend(bench.search((server, way), &shape, SEARCH).await?);
        }
    }
    Ok((medians(fixed, &["server", "way", "rate"]), medians(highest, &["server", "way"])))
}
