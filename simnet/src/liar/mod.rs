//! Peers that lie.
//!
//! A [`Liar`] stands in the place of `answer`: bytes come in, bytes go out, and a [`LieKind`] says which of them are
//! false. Like `answer` it knows neither sockets nor time, so the simulation and a real node can both wrap it.

mod false_tree;
mod mangle;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use firn_castore::{BlobDigest, Root};
use firn_exchange::{Asked, Question, SharedView, answer};
use firn_nix::{ContentAddress, ContentHash};
use firn_proto::exchange as proto;
use firn_trust::Claim;
use prost::Message;

use self::false_tree::FalseTree;

/// A reply goes out in pieces of so many bytes at most.
const PIECE_BYTES: usize = 64 << 10;
static ZEROS: [u8; PIECE_BYTES] = [0; PIECE_BYTES];

/// In which way a liar lies. In all else it tells the truth, so that it is believed for as long as can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LieKind {
    /// One byte of a blob is another one. Caught by the span's proof.
    WrongByte,
    /// One Directory of a tree is another one. Caught by its digest.
    WrongDirectory,
    /// The true Nix signatures beside the root of another tree, which it serves; the NARs have the same length. Caught
    /// by the NAR's hash; nobody is blamed.
    FalseRoot,
    /// The length in front of a span is false. Caught by asking for the last group under that length.
    WrongLengthHeader,
    /// The true Nix signatures beside the root of a tree in which a file is longer or shorter than it is. Caught when
    /// the true length is proven; nobody is blamed.
    WrongLengthDirectory,
    /// Signatures and attestations in the names of keys that did not make them. They count for nothing; nobody is blamed.
    FalseSignature,
    /// Another content address than the signed one. The attestation does not hold for it, and it is dropped; nobody is
    /// blamed.
    AlteredCa,
    /// The true Nix signatures beside the root of a tree of 2^60 entries. Caught before it is walked; nobody is blamed.
    EntriesBomb,
    /// Nothing more comes after the beginning of a reply. Slow is no lie: a deadline passes.
    Stall,
    /// Half of a reply, which ends as if it were whole. Caught by its form.
    Truncate,
    /// A reply that never ends. Caught by the limit on replies.
    TooMuch,
    /// Bytes that are no reply. Caught by their form.
    Garbage,
    /// A proof that holds, of other bytes than those that were asked for. Caught by the span's proof.
    OtherBytes,
    /// Something more than was asked for, behind it. Caught by its form.
    MoreThanAsked,
    /// The whole reply twice on one stream. Caught by its form.
    Twice,
    /// A body of a few kilobytes that expands to more than there is. Caught where it gets too long.
    ZstdBomb,
    /// A byte a second. Slow is no lie: a deadline passes.
    Dribble,
    /// The stream breaks off at each request. That is no lie: the peer is given up.
    HangUp,
    /// The true Nix signatures beside the root of a tree in which each Directory claims for the ones below it a size that
    /// another one has. Caught when the sizes are added up; nobody is blamed.
    FalseSizes,
    /// The true Nix signatures beside the root of a tree with a file of 2^63 bytes. Caught before it is asked for; nobody
    /// is blamed.
    HugeFile,
}

impl LieKind {
    /// All of them.
    pub const ALL: [LieKind; 20] = [
        LieKind::WrongByte,
        LieKind::WrongDirectory,
        LieKind::FalseRoot,
        LieKind::WrongLengthHeader,
        LieKind::WrongLengthDirectory,
        LieKind::FalseSignature,
        LieKind::AlteredCa,
        LieKind::EntriesBomb,
        LieKind::Stall,
        LieKind::Truncate,
        LieKind::TooMuch,
        LieKind::Garbage,
        LieKind::OtherBytes,
        LieKind::MoreThanAsked,
        LieKind::Twice,
        LieKind::ZstdBomb,
        LieKind::Dribble,
        LieKind::HangUp,
        LieKind::FalseSizes,
        LieKind::HugeFile,
    ];
}

/// In words: "a peer that ...".
impl fmt::Display for LieKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LieKind::WrongByte => "changes a byte of each blob",
            LieKind::WrongDirectory => "sends another Directory",
            LieKind::FalseRoot => "pairs a true signature with a false root",
            LieKind::WrongLengthHeader => "sends false lengths",
            LieKind::WrongLengthDirectory => "names a root whose Directories tell false lengths",
            LieKind::FalseSignature => "forges signatures",
            LieKind::AlteredCa => "changes the content address",
            LieKind::EntriesBomb => "names a root of 2^60 entries",
            LieKind::Stall => "begins to answer and stops",
            LieKind::Truncate => "sends half of each answer",
            LieKind::TooMuch => "never stops sending",
            LieKind::Garbage => "sends garbage",
            LieKind::OtherBytes => "proves other bytes than those that were asked for",
            LieKind::MoreThanAsked => "sends more than was asked for",
            LieKind::Twice => "says everything twice",
            LieKind::ZstdBomb => "sends a body that expands without end",
            LieKind::Dribble => "sends a byte a second",
            LieKind::HangUp => "breaks off at each request",
            LieKind::FalseSizes => "names a root whose Directories claim each other's sizes",
            LieKind::HugeFile => "names a root with a file of 2^63 bytes",
        })
    }
}

