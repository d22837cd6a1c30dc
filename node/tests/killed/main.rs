//! The real program, killed again and again: what it has reported as done is there afterwards, and nothing is there by
//! halves.
//!
//! A run prints its seed; `FIRN_TEST_SEED` takes one. Threads and processes take turns as they like, so that the same seed
//! is the same load, though not the same run.

#![allow(clippy::unwrap_used, clippy::panic)]

mod acts;
mod alone;
mod beside_a_node;
mod chance;
mod http;
mod known;
mod looks;
mod trees;
mod world;
