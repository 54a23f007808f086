//! Logs, and every metric as a field of one struct.

mod logs;
mod metrics;

pub use logs::init as init_logs;
pub use metrics::MetricSet;
pub use metrics::Metrics;
