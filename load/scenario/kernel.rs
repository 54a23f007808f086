//! What the kernel says of its TCP, all of the machine's.

use serde_json::Value;

/// Pages of 4 KiB.
const PAGES_IN_A_MIB: f64 = 256.0;

/// Memory of all sockets' queues now, in MiB.
pub(crate) fn tcp_mib() -> f64 {
    let text = std::fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("TCP: ")).unwrap_or_default();
    let pages = line.split_whitespace().skip_while(|word| *word != "mem").nth(1);
    pages.and_then(|pages| pages.parse::<f64>().ok()).unwrap_or_default() / PAGES_IN_A_MIB
}

/// Counters at one moment.
#[derive(Debug)]
pub(crate) struct Counters(String);

impl Counters {
    pub(crate) fn now() -> Self {
        Self(std::fs::read_to_string("/proc/net/netstat").unwrap_or_default())
    }

    /// Connections that found the listener's queue full, and milliseconds in which sockets had too little memory.
    pub(crate) fn since(&self, earlier: &Self) -> Value {
        let more = |name: &str| crate::number::json((self.get(name) - earlier.get(name)).max(0.0));
        serde_json::json!({
            "listenOverflows": more("ListenOverflows"), "pressureMs": more("TCPMemoryPressuresChrono"),
        })
    }

    /// A line of names, and below it one of values.
    fn get(&self, name: &str) -> f64 {
        let mut lines = self.0.lines().filter(|line| line.starts_with("TcpExt:"));
        let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
        let found = names.split(' ').zip(values.split(' ')).find(|(other, _)| *other == name);
        found.and_then(|(_, value)| value.parse().ok()).unwrap_or_default()
    }
}
