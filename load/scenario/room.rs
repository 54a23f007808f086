//! Room: people who all move their pointers and all see each other, over two instances.

use serde_json::Value;

use crate::Failure;
use crate::meter::Meter;
use crate::number::round;
use crate::options::Server;
use crate::options::Setup;
use crate::options::Way;
use crate::processes::Core;
use crate::processes::Part;
use crate::report;
use crate::report::Column;
use crate::scenario::Bench;
use crate::scenario::finish;
use crate::scenario::medians;
use crate::stack::Stack;

const PEOPLE: [u64; 3] = [10, 50, 200];
/// How often a page moves a pointer.
const HZ: f64 = 60.0;
const SECONDS: f64 = 10.0;

const COLUMNS: [Column; 12] = [
    ("instances", "instances"),
    ("people", "streams"),
    ("moves/s each", "hz"),
    ("seen/s, least", "seenPerSecondMin"),
    ("seen/s, median", "seenPerSecondMedian"),
    ("told/s", "toldPerSecond"),
    ("p50 ms", "latencyUs.p50"),
    ("p99 ms", "latencyUs.p99"),
    ("servers %", "serversPercent"),
    ("redis %", "cores.redis"),
    ("µs/s per receiver", "cpuUsPerReceiver"),
    ("µs/told", "cpuUsPerTold"),
];

pub(crate) async fn run(setup: &Setup) -> Result<bool, Failure> {
    let bench = Bench::new(setup.clone()).await?;
    let rows = measure(&bench, &PEOPLE).await?;
    print(&rows);
    finish(setup, "room", vec![("room", rows)])
}

pub(crate) fn print(rows: &[Value]) {
    report::print("Room: all move, all see each other", rows, &COLUMNS);
}

/// `--streams` is the only size, if it is given; `--rates` how often each moves.
pub(crate) async fn measure(bench: &Bench, people: &[u64]) -> Result<Vec<Value>, Failure> {
    let hz = bench.setup.rates.first().copied().unwrap_or(HZ);
    let sizes = bench.setup.streams.map_or_else(|| people.to_vec(), |only| vec![only]);
    let mut rows = Vec::new();
    for _ in 0..bench.setup.repeat.max(1) {
        for people in &sizes {
            rows.push(one(bench, *people, hz).await?);
        }
    }
    Ok(medians(rows, &["streams"]))
}

async fn one(bench: &Bench, people: u64, hz: f64) -> Result<Value, Failure> {
    let (setup, seconds) = (&bench.setup, bench.setup.seconds.unwrap_or(SECONDS));
    let first = Stack::start(setup, Server::Tidings, Way::Durable, bench.postgres()).await?;
    let second = first.beside(setup, bench.postgres()).await?;
    let run = format!("{:08x}", fastrand::u32(..));
    bench.postgres().seed(&run, people, 1, people).await?;
    bench.postgres().share(&run, people).await?;
    let [count, warmup, length] = [people.to_string(), setup.warmup.to_string(), seconds.to_string()];
    let mut args: Vec<String> = [
        "people",
        "--run",
        &run,
        "--people",
        &count,
        "--warmup",
        &warmup,
        "--seconds",
        &length,
        "--hz",
        &hz.to_string(),
    ]
    .map(str::to_owned)
    .into();
    for stack in [&first, &second] {
        args.extend(["--url".to_owned(), stack.url.to_string()]);
    }
    let mut people_part = Part::start(Core::Inherited, &args)?;
    people_part.hear()?;
    people_part.ask("run")?;
    let servers = [("server", first.server_pid), ("second", second.server_pid)];
    let servers = servers.into_iter().filter_map(|(name, pid)| Some((name, pid?)));
    let redis = first.redis.as_ref().map(|redis| ("redis", redis.pid()));
    let meter = Meter::start(servers.chain(redis).chain([("people", people_part.pid())]));
    let mut row = people_part.hear()?;
    let used = meter.read();
    let cores = used.to_json();
    let percent = |name: &str| cores[name].as_f64().unwrap_or_default();
    let servers = percent("server") + percent("second");
    let us_per_second = servers * 10_000.0;
    row["server"] = "tidings".into();
    row["way"] = "durable".into();
    row["instances"] = 2.into();
    row["streams"] = people.into();
    row["hz"] = hz.into();
    row["serversPercent"] = round(servers).into();
    row["cpuUsPerReceiver"] = round(us_per_second / people as f64).into();
    row["cpuUsPerTold"] = round(us_per_second / row["toldPerSecond"].as_f64().unwrap_or_default().max(1.0)).into();
    row["cores"] = cores;
    Ok(row)
}
