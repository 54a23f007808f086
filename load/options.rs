//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use clap::Parser;
use clap::Subcommand;

use crate::support::tokens;

#[derive(Debug, Parser)]
#[command(name = "load", about = "What many readers see, and what it costs")]
pub(crate) struct Options {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Worker → Redis PUBLISH → server → stream, one job per stream
    Latency(Scenario),
    /// One publish by HTTP, every stream on the same channel
    Broadcast(Scenario),
    /// Both
    All {
        /// Ten seconds each
        #[arg(long)]
        short: bool,
        #[command(flatten)]
        scenario: Scenario,
    },
    /// Part of a scenario: publishes
    #[command(hide = true)]
    Publisher(PublisherRole),
    /// Part of a scenario: holds the streams
    #[command(hide = true)]
    Reader(ReaderRole),
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Scenario {
    /// Server under test (127.0.0.1:3001); needs --redis-url and --database-url. Without: everything is started here
    #[arg(long, requires_all = ["redis_url", "database_url"])]
    pub(crate) url: Option<SocketAddr>,
    /// Its Redis
    #[arg(long, requires = "url")]
    pub(crate) redis_url: Option<String>,
    /// Its Postgres, migrated: users and jobs are put there
    #[arg(long, requires = "url")]
    pub(crate) database_url: Option<String>,
    /// Its process, to measure what it costs
    #[arg(long, requires = "url")]
    pub(crate) server_pid: Option<u32>,
    /// Its HS256 secret
    #[arg(long, default_value = tokens::SECRET)]
    pub(crate) jwt_secret: String,
    /// One of its API keys
    #[arg(long, default_value = "an-api-key-of-the-load-program")]
    pub(crate) api_key: String,
    /// The binary that is started when no --url is given
    #[arg(long, default_value = "target/release/tidings")]
    pub(crate) tidings: PathBuf,
    /// Open streams
    #[arg(long, default_value_t = 1000)]
    pub(crate) streams: u64,
    /// Updates per second (latency)
    #[arg(long, default_value_t = 1000)]
    pub(crate) rate: u64,
    /// Measured time (latency), or publishes half a second apart times two (broadcast)
    #[arg(long, default_value_t = 60)]
    pub(crate) seconds: u64,
    /// Time before that is not measured (latency)
    #[arg(long, default_value_t = 10)]
    pub(crate) warmup: u64,
    /// Write the results there as well
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct PublisherRole {
    #[arg(long)]
    pub(crate) redis_url: String,
    /// Tells this run's jobs from those of others
    #[arg(long)]
    pub(crate) run: String,
    #[arg(long)]
    pub(crate) streams: u64,
    #[arg(long)]
    pub(crate) rate: u64,
    #[arg(long)]
    pub(crate) seconds: u64,
    #[arg(long)]
    pub(crate) warmup: u64,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ReaderRole {
    #[arg(long)]
    pub(crate) url: SocketAddr,
    #[arg(long)]
    pub(crate) run: String,
    #[arg(long)]
    pub(crate) streams: u64,
    #[arg(long)]
    pub(crate) jwt_secret: String,
    /// All on the document's channel instead of a job each
    #[arg(long)]
    pub(crate) shared: bool,
}