/// A peer that lies in one way.
pub struct Liar {
    kind: LieKind,
    truth: SharedView,
    seed: u64,
    /// The trees of its own making, by their roots. Each true root has one.
    false_trees: Mutex<BTreeMap<Root, Option<Arc<FalseTree>>>>,
}

impl Liar {
    /// A liar that holds what the view shows. `seed` chooses among the lies of a kind: which blob, which half.
    pub fn new(kind: LieKind, truth: SharedView, seed: u64) -> Self {
        Self { kind, truth, seed, false_trees: Mutex::new(BTreeMap::new()) }
    }

    /// How it lies.
    pub fn kind(&self) -> LieKind {
        self.kind
    }

    /// Answers in the place of [`answer`].
    pub fn answer(&self, request: Bytes) -> LiarReply {
        if self.kind == LieKind::Garbage {
            return LiarReply::new(mangle::garbage(self.seed), Next::End);
        }
        let asked = Question::decode(request.clone()).ok().map(|question| question.asked);
        let Some(honest) = self.consistent(request, asked.as_ref()) else {
            return LiarReply::new(Bytes::new(), Next::BreakOff);
        };
        let mangled = match (self.kind, asked) {
            (LieKind::Stall, _) => return LiarReply::new(mangle::beginning(honest, self.seed), Next::Stall),
            (LieKind::TooMuch, _) => {
                return LiarReply::new(honest, Next::Piece(Bytes::from_static(&ZEROS)));
            }
            (LieKind::Truncate, _) => mangle::half(honest),
            (LieKind::HangUp, _) => return LiarReply::new(mangle::half(honest), Next::BreakOff),
            (LieKind::Dribble, _) => return LiarReply::dribble(honest),
            (LieKind::Twice, _) => mangle::twice(honest),
            (LieKind::OtherBytes, Some(asked)) => mangle::other_bytes(&self.truth, &asked, honest),
            (LieKind::MoreThanAsked, Some(asked)) => mangle::more(&asked, honest),
            (LieKind::ZstdBomb, Some(Asked::Batch(_) | Asked::Ranges { .. })) => mangle::bomb(honest),
            (LieKind::WrongByte, Some(Asked::Batch(_))) => mangle::batch_bytes(honest),
            (LieKind::WrongByte, Some(Asked::Ranges { .. })) => mangle::last_byte(honest),
            (LieKind::WrongLengthHeader, Some(Asked::Ranges { .. })) => mangle::length(honest),
            (LieKind::WrongDirectory, Some(Asked::Closure { .. })) => mangle::last_directory(honest),
            _ => honest,
        };
        LiarReply::new(mangled, Next::End)
    }

    /// What somebody would answer who believed in this liar's trees and claims; `None` where it cannot go on.
    fn consistent(&self, request: Bytes, asked: Option<&Asked>) -> Option<Bytes> {
        let reply = match asked {
            Some(Asked::Closure { root, .. }) => self.tree_of_own(root).map(|tree| tree.closure_reply()),
            Some(Asked::Batch(digests)) => {
                let own = digests.iter().any(|digest| self.owner(digest).is_some());
                own.then(|| self.mixed_batch(digests)).flatten()
            }
            Some(Asked::Ranges { digest, .. }) => {
                let tree = self.owner(digest);
                tree.and_then(|tree| answer(tree.view(), request.clone()).collect().ok())
            }
            Some(Asked::Path(_) | Asked::Have { .. }) | None => None,
        };
        match reply {
            Some(reply) => Some(reply),
            None => {
                let honest = answer(&self.truth, request).collect().ok()?;
                match asked {
                    Some(Asked::Path(_)) => Some(self.claims(honest)),
                    _ => Some(honest),
                }
            }
        }
    }

    /// The tree of its own making that has this root.
    fn tree_of_own(&self, root: &Root) -> Option<Arc<FalseTree>> {
        self.find_tree(|tree| tree.root() == root)
    }

    /// The tree of its own making for which it has made this blob.
    fn owner(&self, digest: &BlobDigest) -> Option<Arc<FalseTree>> {
        self.find_tree(|tree| tree.has_made(digest))
    }

    fn find_tree(&self, test: impl Fn(&FalseTree) -> bool) -> Option<Arc<FalseTree>> {
        let trees = self.false_trees.lock().unwrap_or_else(PoisonError::into_inner);
        trees.values().flatten().find(|tree| test(tree)).cloned()
    }

    /// A batch of which some blobs are of its own making.
    fn mixed_batch(&self, digests: &[BlobDigest]) -> Option<Bytes> {
        let mut items = Vec::new();
        for digest in digests {
            let owner = self.owner(digest);
            let view = owner.as_ref().map_or(&self.truth, |tree| tree.view());
            items.push(mangle::one_of_batch(view, *digest)?);
        }
        Some(mangle::reply(items))
    }

