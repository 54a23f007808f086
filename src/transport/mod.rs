//! Frames to bytes, one wire format each, and nothing else.
//!
//! This module must not know the broker or the store.

pub mod plain;
pub mod sse;
pub mod ws;
#[cfg(test)]
mod tests;
