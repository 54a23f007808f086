//! What the server has asked its database and its Redis so far.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::Value;

use crate::Failure;
use crate::stack::Stack;
use crate::support::http;

/// Counters by name, at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Queries {
    store: BTreeMap<String, f64>,
    redis: BTreeMap<String, f64>,
}

impl Queries {
    pub(crate) async fn of(stack: &Stack) -> Result<Self, Failure> {
        let store = match stack.metrics {
            Some(addr) => counters(&metrics(addr).await?, "realtime_store_queries_total"),
            None => BTreeMap::new(),
        };
        let redis = match &stack.redis {
            Some(redis) => commands(&redis.cli(&["INFO", "commandstats"]).await?),
            None => BTreeMap::new(),
        };
        Ok(Self { store, redis })
    }

    /// What has been asked since, without what wasn't.
    pub(crate) fn since(&self, earlier: &Self) -> Value {
        let store = difference(&self.store, &earlier.store);
        serde_json::json!({
            "store": store.values().sum::<f64>(),
            "redis": difference(&self.redis, &earlier.redis),
            "storeByQuery": store,
        })
    }
}

/// All that the server says of itself.
pub(crate) async fn metrics(addr: SocketAddr) -> Result<String, Failure> {
    let request = b"GET /metrics HTTP/1.1\r\nHost: load\r\nConnection: close\r\n\r\n";
    Ok(http::try_raw(addr, request).await?.text())
}

/// What has been counted in between, without what wasn't.
pub(crate) fn difference(now: &BTreeMap<String, f64>, earlier: &BTreeMap<String, f64>) -> BTreeMap<String, f64> {
    let more = |(name, count): (&String, &f64)| {
        let more = count - earlier.get(name).copied().unwrap_or_default();
        (more > 0.0).then(|| (name.clone(), more))
    };
    now.iter().filter_map(more).collect()
}

/// Prometheus text: `name{labels} value`.
pub(crate) fn counters(text: &str, name: &str) -> BTreeMap<String, f64> {
    let counter = |line: &str| {
        let (labels, value) = line.strip_prefix(name)?.rsplit_once(' ')?;
        Some((labels.trim_matches(['{', '}']).to_owned(), value.parse().ok()?))
    };
    text.lines().filter_map(counter).collect()
}

/// `cmdstat_xread:calls=12,usec=…`. Our own question is not the server's.
fn commands(info: &redis::Value) -> BTreeMap<String, f64> {
    let text: String = redis::from_redis_value(info.clone()).unwrap_or_default();
    let command = |line: &str| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        Some((name.to_owned(), rest.split(',').next()?.parse().ok()?))
    };
    text.lines().filter_map(command).filter(|(name, _)| name != "info").collect()
}
