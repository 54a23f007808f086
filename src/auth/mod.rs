//! Who are you, and what may you see.
//!
//! Two answers, two gates: an `Authenticator` makes a `Principal` of a credential, an `Authorizer` makes a `Grant` of a
//! principal and a channel. Neither value can be made in another way, so no code path can forget the question. Every
//! doubt denies; only "the database is away" is told apart from "no", because the first is worth trying again.
//!
//! It knows no transport, no broker and no hub.

mod authenticator;
mod authorizer;
mod base64url;
mod changes;
mod claims;
mod credentials;
mod directory;
mod failure;
mod jwks;
mod keys;
mod present;
mod recall;
#[cfg(test)]
mod tests;
mod ticket;
mod token;

pub use authenticator::Admitted;
pub use authenticator::Authenticator;
pub use authenticator::Caller;
pub use authenticator::Principal;
pub use authorizer::Authorizer;
pub use authorizer::Grant;
pub use authorizer::Verdict;
pub use changes::Changes;
pub use claims::Claims;
pub use claims::Scopes;
pub use credentials::Credentials;
pub use directory::Directory;
pub use failure::AuthFailure;
pub use failure::AuthSetupError;
pub use recall::Recalled;
pub use ticket::CookieHash;
pub use ticket::Holder;
pub use ticket::TICKET_LIFE;
pub use ticket::TicketHash;
pub use ticket::TicketStore;
pub use ticket::TicketStoreAway;
pub use token::TokenVerifier;
pub use token::install_crypto;
pub use token::mint;
