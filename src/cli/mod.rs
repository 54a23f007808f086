//! The commands of protocol §12.

mod client;
mod demo;
mod descriptors;
mod explain;
mod health;
mod publish;
mod serve;
mod table;
mod tail;
mod top;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use clap::Subcommand;

use crate::app::StartError;
use crate::app::unreachable_store;
use crate::auth;
use crate::clock;
use crate::config::Config;
use crate::event::Id;
use crate::store::Store;

/// A bad setting (`EX_CONFIG` of sysexits.h).
const EXIT_SETTINGS: u8 = 78;
/// A dependency is away (`EX_UNAVAILABLE`).
const EXIT_UNAVAILABLE: u8 = 69;

#[derive(Debug, Parser)]
#[command(
    name = "tidings",
    version,
    about = "Workers publish; every browser that may know it knows it a moment later."
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve; settings come from the environment (the default)
    Serve,
    /// Everything in one process, with sample data, sample workers and a page
    Demo(demo::Options),
    /// Create or update the tables
    Migrate,
    /// Print a token for a user
    Token {
        /// The user's id
        #[arg(long)]
        user: String,
        /// Scopes, `publish` or `admin`
        #[arg(long)]
        scope: Vec<String>,
        /// How long it is good: 90s, 15min, 1h
        #[arg(long, default_value = "1h", value_parser = duration)]
        ttl: Duration,
    },
    /// Publish a job update
    Publish(publish::Options),
    /// Watch channels
    Tail(tail::Options),
    /// Say why a user did or did not get an event, from all instances
    Explain(explain::Options),
    /// Every instance at a glance, anew each second
    Top(top::Options),
    /// Print and check the settings
    Config,
    /// Ask whether the instance of these settings is ready: 0 yes, 1 no, 69 it can't be reached
    Health(health::Options),
}

/// Why a command failed: a line for the user and an exit code.
#[derive(Debug)]
struct Failure {
    line: String,
    code: u8,
}

impl Failure {
    fn settings(line: impl Into<String>) -> Self {
        Self { line: line.into(), code: EXIT_SETTINGS }
    }

    fn unavailable(line: impl Into<String>) -> Self {
        Self { line: line.into(), code: EXIT_UNAVAILABLE }
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Settings(line) => Self::settings(line),
            StartError::Unavailable(line) => Self::unavailable(line),
        }
    }
}

/// Parses the command line and runs a command to its end.
#[must_use]
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    auth::install_crypto();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&Failure::unavailable(format!("can't start: {error}"))),
    };
    let done = runtime.block_on(dispatch(cli.command.unwrap_or(Command::Serve)));
    runtime.shutdown_timeout(Duration::from_secs(1));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => fail(&failure),
    }
}

fn fail(failure: &Failure) -> ExitCode {
    for line in failure.line.lines() {
        eprintln!("tidings: {line}");
    }
    ExitCode::from(failure.code)
}

async fn dispatch(command: Command) -> Result<(), Failure> {
    match command {
        Command::Serve => serve::run(settings()?).await,
        Command::Demo(options) => demo::run(options).await,
        Command::Migrate => migrate(&settings()?).await,
        Command::Token { user, scope, ttl } => token(&settings()?, &user, &scope, ttl),
        Command::Publish(options) => publish::run(settings()?, options).await,
        Command::Tail(options) => tail::run(settings()?, options).await,
        Command::Explain(options) => explain::run(settings()?, options).await,
        Command::Top(options) => top::run(settings()?, options).await,
        Command::Config => show(&settings()?),
        Command::Health(options) => health::run(&settings()?, &options).await,
    }
}

fn settings() -> Result<Config, Failure> {
    Config::from_env().map_err(|error| Failure::settings(error.to_string()))
}

async fn migrate(config: &Config) -> Result<(), Failure> {
    let migrated = Store::migrate(config).await.map_err(|error| Failure::from(unreachable_store(&error)))?;
    let applied = if migrated.applied.is_empty() { "nothing to do".to_owned() } else { migrated.applied.join(", ") };
    println!("{}: {applied}", migrated.target);
    for table in &migrated.left_alone {
        println!("left as it is: {table} (not made by tidings)");
    }
    Ok(())
}

fn token(config: &Config, user: &str, scopes: &[String], ttl: Duration) -> Result<(), Failure> {
    if config.jwt_secret.expose().is_empty() {
        return Err(Failure::settings(serve::NO_KEY));
    }
    if ttl < Duration::from_secs(1) {
        return Err(Failure::settings("--ttl: at least 1s"));
    }
    let user = Id::parse(user).map_err(|_| Failure::settings("--user: not an id"))?;
    if let Some(unknown) = scopes.iter().find(|scope| !matches!(scope.as_str(), "publish" | "admin")) {
        return Err(Failure::settings(format!("--scope {}: publish or admin", unknown.escape_default())));
    }
    let scopes = auth::Scopes::parse(&scopes.join(" "));
    println!("{}", auth::mint(&config.jwt_secret, &user, scopes, clock::now_s(), ttl.as_secs()));
    Ok(())
}

fn show(config: &Config) -> Result<(), Failure> {
    print!("{}", config.shown);
    if config.has_key() { Ok(()) } else { Err(Failure::settings(serve::NO_KEY)) }
}

/// `90s`, `15min`, `1h`, `250ms`.
fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).ok_or("a unit is missing: 90s, 15min, 1h")?;
    let (digits, unit) = text.split_at(split);
    let number: u64 = digits.parse().map_err(|_| "not a duration: 90s, 15min, 1h")?;
    let seconds = match unit {
        "ms" => return Ok(Duration::from_millis(number)),
        "s" => number,
        "min" | "m" => number.saturating_mul(60),
        "h" => number.saturating_mul(3600),
        "d" => number.saturating_mul(86_400),
        _ => return Err("not a unit: ms, s, min, h, d".to_owned()),
    };
    Ok(Duration::from_secs(seconds))
}
