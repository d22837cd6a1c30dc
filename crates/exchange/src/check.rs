//! What of a reply is proven.

use std::sync::Arc;

use bytes::Bytes;
use firn_bao::{BLOB_BYTES_MAX, Groups, SpanError, VerifiedSpan};
use firn_castore::{
    BlobRef, Closure, ClosureBuilder, ClosureError, Directory, DirectoryDigest, DirectoryError, Node, Root,
};
use firn_proto::exchange as proto;
use firn_trust::{ATTESTATIONS_MAX, Admitted, Claim, Policy, REFERENCES_MAX, Refusal, SIGNATURES_MAX};
use prost::Message;

use crate::body::Body;
use crate::compress::WINDOW_BYTES_MAX;
use crate::fields::count;
use crate::frame::FrameError;
use crate::header::Header;
use crate::known::Known;
use crate::request::{BATCH_ITEM_BYTES_MAX, HAVE_ITEM_BYTES_MAX, bitmap_bytes, directory_bytes_max};
use crate::{CLAIM_BYTES_MAX, CLAIMS_MAX, Micros, RUNS_MAX, Request};

/// The encoding of a compressed body.
const ZSTD: i32 = proto::Encoding::Zstd as i32;
/// The most bytes of memory that are made of one of a plain reply: of a bitmap, four runs.
const MADE_OF_A_BYTE: usize = 128;

/// What a reply has proven, or has the right to say.
#[derive(Debug)]
pub enum Verified {
    /// The claims that the policy lets in. Those that no trusted key speaks for, and those that cannot be read, are left
    /// out.
    Claims(Vec<Admitted>),
    /// The peer has claims, and none of them can be believed. That is no lie: it may relay what others have said.
    Untrusted,
    /// All Directories beneath the root.
    Closure(Arc<Closure>),
    /// All but some that have the tag of another one that was offered: to be asked for without an offer.
    Overlap,
    /// The root itself is at fault, whoever serves it.
    BadRoot(RootFault),
    /// For each blob of the batch, in order.
    Batch(Vec<(BlobRef, BatchAnswer)>),
    /// The span that was asked for.
    Span(VerifiedSpan),
    /// The peer says that the blob has another length, and has proven nothing yet: its last group would.
    OtherSize(BlobRef),
    /// For the root and each blob that was asked about, in order.
    Have {
        /// Of the tree.
        tree: Option<Presence>,
        /// Of the blobs.
        blobs: Vec<(BlobRef, Presence)>,
    },
    /// The peer has it not, or not for this node.
    Missing,
    /// The peer may have it, but not now.
    Busy {
        /// When to ask again, if it says so.
        after: Option<Micros>,
    },
    /// The peer does not serve such a request, or says something that this version does not know.
    Refused,
}

impl Verified {
    /// How many bytes of contents it has brought.
    pub fn contents_bytes(&self) -> u64 {
        match self {
            Verified::Span(span) => span.bytes().len() as u64,
            Verified::Batch(answers) => answers.iter().map(|(_, answer)| answer.bytes()).sum(),
            _ => 0,
        }
    }
}

/// What became of one blob of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BatchAnswer {
    /// Its contents.
    Here(VerifiedSpan),
    /// The peer has it not.
    Missing,
    /// Not now.
    Busy,
    /// Too large to be inline: ask for its ranges.
    TooLarge,
    /// Contents with the right digest and another length than the root's Directories claim.
    OtherSize(RootFault),
}

impl BatchAnswer {
    /// How many bytes of contents it has brought.
    pub fn bytes(&self) -> u64 {
        match self {
            BatchAnswer::Here(span) => span.bytes().len() as u64,
            _ => 0,
        }
    }
}

/// What a peer says that it has of a blob or a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    /// All of it.
    Whole,
    /// These groups, of a blob; of a tree that is on its way, none are told.
    Partial(Groups),
    /// Nothing.
    Missing,
}

