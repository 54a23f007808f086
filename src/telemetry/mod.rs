//! Logs, and every metric as a field of one struct.

mod latency;
mod logs;
mod metrics;
mod totals;
mod zeros;

pub use latency::Latencies;
pub use logs::init as init_logs;
pub use metrics::CHANNEL_KINDS;
pub use metrics::MetricSet;
pub use metrics::Metrics;
pub use totals::Totals;
