//! A flood: thousands of connections that are not what they should be, beside people who hear of what happens.
//!
//! The attackers stand for other machines: they run where the readers run and only when nobody else there wants to, so that the
//! server's core is the server's. The server has its limits as they are by default.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::ValueEnum;
use serde_json::Value;

use crate::Failure;
use crate::field::Field;
use crate::field::Shape;
use crate::goals::Bound::AtMost;
use crate::goals::Goals;
use crate::meter;
use crate::number::round;
use crate::number::to_u64;
use crate::options::Attack;
use crate::options::Server;
use crate::options::Setup;
use crate::options::Way;
use crate::processes::Core;
use crate::processes::Part;
use crate::queries;
use crate::report;
use crate::report::Column;
use crate::scenario::Bench;
use crate::scenario::finish;
use crate::scenario::kernel;

const STREAMS: u64 = 500;
const CHANNELS: u64 = 50;
/// Updates a second; each is told to the streams of its channel.
const RATE: f64 = 100.0;
/// Of the attack.
const SECONDS: f64 = 25.0;
/// Of the time before and after it: so many times less, but no less than this.
const CALM_SHARE: f64 = 0.5;
const CALM_S_MIN: f64 = 3.0;
/// The attackers come within two seconds.
const ESTABLISHED: Duration = Duration::from_secs(4);
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long memory may take to come back: the kernel gives peers up that don't read after 30 s.
const BACK_S_MAX: u64 = 45;
/// What more memory than before is none of the attack's.
const MEMORY_SHARE: f64 = 1.1;
const MEMORY_KIB: f64 = 8.0 * 1024.0;
/// A p99 below that is good, however good it was before.
const P99_MS: f64 = 5.0;
const NEWCOMER_MS_MAX: f64 = 1000.0;

const COLUMNS: [Column; 17] = [
    ("addresses", "addresses"),
    ("phase", "phase"),
    ("p50 ms", "latencyUs.p50"),
    ("p99 ms", "latencyUs.p99"),
    ("p100 ms", "latencyUs.p100"),
    ("late p99 ms", "published.lateUs.p99"),
    ("delivered", "delivered"),
    ("lost", "lost"),
    ("repeated", "repeated"),
    ("order", "outOfOrder"),
    ("cut", "disconnected"),
    ("ready p50 ms", "newcomers.p50Ms"),
    ("ready most", "newcomers.mostMs"),
    ("CPU s", "serverSeconds"),
    ("server %", "cores.server"),
    ("attackers %", "attackersPercent"),
    ("load %", "loadPercent"),
];

const ATTACK: [Column; 16] = [
    ("addresses", "addresses"),
    ("phase", "phase"),
    ("busy, most", "socketsMost.busy"),
    ("idle, most", "socketsMost.idle"),
    ("silent, most", "socketsMost.silent"),
    ("MiB", "memoryMib"),
    ("MiB, most", "memoryMostMib"),
    ("kernel's MiB, most", "tcpMostMib"),
    ("short of it ms", "kernel.pressureMs"),
    ("queue full", "kernel.listenOverflows"),
    ("/metrics unanswered", "metricsUnanswered"),
    ("connections/s", "attack.perSecond"),
    ("standing", "attack.standing"),
    ("cut", "attack.cut"),
    ("unable", "attack.unable"),
    ("refused", "refusedText"),
];

/// An attack from so many addresses, and what it is upon.
#[derive(Debug)]
struct Siege<'a> {
    bench: &'a Bench,
    field: Field,
    attackers: Part,
    newcomer: Part,
    addresses: u32,
    rate: f64,
    /// At the end of the phase before.
    kernel: kernel::Counters,
}

pub(crate) async fn run(
    mut setup: Setup,
    (attackers, attacks): (u32, &[Attack]),
    addresses: &[u32],
) -> Result<bool, Failure> {
    setup.default_limits = true;
    let bench = Bench::new(setup).await?;
    let (mut rows, mut goals) = (Vec::new(), Goals::default());
    for _ in 0..bench.setup.repeat.max(1) {
        for addresses in addresses {
            let phases = Siege::new(&bench, (attackers, attacks), *addresses).await?.measure().await?;
            judge(&mut goals, attackers, *addresses, &phases);
            rows.extend(phases);
        }
    }
    report::print(&format!("Flood: {attackers} attackers beside people"), &rows, &COLUMNS);
    report::print("The attack, as the server and the attackers saw it", &rows, &ATTACK);
    goals.print();
    finish(&bench.setup, "flood", vec![("flood", rows), ("goals", goals.into_rows())])
}

