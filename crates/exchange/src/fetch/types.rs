//! What goes into the machine and what comes out of it.

use std::sync::Arc;
use std::time::Duration;

use firn_bao::VerifiedSpan;
use firn_castore::{BlobDigest, Closure, Root};
use firn_nix::{StorePath, StorePathHash};
use firn_store::MissingBlob;
use firn_trust::{Admitted, NarMatch, NarMismatch, SignedNarInfo, TrustedPath};

use crate::check::{Lie, RootFault, Verified};
use crate::known::Known;
use crate::{Key, PeerId, Request};

/// A time or a duration in microseconds; what it counts from is the driver's choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Micros(pub u64);

impl Micros {
    /// So many milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis * 1000)
    }

    /// How many of these bytes there are in a second, if they took so long.
    pub fn per_second(self, bytes: u64) -> u64 {
        u64::try_from(u128::from(bytes) * 1_000_000 / u128::from(self.0.max(1))).unwrap_or(u64::MAX)
    }

    pub(crate) fn after(self, duration: Micros) -> Self {
        Self(self.0.saturating_add(duration.0))
    }
}

/// What is longer than half a million years is that long.
impl From<Duration> for Micros {
    fn from(duration: Duration) -> Self {
        Self(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
    }
}

/// What is to be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Goal {
    /// What can be believed of this path, without its contents.
    Claims(StorePathHash),
    /// This path, with the first of its roots that can be believed and delivered.
    Path(StorePathHash),
    /// This tree, which is its own proof.
    Tree(Root),
}

/// How far a fetch goes.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// When it fails, from its beginning; `None` for never.
    pub deadline: Option<Micros>,
    /// How often in a row a peer may fail to answer before it is given up.
    pub failures_max: u32,
    /// Unanswered requests in all.
    pub in_flight_max: usize,
    /// Unanswered requests to one peer.
    pub in_flight_peer_max: usize,
    /// Bytes of contents that are asked for and have not been answered, in all: what unverified replies take in memory.
    pub bytes_in_flight_max: u64,
    /// How long a tree of which something has come waits for peers to come back, after the last thing that came.
    pub patience: Micros,
    /// How long a path is looked for whose claimants have failed to answer, after the last question for claims.
    pub claims_patience: Micros,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            deadline: None,
            failures_max: 4,
            in_flight_max: 64,
            in_flight_peer_max: 16,
            bytes_in_flight_max: 64 << 20,
            patience: Micros::from_millis(15_000),
            claims_patience: Micros::from_millis(15_000),
        }
    }
}

/// Names one request of one fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AskId(pub(super) u64);

/// What the driver tells the machine.
#[derive(Debug)]
pub enum Input {
    /// This peer may have that.
    Found {
        /// What was looked for.
        key: Key,
        /// Who may have it.
        peer: PeerId,
    },
    /// The look-up is over.
    FindEnded(Key),
    /// A reply came and was [checked](crate::check).
    Answered {
        /// To which request.
        id: AskId,
        /// What it proves.
        result: Result<Verified, Lie>,
    },
    /// No reply came. That is no lie.
    Failed(AskId),
    /// No reply came, since the peer cannot be reached. It is asked nothing more until it is found again.
    Unreachable(AskId),
    /// This peer has not answered in time of late: its claims are taken if they come, and not waited for.
    Slow(PeerId),
    /// So many bytes of a reply have come so far. To be told before polling; the same once more changes nothing.
    Received {
        /// To which request.
        id: AskId,
        /// Since it was asked.
        bytes: u64,
    },
    /// What the local store has of the Directories of the tree that was to be [recalled](Output::Recall).
    Recalled {
        /// All of them.
        closure: Option<Arc<Closure>>,
        /// What else may be part of it, to be offered.
        known: Known,
    },
    /// A reader waits for this blob: it, and what follows it, comes first from now on.
    Reading(BlobDigest),
    /// Of the blobs that the machine wanted [looked up](Output::Look), this is not in the local store.
    Missing(Vec<MissingBlob>),
    /// The NAR of the tree was hashed.
    Hashed(Result<Box<NarMatch>, NarMismatch>),
}

/// What the machine wants of the driver.
#[derive(Debug)]
pub enum Output {
    /// Look for peers; tell by [`Input::Found`] and [`Input::FindEnded`]. May come again once the last look-up is over.
    Find(Key),
    /// Look what of this tree's Directories is in the store; tell by [`Input::Recalled`].
    Recall {
        /// This tree's.
        root: Root,
        /// Which the root is said to be of: what is here of paths of like names can be offered.
        path: Option<StorePath>,
    },
    /// Ask; tell by [`Input::Answered`], [`Input::Failed`] or [`Input::Unreachable`].
    Ask {
        /// Whom.
        peer: PeerId,
        /// Under this name.
        id: AskId,
        /// What.
        request: Request,
    },
    /// The reply to this request is wanted no longer.
    Cancel(AskId),
    /// Store the Directories.
    KeepClosure(Arc<Closure>),
    /// Say what of these blobs is not in the store, by [`Input::Missing`].
    Look(Arc<Closure>),
    /// Store the bytes.
    Keep(VerifiedSpan),
    /// Hash the tree's NAR out of the store, once all that was to be stored is; tell by [`Input::Hashed`].
    HashNar(SignedNarInfo, Arc<Closure>),
    /// This peer has lied. It is asked nothing more.
    Blame {
        /// Who.
        peer: PeerId,
        /// How.
        lie: Lie,
    },
    /// This root is not what it claims, or cannot be had. No peer is to blame for that.
    Reject {
        /// Which root.
        root: Root,
        /// Who named it.
        claimants: Vec<PeerId>,
        /// Why.
        reason: Rejection,
    },
    /// The fetch is over.
    Done(Outcome),
}

/// Why a root is given up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// It is not what it claims.
    #[error(transparent)]
    Fault(#[from] RootFault),
    /// Its NAR is not the signed one.
    #[error(transparent)]
    Nar(#[from] NarMismatch),
    /// Nobody that could be reached has all of it.
    #[error("nobody that can be reached has all of it")]
    Undeliverable,
}

/// How a fetch ended.
#[derive(Debug)]
pub enum Outcome {
    /// What is believed of the path, best first.
    Claims(Vec<Admitted>),
    /// The path is believed and its tree is here.
    Path(Box<TrustedPath>, Arc<Closure>),
    /// The tree is here.
    Tree(Arc<Closure>),
    /// Nobody that could be reached knows of it.
    NotFound,
    /// Somebody knows of it, and nobody says what a trusted key has signed.
    Untrusted,
    /// Roots were named, and none could be believed and delivered. The last one's reason.
    Rejected(Rejection),
    /// The deadline has passed.
    TimedOut,
}
