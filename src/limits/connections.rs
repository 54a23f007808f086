//! How many connections there may be: of one address, and in all.
//!
//! Two things are counted. *Sockets* are what the listener has accepted, by peer; *streams* are what is served over them, by
//! client, which behind a proxy is another address. What a stream keeps of this is two words.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::config::Networks;
use crate::limits::Address;

/// Sockets beyond the streams: requests, probes, and room to answer that there is no room.
const SPARE_SOCKETS: usize = 1000;
/// Sockets that one address may have for each of its streams: a page has requests beside its stream.
const SOCKETS_PER_STREAM: u32 = 2;
/// How long one that gives way may take to go.
const ROOM_MAX: Duration = Duration::from_secs(1);
/// How often the log may say that a proxy is probably not named.
const HINT_EVERY: Duration = Duration::from_secs(60);

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// Its address has as many as it may.
    Address,
    /// This instance has.
    Instance,
}

impl Full {
    /// The reason in a metric.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Address => "per_ip",
            Self::Instance => "connections_max",
        }
    }
}

/// The connections of one app. Cheap to clone; clones count together.
#[derive(Debug, Clone)]
pub struct Connections(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    trusted: Networks,
    per_address: u32,
    sockets_max: usize,
    streams_max: usize,
    sockets: Mutex<Count>,
    streams: Mutex<Count>,
    silent: Mutex<Silents>,
    /// A socket has gone.
    left: Notify,
    hinted: Mutex<Option<Instant>>,
}

/// How many, in all and by address. An address without any is not kept.
#[derive(Debug, Default)]
struct Count {
    all: usize,
    by_address: HashMap<Address, u32>,
}

/// Sockets that have not said anything useful yet, oldest first.
#[derive(Debug, Default)]
struct Silents {
    next: u64,
    waiting: BTreeMap<u64, CancellationToken>,
    /// Those who were told to give way and have not gone yet.
    leaving: usize,
}

impl Count {
    /// `per_address`: of one; `None` where it does not count.
    fn enter(&mut self, address: Option<Address>, per_address: u32, max: usize) -> Result<(), Full> {
        if self.all >= max {
            return Err(Full::Instance);
        }
        if let Some(address) = address.filter(|_| per_address > 0) {
            let count = self.by_address.entry(address).or_default();
            if *count >= per_address {
                return Err(Full::Address);
            }
            *count += 1;
        }
        self.all += 1;
        Ok(())
    }

    fn leave(&mut self, address: Option<Address>) {
        self.all -= 1;
        let Some(address) = address else { return };
        if let Some(count) = self.by_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.by_address.remove(&address);
                self.shrink();
            }
        }
    }

    /// Gives memory back that a crowd left behind.
    fn shrink(&mut self) {
        if self.by_address.len() * 4 < self.by_address.capacity() {
            self.by_address.shrink_to(self.by_address.len() * 2);
        }
    }
}

impl Connections {
    /// With the bounds of the settings.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self(Arc::new(Shared {
            trusted: Networks::of(&config.trusted_proxies),
            per_address: config.rate_limit_connections_per_ip,
            sockets_max: config.max_connections + SPARE_SOCKETS,
            streams_max: config.max_connections,
            sockets: Mutex::default(),
            streams: Mutex::default(),
            silent: Mutex::default(),
            left: Notify::new(),
            hinted: Mutex::default(),
        }))
    }

    /// Which peers' `X-Forwarded-For` is believed.
    #[must_use]
    pub fn trusted(&self) -> &Networks {
        &self.0.trusted
    }

    /// A place for a socket that was accepted.
    ///
    /// # Errors
    /// There is none.
    pub fn socket(&self, peer: IpAddr) -> Result<SocketPlace, Full> {
        // What comes through a proxy is counted by client when it asks for a stream.
        let address = (!self.0.trusted.contains(peer) && self.0.per_address > 0).then(|| Address::of(peer));
        let per_address = self.0.per_address.saturating_mul(SOCKETS_PER_STREAM);
        self.0.sockets.lock().enter(address, per_address, self.0.sockets_max)?;
        Ok(SocketPlace { shared: Arc::clone(&self.0), address })
    }

    /// Where all places are taken, the oldest socket that has said nothing yet gives way: who means it speaks at once. Ends when a
    /// place is free, and until then nobody else should be accepted: in the kernel's queue they are safe. `false`: none will be.
    pub async fn make_room(&self) -> bool {
        {
            let mut silent = self.0.silent.lock();
            if let Some((_, evicted)) = silent.waiting.pop_first() {
                evicted.cancel();
                silent.leaving += 1;
            }
            if silent.leaving == 0 {
                return false;
            }
        }
        tokio::time::timeout(ROOM_MAX, self.0.left.notified()).await.is_ok()
    }

    /// Notes that a socket has yet to say something.
    #[must_use]
    pub fn silent(&self) -> Silent {
        let evicted = CancellationToken::new();
        let mut silent = self.0.silent.lock();
        let number = silent.next;
        silent.next += 1;
        silent.waiting.insert(number, evicted.clone());
        Silent { shared: Arc::clone(&self.0), number, evicted, spoke: AtomicBool::new(false) }
    }

    /// A place for a stream of this client.
    ///
    /// # Errors
    /// There is none.
    pub fn stream(&self, address: Address) -> Result<Place, Full> {
        self.0.streams.lock().enter(Some(address), self.0.per_address, self.0.streams_max)?;
        Ok(Place { shared: Arc::clone(&self.0), address })
    }

    /// Whether it is time to say again that the settings may be wrong: at most once a minute.
    #[must_use]
    pub fn may_hint(&self) -> bool {
        let mut last = self.0.hinted.lock();
        let now = Instant::now();
        let may = last.is_none_or(|at| now.duration_since(at) >= HINT_EVERY);
        if may {
            *last = Some(now);
        }
        may
    }

    /// Sockets, and those of them that have not said anything.
    #[must_use]
    pub fn sockets(&self) -> (usize, usize) {
        (self.0.sockets.lock().all, self.0.silent.lock().waiting.len())
    }

    /// Addresses that have streams.
    #[cfg(test)]
    pub(super) fn addresses(&self) -> usize {
        self.0.streams.lock().by_address.len()
    }
}

/// The place of a socket; gives it back when it is dropped.
#[derive(Debug)]
pub struct SocketPlace {
    shared: Arc<Shared>,
    address: Option<Address>,
}

impl Drop for SocketPlace {
    fn drop(&mut self) {
        self.shared.sockets.lock().leave(self.address);
        self.shared.left.notify_one();
    }
}

/// The place of a stream; gives it back when it is dropped.
#[derive(Debug)]
pub struct Place {
    shared: Arc<Shared>,
    address: Address,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.streams.lock().leave(Some(self.address));
    }
}

/// A socket that may have to give way, until it has said something.
#[derive(Debug)]
pub struct Silent {
    shared: Arc<Shared>,
    number: u64,
    evicted: CancellationToken,
    spoke: AtomicBool,
}

impl Silent {
    /// It has sent a request.
    pub fn speaks(&self) {
        if !self.spoke.swap(true, Ordering::AcqRel) {
            let mut silent = self.shared.silent.lock();
            if silent.waiting.remove(&self.number).is_none() {
                silent.leaving -= 1;
            }
        }
    }

    /// Ends when it has to give way. To be polled after whatever hears it: what it said may have come at the same moment.
    pub async fn evicted(&self) {
        self.evicted.cancelled().await;
        if self.spoke.load(Ordering::Acquire) {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        self.speaks();
    }
}
