//! Everything in a row, and the goals beside what was measured.

use serde_json::Map;
use serde_json::Value;

use crate::Failure;
use crate::field::way_name;
use crate::goals::Bound::AtLeast;
use crate::goals::Bound::AtMost;
use crate::goals::Goals;
use crate::goals::figure;
use crate::goals::ratio;
use crate::goals::sound_figure;
use crate::options::Server;
use crate::options::Setup;
use crate::options::Way;
use crate::report;
use crate::scenario::Bench;
use crate::scenario::fanout;
use crate::scenario::foreign;
use crate::scenario::growth;
use crate::scenario::growth::Point;
use crate::scenario::idle;
use crate::scenario::light;
use crate::scenario::own;
use crate::scenario::soak;
use crate::scenario::storm;

const WAYS: [Way; 2] = [Way::Durable, Way::Embedded];
/// Of S3: what today's machine and every server can keep up with.
const RATES: [f64; 2] = [10_000.0, 50_000.0];

pub(crate) async fn run(mut setup: Setup, short: bool) -> Result<bool, Failure> {
    let started = tokio::time::Instant::now();
    setup.short = short;
    let bench = Bench::new(setup).await?;
    let mut all = All { bench: &bench, goals: Goals::default(), results: Map::new() };
    let mut complete = true;
    let parts = ["light", "idle", "own", "fanout", "foreign", "storm", "growth", "soak"];
    for part in parts.into_iter().filter(|part| !short || *part != "soak") {
        // What the other parts measure is worth having nevertheless.
        if let Err(failure) = all.part(part).await {
            eprintln!("load: {part}: {failure}");
            complete = false;
        }
    }
    all.goals.print();
    println!("\n  {:.0} s", started.elapsed().as_secs_f64());
    let All { goals, mut results, .. } = all;
    results.insert("goals".to_owned(), goals.into_rows().into());
    report::write(bench.setup.json.as_deref(), &results)?;
    // Whether a goal is met depends on the machine; whether anything was lost does not.
    Ok(complete && results.values().flat_map(|rows| rows.as_array().into_iter().flatten()).all(is_sound))
}

/// An overloaded server may leave something behind, and a bare one does not replay.
fn is_sound(row: &Value) -> bool {
    row["server"] != "tidings" || row["short"] == true || report::is_clean(row)
}

#[derive(Debug)]
struct All<'a> {
    bench: &'a Bench,
    goals: Goals,
    results: Map<String, Value>,
}

