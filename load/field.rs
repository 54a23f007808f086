//! One server with its streams and its publisher, ready to be measured.

use serde_json::Value;

use crate::Failure;
use crate::meter::Memory;
use crate::meter::Meter;
use crate::meter::Used;
use crate::options::Server;
use crate::options::Setup;
use crate::options::Way;
use crate::postgres::Postgres;
use crate::processes::Core;
use crate::processes::Part;
use crate::report;
use crate::stack;
use crate::stack::Stack;
use crate::support::tokens;

/// How long what was published may be under way before it counts as lost.
const TAIL_MAX_S: u64 = 3;
/// Where that is bounded: some people behind one address.
const STREAMS_PER_ADDRESS: &str = "10";

/// Who listens to what.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    pub(crate) streams: u64,
    pub(crate) jobs_per_stream: u64,
    /// All that updates are about.
    pub(crate) jobs: u64,
    /// All streams hear the only job.
    pub(crate) shared: bool,
    /// Of streams that hear the same, one of so many is looked at.
    pub(crate) sample: u64,
    /// Channels beside that of the job, about which nothing is published; `{other}` is the kind that isn't published.
    pub(crate) quiet: &'static [&'static str],
    /// Streams with a session.
    pub(crate) session: bool,
    /// Streams come back by themselves.
    pub(crate) reconnect: bool,
    /// Streams on one connection of HTTP/2; otherwise each has one of HTTP/1.1.
    pub(crate) http2: Option<u64>,
}

impl Shape {
    /// Each stream has a job of its own.
    pub(crate) fn own(streams: u64) -> Self {
        let (quiet, jobs_per_stream, sample) = (&[][..], 1, 1);
        Self {
            streams,
            jobs_per_stream,
            jobs: streams,
            shared: false,
            sample,
            quiet,
            session: false,
            reconnect: false,
            http2: None,
        }
    }

    /// All streams hear the same. Of many, a tenth is looked at: the reader would otherwise be what is measured.
    pub(crate) fn shared(streams: u64) -> Self {
        Self { shared: true, jobs: 1, sample: streams.div_ceil(100).min(10), ..Self::own(streams) }
    }

    /// Each job is heard by several streams, evenly.
    pub(crate) fn groups(streams: u64, jobs: u64) -> Self {
        Self { jobs, ..Self::own(streams) }
    }

    /// Of so many jobs one belongs to a stream, evenly, so that foreign updates lie between.
    fn spread(&self) -> u64 {
        (self.jobs / (self.streams * self.jobs_per_stream).max(1)).max(1)
    }

    /// How many streams hear an update, on average.
    fn fan(&self) -> f64 {
        if self.shared { self.streams as f64 } else { (self.streams * self.jobs_per_stream) as f64 / self.jobs as f64 }
    }
}

#[derive(Debug)]
pub(crate) struct Field {
    reader: Part,
    publisher: Part,
    pub(crate) stack: Stack,
    postgres_pid: u32,
    pub(crate) server: Server,
    way: Way,
    shape: Shape,
    run: String,
    /// Updates so far.
    sent: u64,
    phase: u64,
}

impl Field {
    /// Starts everything; no stream is open yet.
    pub(crate) async fn start(
        setup: &Setup,
        postgres: &Postgres,
        server: Server,
        way: Way,
        shape: Shape,
    ) -> Result<Self, Failure> {
        let stack = Stack::start(setup, server, way, postgres).await?;
        let run = format!("{:08x}", fastrand::u32(..));
        if server == Server::Tidings {
            postgres.seed(&run, shape.streams, shape.spread(), shape.jobs).await?;
        }
        let ground = Ground { setup, stack: &stack, server, way, shape: &shape, run: &run };
        let reader = Part::start(Core::Inherited, &reader_args(&ground)?)?;
        let publisher = Part::start(Core::Inherited, &publisher_args(&ground)?)?;
        let postgres_pid = postgres.pid();
        Ok(Self { reader, publisher, stack, postgres_pid, server, way, shape, run, sent: 0, phase: 0 })
    }

    /// `open`, or `cut` for all at once; fails unless all are ready.
    pub(crate) fn open_all(&mut self, order: &str) -> Result<Value, Failure> {
        let opened = self.reader.ask(order)?;
        if opened["open"].as_u64() != Some(self.shape.streams) {
            return Err(format!("not all of {} streams are ready: {opened}", self.shape.streams).into());
        }
        Ok(opened)
    }

