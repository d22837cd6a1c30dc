//! The HTTP binary cache: what an engine has, or can get, as stock Nix asks for it.
//!
//! A [`Gateway`] answers GET and HEAD and keeps nothing of its own. A narinfo is what the [`Engine`] believes of a path, a
//! NAR is a stream that the engine renders as its reader takes it. What cannot be had is 404, whatever the cause, so that
//! Nix goes on to its next substituter; what fails on the way is broken off, so that nobody takes it for whole.
//!
//! Web pages in the user's browser are refused; else there is no access control (it listens on loopback unless told
//! otherwise). Deliberately absent: uploads, TLS, compression, and any thought of where bytes come from.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]
#![deny(clippy::print_stdout, clippy::print_stderr)] // They panic where nobody can be told.

mod connections;
mod guard;
mod listing;
mod names;
mod range;
mod routes;
mod serve;
mod stall;

use std::sync::Arc;
use std::time::Duration;

use firn_engine::Engine;

pub use connections::CONNECTIONS_MAX;
pub use guard::{HOST_NAME_BYTES_MAX, HostName, HostNameError, HostNames};
pub use serve::{HEAD_BYTES_MAX, HEAD_TIMEOUT, SHUTDOWN_TIMEOUT};

/// What a gateway can be told.
#[derive(Clone)]
pub struct GatewayConfig {
    /// Nix asks substituters with lower numbers first; see [`PRIORITY`].
    pub priority: u32,
    /// How long peers may be asked about a path right now, before it counts as missing. Zero asks none.
    pub budget: Arc<dyn Fn() -> Duration + Send + Sync>,
    /// The names under which it may be asked, besides addresses.
    pub hosts: HostNames,
    /// What `/version` says.
    pub version: String,
    /// How many connections there may be at once, at most [`CONNECTIONS_MAX`].
    pub connections_max: usize,
    /// How long a reader may take nothing of what it has asked for; see [`WRITE_TIMEOUT`].
    pub write_timeout: Duration,
}

/// Comes before cache.nixos.org, which has 40.
pub const PRIORITY: u32 = 30;

/// Long enough for a client that pauses, and short enough that those who have gone without a word do not add up.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// An engine as a binary cache.
#[derive(Clone)]
pub struct Gateway {
    /// What is served.
    pub engine: Engine,
    /// How.
    pub config: GatewayConfig,
}
