//! What must never happen, and how each kind of liar is caught.

use std::fmt;

use firn_castore::{BlobRef, DirectoryDigest, Root};
use firn_exchange::{Lie, Micros, PeerId, Rejection};
use firn_nix::Signature;
use firn_store::StoreError;
use firn_trust::PathFacts;

use crate::liar::LieKind;

/// Something that must never happen.
#[derive(Debug)]
pub enum Violation {
    /// Bytes were kept that are not the blob's.
    FalseBytes(BlobRef),
    /// A Directory was kept that is not the one of its name.
    FalseDirectory(DirectoryDigest),
    /// An honest peer was blamed.
    HonestBlamed(PeerId, Lie),
    /// A liar was blamed for something that it does not do.
    BlamedForAnother(LieKind, Lie),
    /// A liar was asked again after it was blamed.
    AskedAfterBlame(PeerId),
    /// More requests are unanswered than there may be.
    TooManyInFlight(usize),
    /// More requests are unanswered by one peer than there may be.
    TooManyOfPeer(PeerId, usize),
    /// A request that asks for more than a request may.
    RequestTooLarge,
    /// A root that is what it claims was rejected as if it were not.
    TrueRootRejected(Rejection),
    /// A false root was rejected for something that is not its fault.
    RejectedForAnother(Rejection),
    /// A path was let out with a root that nobody has attested and whose NAR is not the signed one.
    FalseRoot(Root),
    /// A path or a claim was let out with facts that no trusted key has signed.
    FalseFacts(Box<PathFacts>),
    /// A signature that no trusted key has made was let out beside what is believed, to be told to others.
    Unverified(Signature),
    /// Another tree came out than was wanted.
    OtherTree(Root),
    /// What was let out is not whole in the store.
    NotWhole(StoreError),
    /// It must succeed and has not.
    Unsuccessful(String),
    /// It does not end.
    Endless,
    /// It has not ended by its deadline.
    TooLate,
    /// It wants to be polled at a time that has passed, for ever.
    Spins(Micros),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Violation::FalseBytes(blob) => write!(f, "false bytes of blob {} were kept", blob.digest),
            Violation::FalseDirectory(digest) => write!(f, "a false Directory {digest} was kept"),
            Violation::HonestBlamed(peer, lie) => write!(f, "the honest peer {peer:?} was blamed: {lie}"),
            Violation::BlamedForAnother(kind, lie) => {
                write!(f, "a peer that {kind} was blamed for something else: {lie}")
            }
            Violation::AskedAfterBlame(peer) => write!(f, "{peer:?} was asked after it was blamed"),
            Violation::TooManyInFlight(count) => write!(f, "{count} requests are unanswered"),
            Violation::TooManyOfPeer(peer, count) => write!(f, "{count} requests are unanswered by {peer:?}"),
            Violation::RequestTooLarge => f.write_str("a request asks for more than it may"),
            Violation::TrueRootRejected(reason) => write!(f, "a true root was rejected: {reason}"),
            Violation::RejectedForAnother(reason) => {
                write!(f, "a false root was rejected for another reason: {reason}")
            }
            Violation::FalseRoot(root) => write!(f, "the false root {root} was let out"),
            Violation::FalseFacts(facts) => write!(f, "facts that nobody has signed were let out: {facts:?}"),
            Violation::Unverified(signature) => {
                write!(f, "a signature that no trusted key has made was let out: {signature}")
            }
            Violation::OtherTree(root) => write!(f, "another tree was let out than was wanted: {root}"),
            Violation::NotWhole(error) => write!(f, "what was let out is not whole: {error}"),
            Violation::Unsuccessful(outcome) => write!(f, "it must succeed, but: {outcome}"),
            Violation::Endless => f.write_str("it does not end"),
            Violation::TooLate => f.write_str("it has not ended by its deadline"),
            Violation::Spins(at) => write!(f, "it wants to be polled at {}, which has passed", at.0),
        }
    }
}

/// Whether this is how a liar of this kind is caught.
pub fn is_documented(kind: LieKind, lie: &Lie) -> bool {
    match kind {
        LieKind::WrongByte => matches!(lie, Lie::Blob { .. }),
        LieKind::WrongDirectory => matches!(lie, Lie::Directory(_) | Lie::Garbage(_)),
        LieKind::WrongLengthHeader => matches!(lie, Lie::Blob { .. }),
        LieKind::Truncate => matches!(lie, Lie::Garbage(_) | Lie::Incomplete | Lie::Blob { .. }),
        LieKind::TooMuch => matches!(lie, Lie::TooMuch),
        // Where hardly anything may come, it is too long before it is read.
        LieKind::Garbage => matches!(lie, Lie::Garbage(_) | Lie::TooMuch),
        LieKind::OtherBytes => matches!(lie, Lie::Blob { .. }),
        LieKind::MoreThanAsked => matches!(lie, Lie::NotAsked | Lie::Directory(_) | Lie::Blob { .. }),
        // Where one item more may come, the second header counts as one.
        LieKind::Twice => {
            let in_form = matches!(lie, Lie::Garbage(_) | Lie::EmptyClaim | Lie::TooMuch);
            in_form || matches!(lie, Lie::NotAsked | Lie::Directory(_) | Lie::Blob { .. })
        }
        // It is expanded no further than to the first item that is false.
        LieKind::ZstdBomb => matches!(lie, Lie::TooMuch | Lie::Blob { .. }),
        LieKind::FalseRoot
        | LieKind::FalseSignature
        | LieKind::AlteredCa
        | LieKind::WrongLengthDirectory
        | LieKind::EntriesBomb
        | LieKind::FalseSizes
        | LieKind::HugeFile
        | LieKind::Stall
        | LieKind::Dribble
        | LieKind::HangUp => false,
    }
}
