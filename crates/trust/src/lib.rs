//! Trust: the only place where a root becomes the root of a store path.
//!
//! A Nix signature covers a path's NAR hash, not its castore root, so a peer can pair a true signature with a false
//! root. What somebody says is a [`Claim`]; a [`Policy`] with the user's keys judges it. It becomes a [`TrustedPath`] on
//! one of three [`Ground`]s: a trusted key attested the root, the tree's NAR has the signed hash ([`NarHasher`] out of
//! a store, [`NarRenderer`] while the tree is read for the first time), or the
//! user of this machine added it. What is stored ([`StoredPath`]) is the evidence, which is judged again at each reading.
//!
//! Deliberately absent: the network, the store, and any belief that does not come from a key or from this machine's
//! user. `docs/TRUST.md` tells what a liar can and cannot do.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]
#![deny(clippy::print_stdout, clippy::print_stderr)] // They panic where nobody can be told.

mod attestation;
mod claim;
mod facts;
mod nar_match;
mod policy;
mod stored;
mod trusted;

pub use attestation::{Attestation, attestation_text};
pub use claim::{ATTESTATIONS_MAX, Claim, ClaimError, REFERENCES_MAX, SIGNATURES_MAX, TooMany};
pub use facts::PathFacts;
pub use nar_match::{NarHasher, NarMatch, NarMismatch, NarRenderer, RenderedNar, WholeBlob};
pub use policy::{Admitted, Policy, Refusal, SignedNarInfo};
pub use stored::{StoredPath, StoredPathError};
pub use trusted::{Ground, TrustedPath};
