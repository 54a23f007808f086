//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use clap::Parser;
use clap::Subcommand;
use clap::ValueEnum;

#[derive(Debug, Parser)]
#[command(name = "load", about = "What many streams see, and what they cost; load/README.md explains the figures")]
pub(crate) struct Options {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// S1: many streams that hear nothing: memory, and how fast they open
    Idle(Setup),
    /// S3: each stream has a job of its own: cost per delivery, and the highest rate
    Own(Setup),
    /// S5: few streams, few updates: how long from worker to page
    Light(Setup),
    /// S2: one channel for all: how many deliveries a second, and how soon the last one
    Fanout(Setup),
    /// S4: updates that nobody here listens to
    Foreign(Setup),
    /// All streams are cut at once and come back
    Storm(Setup),
    /// Streams come and go for a long time; nothing may be lost, memory may not grow
    Soak {
        /// Streams that come and go per second
        #[arg(long, default_value_t = 50.0)]
        churn: f64,
        #[command(flatten)]
        setup: Setup,
    },
    /// How the cost grows: with streams, channels per stream, jobs, lanes; over HTTP/2
    Growth(Setup),
    /// People in a room over two instances, who all move and all see each other: how often, how soon, at what cost
    Room(Setup),
    /// Silent, slow and deaf attackers, and a flood of connections, beside streams: what do those see of it?
    Flood {
        /// Connections that attack
        #[arg(long, default_value_t = 5_000)]
        attackers: u32,
        /// From how many addresses, one figure after the other
        #[arg(long, value_delimiter = ',', default_value = "250,1")]
        addresses: Vec<u32>,
        /// What they do, in equal parts
        #[arg(long, value_delimiter = ',', default_value = ALL_ATTACKS)]
        attacks: Vec<Attack>,
        #[command(flatten)]
        setup: Setup,
    },
    /// Everything in a row, and the goals of the project beside what was measured
    All {
        /// Small and short: under four minutes
        #[arg(long)]
        short: bool,
        #[command(flatten)]
        setup: Setup,
    },
    /// Part of a scenario: the bare server that others are measured against
    Raw(RawRole),
    /// Part of a scenario: publishes
    #[command(hide = true)]
    Publisher(PublisherRole),
    /// Part of a scenario: holds the streams
    #[command(hide = true)]
    Reader(ReaderRole),
    /// Part of a scenario: moves pointers and sees them move
    #[command(hide = true)]
    People(PeopleRole),
    /// Part of a scenario: attacks
    #[command(hide = true)]
    Attackers(AttackersRole),
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Server {
    /// This project's server
    Tidings,
    /// The bare server, one write per event
    Raw,
    /// The bare server, one write for all that is ready
    RawCoal,
    /// The one of --url-template
    Other,
}

/// By which way updates come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Way {
    /// PUBLISH on Redis; Tidings keeps its log there
    Durable,
    /// POST in batches; Tidings keeps its log in memory
    Embedded,
}

/// What an attacker does, again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Attack {
    /// Connects and says nothing
    Silent,
    /// Sends a head, a byte every now and then, and never its end
    SlowHead,
    /// Sends one request and keeps the connection
    Idle,
    /// Asks and asks, and reads no answer
    Deaf,
    /// Connects and goes
    Flood,
}

const ALL_ATTACKS: &str = "silent,slow-head,idle,deaf,flood";

