//! The wall clock, in one place. It dates events and judges tokens; it never decides order.

use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

const MILLIS: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// Microseconds since the Unix epoch.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the one place that asks for the wall clock")]
pub fn now_us() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// Whole seconds since the Unix epoch, as tokens count.
#[must_use]
pub fn now_s() -> u64 {
    now_us() / 1_000_000
}

/// RFC 3339 in UTC with milliseconds: `2026-11-20T09:30:00.125Z`.
#[must_use]
pub fn rfc3339(us: u64) -> String {
    let nanos = i128::from(us / 1000) * 1_000_000;
    let time = OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    time.format(MILLIS).unwrap_or_default()
}
