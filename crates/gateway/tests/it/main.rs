//! The gateway as its clients see it: by request, over a socket, and with the real Nix.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "../../../engine/tests/fakes/mod.rs"]
mod fakes;

mod crowd;
mod failures;
mod http;
mod listing;
mod nix;
mod pages;
mod routes;
mod server;
mod sharing;
