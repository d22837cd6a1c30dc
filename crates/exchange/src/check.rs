//! What of a reply is proven.

use std::sync::Arc;

use bytes::Bytes;
use firn_bao::{BLOB_BYTES_MAX, SpanError, VerifiedSpan};
use firn_castore::{
    BlobDigest, BlobRef, Closure, ClosureBuilder, ClosureError, Directory, DirectoryDigest, DirectoryError,
    Root,
};
use firn_proto::exchange as proto;
use firn_trust::{Admitted, Claim, ClaimError, Policy, Refusal};
use prost::Message;

use crate::frame::{self, FrameError};
use crate::{CLAIM_BYTES_MAX, CLAIMS_MAX, Request};

/// What a reply has proven, or has the right to say.
#[derive(Debug)]
pub enum Verified {
    /// The claims that the policy lets in. Those that no trusted key speaks for are left out.
    Claims(Vec<Admitted>),
    /// The peer has claims, and no trusted key speaks for any of them. That is no lie.
    Untrusted,
    /// All Directories beneath the root.
    Closure(Arc<Closure>),
    /// The root itself is at fault, whoever serves it.
    BadRoot(RootFault),
    /// For each blob of the batch, in order.
    Batch(Vec<(BlobRef, BatchAnswer)>),
    /// The span that was asked for.
    Span(VerifiedSpan),
    /// The peer says that the blob has another length, and has proven nothing yet: its last group would.
    OtherSize(BlobRef),
    /// For each blob that was asked about, in order.
    Have(Vec<Presence>),
    /// The peer has it not, or not for this node.
    Missing,
    /// The peer may have it, but not now.
    Busy,
    /// The peer does not serve such a request.
    Refused,
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

/// What a peer has of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    /// All of it.
    Whole,
    /// These groups: a bitmap, least significant bit first.
    Partial(Bytes),
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

/// A reply that no honest peer gives.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lie {
    /// Not the messages that the protocol wants.
    #[error("garbage: {0}")]
    Garbage(#[from] FrameError),
    /// An unknown status.
    #[error("garbage: status {0}")]
    Status(i32),
    /// A malformed claim.
    #[error("a malformed claim: {0}")]
    Claim(#[from] ClaimError),
    /// A false signature.
    #[error("{0}")]
    Signature(Refusal),
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
    /// A blob with one length, then with another.
    #[error("two lengths for blob {0}")]
    TwoSizes(BlobDigest),
    /// The reply was longer than any honest one.
    #[error("more than an honest reply can have")]
    TooMuch,
}

/// Checks a whole reply against what was asked. Pure; it hashes all that came.
pub fn check(request: &Request, mut reply: Bytes, policy: &Policy) -> Result<Verified, Lie> {
    if reply.len() > request.reply_bytes_max() {
        return Err(Lie::TooMuch);
    }
    let header: proto::ReplyHeader = frame::take_message(&mut reply)?;
    match proto::Status::try_from(header.status).map_err(|_| Lie::Status(header.status))? {
        proto::Status::Ok => {}
        _ if !reply.is_empty() => return Err(Lie::NotAsked),
        proto::Status::Missing => return Ok(Verified::Missing),
        proto::Status::Busy => return Ok(Verified::Busy),
        proto::Status::Refused => return Ok(Verified::Refused),
    }
    match request {
        Request::Path(hash) => claims(reply, policy, |claim| claim.facts.path.hash() == hash),
        Request::Closure(root) => closure(reply, root),
        Request::Batch(blobs) => batch(reply, blobs),
        Request::Ranges { blob, span } => match VerifiedSpan::verify(*blob, *span, &reply) {
            Ok(span) => Ok(Verified::Span(span)),
            Err(SpanError::Size { header, .. }) if header <= BLOB_BYTES_MAX => {
                Ok(Verified::OtherSize(BlobRef { size: header, ..*blob }))
            }
            Err(source) => Err(Lie::Blob { blob: *blob, source }),
        },
        Request::Have(digests) => {
            let presences = items(reply, digests.len())?;
            Ok(Verified::Have(presences.into_iter().map(presence).collect::<Result<_, _>>()?))
        }
    }
}

fn claims(mut body: Bytes, policy: &Policy, asked: impl Fn(&Claim) -> bool) -> Result<Verified, Lie> {
    let mut admitted = Vec::new();
    let mut is_untrusted = false;
    for count in 0.. {
        if body.is_empty() {
            break;
        }
        let item = frame::take(&mut body)?;
        if item.len() > CLAIM_BYTES_MAX {
            return Err(Lie::TooMuch);
        }
        let message = proto::Claim::decode(item).map_err(FrameError::from)?;
        let claim = Claim::from_proto(message)?;
        if count == CLAIMS_MAX || !asked(&claim) {
            return Err(Lie::NotAsked);
        }
        match policy.admit(claim) {
            Ok(claim) => admitted.push(claim),
            Err(Refusal::NoTrustedKey) => is_untrusted = true,
            Err(lie) => return Err(Lie::Signature(lie)),
        }
    }
    Ok(if admitted.is_empty() && is_untrusted { Verified::Untrusted } else { Verified::Claims(admitted) })
}

fn closure(mut body: Bytes, root: &Root) -> Result<Verified, Lie> {
    let mut builder = match ClosureBuilder::new(root.clone()) {
        Ok(builder) => builder,
        Err(fault) => return Ok(Verified::BadRoot(fault.into())),
    };
    while !body.is_empty() {
        let encoded = frame::take(&mut body)?;
        let digest = DirectoryDigest::of(&encoded);
        if !builder.is_missing(&digest) {
            return Err(Lie::Directory(digest));
        }
        let inserted = Directory::decode(encoded, &digest)
            .map_err(RootFault::from)
            .and_then(|directory| Ok(builder.insert(directory)?));
        if let Err(fault) = inserted {
            return Ok(Verified::BadRoot(fault));
        }
    }
    match builder.finish() {
        Ok(closure) => Ok(Verified::Closure(Arc::new(closure))),
        Err(ClosureError::Incomplete(_)) => Err(Lie::Incomplete),
        Err(fault) => Ok(Verified::BadRoot(fault.into())),
    }
}

fn batch(body: Bytes, blobs: &[BlobRef]) -> Result<Verified, Lie> {
    let items: Vec<proto::BatchItem> = items(body, blobs.len())?;
    let answers = blobs.iter().zip(items).map(|(blob, item)| Ok((*blob, batch_answer(*blob, item)?)));
    Ok(Verified::Batch(answers.collect::<Result<_, Lie>>()?))
}

fn batch_answer(blob: BlobRef, item: proto::BatchItem) -> Result<BatchAnswer, Lie> {
    match proto::Status::try_from(item.status).map_err(|_| Lie::Status(item.status))? {
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

fn presence(item: proto::HaveItem) -> Result<Presence, Lie> {
    match proto::Status::try_from(item.status).map_err(|_| Lie::Status(item.status))? {
        proto::Status::Ok if item.groups.is_empty() => Ok(Presence::Whole),
        proto::Status::Ok => Ok(Presence::Partial(item.groups)),
        proto::Status::Missing | proto::Status::Busy | proto::Status::Refused => Ok(Presence::Missing),
    }
}

fn items<M: prost::Message + Default>(mut body: Bytes, count: usize) -> Result<Vec<M>, Lie> {
    let mut items = Vec::with_capacity(count);
    while !body.is_empty() {
        if items.len() == count {
            return Err(Lie::NotAsked);
        }
        items.push(frame::take_message(&mut body)?);
    }
    if items.len() == count { Ok(items) } else { Err(Lie::Incomplete) }
}
