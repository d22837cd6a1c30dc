//! What a node wants, over all the fetches that it takes to get it.

use std::collections::BTreeMap;
use std::sync::Arc;

use firn_castore::{Closure, Root};
use firn_exchange::{AskId, Fetch, Micros, Request};

use super::plan::Want;
use crate::referee::Referee;

/// One fetch, of all that there are in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FlightId(pub(super) u32);

/// One request, of all that there are in a run.
pub(super) type AskName = (FlightId, AskId);

/// Something that a node wants.
pub(super) struct Errand {
    /// The place of the node in the plan.
    pub(super) node: usize,
    pub(super) want: Want,
    /// By when it must be here; `None` if it may never come.
    pub(super) due: Option<Micros>,
    pub(super) begun: Option<Micros>,
    pub(super) ended: Option<Micros>,
    pub(super) flight: Option<FlightId>,
    pub(super) tally: Tally,
}

/// What an errand has cost.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// How often a fetch was begun.
    pub fetches: u64,
    /// How many requests were sent.
    pub asks: u64,
    /// All bytes that came, of whole replies and of others.
    pub received_bytes: u64,
    /// Bytes of blobs that were new.
    pub useful_bytes: u64,
    /// Bytes of blobs that had been kept before.
    pub duplicate_bytes: u64,
    /// Bytes of replies that did not come to their end, or were wanted no longer.
    pub unfinished_bytes: u64,
    /// Bytes of blobs that were asked for and had not come yet, at most.
    pub unverified_bytes_most: u64,
    /// Requests that were unanswered at once.
    pub in_flight_most: usize,
    /// For how long nothing new came, at most.
    pub stall_most: Micros,
    /// When something new came, or it was begun.
    pub(super) progress_at: Micros,
}

/// A fetch under way.
pub(super) struct Flight {
    pub(super) errand: usize,
    pub(super) fetch: Fetch,
    pub(super) referee: Referee,
    pub(super) asks: BTreeMap<AskId, Asking>,
    pub(super) unverified_bytes: u64,
    pub(super) alarm: Option<Micros>,
    /// Whose holders were looked for last.
    pub(super) root: Option<Root>,
    /// The tree that is shared as coming.
    pub(super) coming: Option<Arc<Closure>>,
    /// An answer that was taken, to be given again by a driver that errs.
    pub(super) settled: Option<AskId>,
}

/// A request under way.
pub(super) struct Asking {
    /// Where it goes; `None` where nobody of this id is.
    pub(super) to: Option<usize>,
    pub(super) request: Request,
    pub(super) asked_at: Micros,
    /// Whether its reply is on its way.
    pub(super) flows: bool,
    /// How long the reply was, once the last of it has been sent.
    pub(super) sent_bytes: Option<u64>,
    /// Whether its end is on its way.
    pub(super) is_ending: bool,
    /// How much of the reply the machine was told of.
    pub(super) told_bytes: u64,
}

/// How many bytes of blobs a request is for.
pub(super) fn wanted_bytes(request: &Request) -> u64 {
    match request {
        Request::Batch(blobs) => blobs.iter().map(|blob| blob.size).sum(),
        Request::Ranges { blob, span } => {
            let range = span.bytes(blob.size);
            range.end.saturating_sub(range.start)
        }
        Request::Path(_) | Request::Closure { .. } | Request::Have { .. } => 0,
    }
}