impl All<'_> {
    fn is_short(&self) -> bool {
        self.bench.setup.short
    }

    async fn part(&mut self, name: &str) -> Result<(), Failure> {
        match name {
            "light" => self.light().await,
            "idle" => self.idle().await,
            "own" => self.own().await,
            "fanout" => self.fanout().await,
            "foreign" => self.foreign().await,
            "storm" => self.storm().await,
            "growth" => self.growth().await,
            _ => self.soak().await,
        }
    }

    /// The bench for one scenario.
    fn bench(&self, servers: &[Server], ways: &[Way], streams: u64, seconds: f64) -> Bench {
        self.bench.with(|setup| {
            setup.servers = servers.to_vec();
            setup.ways = ways.to_vec();
            setup.streams = Some(streams);
            setup.seconds = Some(seconds);
        })
    }

    fn keep(&mut self, name: &str, rows: &[Value]) {
        self.results.insert(name.to_owned(), rows.into());
    }

    async fn light(&mut self) -> Result<(), Failure> {
        let seconds = if self.is_short() { 3.0 } else { 20.0 };
        let servers = [Server::Tidings, Server::Raw];
        let rows = light::measure(&self.bench(&servers, &WAYS, 100, seconds)).await?;
        light::print(&rows);
        let which = [("server", "tidings".into()), ("way", "durable".into())];
        let ms = |path| sound_figure(&rows, &which, path).map(|us| us / 1000.0);
        self.goals.add("S5 latency p50, ms", AtMost(1.0), ms("latencyUs.p50"), "durable, 100 streams, 100/s");
        self.goals.add("S5 latency p99, ms", AtMost(3.0), ms("latencyUs.p99"), "durable, 100 streams, 100/s");
        self.keep("light", &rows);
        Ok(())
    }

    async fn idle(&mut self) -> Result<(), Failure> {
        let streams = 10_000;
        let rows = idle::measure(&self.bench(&[Server::Tidings, Server::Raw], &[Way::Durable], streams, 0.0)).await?;
        idle::print(&rows);
        let which = [("server", "tidings".into())];
        let of = format!("{streams} streams, session, grant, 3 channels");
        self.goals.add("S1 RSS per idle stream, KiB", AtMost(1.5), figure(&rows, &which, "kibEachMore"), &of);
        self.keep("idle", &rows);
        Ok(())
    }

    async fn own(&mut self) -> Result<(), Failure> {
        let seconds = if self.is_short() { 1.5 } else { 5.0 };
        let bench = self.bench(&[Server::Tidings, Server::Raw], &WAYS, 5_000, seconds).with(|setup| {
            setup.no_search = setup.short;
            setup.rates = if setup.rates.is_empty() { RATES.to_vec() } else { setup.rates.clone() };
        });
        let rows = own::measure(&bench).await?;
        own::print(&rows);
        own::draw(&bench.setup, &rows)?;
        for (way, bound) in [(Way::Durable, 2.0), (Way::Embedded, 1.3)] {
            let way = way_name(way);
            for rate in &bench.setup.rates {
                let cost = |server: &str| {
                    let which = [("server", server.into()), ("way", way.into()), ("rate", (*rate).into())];
                    sound_figure(&rows.fixed, &which, "cpuUsPerDelivery")
                };
                let of = format!("CPU per delivery, 5,000 streams, {rate}/s, × raw");
                self.goals.add(&format!("S3 own job, {way}"), AtMost(bound), ratio(cost("tidings"), cost("raw")), &of);
            }
            if !bench.setup.no_search {
                let rate =
                    |server: &str| figure(&rows.highest, &[("server", server.into()), ("way", way.into())], "rate");
                let of = "raw's highest rate with p99 < 50 ms / ours";
                self.goals.add(&format!("S3 own job, {way}"), AtMost(bound), ratio(rate("raw"), rate("tidings")), of);
            }
        }
        self.keep("own", &rows.fixed);
        self.keep("ownHighest", &rows.highest);
        Ok(())
    }

    async fn fanout(&mut self) -> Result<(), Failure> {
        let (short, seconds) = if self.is_short() { (true, 2.0) } else { (false, 5.0) };
        let saturated: &[u64] = if short { &[1_000] } else { &[1_000, 5_000] };
        let (mut fixed, mut highest) = (Vec::new(), Vec::new());
        for streams in saturated {
            let servers = [Server::Tidings, Server::RawCoal];
            let rows = fanout::measure(&self.bench(&servers, &[Way::Embedded], *streams, seconds)).await?;
            let most = |server: &str| figure(&rows.1, &[("server", server.into())], "deliveriesPerSecond");
            let of = format!("deliveries/s, one channel × {streams}, × raw-coal");
            self.goals.add("S2 fan-out", AtLeast(0.9), ratio(most("tidings"), most("raw-coal")), &of);
            fixed.extend(rows.0);
            highest.extend(rows.1);
        }
        let many = self.bench(&[Server::Tidings, Server::Raw], &[Way::Embedded], 10_000, seconds + 1.0);
        let rows = fanout::measure(&many.with(|setup| setup.no_search = true)).await?.0;
        let p99 = |server: &str| sound_figure(&rows, &[("server", server.into())], "latencyUs.p99");
        let of = "one channel × 10,000, 10/s, × raw";
        self.goals.add("S2 latency p99", AtMost(1.15), ratio(p99("tidings"), p99("raw")), of);
        fixed.extend(rows);
        fanout::print(&fixed, &highest);
        self.keep("fanout", &fixed);
        self.keep("fanoutHighest", &highest);
        Ok(())
    }

    async fn foreign(&mut self) -> Result<(), Failure> {
        let seconds = if self.is_short() { 2.0 } else { 5.0 };
        let rows = foreign::measure(&self.bench(&[Server::Tidings, Server::Raw], &WAYS, 200, seconds)).await?;
        foreign::print(&rows);
        for (way, bound) in [("durable", 6.0), ("embedded", 3.0)] {
            let which = [("server", "tidings".into()), ("way", way.into())];
            let cost = sound_figure(&rows, &which, "cpuUsPerUpdate");
            let of = "CPU µs per update, 20,000/s, 1 % subscribed";
            self.goals.add(&format!("S4 foreign, {way}"), AtMost(bound), cost, of);
        }
        self.keep("foreign", &rows);
        Ok(())
    }

    async fn storm(&mut self) -> Result<(), Failure> {
        let rows = storm::measure(&self.bench(&[Server::Tidings], &[Way::Durable], 10_000, 5.0)).await?;
        storm::print(&rows);
        let quiet = [("server", "tidings".into()), ("rate", 0.into())];
        let of = "10,000 streams back with cursors, nothing published";
        self.goals.add("storm, CPU s", AtMost(1.0), figure(&rows, &quiet, "serverSeconds"), of);
        // Of Redis, what goes on all the time is not the storm's: a probe, the tail.
        self.goals.add("storm, database queries", AtMost(0.0), figure(&rows, &quiet, "queries.store"), of);
        self.goals.add("storm, Redis commands", AtMost(50.0), figure(&rows, &quiet, "redisCommands"), of);
        self.keep("storm", &rows);
        Ok(())
    }

    async fn growth(&mut self) -> Result<(), Failure> {
        let most = if self.is_short() { 10_000 } else { 18_000 };
        let points = [
            Point::streams(500),
            Point::streams(most),
            Point::channels(1),
            Point::channels(if self.is_short() { 20 } else { 100 }),
            Point::lanes(1, 2_000),
            Point::lanes(2, 2_000),
        ];
        let way = if self.is_short() { &WAYS[1..] } else { &WAYS[..] };
        let seconds = if self.is_short() { 2.0 } else { 4.0 };
        let rows = growth::measure(&self.bench(&[Server::Tidings], way, most, seconds), &points).await?;
        growth::print(&rows);
        growth::draw(&self.bench.setup, &rows)?;
        for way in way.iter().map(|way| way_name(*way)) {
            for pair in points.chunks(2) {
                let [few, many] = pair else { continue };
                let cost = |point: &Point| {
                    let which = [("way", way.into()), ("grows", point.grows.into()), ("to", point.to.into())];
                    sound_figure(&rows, &which, "cpuUsPerDelivery")
                };
                let of = format!("CPU per delivery, {} {} / {}, {way}", many.to, many.grows, few.to);
                self.goals.add(&format!("growth, {}", few.grows), AtMost(1.2), ratio(cost(many), cost(few)), &of);
            }
        }
        self.keep("growth", &rows);
        Ok(())
    }

    async fn soak(&mut self) -> Result<(), Failure> {
        let rows = soak::measure(&self.bench(&[Server::Tidings], &WAYS, 2_000, 60.0), 50.0).await?;
        soak::print(&rows);
        soak::draw(&self.bench.setup, &rows)?;
        self.keep("soak", &rows);
        Ok(())
    }
}
