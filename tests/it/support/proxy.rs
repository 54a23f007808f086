//! A TCP proxy that misbehaves on command.
//!
//! Stopping a process only stalls it, because the kernel goes on taking bytes; what networks really do needs this.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::net::tcp::ReadHalf;
use tokio::net::tcp::WriteHalf;
use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Chunks between a reader and a writer: what a link holds while it delays.
const IN_FLIGHT_MAX: usize = 256;
const CHUNK: usize = 16 * 1024;

/// What happens to bytes. Takes effect on open connections as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// They pass.
    Pass,
    /// They stay where they are, both ways: no end is read, so each sees its own buffers fill. Nothing is lost.
    Stall,
    /// They are read and dropped, both ways: each end believes that it was heard. A connection that lost bytes should be reset later.
    Swallow,
    /// New connections are accepted and reset; open ones go on.
    Refuse,
    /// They pass, each this much later.
    Delay(Duration),
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// RST, as when a machine died.
    Reset,
    /// FIN, as when a program closed.
    Fin,
}

/// Where a new connection is cut.
#[derive(Debug, Clone)]
enum Cut {
    Never,
    Next(u64, End),
    Each(Range<u64>, End),
}

#[derive(Debug)]
struct Shared {
    mode: watch::Sender<Mode>,
    /// Every change ends the connections that are open.
    end: watch::Sender<End>,
    target: Mutex<SocketAddr>,
    cut: Mutex<Cut>,
    accepted: AtomicU64,
    open: AtomicUsize,
    downstream: AtomicU64,
}

/// A running proxy. Dropping it closes everything.
#[derive(Debug)]
pub struct ChaosProxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

impl ChaosProxy {
    /// Listens on a free port of 127.0.0.1 and passes to `target`.
    pub async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("some port is free");
        let addr = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared {
            mode: watch::Sender::new(Mode::Pass),
            end: watch::Sender::new(End::Fin),
            target: Mutex::new(target),
            cut: Mutex::new(Cut::Never),
            accepted: AtomicU64::new(0),
            open: AtomicUsize::new(0),
            downstream: AtomicU64::new(0),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Arc::clone(&shared)));
        Self { addr, shared, _tasks: tasks }
    }

    /// Where clients connect.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Changes what happens to bytes from now on.
    pub fn set_mode(&self, mode: Mode) {
        self.shared.mode.send_replace(mode);
    }

    /// Where new connections go from now on.
    pub fn set_target(&self, target: SocketAddr) {
        *self.shared.target.lock() = target;
    }

    /// Resets every open connection, both ends.
    pub fn reset_all(&self) {
        self.shared.end.send_replace(End::Reset);
    }

    /// Closes every open connection, both ends.
    pub fn fin_all(&self) {
        self.shared.end.send_replace(End::Fin);
    }

    /// Cuts the next new connection after exactly `bytes` bytes from server to client.
    pub fn cut_next_after(&self, bytes: u64, end: End) {
        *self.shared.cut.lock() = Cut::Next(bytes, end);
    }

    /// Cuts each new connection after a number of bytes from server to client, anew at random out of `bytes`.
    pub fn cut_each_after(&self, bytes: Range<u64>, end: End) {
        *self.shared.cut.lock() = Cut::Each(bytes, end);
    }

    /// New connections are cut no more.
    pub fn cut_none(&self) {
        *self.shared.cut.lock() = Cut::Never;
    }

    /// Connections that were ever made.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Connections that are open now.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// Bytes passed from server to client, of all connections.
    pub fn downstream(&self) -> u64 {
        self.shared.downstream.load(Ordering::SeqCst)
    }
}

