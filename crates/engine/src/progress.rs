//! How far a fetch has come.

use std::sync::Arc;

use firn_castore::Closure;
use firn_exchange::PeerId;
use firn_nix::StorePath;

/// How far a fetch has come. Readers of a tree that is still on its way wait for its changes.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// Which path it is, once somebody who is believed has said its name.
    pub path: Option<StorePath>,
    /// The tree, once its Directories are here.
    pub closure: Option<Arc<Closure>>,
    /// What had to be fetched of its blobs, in bytes.
    pub bytes_total: u64,
    /// What of that is in the store.
    pub bytes_done: u64,
    /// Blobs that had to be fetched.
    pub blobs_total: u64,
    /// Who has given how many bytes of contents, in the order of their first.
    pub givers: Vec<(PeerId, u64)>,
}

impl Progress {
    /// True if they are the peer's first.
    pub(crate) fn given(&mut self, peer: PeerId, bytes: u64) -> bool {
        match self.givers.iter_mut().find(|(giver, _)| *giver == peer) {
            Some((_, sum)) => {
                *sum += bytes;
                false
            }
            None => {
                self.givers.push((peer, bytes));
                true
            }
        }
    }
}
