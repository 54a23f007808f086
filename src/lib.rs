//! Tidings: workers publish, and every browser that may know it knows it a moment later.
//!
//! The modules, in the order in which data flows; `docs/architecture.md` has the picture and the invariants.
//!
//! * [`ingest`] everything that can say "this happened"
//! * [`jobs`] what a job update means: parse, fold, latch
//! * [`broker`] the shared log
//! * [`hub`] the subscription manager of this node
//! * [`session`] the one path from a request to a stream of frames
//! * [`transport`] frames to bytes
//! * [`http`] routes, layers, listeners
//!
//! Beside the line: [`auth`] who are you and what may you see, [`store`] what the database is asked, [`limits`] how much at a time,
//! [`inspect`] what happened to whom,
//! [`spans`] what is part of a trace.
//! Under everything: [`event`] the words, [`error`], [`config`], [`clock`], [`cache`], [`digest`], [`telemetry`].
//! Above everything: [`app`] wiring, [`cli`] commands.

pub mod app;
pub mod auth;
pub mod broker;
pub mod cache;
pub mod cli;
pub mod clock;
pub mod config;
pub mod digest;
pub mod error;
pub mod event;
pub mod http;
pub mod hub;
pub mod ingest;
pub mod inspect;
pub mod jobs;
pub mod limits;
pub mod presence;
pub mod session;
pub mod spans;
pub mod store;
pub mod telemetry;
pub mod transport;
