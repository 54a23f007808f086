//! Event names: `[a-z][a-z0-9:._-]{0,63}`, safe on the `event:` line of a stream by construction.

use std::borrow::Cow;
use std::fmt;

/// Names of the protocol that no publisher may use.
const RESERVED: [&str; 11] = [
    "job:update",
    "connected",
    "ready",
    "subscribed",
    "unsubscribed",
    "reset",
    "heartbeat",
    "problem",
    "error",
    "end",
    "token:expiring",
];

/// A valid event name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EventName(Cow<'static, str>);

/// The text is not an event name, or one that only Tidings may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an event name that may be published")]
pub struct InvalidEventName;

impl EventName {
    /// `job:update`
    pub const JOB_UPDATE: Self = Self(Cow::Borrowed("job:update"));
    /// `doc:update`
    pub const DOC_UPDATE: Self = Self(Cow::Borrowed("doc:update"));
    /// `notification`
    pub const NOTIFICATION: Self = Self(Cow::Borrowed("notification"));

    /// `presence:state`
    pub const PRESENCE_STATE: Self = Self(Cow::Borrowed("presence:state"));
    /// `presence:user-joined`
    pub const PRESENCE_JOINED: Self = Self(Cow::Borrowed("presence:user-joined"));
    /// `presence:user-left`
    pub const PRESENCE_LEFT: Self = Self(Cow::Borrowed("presence:user-left"));
    /// `presence:update`
    pub const PRESENCE_UPDATE: Self = Self(Cow::Borrowed("presence:update"));

    /// A name of the protocol itself, such as `connected`.
    #[must_use]
    pub const fn of_protocol(name: &'static str) -> Self {
        Self(Cow::Borrowed(name))
    }

    /// Checks a name that a publisher chose.
    ///
    /// # Errors
    /// `InvalidEventName` for bad characters or length, and for names of the protocol itself.
    pub fn parse_published(text: &str) -> Result<Self, InvalidEventName> {
        let reserved = RESERVED.contains(&text) || text.starts_with("presence:");
        if reserved { Err(InvalidEventName) } else { Self::parse_logged(text) }
    }

    /// Checks a name that stands in the log.
    ///
    /// # Errors
    /// `InvalidEventName` for bad characters or length.
    pub fn parse_logged(text: &str) -> Result<Self, InvalidEventName> {
        let bytes = text.as_bytes();
        let tail = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b":._-".contains(b);
        let good = (1..=64).contains(&bytes.len())
            && bytes.first().is_some_and(u8::is_ascii_lowercase)
            && bytes.iter().all(tail);
        if !good {
            return Err(InvalidEventName);
        }
        let known = [Self::JOB_UPDATE, Self::DOC_UPDATE, Self::NOTIFICATION];
        let owned = || Self(Cow::Owned(text.to_owned()));
        Ok(known.into_iter().find(|name| name.as_str() == text).unwrap_or_else(owned))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The metric label: custom names count as `custom`, so that labels stay few.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match &self.0 {
            Cow::Borrowed(name) => name,
            Cow::Owned(_) => "custom",
        }
    }
}

impl fmt::Display for EventName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
