//! What a job update means: parse, fold, latch. Pure: no IO, no clock, no async.
//!
//! `append.lua` holds the same fold for Redis; the property test in `tests/it/contract/broker.rs` keeps the two together.

mod compact;
#[cfg(test)]
mod compact_tests;
mod fold;
mod parse;
mod plain;
mod state;
#[cfg(test)]
mod tests;

pub use compact::compact_object;
pub use fold::Judgement;
pub use fold::judge;
pub use parse::Field;
pub use parse::JobUpdate;
pub use parse::Reject;
pub use parse::UPDATE_BYTES_MAX;
pub use parse::is_status;
pub use parse::trace;
pub use state::JobState;
pub use state::JobView;
pub use state::TerminalStatuses;
