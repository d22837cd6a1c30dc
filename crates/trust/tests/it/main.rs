//! What is signed, what is said, what is believed, and what no longer is.

#![allow(clippy::unwrap_used, clippy::panic)]

mod admit;
mod attestation;
mod claims;
mod nar_match;
mod said;
mod stored;