/// `phases` are before, during and after.
fn judge(goals: &mut Goals, attackers: u32, addresses: u32, phases: &[Value]) {
    let [before, during, after] = phases else { return };
    let of = format!("{attackers} attackers from {addresses} addresses");
    let faults = |name: &str| phases.iter().filter_map(|row| row[name].as_f64()).sum::<f64>();
    let all = ["lost", "repeated", "outOfOrder", "resets", "disconnected"].map(faults).iter().sum();
    goals.add("flood, lost, repeated, out of order, cut", AtMost(0.0), Some(all), &of);
    let p99 = |row: &Value| row["latencyUs"]["p99"].as_f64().map(|us| us / 1000.0);
    let bound = p99(before).map_or(P99_MS, |before| (before * 2.0).max(P99_MS));
    goals.add("flood, p99 during, ms", AtMost(round(bound)), p99(during), &of);
    let memory = before["memoryMib"].as_f64().unwrap_or_default() * MEMORY_SHARE + MEMORY_KIB / 1024.0;
    goals.add("flood, memory afterwards, MiB", AtMost(round(memory)), after["memoryMib"].as_f64(), &of);
    let newcomers = &during["newcomers"];
    let most = newcomers["mostMs"].as_f64().filter(|_| newcomers["refused"] == 0);
    goals.add("flood, a newcomer ready, ms", AtMost(NEWCOMER_MS_MAX), most, &of);
}

impl<'a> Siege<'a> {
    async fn new(bench: &'a Bench, (attackers, attacks): (u32, &[Attack]), addresses: u32) -> Result<Self, Failure> {
        let setup = &bench.setup;
        let streams = setup.streams.unwrap_or(STREAMS);
        let shape = Shape::groups(streams, CHANNELS.min(streams));
        let field = bench.open(Server::Tidings, Way::Durable, shape).await?;
        let [url, count, from] = [field.stack.url.to_string(), attackers.to_string(), addresses.to_string()];
        let names = attacks.iter().filter_map(ValueEnum::to_possible_value);
        let attacks = names.map(|value| value.get_name().to_owned()).collect::<Vec<_>>().join(",");
        let args = ["attackers", "--url", &url, "--attackers", &count, "--addresses", &from, "--attacks", &attacks];
        let args = args.map(str::to_owned);
        let attackers = Part::start(Core::Spare, &args)?;
        let newcomer = field.newcomer(setup)?;
        let rate = setup.rates.first().copied().unwrap_or(RATE);
        Ok(Self { bench, field, attackers, newcomer, addresses, rate, kernel: kernel::Counters::now() })
    }

    async fn measure(mut self) -> Result<Vec<Value>, Failure> {
        let seconds = self.bench.setup.seconds.unwrap_or(SECONDS);
        let calm = (seconds * CALM_SHARE).max(CALM_S_MIN);
        let before = self.phase("before", calm).await?;
        self.attackers.ask("start")?;
        tokio::time::sleep(ESTABLISHED).await;
        let during = self.phase("during", seconds).await?;
        self.attackers.ask("stop")?;
        let mut after = self.phase("after", calm).await?;
        let enough = before["memoryMib"].as_f64().unwrap_or_default() * MEMORY_SHARE + MEMORY_KIB / 1024.0;
        after["backAfterSeconds"] = self.wait_for_memory(enough).await.into();
        after["memoryMib"] = self.memory_mib().into();
        Ok(vec![before, during, after])
    }