    /// What it says of a path in the place of the true claims.
    fn claims(&self, honest: Bytes) -> Bytes {
        let Some((proto::Status::Ok, mut body)) = mangle::header(&honest) else { return honest };
        let mut items = Vec::new();
        while !body.is_empty() {
            let Ok(message) = proto::Claim::decode_length_delimited(&mut body) else { return honest };
            let Ok(claim) = Claim::from_proto(message) else { return honest };
            items.push(self.claim(claim).to_proto().encode_length_delimited_to_vec().into());
        }
        mangle::reply(items)
    }

    fn claim(&self, mut claim: Claim) -> Claim {
        match self.kind {
            LieKind::FalseRoot
            | LieKind::WrongLengthDirectory
            | LieKind::EntriesBomb
            | LieKind::FalseSizes
            | LieKind::HugeFile => {
                if let Some(tree) = self.false_tree(&claim.facts.root) {
                    claim.facts.root = tree.root().clone();
                    claim.attestations.clear();
                }
            }
            LieKind::FalseSignature => {
                claim.signatures.iter_mut().for_each(|signature| *signature = mangle::forge(signature));
                for attestation in &mut claim.attestations {
                    *attestation = mangle::forge(attestation.signature()).into();
                }
            }
            LieKind::AlteredCa => {
                let mut digest = [0; 32];
                digest[..8].copy_from_slice(&self.seed.to_le_bytes());
                claim.facts.ca = Some(ContentAddress::Nar(ContentHash::Sha256(digest)));
            }
            _ => {}
        }
        claim
    }

    /// The false tree that goes in the place of a true one; made when it is first needed.
    fn false_tree(&self, root: &Root) -> Option<Arc<FalseTree>> {
        let mut trees = self.false_trees.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || FalseTree::make(self.kind, &self.truth, root, self.seed).map(Arc::new);
        trees.entry(root.clone()).or_insert_with(make).clone()
    }
}

/// What happens next on the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// These bytes are sent.
    Piece(Bytes),
    /// A second passes.
    Pause,
    /// The reply ends, as a whole one does.
    End,
    /// The stream stays open and nothing comes any more.
    Stall,
    /// The stream is broken off, so that the asker knows that the reply is not whole.
    BreakOff,
}

/// A liar's reply, pulled piece by piece. It may never end.
#[derive(Debug, Clone)]
pub struct LiarReply {
    bytes: Bytes,
    then: Next,
    /// Between one byte and the next a second passes.
    dribbles: bool,
    is_pause: bool,
}

impl LiarReply {
    /// `then` is what happens again and again after these bytes.
    fn new(bytes: Bytes, then: Next) -> Self {
        Self { bytes, then, dribbles: false, is_pause: false }
    }

    fn dribble(bytes: Bytes) -> Self {
        Self { dribbles: true, ..Self::new(bytes, Next::End) }
    }

    /// What happens next. Pull no more after an end, a stall or a break.
    pub fn pull(&mut self) -> Next {
        if self.bytes.is_empty() {
            return self.then.clone();
        }
        if self.dribbles {
            self.is_pause = !self.is_pause;
            if !self.is_pause {
                return Next::Pause;
            }
        }
        let length = if self.dribbles { 1 } else { self.bytes.len().min(PIECE_BYTES) };
        Next::Piece(self.bytes.split_to(length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dice::Dice;
    use crate::tree::{Tree, TreePlan};

    fn liar(kind: LieKind) -> Liar {
        let tree = Tree::make(TreePlan::Fixed, &mut Dice::new(1));
        let shared = firn_exchange::Shared::default();
        shared.add_root(&tree.closure);
        Liar::new(kind, SharedView::new(tree.store, Arc::new(shared)), 1)
    }

    #[test]
    fn requests_that_are_none_get_an_answer_too() {
        let mut dice = Dice::new(1);
        for kind in LieKind::ALL {
            let liar = liar(kind);
            for length in 0..60 {
                let mut reply = liar.answer(dice.bytes(length).into());
                while let next @ (Next::Piece(_) | Next::Pause) = reply.pull() {
                    assert!(!matches!(next, Next::Piece(piece) if piece.len() > PIECE_BYTES));
                    if kind == LieKind::TooMuch {
                        break;
                    }
                }
            }
        }
    }

    #[test]
    fn too_much_never_ends() {
        let mut reply = liar(LieKind::TooMuch).answer(Bytes::new());
        assert!((0..10_000).all(|_| matches!(reply.pull(), Next::Piece(_))));
    }

    #[test]
    fn stalling_is_no_end() {
        let mut reply = liar(LieKind::Stall).answer(Bytes::new());
        while let Next::Piece(_) = reply.pull() {}
        assert_eq!(reply.pull(), Next::Stall);
    }
}
