//! Channels and the ids in them. A value that exists is valid: there is no way around `parse`.

use std::borrow::Borrow;
use std::fmt;

use arcstr::ArcStr;

/// Longest id, in bytes.
const ID_MAX: usize = 128;

/// The kind of a channel: what stands before the first dot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `jobs.{jobId}`
    Jobs,
    /// `docs.{documentId}`
    Docs,
    /// `presence.{documentId}`
    Presence,
    /// `user.{userId}`
    User,
}

impl Kind {
    /// Every kind, in the order of the protocol.
    pub const ALL: [Self; 4] = [Self::Jobs, Self::Docs, Self::Presence, Self::User];

    /// The word on the wire; also the metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Jobs => "jobs",
            Self::Docs => "docs",
            Self::Presence => "presence",
            Self::User => "user",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// The id of a job, a document or a user: `[A-Za-z0-9][A-Za-z0-9_.:@|~-]{0,127}`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(ArcStr);

/// The text is not an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an id")]
pub struct InvalidId;

impl Id {
    /// Checks the grammar of protocol §1; nothing is normalised.
    ///
    /// # Errors
    /// `InvalidId` for everything else.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        if is_id(text) { Ok(Self(ArcStr::from(text))) } else { Err(InvalidId) }
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// So that a map by id can be asked with a text that is not yet one.
impl Borrow<str> for Id {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Id({})", self.0)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_id(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() <= ID_MAX
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"_.:@|~-".contains(b))
}

/// What one subscribes to: `jobs.42`, `user.ada`. Cheap to clone, and a single pointer: every stream has several in several places.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Channel(ArcStr);

/// The text is not a channel name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a channel name")]
pub struct InvalidChannel;

impl Channel {
    /// Parses `<kind>.<id>`; the kind ends at the first dot.
    ///
    /// # Errors
    /// `InvalidChannel` for an unknown kind, a bad id, or no dot.
    pub fn parse(text: &str) -> Result<Self, InvalidChannel> {
        let (kind, id) = text.split_once('.').ok_or(InvalidChannel)?;
        let is_channel = Kind::parse(kind).is_some() && is_id(id);
        if is_channel { Ok(Self(ArcStr::from(text))) } else { Err(InvalidChannel) }
    }

    /// The channel of that kind with that id.
    #[must_use]
    pub fn of(kind: Kind, id: &Id) -> Self {
        Self(arcstr::format!("{}.{}", kind.as_str(), id.as_str()))
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        // By its first letter, which tells them apart: this is asked for every event.
        match self.0.as_bytes().first() {
            Some(b'j') => Kind::Jobs,
            Some(b'd') => Kind::Docs,
            Some(b'p') => Kind::Presence,
            _ => Kind::User,
        }
    }

    /// The text after the first dot.
    #[must_use]
    pub fn id(&self) -> &str {
        self.0.split_once('.').map_or("", |(_, id)| id)
    }

    /// The whole name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Channel({})", self.0)
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
