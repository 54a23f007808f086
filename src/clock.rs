//! The wall clock, in one place. It dates events and judges tokens; it never decides order.

use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

const MILLIS: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

const HTTP_DATE: &[BorrowedFormatItem<'_>] =
    format_description!("[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT");

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
    utc(us).format(MILLIS).unwrap_or_default()
}

/// As in the `Date` field of HTTP (RFC 9110 §5.6.7): `Fri, 20 Nov 2026 09:30:00 GMT`.
#[must_use]
pub fn http_date(us: u64) -> String {
    utc(us).format(HTTP_DATE).unwrap_or_default()
}

fn utc(us: u64) -> OffsetDateTime {
    let nanos = i128::from(us / 1000) * 1_000_000;
    OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}
