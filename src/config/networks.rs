//! Networks by address and length of the prefix, as `TRUSTED_PROXIES` names them.

use std::net::IpAddr;

use ipnet::IpNet;

/// The addresses of a host itself.
const LOOPBACK: [&str; 2] = ["127.0.0.0/8", "::1/128"];
/// The addresses that are not routed in public (RFC 1918, RFC 4193), and the host's own.
const PRIVATE: [&str; 6] = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", LOOPBACK[0], LOOPBACK[1]];

/// A few networks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networks(Vec<IpNet>);

impl Networks {
    /// Reads one entry: `10.0.0.0/8`, `10.1.2.3`, `2001:db8::/32`, `loopback` or `private`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "loopback" => LOOPBACK.iter().map(|network| network.parse().ok()).collect::<Option<_>>().map(Self),
            "private" => PRIVATE.iter().map(|network| network.parse().ok()).collect::<Option<_>>().map(Self),
            text => {
                let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).ok()?;
                Some(Self(vec![network]))
            }
        }
    }

    /// All that are listed; what can't be read is left out, since the settings refuse it.
    #[must_use]
    pub fn of(list: &[String]) -> Self {
        Self(list.iter().filter_map(|text| Self::parse(text)).flat_map(|networks| networks.0).collect())
    }

    /// Whether the address is in one of them. IPv4 in IPv6 (`::ffff:10.0.0.1`) counts as what it is.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }
}