    pub(crate) fn close_all(&mut self) -> Result<(), Failure> {
        self.reader.ask("close").map(drop)
    }

    /// Any order to the reader.
    pub(crate) fn ask_reader(&mut self, order: &str) -> Result<Value, Failure> {
        self.reader.ask(order)
    }

    /// A reader of its own for one stream, that of the first user.
    pub(crate) fn newcomer(&self, setup: &Setup) -> Result<Part, Failure> {
        let Self { stack, server, way, run, .. } = self;
        let ground = Ground { setup, stack, server: *server, way: *way, shape: &Shape::own(1), run };
        Part::start(Core::Inherited, &reader_args(&ground)?)
    }

    pub(crate) fn memory(&self) -> Memory {
        self.stack.server_pid.map(Memory::of).unwrap_or_default()
    }

    pub(crate) fn meter(&self) -> Meter {
        let server = self.stack.server_pid.map(|pid| ("server", pid));
        let redis = self.stack.redis.as_ref().map(|redis| ("redis", redis.pid()));
        let parts =
            [("reader", self.reader.pid()), ("publisher", self.publisher.pid()), ("postgres", self.postgres_pid)];
        Meter::start(server.into_iter().chain(redis).chain(parts))
    }

    /// Publishes at that rate and says what came of it.
    pub(crate) fn publish(&mut self, rate: f64, warmup_s: f64, seconds: f64) -> Result<Value, Failure> {
        self.begin(rate, warmup_s, seconds)?;
        let meter = self.meter();
        self.end(rate, &meter)
    }

    /// Forgets what was seen so far.
    pub(crate) fn begin_quietly(&mut self) -> Result<(), Failure> {
        self.phase += 1;
        self.reader.ask(&format!("phase {}", self.phase)).map(drop)
    }

    /// Begins to publish; comes back when the warm-up is over.
    pub(crate) fn begin(&mut self, rate: f64, warmup_s: f64, seconds: f64) -> Result<(), Failure> {
        self.begin_quietly()?;
        self.publisher.ask(&format!("run {rate} {warmup_s} {seconds} {}", self.phase)).map(drop)
    }

    /// Waits for the end of what was begun.
    pub(crate) fn end(&mut self, rate: f64, meter: &Meter) -> Result<Value, Failure> {
        let published = self.publisher.hear()?;
        self.sent = published["sent"].as_u64().ok_or("the publisher doesn't say how many")?;
        let seen = self.reader.ask(&format!("report {} {} {TAIL_MAX_S}", self.sent, self.shape.jobs))?;
        Ok(self.row(rate, &published, seen, &meter.read()))
    }

    fn row(&self, rate: f64, published: &Value, seen: Value, used: &Used) -> Value {
        let updates = published["measured"].as_f64().unwrap_or_default().max(1.0);
        let per_update = used.server_us() / updates;
        let cores = used.to_json();
        let load: f64 =
            ["reader", "publisher", "redis", "postgres"].iter().filter_map(|name| cores[*name].as_f64()).sum();
        let mut row = self.name();
        row["rate"] = crate::number::json(rate);
        row["cpuUsPerUpdate"] = crate::number::round(per_update).into();
        // Where hardly any update is delivered, delivering is not what it costs.
        if self.shape.fan() >= 0.5 {
            row["cpuUsPerDelivery"] = crate::number::round(per_update / self.shape.fan()).into();
        }
        row["deliveriesPerSecond"] = (rate * self.shape.fan()).round().into();
        if let (Value::Object(row), Value::Object(seen)) = (&mut row, seen) {
            row.extend(seen);
        }
        row["short"] = self.is_short(&row, updates).into();
        row["published"] = published.clone();
        row["loadPercent"] = load.into();
        row["cores"] = cores;
        row
    }

    /// Whether less has come than was published, at the streams that are looked at or, by their bytes, at the others.
    fn is_short(&self, row: &Value, updates: f64) -> bool {
        let looked_at = self.shape.streams.div_ceil(self.shape.sample) as f64;
        let share = looked_at / self.shape.streams as f64;
        let [read, drained] = ["bytesRead", "bytesDrained"].map(|name| row[name].as_f64().unwrap_or_default());
        let thin = drained < read / share * (1.0 - share) * 0.95;
        row["delivered"].as_f64().unwrap_or_default() < updates * self.shape.fan() * share * 0.999 - 1.0 || thin
    }

