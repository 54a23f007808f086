//! S3: each stream has a job of its own. The dearest case: every update is a write of its own.

use serde_json::Value;

use crate::Failure;
use crate::field::Shape;
use crate::options::Setup;
use crate::plot;
use crate::plot::Plot;
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

const COST: Plot = Plot {
    name: "cost-by-rate",
    title: "Server CPU per delivery, each stream with a job of its own",
    x: ("updates/s", "rate"),
    y: ("µs", "cpuUsPerDelivery"),
    scale: 1.0,
};
const LATENCY: Plot =
    Plot { name: "latency-by-rate", title: "Worker to page, p99", y: ("ms", "latencyUs.p99"), scale: 0.001, ..COST };

/// What was measured.
#[derive(Debug)]
pub(crate) struct Rows {
    pub(crate) fixed: Vec<Value>,
    pub(crate) highest: Vec<Value>,
    /// Those of the search that are no result; for the curves.
    steps: Vec<Value>,
}

pub(crate) async fn run(setup: &Setup) -> Result<bool, Failure> {
    let bench = Bench::new(setup.clone()).await?;
    let rows = measure(&bench).await?;
    print(&rows);
    draw(setup, &rows)?;
    finish(setup, "own", vec![("fixed", rows.fixed), ("highest", rows.highest)])
}

pub(crate) fn print(rows: &Rows) {
    report::print("S3, own job each: fixed rates", &rows.fixed, &report::DELIVERY);
    if !rows.highest.is_empty() {
        let title = "S3, own job each: highest rate with p99 < 50 ms and nothing lost";
        report::print(title, &rows.highest, &report::DELIVERY);
    }
}

pub(crate) fn draw(setup: &Setup, rows: &Rows) -> Result<(), Failure> {
    // What a server did not keep up with costs nothing in particular.
    let all = rows.fixed.iter().chain(&rows.steps).filter(|row| row["short"] == false).cloned();
    let all = medians(all.collect(), &["server", "way", "rate"]);
    plot::draw(setup.plots.as_deref(), COST, &all)?;
    plot::draw(setup.plots.as_deref(), LATENCY, &all)
}

pub(crate) async fn measure(bench: &Bench) -> Result<Rows, Failure> {
    let setup = &bench.setup;
    let shape = Shape::own(setup.streams.unwrap_or(STREAMS));
    let rates = if setup.rates.is_empty() { RATES.to_vec() } else { setup.rates.clone() };
    let (mut fixed, mut highest, mut steps) = (Vec::new(), Vec::new(), Vec::new());
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
            let found = bench.search((server, way), &shape, SEARCH).await?;
            highest.extend(found.best);
            steps.extend(found.steps);
        }
    }
    let (fixed, highest) = (medians(fixed, &["server", "way", "rate"]), medians(highest, &["server", "way"]));
    Ok(Rows { fixed, highest, steps })
}
