//! Where a client is in the log, in a form that can be proven or refuted later.
//!
//! A position alone is not enough: after a Redis failover the log may have been written anew from an earlier point, and
//! position 17-0 may hold another entry than the one the client saw. Hence `epoch` (which log) and `print` (which entry):
//! `1.k3f9.m2x1c4d-0.9qk2…` continues only if the entry at that position is still that very entry.

use std::fmt;
use std::str::FromStr;

/// Longest cursor, in bytes. Under 128, so that `Last-Event-ID` needs no CORS preflight.
const CURSOR_MAX: usize = 64;
/// First field: the version of the format.
const FORMAT: &str = "1";

/// A position in the log: milliseconds and a sequence number, ordered as the log is. Zero is before everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LogId {
    /// Milliseconds of the log's own clock; never compared with another clock.
    pub ms: u64,
    /// Counts entries of the same millisecond.
    pub seq: u64,
}

impl LogId {
    /// Before everything.
    pub const ZERO: Self = Self { ms: 0, seq: 0 };

    /// The version of a job in the database: one ordered number, 43 bits of milliseconds and 20 bits of sequence.
    #[must_use]
    pub fn version(self) -> i64 {
        let packed = (self.ms << 20) | self.seq.min((1 << 20) - 1);
        i64::try_from(packed).unwrap_or(i64::MAX)
    }

    /// The position that a database version stands for.
    #[must_use]
    pub fn from_version(version: i64) -> Self {
        let packed = u64::try_from(version).unwrap_or(0);
        Self { ms: packed >> 20, seq: packed & ((1 << 20) - 1) }
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

impl FromStr for LogId {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        let (ms, seq) = text.split_once('-').ok_or(InvalidCursor)?;
        let number = |t: &str| t.parse().map_err(|_| InvalidCursor);
        Ok(Self { ms: number(ms)?, seq: number(seq)? })
    }
}

/// Which log: a new one starts when Redis comes back empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Epoch(pub u64);

/// Random bits written with an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Fingerprint(pub u64);

impl Fingerprint {
    /// A new random fingerprint; also the identity under which an append may be repeated.
    #[must_use]
    pub fn random() -> Self {
        Self(fastrand::u64(1..))
    }
}

/// A proven place in the log. Opaque to clients: at most 64 characters of `A–Z a–z 0–9 . _ -`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Cursor {
    /// Which log.
    pub epoch: Epoch,
    /// The last position of which the client has everything.
    pub at: LogId,
    /// The entry at that position.
    pub print: Fingerprint,
}

/// The text is not a cursor of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor")]
pub struct InvalidCursor;

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (epoch, ms) = (Base36(self.epoch.0), Base36(self.at.ms));
        let (seq, print) = (Base36(self.at.seq), Base36(self.print.0));
        write!(f, "{FORMAT}.{epoch}.{ms}-{seq}.{print}")
    }
}

impl FromStr for Cursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        if text.len() > CURSOR_MAX {
            return Err(InvalidCursor);
        }
        let mut parts = text.split('.');
        let (Some(FORMAT), Some(epoch), Some(at), Some(print), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(InvalidCursor);
        };
        let (ms, seq) = at.split_once('-').ok_or(InvalidCursor)?;
        let at = LogId { ms: base36(ms)?, seq: base36(seq)? };
        Ok(Self { epoch: Epoch(base36(epoch)?), at, print: Fingerprint(base36(print)?) })
    }
}

struct Base36(u64);

impl fmt::Display for Base36 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digits = [b'0'; 13];
        let mut rest = self.0;
        let mut start = digits.len();
        for (at, slot) in digits.iter_mut().enumerate().rev() {
            let digit = u8::try_from(rest % 36).unwrap_or(0);
            *slot = if digit < 10 { b'0' + digit } else { b'a' + digit - 10 };
            rest /= 36;
            start = at;
            if rest == 0 {
                break;
            }
        }
        f.write_str(std::str::from_utf8(digits.get(start..).unwrap_or(b"0")).unwrap_or("0"))
    }
}

fn base36(text: &str) -> Result<u64, InvalidCursor> {
    // One spelling per value: no sign, no upper case, no leading zero.
    let plain = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if !plain || (text.len() > 1 && text.starts_with('0')) {
        return Err(InvalidCursor);
    }
    u64::from_str_radix(text, 36).map_err(|_| InvalidCursor)
}
