//! A live stream as its lane keeps it. There are tens of thousands: what can be shared or computed does not belong here.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::hub::CloseReason;
use crate::hub::ConnectionId;
use crate::hub::Outbox;
use crate::hub::Pending;
use crate::hub::wire::Holder;
use crate::hub::wire::Keeper;
use crate::hub::wire::Port;
use crate::hub::writer::Writer;

pub(super) struct Connection<P: Port> {
    pub(super) id: ConnectionId,
    pub(super) outlet: Outlet<P>,
    /// With `until=done`: the jobs that have not ended.
    pub(super) until_done: Pending,
    /// It was told its end and has yet to read it.
    pub(super) ending: Option<CloseReason>,
    /// Whose it is.
    pub(super) holder: Arc<dyn Holder>,
    /// The last edit that is done.
    pub(super) edition: u32,
    /// Others see whether it is there.
    pub(super) lively: bool,
    /// When it became live, in parts of the age bound, wrapping: no stream lives for four bounds.
    pub(super) born: u8,
    /// It was told that its credential ends soon.
    pub(super) warned: bool,
    /// When its credential ends, leeway included: seconds since the Unix epoch.
    pub(super) expires_at: u64,
}

pub(super) enum Outlet<P: Port> {
    Socket(Writer<P::Socket>, Option<Box<dyn Keeper<P::Handle>>>),
    Queue { outbox: Arc<Outbox>, kill: CancellationToken },
}
