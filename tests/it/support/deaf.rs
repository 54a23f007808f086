//! A pooler in transaction mode, as far as notifications go: it takes `LISTEN`, and delivers nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// `NotificationResponse` of the protocol between Postgres and its clients.
const NOTIFICATION: u8 = b'A';

#[derive(Debug, Default)]
struct Shared {
    deaf: AtomicBool,
    dropped: AtomicUsize,
}

/// A proxy in front of Postgres. Dropping it closes everything.
#[derive(Debug)]
pub struct DeafProxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

impl DeafProxy {
    /// In front of the server at this port of 127.0.0.1; everything passes until it is made deaf.
    pub async fn start(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("some port is free");
        let addr = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared::default());
        let mut tasks = JoinSet::new();
        let for_all = Arc::clone(&shared);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(serve(client, port, Arc::clone(&for_all)));
            }
        });
        Self { addr, shared, _tasks: tasks }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// From now on no notification passes, or all do again.
    pub fn make_deaf(&self, deaf: bool) {
        self.shared.deaf.store(deaf, Ordering::SeqCst);
    }

    /// Notifications that did not pass.
    pub fn dropped(&self) -> usize {
        self.shared.dropped.load(Ordering::SeqCst)
    }
}

async fn serve(client: TcpStream, port: u16, shared: Arc<Shared>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    client.set_nodelay(true).ok();
    server.set_nodelay(true).ok();
    let (mut from_client, to_client) = client.into_split();
    let (from_server, mut to_server) = server.into_split();
    let up = async move {
        tokio::io::copy(&mut from_client, &mut to_server).await.ok();
        to_server.shutdown().await.ok();
    };
    let down = async move { pass(from_server, to_client, &shared).await };
    tokio::join!(up, async { drop(down.await) });
}

/// Message by message: a type, a length that counts itself, and the rest.
async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    shared: &Shared,
) -> std::io::Result<()> {
    let mut kind = from.read_u8().await?;
    if kind == b'N' {
        // The answer to the question for TLS is a single byte.
        to.write_u8(kind).await?;
        kind = from.read_u8().await?;
    }
    loop {
        let length = from.read_u32().await?;
        let mut message = vec![kind];
        message.extend(length.to_be_bytes());
        let begun = message.len();
        message.resize(begun + (length as usize).saturating_sub(4), 0);
        from.read_exact(&mut message[begun..]).await?;
        if kind == NOTIFICATION && shared.deaf.load(Ordering::SeqCst) {
            shared.dropped.fetch_add(1, Ordering::SeqCst);
        } else {
            to.write_all(&message).await?;
        }
        kind = from.read_u8().await?;
    }
}
