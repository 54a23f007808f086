//! Whose connections are counted together.

use std::net::IpAddr;
use std::net::SocketAddr;

use crate::config::Networks;

/// An IPv4 address, or the network of 64 bits that one IPv6 subscriber has. One word: every stream keeps one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Address(u64);

impl Address {
    /// Of an address. IPv4 stands where IPv6 has `::/32`, which nobody is given.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self(u64::from(v4.to_bits())),
            IpAddr::V6(v6) => Self(u64::try_from(v6.to_bits() >> 64).unwrap_or(u64::MAX)),
        }
    }
}

/// The client's address: the peer, or, behind proxies that are trusted, the right-most hop of `X-Forwarded-For` that is none of
/// them. What stands further left was written by whoever sent the request. A hop that can't be read ends the walk: then the
/// proxy that passed it on is as far as one can tell.
#[must_use]
pub fn client<'a>(peer: IpAddr, trusted: &Networks, forwarded: impl DoubleEndedIterator<Item = &'a str>) -> IpAddr {
    let mut known = peer;
    for hop in forwarded.rev().flat_map(|field| field.rsplit(',')).map(str::trim) {
        if !trusted.contains(known) {
            break;
        }
        let Some(address) = read(hop) else { break };
        known = address;
    }
    known
}

/// `192.0.2.1`, `192.0.2.1:443`, `2001:db8::1`, `[2001:db8::1]:443`.
fn read(hop: &str) -> Option<IpAddr> {
    let bare = hop.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(hop);
    bare.parse().ok().or_else(|| hop.parse::<SocketAddr>().ok().map(|address| address.ip()))
}
