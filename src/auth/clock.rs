//! The one place that asks for the wall clock: token times are the only thing it decides.

use std::time::Duration;
use std::time::SystemTime;

/// Seconds since the Unix epoch; zero on a machine whose clock stands before it.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the one place that asks for the wall clock")]
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).as_ref().map_or(0, Duration::as_secs)
}
