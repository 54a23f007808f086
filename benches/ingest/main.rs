//! What an update costs on its way into the log and back: here, and in Redis.
//!
//! `cargo bench --bench ingest -- log` drives the Redis log alone, `raw` a whole instance by `PUBLISH` where nobody listens,
//! `memory` the in-process log, `window` the memory of the window. It starts a private redis-server on core 0.

#![expect(clippy::print_stdout, reason = "the figures are what it is for")]

mod log;
mod machine;
mod memory;
mod raw;
mod window;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let number = |at: usize, default: u64| arguments.get(at).and_then(|word| word.parse().ok()).unwrap_or(default);
    match arguments.first().map_or("", String::as_str) {
        "log" => log::run(number(1, 5_000), number(2, 400_000), size(number(3, 128))).await,
        "raw" => raw::run(number(1, 5_000), number(2, 20_000), number(3, 10)).await,
        "memory" => memory::run(number(1, 5_000), number(2, 1_000_000)).await,
        "window" => window::run(number(1, 100_000), number(2, 200_000)),
        _ => println!(
            "log [jobs] [updates] [batch] | raw [jobs] [per second] [seconds] | memory [jobs] [updates] | window [jobs] [entries]"
        ),
    }
}

fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
