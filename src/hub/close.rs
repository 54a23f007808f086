//! Why a stream ends: one closed list.

use crate::error::Code;

/// The reason for the end of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// `until=done`, and all jobs have ended.
    Done,
    /// The client reads more slowly than its channels speak.
    Slow,
    /// This instance is leaving; others are there.
    Drain,
    /// The token's life is over.
    TokenExpired,
    /// Nothing is left that the user may see.
    Revoked,
    /// The resource is gone.
    Gone,
    /// The user may not come in any more.
    Disabled,
    /// More streams than this instance can carry.
    Overloaded,
    /// The instance stops at once.
    Shutdown,
    /// The client went away.
    ClientGone,
    /// Cut on purpose (the demo's button).
    Cut,
    /// The client broke the rules of WebSocket framing (RFC 6455 §7.4.1: 1002).
    BadFrame,
    /// The client sent a kind of message that is not understood (1003).
    BadKind,
    /// The client sent text that is none (1007).
    BadText,
    /// The client sent more at once than is taken (1009).
    TooBig,
    /// The client sent more messages than is taken.
    TooMuch,
    /// The client said that it leaves.
    Closed,
    /// Another request of the same stream has taken its place.
    Superseded,
    /// A dependency is away while the stream is opened; said by `problem`.
    Problem,
}

impl CloseReason {
    /// `end.reason`, and the metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Slow => "slow",
            Self::Drain => "drain",
            Self::TokenExpired => "token_expired",
            Self::Revoked => "revoked",
            Self::Gone => "gone",
            Self::Disabled => "disabled",
            Self::Overloaded => "overloaded",
            Self::Shutdown => "shutdown",
            Self::ClientGone => "client_gone",
            Self::Cut => "cut",
            Self::BadFrame => "bad_frame",
            Self::BadKind => "bad_kind",
            Self::BadText => "bad_text",
            Self::TooBig => "too_big",
            Self::TooMuch => "too_much",
            Self::Closed => "closed",
            Self::Superseded => "superseded",
            Self::Problem => "problem",
        }
    }

    /// The code of protocol §8 that goes with it; `done` has none.
    #[must_use]
    pub fn code(self) -> Option<Code> {
        match self {
            Self::Done | Self::Closed | Self::Superseded => None,
            Self::BadFrame | Self::BadKind | Self::BadText | Self::TooBig => Some(Code::InvalidMessage),
            Self::TokenExpired | Self::Disabled => Some(Code::AuthRequired),
            Self::Revoked | Self::Gone => Some(Code::PermissionDenied),
            Self::Slow | Self::TooMuch => Some(Code::RateLimitExceeded),
            Self::Drain | Self::Overloaded | Self::Shutdown | Self::ClientGone | Self::Cut | Self::Problem => {
                Some(Code::ConnectionLost)
            }
        }
    }

    /// Whether coming back can help, with the same credential.
    #[must_use]
    pub fn reconnect(self) -> bool {
        match self {
            Self::Slow | Self::Drain | Self::Overloaded | Self::Shutdown => true,
            Self::ClientGone | Self::Cut | Self::Problem | Self::TooMuch => true,
            Self::BadFrame | Self::BadKind | Self::BadText | Self::TooBig | Self::Closed | Self::Superseded => false,
            Self::Done | Self::TokenExpired | Self::Revoked | Self::Gone | Self::Disabled => false,
        }
    }

    /// Whether the client broke the rules of its connection: the connection says so, not the stream.
    #[must_use]
    pub fn is_violation(self) -> bool {
        matches!(self, Self::BadFrame | Self::BadKind | Self::BadText | Self::TooBig | Self::TooMuch)
    }

    /// Whether the client is told by an `end` event.
    #[must_use]
    pub fn is_said(self) -> bool {
        !matches!(self, Self::ClientGone | Self::Cut | Self::Problem | Self::Closed)
    }
}
