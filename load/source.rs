//! Where a connection comes from.
//!
//! From one address to one port there are 28,000 connections, closed ones that the kernel still remembers among them. After a
//! storm the search for a free one would cost more than all that the reader does. Loopback has 16 million addresses, and a
//! server that bounds what one of them may have can be asked from many.

use std::net::Ipv4Addr;
use std::net::SocketAddr;

use mio::net::TcpStream;
use socket2::Domain;
use socket2::Socket;
use socket2::Type;

/// From here up, so that no listener is in the way.
const PORTS_FROM: u16 = 32_768;
/// Of one address.
const PORTS: u32 = 28_000;
const ADDRESSES: u32 = 60_000;
/// What Linux says when a connection is being made.
const IN_PROGRESS: i32 = 115;

/// Counts through ports and addresses of `127.<net>.0.0/16`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source {
    at: u32,
    net: u8,
    addresses: u32,
    /// Ports of one address, before it is the next one's turn.
    in_a_row: u32,
}

impl Source {
    /// For streams, `in_a_row` of each address. Begins most likely where no other run was a minute ago.
    pub(crate) fn of_streams(in_a_row: u32) -> Self {
        let in_a_row = in_a_row.clamp(1, PORTS);
        Self { at: fastrand::u32(..ADDRESSES) * in_a_row, net: 1, addresses: ADDRESSES, in_a_row }
    }

    /// For those who attack: from so many addresses in turn, and from no others.
    pub(crate) fn of_attackers(addresses: u32) -> Self {
        let addresses = addresses.clamp(1, ADDRESSES);
        Self { at: fastrand::u32(..addresses * PORTS), net: 2, addresses, in_a_row: 1 }
    }

    pub(crate) fn next(&mut self) -> Self {
        self.at = (self.at + 1) % (self.addresses * PORTS);
        *self
    }

    /// To servers elsewhere the kernel chooses.
    pub(crate) fn connect(self, url: SocketAddr, receive_buffer: Option<usize>) -> std::io::Result<TcpStream> {
        if !url.is_ipv4() || !url.ip().is_loopback() {
            return TcpStream::connect(url);
        }
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None)?;
        socket.set_reuse_address(true)?;
        receive_buffer.map_or(Ok(()), |bytes| socket.set_recv_buffer_size(bytes))?;
        socket.bind(&self.address().into())?;
        match socket.connect(&url.into()) {
            Err(failure) if failure.raw_os_error() != Some(IN_PROGRESS) => Err(failure),
            _ => Ok(TcpStream::from_std(socket.into())),
        }
    }

    fn address(self) -> SocketAddr {
        let (row, place) = (self.at / self.in_a_row, self.at % self.in_a_row);
        let (address, round) = (row % self.addresses, row / self.addresses);
        let [_, _, high, low] = address.to_be_bytes();
        let port = u16::try_from((round * self.in_a_row + place) % PORTS).unwrap_or_default() + PORTS_FROM;
        SocketAddr::from((Ipv4Addr::new(127, self.net, high, low), port))
    }
}