impl Shared {
    fn next_cut(&self) -> Option<(u64, End)> {
        let mut cut = self.cut.lock();
        match cut.clone() {
            Cut::Never => None,
            Cut::Each(bytes, end) => Some((fastrand::u64(bytes), end)),
            Cut::Next(bytes, end) => {
                *cut = Cut::Never;
                Some((bytes, end))
            }
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((client, _)) = listener.accept() => {
                shared.accepted.fetch_add(1, Ordering::SeqCst);
                connections.spawn(serve(client, Arc::clone(&shared)));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Counts a connection as open for as long as it lives.
struct Open(Arc<Shared>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn serve(mut client: TcpStream, shared: Arc<Shared>) {
    shared.open.fetch_add(1, Ordering::SeqCst);
    let _open = Open(Arc::clone(&shared));
    let mut ended = shared.end.subscribe();
    let target = *shared.target.lock();
    let refused = *shared.mode.borrow() == Mode::Refuse;
    let server = if refused { None } else { TcpStream::connect(target).await.ok() };
    let Some(mut server) = server else {
        client.set_zero_linger().ok();
        return;
    };
    client.set_nodelay(true).ok();
    server.set_nodelay(true).ok();
    let cut = shared.next_cut();
    let end = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let up = link(from_client, to_server, &shared, None, None);
        let down = link(from_server, to_client, &shared, cut, Some(&shared.downstream));
        tokio::select! {
            end = both(up, down) => end,
            Ok(()) = ended.changed() => *ended.borrow(),
        }
    };
    if end == End::Reset {
        client.set_zero_linger().ok();
        server.set_zero_linger().ok();
    }
}

/// One end may close its half and still listen; a failure or a cut of either half ends both.
async fn both(up: impl Future<Output = Result<(), End>>, down: impl Future<Output = Result<(), End>>) -> End {
    match tokio::try_join!(up, down) {
        Ok(((), ())) => End::Fin,
        Err(end) => end,
    }
}

async fn link(
    from: ReadHalf<'_>,
    to: WriteHalf<'_>,
    shared: &Shared,
    cut: Option<(u64, End)>,
    passed: Option<&AtomicU64>,
) -> Result<(), End> {
    let (queue, queued) = mpsc::channel(IN_FLIGHT_MAX);
    tokio::try_join!(take(from, queue, shared), give(to, queued, shared, cut, passed))?;
    Ok(())
}

type Chunk = (Instant, Vec<u8>);

async fn take(mut from: ReadHalf<'_>, queue: mpsc::Sender<Chunk>, shared: &Shared) -> Result<(), End> {
    let mut mode = shared.mode.subscribe();
    let mut buffer = vec![0; CHUNK];
    loop {
        passing(&mut mode).await;
        let read = tokio::select! {
            biased;
            _ = mode.changed() => continue, // a stall that begins now must find the bytes unread
            read = from.read(&mut buffer) => read.map_err(|_| End::Reset)?,
        };
        if read == 0 {
            return Ok(());
        }
        if *mode.borrow() != Mode::Swallow && queue.send((Instant::now(), buffer[..read].to_vec())).await.is_err() {
            return Ok(());
        }
    }
}

async fn give(
    mut to: WriteHalf<'_>,
    mut queued: mpsc::Receiver<Chunk>,
    shared: &Shared,
    cut: Option<(u64, End)>,
    passed: Option<&AtomicU64>,
) -> Result<(), End> {
    let mut mode = shared.mode.subscribe();
    let mut left = cut.map_or(u64::MAX, |(bytes, _)| bytes);
    while let Some((taken, bytes)) = queued.recv().await {
        passing(&mut mode).await;
        let mode_now = *mode.borrow();
        match mode_now {
            Mode::Delay(delay) => tokio::time::sleep_until(taken + delay).await,
            Mode::Swallow => continue,
            Mode::Pass | Mode::Stall | Mode::Refuse => {}
        }
        let allowed = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        to.write_all(&bytes[..allowed]).await.map_err(|_| End::Reset)?;
        left -= allowed as u64;
        passed.map(|count| count.fetch_add(allowed as u64, Ordering::SeqCst));
        if let (0, Some((_, end))) = (left, cut) {
            return Err(end);
        }
    }
    to.shutdown().await.map_err(|_| End::Reset)
}

/// Returns as soon as nothing is stalled.
async fn passing(mode: &mut watch::Receiver<Mode>) {
    // The sender lives in `Shared`, which outlives every connection.
    mode.wait_for(|mode| *mode != Mode::Stall).await.ok();
}