    /// Seconds of waiting.
    async fn wait_for_memory(&self, enough_mib: f64) -> u64 {
        for waited in 0..BACK_S_MAX {
            if self.memory_mib() <= enough_mib {
                return waited;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        BACK_S_MAX
    }

    fn memory_mib(&self) -> f64 {
        round(self.field.memory().rss_kib / 1024.0)
    }

    async fn phase(&mut self, name: &str, seconds: f64) -> Result<Value, Failure> {
        let attack = self.attackers.ask("count")?;
        let refused = self.refused().await?;
        let attackers_us = meter::cpu_us(self.attackers.pid()).unwrap_or_default();
        self.field.begin(self.rate, self.bench.setup.warmup, seconds)?;
        let meter = self.field.meter();
        let looks = self.look(to_u64(seconds)).await?;
        let used = meter.read();
        let mut row = self.field.end(self.rate, &meter)?;
        let attackers_us = meter::cpu_us(self.attackers.pid()).unwrap_or_default() - attackers_us;
        let since = queries::difference(&self.refused().await?, &refused);
        row["addresses"] = self.addresses.into();
        row["phase"] = name.into();
        row["serverSeconds"] = round(used.server_us() / 1e6).into();
        row["attackersPercent"] = round(attackers_us / used.wall_us.max(1.0) * 100.0).into();
        row["attack"] = rate_of(&attack, self.attackers.ask("count")?, used.wall_us / 1e6);
        row["refusedText"] = since.iter().map(|(of, count)| format!("{of} {count}; ")).collect::<String>().into();
        row["refused"] = serde_json::json!(since);
        row["memoryMib"] = self.memory_mib().into();
        let kernel = std::mem::replace(&mut self.kernel, kernel::Counters::now());
        row["kernel"] = self.kernel.since(&kernel);
        looks.tell(&mut row);
        Ok(row)
    }

    /// What may be seen from outside, once a second; and each time somebody comes, who was not there before.
    async fn look(&mut self, times: u64) -> Result<Looks, Failure> {
        let mut looks = Looks::default();
        let mut every = tokio::time::interval(LOOK_EVERY);
        for _ in 0..times {
            every.tick().await;
            looks.memory_mib = looks.memory_mib.max(self.memory_mib());
            looks.tcp_mib = looks.tcp_mib.max(kernel::tcp_mib());
            let sockets = self.counters("realtime_sockets").await;
            looks.unanswered += u64::from(sockets.is_err());
            for (state, count) in sockets.unwrap_or_default() {
                let most = looks.sockets.entry(state.replace("state=", "").replace('"', "")).or_default();
                *most = most.max(count);
            }
            let opened = self.newcomer.ask("open")?;
            if opened["open"] == 1 {
                looks.newcomers_ms.push(opened["openedUs"]["p100"].as_f64().unwrap_or_default() / 1000.0);
            } else {
                looks.newcomers_refused += 1;
            }
            self.newcomer.ask("close")?;
            self.newcomer.ask("skip 0 1")?;
        }
        Ok(looks)
    }

    /// Asked again where the server is too busy to say.
    async fn refused(&self) -> Result<BTreeMap<String, f64>, Failure> {
        match self.counters("realtime_rejected_total").await {
            Err(_) => self.counters("realtime_rejected_total").await,
            refused => refused,
        }
    }

    async fn counters(&self, name: &str) -> Result<BTreeMap<String, f64>, Failure> {
        let addr = self.field.stack.metrics.ok_or("only a server with metrics is attacked")?;
        Ok(queries::counters(&queries::metrics(addr).await?, name))
    }
}

/// What was seen from outside during a phase.
#[derive(Debug, Default)]
struct Looks {
    memory_mib: f64,
    tcp_mib: f64,
    sockets: BTreeMap<String, f64>,
    newcomers_ms: Vec<f64>,
    newcomers_refused: u64,
    /// Questions for the metrics.
    unanswered: u64,
}

impl Looks {
    fn tell(self, row: &mut Value) {
        let most = self.newcomers_ms.iter().copied().fold(0.0, f64::max);
        row["memoryMostMib"] = self.memory_mib.into();
        row["metricsUnanswered"] = self.unanswered.into();
        row["tcpMostMib"] = round(self.tcp_mib).into();
        row["socketsMost"] = serde_json::json!(self.sockets);
        row["newcomers"] = serde_json::json!({
            "ready": self.newcomers_ms.len(),
            "refused": self.newcomers_refused,
            "p50Ms": round(crate::number::median(self.newcomers_ms)),
            "mostMs": round(most),
        });
    }
}

/// What the attackers did between two counts.
fn rate_of(earlier: &Value, mut now: Value, seconds: f64) -> Value {
    let since =
        |now: &Value, name: &str| now[name].as_f64().unwrap_or_default() - earlier[name].as_f64().unwrap_or_default();
    for name in ["tried", "stood", "cut", "unable", "bytesRead"] {
        now[name] = crate::number::json(since(&now, name));
    }
    now["perSecond"] = round(now["stood"].as_f64().unwrap_or_default() / seconds.max(0.001)).into();
    now
}
