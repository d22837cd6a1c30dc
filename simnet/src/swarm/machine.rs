//! The machine as a node drives it: the one place that knows how its inputs are called.

use std::sync::Arc;

use firn_castore::Closure;
use firn_exchange::{AskId, Fetch, Goal, Input, Limits, Micros, PeerId};

/// A new fetch of the node `me`.
pub(super) fn begin(goal: Goal, _me: PeerId, limits: Limits, seed: u64) -> Fetch {
    Fetch::new(goal, limits, seed)
}

/// So much of a reply has come.
pub(super) fn received(_fetch: &mut Fetch, _now: Micros, _id: AskId, _bytes: u64) {}

/// Blobs that are missing in the store.
pub(super) fn looked(missing: Vec<firn_store::MissingBlob>) -> Input {
    Input::Missing(missing)
}

/// What is in the store of a tree that the machine has asked about.
#[allow(dead_code)]
pub(super) fn recalled(_closure: Option<Arc<Closure>>) -> Option<Input> {
    None
}
