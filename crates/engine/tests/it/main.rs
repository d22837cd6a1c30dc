//! The engine among fake peers: what it believes, what it keeps, whom it asks and blames.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "../fakes/mod.rs"]
mod fakes;

mod fetching;
mod gone;
mod liars;
mod nars;
mod passing;
mod removing;
mod resolving;
mod sharing;
mod store;
mod telling;
mod using;
mod view;
mod withdrawing;
