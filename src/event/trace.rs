//! Of which distributed trace something is a part: the `traceparent` of W3C Trace Context.
//!
//! It travels with an event through the log, so that whoever delivers it, on any instance, can say to which trace that belongs.

use std::fmt;

/// Length of a `traceparent` of version 00: `00-{32 hex}-{16 hex}-{2 hex}`.
const LENGTH: usize = 55;
/// The flag that somebody upstream records this trace.
const SAMPLED: u8 = 1;

/// A trace that is being recorded, and the span in it that caused this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Trace {
    /// Of the whole trace; never zero.
    pub id: u128,
    /// The span that caused this; never zero.
    pub parent: u64,
}

impl Trace {
    /// Reads a `traceparent` (Trace Context §3.2). Nothing for what is malformed, and for a trace that nobody records: neither is
    /// worth carrying.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (known, rest) = text.split_at_checked(LENGTH)?;
        let mut parts = known.split('-');
        let (version, id) = (hex(parts.next()?, 2)?, hex(parts.next()?, 32)?);
        let (parent, flags) = (hex(parts.next()?, 16)?, hex(parts.next()?, 2)?);
        // A later version may be longer; its first parts are these (§3.2.4).
        let whole = if version == 0 { rest.is_empty() } else { rest.is_empty() || rest.starts_with('-') };
        let sampled = flags & u128::from(SAMPLED) != 0;
        let good = parts.next().is_none() && whole && version != 0xff && id != 0 && parent != 0;
        let parent = u64::try_from(parent).ok()?;
        (good && sampled).then_some(Self { id, parent })
    }

    /// The same trace, further down: this span is the cause of what follows.
    #[must_use]
    pub fn below(self, parent: u64) -> Self {
        Self { parent, ..self }
    }

    /// The trace's id as it stands in logs.
    #[must_use]
    pub fn name(self) -> String {
        format!("{:032x}", self.id)
    }
}

/// Exactly so many lower-case digits.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let plain = text.len() == digits && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    plain.then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.id, self.parent, SAMPLED)
    }
}
