//! Why somebody is not let in.

use crate::error::ApiError;

/// A credential that doesn't let anybody in. Never holds any part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[error("{}", self.as_str())]
pub enum AuthFailure {
    /// No credential, or a cookie from where it doesn't count.
    Missing,
    /// An `Authorization` header that is neither `Bearer <token>` nor `ApiKey <key>`.
    Malformed,
    /// Not a token of ours: signature, algorithm, form, claims; or an API key that is none.
    TokenInvalid,
    /// Was one, until its `exp`.
    TokenExpired,
    /// `?token=` while `ALLOW_QUERY_TOKEN` is off.
    QueryTokenRefused,
    /// A ticket that was never issued, is spent or too old, or is used by another page.
    TicketUnknown,
    /// `?ticket=` where only a token or its cookie will do.
    TicketRefused,
    /// The token is good, its user doesn't exist.
    UnknownUser,
    /// The token is good, its user is disabled.
    Disabled,
    /// The keys or the database are away: trying again can help.
    Unavailable,
    /// Two explicit credentials that differ, or two cookies of the same name.
    Conflict,
}

impl AuthFailure {
    /// A word for `details.reason` and for metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::TokenInvalid => "token_invalid",
            Self::TokenExpired => "token_expired",
            Self::QueryTokenRefused => "query_token_refused",
            Self::TicketUnknown => "ticket_unknown",
            Self::TicketRefused => "ticket_refused",
            Self::UnknownUser => "unknown_user",
            Self::Disabled => "disabled",
            Self::Unavailable => "auth_unavailable",
            Self::Conflict => "credentials_conflict",
        }
    }

    /// 401, except 400 for a conflict (RFC 6750 §2: one method only) and 503 when it can't be judged at the moment.
    #[must_use]
    pub fn to_api_error(self) -> ApiError {
        match self {
            Self::Conflict => {
                let mut error = ApiError::malformed(400, "The request carries more than one credential.");
                error.reason = Some(self.as_str());
                error
            }
            Self::Unavailable => ApiError::unavailable(self.as_str()),
            _ => ApiError::auth(self.as_str()),
        }
    }
}

/// The settings don't give a way to verify tokens. The text says which setting.
#[derive(Debug, thiserror::Error)]
pub enum AuthSetupError {
    /// `JWT_KEY_FILE` can't be read.
    #[error("JWT_KEY_FILE: can't read {path}")]
    KeyFile {
        /// The setting.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// It holds a private key, which doesn't belong here.
    #[error("JWT_KEY_FILE: {path} holds a private key; give the public one (`openssl pkey -pubout`)")]
    PrivateKey {
        /// The setting.
        path: String,
    },
    /// It holds something else.
    #[error("JWT_KEY_FILE: {path} holds no PEM public key of the types RSA (2048 bits or more), EC P-256 or Ed25519")]
    KeyUnusable {
        /// The setting.
        path: String,
    },
    /// No HTTP client for `JWKS_URL` could be made.
    #[error("JWKS_URL: no HTTP client")]
    Client {
        /// What the client said.
        source: reqwest::Error,
    },
}
