//! Why a use case could not be carried out.

use std::sync::Arc;

use firn_exchange::Rejection;
use firn_nix::{LayoutError, StorePath};
use firn_store::StoreError;

/// Why a use case could not be carried out. *Absent* is not among these where absence is an answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EngineError {
    /// The local store.
    #[error(transparent)]
    Store(Arc<StoreError>),
    /// Nobody that could be reached has it.
    #[error("nobody that can be reached has it")]
    NotFound,
    /// Nobody that may be asked has it; a peer that may have it has lied, and is asked nothing.
    #[error(
        "nobody else that can be reached has it, and a peer that may have it is not asked, because it has lied: \
         `firn status` names it"
    )]
    Blamed,
    /// Somebody has it, and nobody says what a trusted key has signed.
    #[error("somebody has it, but no trusted key vouches for it")]
    Untrusted,
    /// Somebody names a root for it, and none can be believed and delivered.
    #[error("no root of it can be believed and delivered: {0}")]
    Rejected(Rejection),
    /// It took too long.
    #[error("it took too long")]
    TimedOut,
    /// A reference of what was fetched cannot be had.
    #[error("its reference {path}: {source}")]
    Reference {
        /// Which one.
        path: StorePath,
        /// Why not.
        source: Box<EngineError>,
    },
    /// A tree whose NAR cannot be counted.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// Something of a path is missing in the store, or is damaged. The path has been withdrawn; peers may have it.
    #[error("{path} is no longer whole here: {source}")]
    Gone {
        /// Which one.
        path: Box<StorePath>,
        /// What of it has gone.
        source: Arc<StoreError>,
    },
    /// What has to come of it is more than the disk has room for.
    #[error("{bytes} bytes of it have to come, and the disk has room for {free} more: `firn gc` makes room")]
    NoRoom {
        /// How many bytes have to come, with what the store writes beside them.
        bytes: u64,
        /// How many there is room for.
        free: u64,
    },
    /// A task of this process has panicked, or the process is ending.
    #[error("this node is ending, or a task of it has failed")]
    Ending,
}

impl EngineError {
    /// Whether nobody that could be reached has given it: no fault of this node's.
    pub(crate) fn is_absence(&self) -> bool {
        matches!(self, Self::NotFound | Self::Untrusted | Self::Rejected(_) | Self::TimedOut)
    }

    /// Whether the disk has no room for it.
    pub(crate) fn is_no_room(&self) -> bool {
        match self {
            Self::NoRoom { .. } => true,
            Self::Store(error) => error.is_full(),
            _ => false,
        }
    }
}

impl From<StoreError> for EngineError {
    fn from(error: StoreError) -> Self {
        Self::Store(Arc::new(error))
    }
}
