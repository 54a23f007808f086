//! Frames to bytes, one wire format each, and nothing else.
//!
//! This module must not know the broker or the store.

pub mod plain;
pub mod poll;
pub mod sse;
#[cfg(test)]
mod tests;
mod uptake;
mod workers;
pub mod ws;

pub use uptake::Uptake;
pub use workers::Workers;
