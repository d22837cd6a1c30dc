//! The command line from outside, with the real program.

#![allow(clippy::unwrap_used, clippy::panic)]

mod nix_store;
mod offline;
mod peers;
mod world;