/// Why a root cannot be what it claims; proven, and no fault of the peer that serves it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RootFault {
    /// A Directory with the right digest is no legal Directory.
    #[error("one of its Directories: {0}")]
    Directory(#[from] DirectoryError),
    /// The Directories do not make a tree.
    #[error("its Directories: {0}")]
    Closure(#[from] ClosureError),
    /// A file longer than any.
    #[error("blob {} claims {} bytes, more than any has", .0.digest, .0.size)]
    BlobTooLong(BlobRef),
    /// A file is not as long as its Directory claims.
    #[error("blob {} has {actual} bytes, its Directory claims {}", .blob.digest, .blob.size)]
    BlobSize {
        /// As claimed.
        blob: BlobRef,
        /// As proven.
        actual: u64,
    },
}

/// A reply that no honest peer gives. `docs/TRUST.md` has for each why an honest peer cannot give it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lie {
    /// Not the messages that the protocol wants.
    #[error("garbage: {0}")]
    Garbage(#[from] FrameError),
    /// An unknown encoding.
    #[error("garbage: encoding {0}")]
    Encoding(i32),
    /// A body that is said to be compressed and is not.
    #[error("garbage: no zstd frame")]
    Zstd,
    /// A claim without a path.
    #[error("a claim that says nothing")]
    EmptyClaim,
    /// More items, or others, than were asked for.
    #[error("something that was not asked for")]
    NotAsked,
    /// Fewer items than were promised.
    #[error("less than was promised")]
    Incomplete,
    /// A Directory that nobody has named.
    #[error("a false Directory {0}")]
    Directory(DirectoryDigest),
    /// Bytes that are not the blob's.
    #[error("blob {}: {source}", .blob.digest)]
    Blob {
        /// Which blob.
        blob: BlobRef,
        /// What is wrong.
        source: SpanError,
    },
    /// The reply was longer than any honest one.
    #[error("more than an honest reply can have")]
    TooMuch,
}

/// What [`check`] may take in memory, in bytes, beside the reply itself and what that proves.
pub fn check_bytes_max(request: &Request, reply: &Bytes) -> usize {
    let is_zstd = Header::take(&mut reply.clone()).is_ok_and(|header| header.encoding == ZSTD);
    match request {
        _ if is_zstd => WINDOW_BYTES_MAX + request.expanded_bytes_max(),
        Request::Path(_) | Request::Have { .. } => {
            request.expanded_bytes_max().min(reply.len().saturating_mul(MADE_OF_A_BYTE))
        }
        // What they prove is a part of the reply, or as long.
        Request::Closure { .. } | Request::Batch(_) | Request::Ranges { .. } => 0,
    }
}

/// Checks a whole reply against what was asked. Pure; it hashes all that came.
pub fn check(request: &Request, mut reply: Bytes, policy: &Policy) -> Result<Verified, Lie> {
    if reply.len() > request.reply_bytes_max() {
        return Err(Lie::TooMuch);
    }
    let header = Header::take(&mut reply)?;
    match header.status() {
        proto::Status::Ok => {}
        _ if !reply.is_empty() => return Err(Lie::NotAsked),
        proto::Status::Missing => return Ok(Verified::Missing),
        proto::Status::Busy => return Ok(Verified::Busy { after: header.busy_for() }),
        proto::Status::Refused => return Ok(Verified::Refused),
    }
    check_body(request, Body::new(reply, header.encoding()?, request.body_bytes_max())?, policy)
}

fn check_body(request: &Request, body: Body, policy: &Policy) -> Result<Verified, Lie> {
    match request {
        Request::Path(hash) => claims(body, policy, |claim| claim.facts.path.hash() == hash),
        Request::Closure { root, known } => closure(body, root, known),
        Request::Batch(blobs) => batch(body, blobs),
        Request::Ranges { blob, span } => match VerifiedSpan::verify(*blob, *span, &body.whole()?) {
            Ok(span) => Ok(Verified::Span(span)),
            Err(SpanError::Size { header, .. }) if header <= BLOB_BYTES_MAX => {
                Ok(Verified::OtherSize(BlobRef { size: header, ..*blob }))
            }
            Err(source) => Err(Lie::Blob { blob: *blob, source }),
        },
        Request::Have { root, blobs } => have(body, root.is_some(), blobs),
    }
}

fn claims(mut body: Body, policy: &Policy, asked: impl Fn(&Claim) -> bool) -> Result<Verified, Lie> {
    let mut admitted = Vec::new();
    let mut is_untrusted = false;
    for number in 0.. {
        let Some(item) = body.next(CLAIM_BYTES_MAX)? else { break };
        if number == CLAIMS_MAX {
            return Err(Lie::NotAsked);
        }
        let Some(claim) = claim(item)? else {
            is_untrusted = true;
            continue;
        };
        if !asked(&claim) {
            return Err(Lie::NotAsked);
        }
        match policy.admit(claim) {
            Ok(claim) => admitted.push(claim),
            Err(Refusal::NoTrustedKey) => is_untrusted = true,
        }
    }
    Ok(if admitted.is_empty() && is_untrusted { Verified::Untrusted } else { Verified::Claims(admitted) })
}

/// One claim; `None` where it is over a limit or cannot be read. Another version may have made it.
fn claim(item: Bytes) -> Result<Option<Claim>, Lie> {
    if has_too_much(&item)? {
        return Ok(None);
    }
    let message = proto::Claim::decode(item).map_err(FrameError::from)?;
    match message.path_info {
        Some(_) => Ok(Claim::from_proto(message).ok()),
        None => Err(Lie::EmptyClaim),
    }
}

/// Whether a claim has more than it may have: known before anything is made of it.
fn has_too_much(claim: &[u8]) -> Result<bool, FrameError> {
    let lists = [
        (&[1, 2][..], REFERENCES_MAX),
        (&[1, 3, 3], SIGNATURES_MAX),
        (&[1, 3, 4], REFERENCES_MAX),
        (&[2], ATTESTATIONS_MAX),
    ];
    for (path, max) in lists {
        if count(claim, path)? > max {
            return Ok(true);
        }
    }
    Ok(false)
}

fn closure(mut body: Body, root: &Root, known: &Known) -> Result<Verified, Lie> {
    let mut builder = match ClosureBuilder::new(root.clone()) {
        Ok(builder) => builder,
        Err(fault) => return Ok(Verified::BadRoot(fault.into())),
    };
    let bytes_max = directory_bytes_max(root);
    while let Some(encoded) = body.next(bytes_max)? {
        let digest = DirectoryDigest::of(&encoded);
        if !builder.is_missing(&digest) {
            return Err(Lie::Directory(digest));
        }
        let inserted = Directory::decode(encoded, &digest)
            .map_err(RootFault::from)
            .and_then(|directory| Ok(insert(&mut builder, directory, known)?));
        if let Err(fault) = inserted {
            return Ok(Verified::BadRoot(fault));
        }
    }
    if builder.next_missing().is_some() && builder.missing().all(|digest| known.has_tag_of(&digest)) {
        return Ok(Verified::Overlap);
    }
    match builder.finish() {
        Ok(closure) => Ok(Verified::Closure(Arc::new(closure))),
        Err(ClosureError::Incomplete(_)) => Err(Lie::Incomplete),
        Err(fault) => Ok(Verified::BadRoot(fault.into())),
    }
}

/// Takes a Directory, and all beneath it that is known and was therefore left out.
fn insert(builder: &mut ClosureBuilder, directory: Directory, known: &Known) -> Result<(), ClosureError> {
    let mut next = vec![directory];
    while let Some(directory) = next.pop() {
        for (_, node) in &directory {
            if let Node::Directory { digest, .. } = node {
                next.extend(known.get(digest).cloned());
            }
        }
        builder.insert(directory)?;
    }
    Ok(())
}

fn batch(mut body: Body, blobs: &[BlobRef]) -> Result<Verified, Lie> {
    let answer = |blob: &BlobRef| Ok((*blob, batch_answer(*blob, item(&mut body, BATCH_ITEM_BYTES_MAX)?)?));
    let answers = blobs.iter().map(answer).collect::<Result<_, Lie>>()?;
    ends(body)?;
    Ok(Verified::Batch(answers))
}

fn batch_answer(blob: BlobRef, item: proto::BatchItem) -> Result<BatchAnswer, Lie> {
    match proto::Status::try_from(item.status).unwrap_or(proto::Status::Missing) {
        proto::Status::Ok => {}
        _ if !item.contents.is_empty() => return Err(Lie::NotAsked),
        proto::Status::Missing => return Ok(BatchAnswer::Missing),
        proto::Status::Busy => return Ok(BatchAnswer::Busy),
        proto::Status::Refused => return Ok(BatchAnswer::TooLarge),
    }
    let actual = item.contents.len() as u64;
    let proven = VerifiedSpan::whole(BlobRef { size: actual, ..blob }, item.contents)
        .map_err(|source| Lie::Blob { blob, source })?;
    if actual == blob.size {
        Ok(BatchAnswer::Here(proven))
    } else {
        Ok(BatchAnswer::OtherSize(RootFault::BlobSize { blob, actual }))
    }
}

fn have(mut body: Body, with_tree: bool, blobs: &[BlobRef]) -> Result<Verified, Lie> {
    let mut runs_left = RUNS_MAX;
    let mut said = |blob| -> Result<Presence, Lie> {
        Ok(presence(item(&mut body, HAVE_ITEM_BYTES_MAX)?, blob, &mut runs_left))
    };
    let tree = with_tree.then(|| said(None)).transpose()?;
    let blobs = blobs.iter().map(|blob| Ok((*blob, said(Some(*blob))?))).collect::<Result<_, Lie>>()?;
    ends(body)?;
    Ok(Verified::Have { tree, blobs })
}

/// What is of another length than the asker believes is not what it asks about. Runs beyond those that are left are not
/// heard of: they are asked about again.
fn presence(item: proto::HaveItem, blob: Option<BlobRef>, runs_left: &mut usize) -> Presence {
    match proto::Status::try_from(item.status).unwrap_or(proto::Status::Missing) {
        proto::Status::Ok if blob.is_some_and(|blob| blob.size != item.size) => Presence::Missing,
        proto::Status::Ok if item.partial => {
            let bitmap = &item.groups[..item.groups.len().min(blob.as_ref().map_or(0, bitmap_bytes))];
            let groups = Groups::from_bitmap(bitmap, *runs_left);
            *runs_left -= groups.run_count();
            Presence::Partial(groups)
        }
        proto::Status::Ok => Presence::Whole,
        proto::Status::Missing | proto::Status::Busy | proto::Status::Refused => Presence::Missing,
    }
}

/// The next item, which has to be there.
fn item<M: prost::Message + Default>(body: &mut Body, bytes_max: usize) -> Result<M, Lie> {
    let item = body.next(bytes_max)?.ok_or(Lie::Incomplete)?;
    Ok(M::decode(item).map_err(FrameError::from)?)
}

/// Nothing may follow what was asked for.
fn ends(mut body: Body) -> Result<(), Lie> {
    match body.next(usize::MAX)? {
        None => Ok(()),
        Some(_) => Err(Lie::NotAsked),
    }
}
