//! The async driver: runs the pure [`Fetch`](firn_exchange::Fetch) against the network, and the use cases above it.
//!
//! An [`Engine`] owns the local store, the user's policy, one bounded pool for what blocks, and the flights: whoever
//! wants what is already being fetched joins that flight, and a flight that nobody wants any longer ends. The network
//! is what [`Ask`] and [`Find`] carry; nothing that comes from it is kept before it has been checked.
//!
//! Deliberately absent: sockets, HTTP, configuration, and any thought of how peers are reached.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]
#![deny(clippy::print_stdout, clippy::print_stderr)] // They panic where nobody can be told.

mod ahead;
mod engine;
mod error;
mod flight;
mod flights;
mod heard;
mod index;
mod inner;
mod ledger;
mod memory;
mod nar;
mod passing;
mod pool;
mod private;
mod progress;
mod reader;
mod recall;
mod replies;
mod room;
mod slow;
mod source;
mod telling;
mod transfer;
mod uses;
mod withdraw;

pub use engine::{Engine, EngineConfig, NarName, Resolved};
pub use error::EngineError;
pub use flights::Fetched;
pub use ledger::{LIAR_DAYS, LedgerEntry, Liar, RejectedRoot};
pub use memory::{NAR_BYTES_MAX, NAR_PIECE_BYTES};
pub use nar::{Nar, OpenNar};
pub use progress::Progress;
pub use replies::{REPLIES_BYTES_MAX, TurnOver};
pub use room::{Collection, Evicted};
pub use source::{Ask, AskError, Find, Found, Nobody, Received, Via};
pub use transfer::Transfer;
pub use withdraw::Withdrawn;
