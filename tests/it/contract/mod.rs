//! The same scenarios over every implementation of a seam.

mod broker;
mod broker_batch;
mod broker_events;
mod broker_trim;
mod broker_twins;
mod rosters;
pub(crate) mod store;
mod store_postgres;
mod tickets;
mod transports;
