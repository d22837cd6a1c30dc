//! A deterministic simulation of peers, links and liars.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

pub mod liar;
