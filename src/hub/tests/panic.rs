//! A lane whose thread panics loses its streams, and must not do so unnoticed.

use std::net::TcpListener;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::Grant;
use crate::event::Epoch;
use crate::event::Fingerprint;
use crate::event::LogId;
use crate::event::WindowLimits;
use crate::hub::CloseReason;
use crate::hub::ConnectionId;
use crate::hub::Feed;
use crate::hub::Format;
use crate::hub::Hub;
use crate::hub::Keeper;
use crate::hub::LaneSettings;
use crate::hub::OutboxLimits;
use crate::hub::Refused;
use crate::hub::Register;
use crate::hub::Seat;
use crate::hub::Window;
use crate::hub::Wire;
use crate::hub::tests::Stream;
use crate::telemetry::Metrics;

static BROKEN: Wire =
    Wire { format: Format::Sse, encode: |_| unreachable!("as this test wants it"), end: |_| Bytes::new() };

#[derive(Debug)]
struct Nobody;

impl Keeper<TcpStream> for Nobody {
    fn seated(&mut self) {}

    fn back(self: Box<Self>, _: TcpStream, _: Bytes, _: Refused) {}

    fn ended(self: Box<Self>, _: CloseReason) {}
}

#[tokio::test]
async fn a_lane_that_panics_is_noticed() {
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let limits = WindowLimits { entries_max: 10, bytes_max: 10_000 };
    let outbox = OutboxLimits { events_max: 16, bytes_max: 1 << 20, told: false };
    let settings = LaneSettings::new(Duration::from_secs(1), Duration::from_secs(30), outbox, Arc::new(()));
    let window = Window::new(limits, Duration::from_secs(600));
    let hub = Hub::start(2, &settings, window, &Metrics::new(), &tasks, &stop).unwrap();
    let before = (LogId::ZERO, Fingerprint(0));
    hub.feed(Feed::Opened { epoch: Epoch(1), before, entries: Vec::new() }).await;
    assert!(tokio::time::timeout(Duration::from_millis(50), hub.failed()).await.is_err(), "nothing has happened");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let handle = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    handle.set_nonblocking(true).unwrap();
    let register = Register {
        id: ConnectionId(1),
        grants: [Grant::for_test("jobs.1")].into(),
        seat: Seat::Socket { handle, unsent: Bytes::new(), wire: &BROKEN, keeper: Box::new(Nobody) },
        from: LogId::ZERO,
        generation: 1,
        until_done: None,
        expires_at: u64::MAX,
        holder: Arc::new(Stream::default()),
        edition: 0,
    };
    hub.join(register).await;
    tokio::time::timeout(Duration::from_secs(10), hub.failed()).await.expect("the panic is noticed");
    stop.cancel();
}
