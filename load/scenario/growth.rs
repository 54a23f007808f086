//! Growth: one thing grows, the total rate stays. What becomes of the cost of one delivery?

use serde_json::Value;

use crate::Failure;
use crate::field::Shape;
use crate::number::round;
use crate::options::Server;
use crate::options::Setup;
use crate::options::Way;
use crate::plot;
use crate::plot::Plot;
use crate::report;
use crate::report::Column;
use crate::scenario::Bench;
use crate::scenario::finish;
use crate::scenario::medians;

const RATE: f64 = 10_000.0;
const SECONDS: f64 = 3.0;
/// The last one is what the descriptors of one process allow here.
const STREAMS: [u64; 6] = [100, 500, 2_000, 5_000, 10_000, 18_000];
const CHANNELS: [u64; 3] = [1, 10, 100];
const CHANNELS_STREAMS: u64 = 500;
const JOBS: [u64; 5] = [10, 100, 1_000, 10_000, 100_000];
const JOBS_STREAMS: u64 = 10;
const LANES: [u32; 2] = [1, 2];
const LANES_STREAMS: u64 = 5_000;
const HTTP2_STREAMS: u64 = 2_000;
const PER_CONNECTION: u64 = 100;

const COLUMNS: [Column; 12] = [
    ("server", "server"),
    ("way", "way"),
    ("what grows", "grows"),
    ("to", "to"),
    ("streams", "streams"),
    ("updates/s", "rate"),
    ("µs/update", "cpuUsPerUpdate"),
    ("µs/delivery", "cpuUsPerDelivery"),
    ("p99 ms", "latencyUs.p99"),
    ("RSS MiB", "rssMib"),
    ("lost", "lost"),
    ("server %", "cores.server"),
];

const COST: Plot = Plot {
    name: "cost-by-streams",
    title: "Server CPU per delivery, the same rate in all",
    x: ("streams", "streams"),
    y: ("µs", "cpuUsPerDelivery"),
    scale: 1.0,
};
const LATENCY: Plot =
    Plot { name: "latency-by-streams", title: "Worker to page, p99", y: ("ms", "latencyUs.p99"), scale: 0.001, ..COST };
const MEMORY: Plot = Plot { name: "memory-by-streams", title: "Memory", y: ("MiB", "rssMib"), ..COST };

/// One point: what has grown how far.
#[derive(Debug)]
pub(crate) struct Point {
    pub(crate) grows: &'static str,
    pub(crate) to: u64,
    pub(crate) shape: Shape,
    pub(crate) lanes: Option<u32>,
}

pub(crate) async fn run(setup: &Setup) -> Result<bool, Failure> {
    let bench = Bench::new(setup.clone()).await?;
    let rows = measure(&bench, &points(setup.streams)).await?;
    print(&rows);
    draw(setup, &rows)?;
    finish(setup, "growth", vec![("growth", rows)])
}

/// `--streams` is the most.
fn points(most: Option<u64>) -> Vec<Point> {
    let most = most.unwrap_or(u64::MAX);
    let streams = STREAMS.into_iter().filter(|to| *to <= most).map(Point::streams);
    let channels = CHANNELS.into_iter().map(Point::channels);
    let jobs = JOBS.into_iter().map(|to| {
        let shape = Shape { jobs: to, ..Shape::own(JOBS_STREAMS) };
        Point { grows: "jobs", to, shape, lanes: None }
    });
    let lanes = LANES.into_iter().map(|lanes| Point::lanes(lanes, LANES_STREAMS.min(most)));
    let http2 = [1, PER_CONNECTION].into_iter().map(|to| {
        let shape = Shape { http2: (to > 1).then_some(to), ..Shape::own(HTTP2_STREAMS.min(most)) };
        Point { grows: "streams per connection", to, shape, lanes: None }
    });
    streams.chain(channels).chain(jobs).chain(lanes).chain(http2).collect()
}

impl Point {
    pub(crate) fn streams(to: u64) -> Self {
        Self { grows: "streams", to, shape: Shape::own(to), lanes: None }
    }

    pub(crate) fn channels(to: u64) -> Self {
        let shape = Shape { jobs_per_stream: to, jobs: CHANNELS_STREAMS * to, ..Shape::own(CHANNELS_STREAMS) };
        Self { grows: "channels per stream", to, shape, lanes: None }
    }

    pub(crate) fn lanes(lanes: u32, streams: u64) -> Self {
        Self { grows: "lanes", to: lanes.into(), shape: Shape::own(streams), lanes: Some(lanes) }
    }

    /// A bare server has no lanes, and speaks HTTP/1.1 only.
    fn suits(&self, server: Server) -> bool {
        server == Server::Tidings || self.lanes.is_none() && self.grows != "streams per connection"
    }
}

pub(crate) fn draw(setup: &Setup, rows: &[Value]) -> Result<(), Failure> {
    let rows: Vec<Value> = rows.iter().filter(|row| row["grows"] == "streams").cloned().collect();
    [COST, LATENCY, MEMORY].into_iter().try_for_each(|plot| plot::draw(setup.plots.as_deref(), plot, &rows))
}

pub(crate) fn print(rows: &[Value]) {
    report::print("Growth: the same rate in all, and one thing grows", rows, &COLUMNS);
}

pub(crate) async fn measure(bench: &Bench, points: &[Point]) -> Result<Vec<Value>, Failure> {
    let rate = bench.setup.rates.first().copied().unwrap_or(RATE);
    let mut rows = Vec::new();
    for (server, way) in bench.rounds() {
        for point in points.iter().filter(|point| point.suits(server)) {
            let bench = bench.with(|setup| {
                setup.lanes = point.lanes.or(setup.lanes);
                // Two lanes need two cores, so one lane has to do without a core of its own as well.
                setup.server_anywhere = point.lanes.is_some();
            });
            match one(&bench, server, way, point, rate).await {
                Ok(row) => rows.push(row),
                // The others are worth having nevertheless.
                Err(failure) => eprintln!("load: {} {} is missing: {failure}", point.to, point.grows),
            }
        }
    }
    Ok(medians(rows, &["server", "way", "grows", "to"]))
}

async fn one(bench: &Bench, server: Server, way: Way, point: &Point, rate: f64) -> Result<Value, Failure> {
    let mut field = bench.open(server, way, point.shape.clone()).await?;
    // Each job once before anything is measured: the first update of a job asks the database what was before.
    let warmup = bench.setup.warmup + point.shape.jobs as f64 / rate;
    let mut row = field.publish(rate, warmup, bench.setup.seconds.unwrap_or(SECONDS))?;
    row["grows"] = point.grows.into();
    row["to"] = point.to.into();
    row["rssMib"] = round(field.memory().rss_kib / 1024.0).into();
    Ok(row)
}
