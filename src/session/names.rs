//! Channel names as clients write them.

use std::collections::HashSet;

use crate::auth::Principal;
use crate::event::Channel;
use crate::event::Kind;

/// How a client may write its own channel.
pub const ME: &str = "user.me";
/// Characters that are kept of a name that is none.
const INVALID_CHARS_MAX: usize = 160;

/// A name from a request, and what it means for this caller.
#[derive(Debug, Clone)]
pub enum Requested {
    /// A channel; `alias` is how the client wrote it (`user.me`), where that differs.
    Channel {
        /// The channel.
        channel: Channel,
        /// The client's own spelling.
        alias: Option<&'static str>,
    },
    /// Not a channel name, as the client wrote it.
    Invalid(String),
}

/// The names without repetitions, `user.me` resolved.
#[must_use]
pub fn requested<'a>(names: impl Iterator<Item = &'a str>, principal: &Principal) -> Vec<Requested> {
    let mut seen = HashSet::new();
    let wishes = names.map(|name| Requested::parse(name, principal));
    wishes.filter(|wish| seen.insert(wish.name().to_owned())).collect()
}

impl Requested {
    fn parse(name: &str, principal: &Principal) -> Self {
        match Channel::parse(name) {
            Ok(_) if name == ME => {
                Self::Channel { channel: Channel::of(Kind::User, &principal.user.id), alias: Some(ME) }
            }
            Ok(channel) => Self::Channel { channel, alias: None },
            Err(_) => Self::Invalid(name.chars().take(INVALID_CHARS_MAX).collect()),
        }
    }

    pub(super) fn name(&self) -> &str {
        match self {
            Self::Channel { channel, .. } => channel.as_str(),
            Self::Invalid(text) => text,
        }
    }

    /// The channel, if it is one.
    #[must_use]
    pub fn channel(&self) -> Option<&Channel> {
        match self {
            Self::Channel { channel, .. } => Some(channel),
            Self::Invalid(_) => None,
        }
    }
}
