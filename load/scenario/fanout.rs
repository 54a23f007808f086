//! S2: one channel for all streams. An update is encoded once and written often.

use serde_json::Value;

use crate::Failure;
use crate::field::Shape;
use crate::options::Setup;
use crate::report;
use crate::report::Column;
use crate::scenario::Bench;
use crate::scenario::Search;
use crate::scenario::finish;
use crate::scenario::medians;

/// The last one for its latency only.
const STREAMS: [u64; 3] = [1_000, 5_000, 10_000];
const SATURATED_MAX: u64 = 5_000;
/// An update to 10,000 takes a bare server 40 ms.
const RATE: f64 = 10.0;
const SECONDS: f64 = 5.0;
/// An update that goes to 5,000 holds a thread for 20 ms, so p99 says little before several of them wait.
const P99_US_MAX: u64 = 250_000;
/// Deliveries a second with which the search begins.
const FROM: f64 = 100_000.0;

const COLUMNS: [Column; 11] = [
    ("server", "server"),
    ("way", "way"),
    ("streams", "streams"),
    ("updates/s", "rate"),
    ("deliveries/s", "deliveriesPerSecond"),
    ("µs/delivery", "cpuUsPerDelivery"),
    ("p50 ms", "latencyUs.p50"),
    ("p99 ms", "latencyUs.p99"),
    ("lost", "lost"),
    ("server %", "cores.server"),
    ("load %", "loadPercent"),
];

pub(crate) async fn run(setup: &Setup) -> Result<bool, Failure> {
    let bench = Bench::new(setup.clone()).await?;
    let (fixed, highest) = measure(&bench).await?;
    print(&fixed, &highest);
    finish(setup, "fanout", vec![("fixed", fixed), ("highest", highest)])
}

pub(crate) fn print(fixed: &[Value], highest: &[Value]) {
    report::print("S2, one channel for all: fixed rates", fixed, &COLUMNS);
    if !highest.is_empty() {
        report::print("S2, one channel for all: saturated (p99 < 250 ms, nothing lost)", highest, &COLUMNS);
    }
}

pub(crate) async fn measure(bench: &Bench) -> Result<(Vec<Value>, Vec<Value>), Failure> {
    let setup = &bench.setup;
    let sizes = setup.streams.map_or(STREAMS.to_vec(), |streams| vec![streams]);
    let rates = if setup.rates.is_empty() { vec![RATE] } else { setup.rates.clone() };
    let (mut fixed, mut highest) = (Vec::new(), Vec::new());
    for streams in sizes {
        for (server, way) in bench.rounds() {
            let shape = Shape::shared(streams);
            let mut field = bench.open(server, way, shape.clone()).await?;
            for rate in &rates {
                fixed.push(field.publish(*rate, setup.warmup, setup.seconds.unwrap_or(SECONDS))?);
            }
            drop(field);
            if !setup.no_search && streams <= SATURATED_MAX {
                let search = Search { from: FROM / streams as f64, step: 2.0, p99_us_max: P99_US_MAX };
                highest.extend(bench.search((server, way), &shape, search).await?.best);
            }
        }
    }
    Ok((medians(fixed, &["streams", "server", "way", "rate"]), medians(highest, &["streams", "server", "way"])))
}
