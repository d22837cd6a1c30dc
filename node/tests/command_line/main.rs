//! The command line from outside, with the real program.

#![allow(clippy::unwrap_used, clippy::panic)]

mod bad_input;
mod healing;
mod crowd;
mod gone;
mod in_place;
mod nix_store;
mod offline;
mod pages;
mod peers;
mod relayed;
mod private;
mod room;
mod world;
