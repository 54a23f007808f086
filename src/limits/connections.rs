//! How many connections there may be: of one address, and in all.
//!
//! Two things are counted. *Sockets* are what the listener has accepted, by peer; *streams* are what is served over them, by
//! client, which behind a proxy is another address. What a stream keeps of this is two words.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::config::Config;
use crate::config::Networks;
use crate::limits::Activity;
use crate::limits::Address;
use crate::limits::idle::Idle;

/// Sockets beyond the streams: requests, probes, and room to answer that there is no room.
const SPARE_SOCKETS: usize = 1000;
/// Sockets that one address may have for each of its streams: a page has requests beside its stream.
const SOCKETS_PER_STREAM: u32 = 2;
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

/// How many sockets do what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sockets {
    /// Have not asked for anything yet.
    pub silent: usize,
    /// Have, and carry nothing now.
    pub idle: usize,
    /// Carry requests or streams.
    pub busy: usize,
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
    idle: Arc<Idle>,
    hinted: Mutex<Option<Instant>>,
}

/// How many, in all and by address. An address without any is not kept.
#[derive(Debug, Default)]
struct Count {
    all: usize,
    by_address: HashMap<Address, u32>,
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
            idle: Arc::default(),
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

    /// Where all places are taken, the socket that has been idle for longest gives way. Ends when a place is free, and until then
    /// nobody else should be accepted: in the kernel's queue they are safe. `false`: none will be.
    pub async fn make_room(&self) -> bool {
        self.0.idle.make_room().await
    }

    /// What the connection of a socket that was accepted carries: nothing yet.
    #[must_use]
    pub fn activity(&self) -> Arc<Activity> {
        Activity::new(Arc::clone(&self.0.idle))
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

    /// How many sockets do what.
    #[must_use]
    pub fn sockets(&self) -> Sockets {
        let all = self.0.sockets.lock().all;
        let (silent, idle) = self.0.idle.counts();
        Sockets { silent, idle, busy: all.saturating_sub(silent + idle) }
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
        self.shared.idle.has_left();
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
