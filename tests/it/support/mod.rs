//! What the tests share: real servers of their own, a network that can be broken, clients that trust nothing.
//!
//! The clients must not use the crate under test, or a mistake in it would cancel itself out.

#![allow(
    dead_code,
    clippy::allow_attributes,
    reason = "a tool box: which tools are used varies with the tests that are compiled"
)]

pub mod app;
pub mod browser;
pub mod child;
pub mod client;
pub mod deaf;
pub mod eventually;
pub mod figures;
pub mod follower;
pub mod http;
pub mod http2;
pub mod nginx;
pub mod pgbouncer;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod redis;
pub mod sse;
pub mod tls;
pub mod tokens;
pub mod wire;
pub mod ws;

pub use eventually::SOON;
pub use eventually::eventually;
pub use eventually::pace;
