//! Load: what do many readers see, and what does that cost? `load/README.md` has the questions.
//!
//! Must not import the crate under test: it is a worker and a browser, and knows only the protocol.

#![expect(clippy::indexing_slicing, reason = "a JSON value answers null for what it doesn't have")]

mod attackers;
mod field;
mod goals;
mod meter;
mod number;
mod options;
mod people;
mod plot;
mod postgres;
mod processes;
mod publisher;
mod queries;
mod raw;
mod reader;
mod report;
mod scenario;
mod source;
mod stack;

/// The tools of the tests that don't know the crate either.
#[expect(dead_code, clippy::panic, reason = "only some of them are needed here, and they were made to fail tests")]
#[path = "../tests/it/support"]
mod support {
    pub(crate) mod child;
    pub(crate) mod eventually;
    pub(crate) mod http;
    pub(crate) mod redis;
    pub(crate) mod tokens;
    pub(crate) mod wire;

    pub(crate) use eventually::eventually;
}

use std::process::ExitCode;

use clap::Parser as _;

use crate::options::Command;
use crate::options::Options;

/// What can go wrong here is told to a person.
type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    match run(Options::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("load: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// `Ok(false)`: it ran, and what it saw is not good. The parts have their own loops, or runtimes.
fn run(command: Command) -> Result<bool, Failure> {
    match command {
        Command::Raw(role) => raw::run(&role).map(|()| true),
        Command::Publisher(role) => publisher::run(&role).map(|()| true),
        Command::Reader(role) => reader::run(&role).map(|()| true),
        Command::People(role) => people::run(&role).map(|()| true),
        Command::Attackers(role) => attackers::run(&role).map(|()| true),
        scenario => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(measure(scenario))
        }
    }
}

async fn measure(scenario: Command) -> Result<bool, Failure> {
    match scenario {
        Command::Idle(setup) => scenario::idle::run(&setup).await,
        Command::Own(setup) => scenario::own::run(&setup).await,
        Command::Light(setup) => scenario::light::run(&setup).await,
        Command::Fanout(setup) => scenario::fanout::run(&setup).await,
        Command::Foreign(setup) => scenario::foreign::run(&setup).await,
        Command::Storm(setup) => scenario::storm::run(&setup).await,
        Command::Soak { churn, setup } => scenario::soak::run(&setup, churn).await,
        Command::Growth(setup) => scenario::growth::run(&setup).await,
        Command::Room(setup) => scenario::room::run(&setup).await,
        Command::Flood { attackers, addresses, attacks, setup } => {
            scenario::flood::run(setup, (attackers, &attacks), &addresses).await
        }
        Command::All { short, setup } => scenario::all::run(setup, short).await,
        Command::Raw(_) | Command::Publisher(_) | Command::Reader(_) | Command::People(_) | Command::Attackers(_) => {
            Err("a part of a scenario is none".into())
        }
    }
}

/// Microseconds since 1970, on the clock that all processes of this machine share.
#[expect(clippy::disallowed_methods, reason = "the time inside the payload is read by another process")]
fn now_us() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
