//! The peer protocol, without sockets and without a clock.
//!
//! One side asks: [`Fetch`] is the machine that turns a [`Goal`] into [`Request`]s to peers, takes what [`check`] has
//! proven of their replies, asks elsewhere for what is left, and names liars. The other side gives: [`answer`] reads what
//! a [`SharedView`] lets this peer see.
//!
//! Deliberately absent: connections, time, threads. Whoever drives `Fetch` brings `now`, carries its requests and runs
//! `check` wherever it likes. `docs/PROTOCOL.md` draws the bytes.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]
#![deny(clippy::print_stdout, clippy::print_stderr)] // They panic where nobody can be told.

mod answer;
mod body;
mod check;
mod codec;
mod compress;
mod fellows;
mod fetch;
mod fields;
mod frame;
mod header;
mod ids;
mod known;
mod order;
mod request;
mod shared;

pub use answer::{Reply, ReplyError, SharedView, answer, busy};
pub use check::{BatchAnswer, Lie, Presence, RootFault, Verified, check, check_bytes_max};
pub use codec::{Codec, Compress};
pub use fellows::{FELLOWS_MAX, Fellow};
pub use fetch::{AskId, Candidate, Fetch, Goal, Input, Limits, Micros, Outcome, Output, Rejection};
pub use frame::FrameError;
pub use header::{fellows, header_is_too_long};
pub use ids::{Key, PeerId, PeerIdError};
pub use known::{KNOWN_MAX, Known, Tags};
pub use request::{
    Asked, BATCH_BLOBS_MAX, BATCH_BYTES_MAX, BITMAP_BYTES_MAX, BITMAPS_BYTES_MAX, CLAIM_BYTES_MAX,
    CLAIMS_BYTES_MAX, CLAIMS_MAX, CLOSURE_BYTES_MAX, HAVE_BLOBS_MAX, INLINE_BYTES_MAX, Question,
    REQUEST_BYTES_MAX, RUNS_MAX, Request, RequestError, SPAN_GROUPS_MAX,
};
pub use shared::{Shared, Unshareable, shareable};
