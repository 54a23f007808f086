//! Where a connection comes from.
//!
//! From one address to one port there are 28,000 connections, closed ones that the kernel still remembers among them. After a
//! storm the search for a free one would cost more than all that the reader does. Loopback has 16 million addresses.

use std::net::Ipv4Addr;
use std::net::SocketAddr;

use mio::net::TcpStream;
use socket2::Domain;
use socket2::Socket;
use socket2::Type;

/// From here up, so that no listener is in the way.
const PORTS_FROM: u16 = 32_768;
/// Of one address, before it is the next one's turn.
const PORTS: u32 = 16_384;
const ADDRESSES: u32 = 60_000;
/// What Linux says when a connection is being made.
const IN_PROGRESS: i32 = 115;

/// Counts through ports and addresses.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source(u32);

impl Source {
    /// Most likely where no other run was a minute ago.
    pub(super) fn somewhere() -> Self {
        Self(fastrand::u32(..ADDRESSES) * PORTS)
    }

    pub(super) fn next(&mut self) -> Self {
        self.0 = (self.0 + 1) % (ADDRESSES * PORTS);
        *self
    }

    /// To servers elsewhere the kernel chooses.
    pub(super) fn connect(self, url: SocketAddr) -> std::io::Result<TcpStream> {
        if !url.is_ipv4() || !url.ip().is_loopback() {
            return TcpStream::connect(url);
        }
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&self.address().into())?;
        match socket.connect(&url.into()) {
            Err(failure) if failure.raw_os_error() != Some(IN_PROGRESS) => Err(failure),
            _ => Ok(TcpStream::from_std(socket.into())),
        }
    }

    fn address(self) -> SocketAddr {
        let [_, _, high, low] = (self.0 / PORTS).to_be_bytes();
        let port = u16::try_from(self.0 % PORTS).unwrap_or_default() + PORTS_FROM;
        SocketAddr::from((Ipv4Addr::new(127, 1, high, low), port))
    }
}