#[derive(Debug, Clone, Args)]
pub(crate) struct Setup {
    /// What is measured, in turn
    #[arg(long, value_delimiter = ',', default_value = "tidings,raw,raw-coal")]
    pub(crate) servers: Vec<Server>,
    /// By which ways updates come in
    #[arg(long, value_delimiter = ',', default_value = "durable,embedded")]
    pub(crate) ways: Vec<Way>,
    /// Open streams [default: that of the scenario]
    #[arg(long)]
    pub(crate) streams: Option<u64>,
    /// Updates per second, one figure after the other [default: those of the scenario]
    #[arg(long, value_delimiter = ',')]
    pub(crate) rates: Vec<f64>,
    /// Measured time of each figure
    #[arg(long)]
    pub(crate) seconds: Option<f64>,
    /// Time before it
    #[arg(long, default_value_t = 1.0)]
    pub(crate) warmup: f64,
    /// Runs of everything; the figures are medians
    #[arg(long, default_value_t = 1)]
    pub(crate) repeat: u32,
    /// Leave out the search for the highest rate
    #[arg(long)]
    pub(crate) no_search: bool,
    /// Streams that are being opened at once
    #[arg(long, default_value_t = 400)]
    pub(crate) in_flight: usize,
    /// Let the scheduler choose the cores, instead of one for the server and one for everything else
    #[arg(long)]
    pub(crate) no_pin: bool,
    /// LANES of Tidings [default: its own]; with more than one the server is not pinned
    #[arg(long)]
    pub(crate) lanes: Option<u32>,
    /// Further settings of Tidings: NAME=VALUE
    #[arg(long)]
    pub(crate) set: Vec<String>,
    /// The binary that is measured
    #[arg(long, default_value = "target/release/tidings")]
    pub(crate) tidings: PathBuf,
    /// Another server that speaks SSE, with `--servers other`: `http://127.0.0.1:9000/sub/{channel}`
    #[arg(long)]
    pub(crate) url_template: Option<String>,
    /// How to publish there: such a URL to POST to, or `redis://127.0.0.1:6379/{channel}`
    #[arg(long, requires = "url_template")]
    pub(crate) publish_template: Option<String>,
    /// Its process, to measure what it costs; it is bound to the server's core
    #[arg(long, requires = "url_template")]
    pub(crate) server_pid: Option<u32>,
    /// The streams of `idle` are over `WebSocket`
    #[arg(long)]
    pub(crate) websocket: bool,
    /// Write the results there as well
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
    #[arg(skip)]
    pub(crate) short: bool,
    /// What an address and a user may have is bounded as by default
    #[arg(skip)]
    pub(crate) default_limits: bool,
    /// The server may run on any core although it has one lane
    #[arg(skip)]
    pub(crate) server_anywhere: bool,
    /// Draw the results into this directory
    #[arg(long)]
    pub(crate) plots: Option<PathBuf>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct RawRole {
    #[arg(long, default_value_t = 0)]
    pub(crate) port: u16,
    /// Take updates from there
    #[arg(long)]
    pub(crate) redis: Option<SocketAddr>,
    /// One write per socket for all that is ready
    #[arg(long)]
    pub(crate) coalesce: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct PublisherRole {
    /// Tells this run's jobs from those of others
    #[arg(long)]
    pub(crate) run: String,
    /// Updates go to so many jobs in turn
    #[arg(long)]
    pub(crate) jobs: u64,
    /// PUBLISH there
    #[arg(long)]
    pub(crate) redis: Option<SocketAddr>,
    /// On these channels instead of job-updates
    #[arg(long)]
    pub(crate) redis_channel: Option<String>,
    /// POST each there
    #[arg(long)]
    pub(crate) post: Option<String>,
    /// POST batches there
    #[arg(long)]
    pub(crate) batch: Option<SocketAddr>,
    /// The channel of a publication in a batch
    #[arg(long, default_value = "docs.load-{run}-{job}")]
    pub(crate) channel: String,
    #[arg(long, default_value = "")]
    pub(crate) api_key: String,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct PeopleRole {
    /// Instances; people are spread over them
    #[arg(long, required = true)]
    pub(crate) url: Vec<SocketAddr>,
    #[arg(long)]
    pub(crate) run: String,
    #[arg(long)]
    pub(crate) people: usize,
    /// How often each moves in a second
    #[arg(long)]
    pub(crate) hz: f64,
    #[arg(long)]
    pub(crate) warmup: f64,
    #[arg(long)]
    pub(crate) seconds: f64,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct AttackersRole {
    #[arg(long)]
    pub(crate) url: SocketAddr,
    #[arg(long)]
    pub(crate) attackers: u32,
    #[arg(long)]
    pub(crate) addresses: u32,
    #[arg(long, value_delimiter = ',', required = true)]
    pub(crate) attacks: Vec<Attack>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ReaderRole {
    #[arg(long)]
    pub(crate) url: SocketAddr,
    #[arg(long)]
    pub(crate) run: String,
    #[arg(long)]
    pub(crate) streams: u64,
    /// `{channels}`, `{channel}` (the first), `{run}` and `{i}` are filled in
    #[arg(long)]
    pub(crate) path: String,
    /// Patterns of channels; one with `{job}` stands for each job of the stream
    #[arg(long)]
    pub(crate) channel: Vec<String>,
    #[arg(long, default_value_t = 1)]
    pub(crate) jobs_per_stream: u64,
    /// Of so many jobs one belongs to a stream
    #[arg(long, default_value_t = 1)]
    pub(crate) spread: u64,
    /// Makes a token for each stream
    #[arg(long)]
    pub(crate) jwt_secret: Option<String>,
    /// Streams hear so many jobs in turn, each that of its number
    #[arg(long, conflicts_with = "shared")]
    pub(crate) jobs: Option<u64>,
    /// Streams of one address, before it is the next one's turn
    #[arg(long, default_value_t = 16_384)]
    pub(crate) per_address: u32,
    /// All streams are user 0's and hear job 0
    #[arg(long)]
    pub(crate) shared: bool,
    /// A server of another kind, which doesn't say `ready`
    #[arg(long)]
    pub(crate) plain: bool,
    /// Look only at every so manieth stream, and drain the others; with --shared
    #[arg(long, default_value_t = 1, requires = "shared")]
    pub(crate) sample: usize,
    /// Streams that are being opened at once
    #[arg(long, default_value_t = 400)]
    pub(crate) in_flight: usize,
    /// HTTP/2 with so many streams on a connection; such streams open, and close only at the end
    #[arg(long)]
    pub(crate) http2: Option<usize>,
    /// Open streams again that the server cuts, as a browser does
    #[arg(long)]
    pub(crate) reconnect: bool,
}
