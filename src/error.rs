//! What a client is told. Messages are constant sentences and never echo input.

use std::time::Duration;

use serde::Serialize;

/// The six codes of protocol §8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Code {
    /// Missing, malformed or expired credential, or an unknown user.
    AuthRequired,
    /// Known, but not allowed.
    PermissionDenied,
    /// Too much.
    RateLimitExceeded,
    /// Not a channel name, or no such route.
    ChannelNotFound,
    /// A dependency is away, or this instance is draining or full.
    ConnectionLost,
    /// Malformed in any way.
    InvalidMessage,
}

impl Code {
    /// As on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AuthRequired => "AUTH_REQUIRED",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::RateLimitExceeded => "RATE_LIMIT_EXCEEDED",
            Self::ChannelNotFound => "CHANNEL_NOT_FOUND",
            Self::ConnectionLost => "CONNECTION_LOST",
            Self::InvalidMessage => "INVALID_MESSAGE",
        }
    }

    /// Whether trying the same again can help.
    #[must_use]
    pub fn recoverable(self) -> bool {
        matches!(self, Self::RateLimitExceeded | Self::ConnectionLost | Self::AuthRequired)
    }
}

/// An answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", code.as_str())]
pub struct ApiError {
    /// HTTP status.
    pub status: u16,
    /// One of the six codes.
    pub code: Code,
    /// A constant sentence.
    pub message: &'static str,
    /// A word for `details.reason`.
    pub reason: Option<&'static str>,
    /// The input field that is wrong.
    pub field: Option<&'static str>,
    /// When to try again, in seconds.
    pub retry_after_s: Option<u32>,
    /// The same in milliseconds, where it is known that well.
    pub retry_after_ms: Option<u32>,
}

impl ApiError {
    const fn new(status: u16, code: Code, message: &'static str) -> Self {
        Self { status, code, message, reason: None, field: None, retry_after_s: None, retry_after_ms: None }
    }

    /// 401 with a reason such as `token_expired`.
    #[must_use]
    pub const fn auth(reason: &'static str) -> Self {
        let mut error = Self::new(401, Code::AuthRequired, "A valid credential is needed.");
        error.reason = Some(reason);
        error
    }

    /// 403.
    #[must_use]
    pub const fn denied() -> Self {
        Self::new(403, Code::PermissionDenied, "This is not allowed for you.")
    }

    /// 404 for a path that we don't have, or a text that is no channel name.
    #[must_use]
    pub const fn not_found() -> Self {
        Self::new(404, Code::ChannelNotFound, "There is no such channel or route.")
    }

    /// 400 about one field.
    #[must_use]
    pub const fn invalid(field: &'static str) -> Self {
        let mut error = Self::new(400, Code::InvalidMessage, "The request is malformed.");
        error.field = Some(field);
        error
    }

    /// Another 4xx about the form of the request: 405, 406, 408, 413, 414, 415, 431.
    #[must_use]
    pub const fn malformed(status: u16, message: &'static str) -> Self {
        Self::new(status, Code::InvalidMessage, message)
    }

    /// 503 with a reason such as `database`, `broker`, `draining`, `overloaded`.
    #[must_use]
    pub const fn unavailable(reason: &'static str) -> Self {
        let mut error = Self::new(503, Code::ConnectionLost, "The service can't do this at the moment.");
        error.reason = Some(reason);
        error.retry_after_s = Some(2);
        error
    }

    /// 429: too much; the same passes after so long.
    #[must_use]
    pub fn rate_limited(wait: Duration) -> Self {
        let mut error = Self::too_many("rate");
        error.retry_in(wait);
        error
    }

    fn retry_in(&mut self, wait: Duration) {
        // Rounded up: a client that comes back on the second must not be early.
        let ms = wait.as_nanos().div_ceil(1_000_000).max(1);
        let ms = u32::try_from(ms).unwrap_or(u32::MAX);
        self.retry_after_s = Some(ms.div_ceil(1000));
        self.retry_after_ms = Some(ms);
    }

    /// 429: as much is there as is allowed, of whatever the reason names; it has to become less first.
    #[must_use]
    pub const fn too_many(reason: &'static str) -> Self {
        let mut error = Self::new(429, Code::RateLimitExceeded, "This is more than is allowed at a time.");
        error.reason = Some(reason);
        error.retry_after_s = Some(10);
        error
    }

    /// 503: too much comes at the same time; there will be room after so long.
    #[must_use]
    pub fn overloaded(wait: Duration) -> Self {
        let mut error = Self::unavailable("overloaded");
        error.retry_in(wait);
        error
    }

    /// 500: a fault of ours. The cause is in the log, never in the answer.
    #[must_use]
    pub const fn internal() -> Self {
        let mut error = Self::new(500, Code::ConnectionLost, "The service failed to do this.");
        error.reason = Some("internal");
        error
    }

    /// As a metric label: whoever asked may not, asked too much, or could not be served.
    #[must_use]
    pub fn outcome(&self) -> &'static str {
        match self.status {
            401 | 403 => "denied",
            429 => "limited",
            503 if self.reason == Some("overloaded") => "limited",
            _ => "error",
        }
    }

    /// The object of protocol §8.
    #[must_use]
    pub fn to_json(&self, timestamp: &str) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Details {
            recoverable: bool,
            #[serde(skip_serializing_if = "Option::is_none")]
            reason: Option<&'static str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            field: Option<&'static str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            retry_after_ms: Option<u32>,
        }
        #[derive(Serialize)]
        struct Wire<'a> {
            code: Code,
            message: &'static str,
            details: Details,
            timestamp: &'a str,
        }
        let details = Details {
            recoverable: self.code.recoverable(),
            reason: self.reason,
            field: self.field,
            retry_after_ms: self.retry_after_ms.or(self.retry_after_s.map(|s| s.saturating_mul(1000))),
        };
        let wire = Wire { code: self.code, message: self.message, details, timestamp };
        serde_json::to_string(&wire).unwrap_or_default()
    }
}
