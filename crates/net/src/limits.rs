//! How much may go over the wire in a second, and how it is shared out.

mod bucket;
mod fair;
mod meter;
mod pacer;

use std::num::NonZeroU64;

pub(crate) use pacer::Pacer;

/// The lowest limit, in bytes a second: below it requests would time out before their turn comes.
pub const RATE_MIN: u64 = 64 << 10;

/// How many bytes of replies may go over the wire in a second; none: as many as it can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RateLimits {
    /// Given to all peers together.
    pub upload: Option<NonZeroU64>,
    /// Given to each of them.
    pub upload_peer: Option<NonZeroU64>,
    /// Taken from all peers together.
    pub download: Option<NonZeroU64>,
    /// Taken from each of them.
    pub download_peer: Option<NonZeroU64>,
}
