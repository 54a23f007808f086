//! The `tidings` command. Everything is in the library; this is the way in.

use std::process::ExitCode;

fn main() -> ExitCode {
    tidings::cli::run()
}
