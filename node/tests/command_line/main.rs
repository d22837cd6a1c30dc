//! The command line from outside, with the real program.

#![allow(clippy::unwrap_used, clippy::panic)]

mod bad_input;
mod crowd;
mod ended;
mod gone;
mod healing;
mod in_place;
mod nix_store;
mod offline;
mod output;
mod pages;
mod peers;
mod private;
mod relayed;
mod room;
mod secrets;
mod words;
mod world;
