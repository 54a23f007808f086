//! The catalogue of hostile credentials (`reliability.md` §4, rows B-1 to B-21), by row number, and the grants.

mod authorizer;
mod base64url;
mod credentials;
mod jwks;
mod support;
mod token;
