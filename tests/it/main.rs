//! The integration tests: one binary, whose module list is its index.
#![expect(clippy::unwrap_used, reason = "a failed test should panic where it fails")]
#![allow(clippy::allow_attributes, reason = "tools and scenarios are compiled together")]
#![allow(
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "tests measure real time and fail loudly"
)]

mod away;
mod browser;
mod chaos;
mod cli;
mod contract;
mod crowd;
mod deployment;
mod edits;
mod expiries;
mod failure;
mod flood;
mod hop;
mod hostile;
mod http2;
mod http2_abuse;
mod inspect;
mod limits;
mod nights;
mod outages;
mod places;
mod poll;
mod presence;
mod presence_cluster;
mod presence_departures;
mod protocol_doc;
mod publish;
mod revocations;
mod rfc6455;
mod rights;
mod rolling;
mod silent;
mod sse;
mod stalled;
mod support;
mod support_tests;
mod tickets;
mod tidy;
mod tls;
mod traces;
mod watched;
mod worker;
mod ws;
mod ws_abuse;