    /// What every figure says about itself.
    pub(crate) fn name(&self) -> Value {
        serde_json::json!({ "server": name_of(self.server), "way": way_name(self.way), "streams": self.shape.streams })
    }
}

/// Whether everything that was published came, in order, and soon enough.
pub(crate) fn kept_up(row: &Value, p99_us_max: u64) -> bool {
    report::is_clean(row)
        && row["short"] == false
        && row["published"]["gaveUp"] == false
        && row["latencyUs"]["p99"].as_u64() < Some(p99_us_max)
}

pub(crate) fn name_of(server: Server) -> &'static str {
    match server {
        Server::Tidings => "tidings",
        Server::Raw => "raw",
        Server::RawCoal => "raw-coal",
        Server::Other => "other",
    }
}

pub(crate) fn way_name(way: Way) -> &'static str {
    match way {
        Way::Durable => "durable",
        Way::Embedded => "embedded",
    }
}

/// What the reader and the publisher of one field are told.
struct Ground<'a> {
    setup: &'a Setup,
    stack: &'a Stack,
    server: Server,
    way: Way,
    shape: &'a Shape,
    run: &'a str,
}

fn reader_args(ground: &Ground<'_>) -> Result<Vec<String>, Failure> {
    let Ground { setup, stack, server, way, shape, run } = *ground;
    // A batch carries no job updates, so documents stand for jobs there.
    let (kind, other) = if way == Way::Durable { ("jobs", "docs") } else { ("docs", "jobs") };
    let job = if shape.shared { "0" } else { "{job}" };
    let path = match (&setup.url_template, server) {
        (Some(template), Server::Other) => stack::split_url(template)?.1,
        _ if shape.session => {
            let route = if setup.websocket && server == Server::Tidings { "ws" } else { "events" };
            format!("/v1/{route}?channels={{channels}}&session=load-{{run}}-{{i}}")
        }
        _ => "/v1/events?channels={channels}".to_owned(),
    };
    let own =
        if server == Server::Other { format!("load-{{run}}-{job}") } else { format!("{kind}.load-{{run}}-{job}") };
    let channels = std::iter::once(own).chain(shape.quiet.iter().map(|quiet| quiet.replace("{other}", other)));
    let [url, streams, each] = [stack.url.to_string(), shape.streams.to_string(), shape.jobs_per_stream.to_string()];
    let mut args = words(&["reader", "--url", &url, "--run", run, "--streams", &streams, "--path", &path]);
    args.extend(words(&["--jobs-per-stream", &each, "--in-flight", &setup.in_flight.to_string()]));
    args.extend(channels.flat_map(|channel| ["--channel".to_owned(), channel]));
    if server == Server::Other {
        args.push("--plain".to_owned());
    } else {
        args.extend(words(&["--jwt-secret", tokens::SECRET]));
    }
    args.extend(words(&["--spread", &shape.spread().to_string()]));
    if setup.default_limits {
        args.extend(words(&["--per-address", STREAMS_PER_ADDRESS]));
    }
    if !shape.shared && shape.jobs < shape.streams {
        args.extend(words(&["--jobs", &shape.jobs.to_string()]));
    }
    if shape.shared {
        args.extend(words(&["--shared", "--sample", &shape.sample.to_string()]));
    }
    if let Some(each) = shape.http2 {
        args.extend(words(&["--http2", &each.to_string()]));
    }
    args.extend(shape.reconnect.then(|| "--reconnect".to_owned()));
    Ok(args)
}

fn publisher_args(ground: &Ground<'_>) -> Result<Vec<String>, Failure> {
    let Ground { setup, stack, server, way, shape, run } = *ground;
    let jobs = if shape.shared { 1 } else { shape.jobs }.to_string();
    let mut args = words(&["publisher", "--run", run, "--jobs", &jobs]);
    match (&setup.publish_template, &stack.redis, way) {
        (Some(template), _, _) if server == Server::Other => match template.strip_prefix("redis://") {
            Some(rest) => {
                let (addr, channel) = rest.split_once('/').ok_or("redis://host:port/{channel}")?;
                args.extend(words(&["--redis", addr, "--redis-channel", channel]));
            }
            None => args.extend(words(&["--post", template])),
        },
        (_, Some(redis), Way::Durable) => args.extend(words(&["--redis", &redis.addr().to_string()])),
        _ => args.extend(words(&["--batch", &stack.url.to_string(), "--api-key", stack::API_KEY])),
    }
    Ok(args)
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}
