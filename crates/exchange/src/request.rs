//! What can be asked of a peer, on both sides of the wire.

use bytes::Bytes;
use firn_bao::{GROUP_BYTES, Span};
use firn_castore::{
    BlobDigest, BlobRef, DIRECTORY_BYTES_MAX, DigestError, ENTRIES_MAX, Node, Root, RootError,
};
use firn_nix::StorePathHash;
use firn_proto::exchange as proto;
use prost::Message;

use crate::fields::count;
use crate::frame::{self, FrameError};
use crate::known::{Known, Tags};

/// The longest request, in bytes: one with the most digests or tags takes half of it.
pub const REQUEST_BYTES_MAX: usize = 256 << 10;
/// The most claims in a reply.
pub const CLAIMS_MAX: usize = 16;
/// The longest claim, in bytes: one with the most references, all with the longest names, is shorter. What is longer is not
/// even taken apart, for a message of nothing but empty items would take many times its length.
pub const CLAIM_BYTES_MAX: usize = 5 << 20;
/// The most bytes of claims in a reply: all but the longest come with others.
pub const CLAIMS_BYTES_MAX: usize = 2 * CLAIM_BYTES_MAX;
/// The most bytes of Directories in a reply.
pub const CLOSURE_BYTES_MAX: usize = 256 << 20;
/// The most blobs in a batch.
pub const BATCH_BLOBS_MAX: usize = 1024;
/// The most bytes of blobs in a batch.
pub const BATCH_BYTES_MAX: u64 = 4 << 20;
/// The longest blob that goes inline in a batch, in bytes.
pub const INLINE_BYTES_MAX: u64 = 64 << 10;
/// The most groups in one `Ranges` request: 4 MiB.
pub const SPAN_GROUPS_MAX: u64 = (4 << 20) / GROUP_BYTES;
/// The most blobs in one `Have` request.
pub const HAVE_BLOBS_MAX: usize = 4096;
/// The longest bitmap of one blob, in bytes: of a blob of 128 GiB. What is past that counts as absent.
pub const BITMAP_BYTES_MAX: usize = 1 << 20;
/// The most runs of groups that are heard of in one reply, and remembered of one peer for one tree: a bitmap of every other
/// group takes a hundred times its length. What is past them counts as absent until it is asked about again.
pub const RUNS_MAX: usize = 1 << 13;

/// The most bytes of bitmaps in a reply. A blob whose bitmap would be over it is told of as far as they reach.
pub const BITMAPS_BYTES_MAX: usize = 4 << 20;

/// A run of groups in memory, about.
const RUN_BYTES: usize = 32;
/// A frame's length prefix and a status.
const ITEM_OVERHEAD_BYTES: usize = 32;
/// The longest items of a batch and of what is there.
pub(crate) const BATCH_ITEM_BYTES_MAX: usize = INLINE_BYTES_MAX as usize + ITEM_OVERHEAD_BYTES;
pub(crate) const HAVE_ITEM_BYTES_MAX: usize = BITMAP_BYTES_MAX + ITEM_OVERHEAD_BYTES;
/// What a header takes, and what compression adds to bytes that it does not help with.
const REPLY_OVERHEAD_BYTES: usize = 64 << 10;

/// The fields of a request that hold lists of digests, and theirs that hold the digests.
const BATCH_FIELD: u32 = 3;
const HAVE_FIELD: u32 = 5;
const DIGESTS_FIELD: u32 = 1;

/// What this node asks of a peer. It names blobs with the lengths that it believes, which stay at home.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Who vouches for which root of this store path?
    Path(StorePathHash),
    /// The Directories beneath this root, parents first.
    Closure {
        /// This root.
        root: Root,
        /// Without these.
        known: Known,
    },
    /// Small blobs, inline.
    Batch(Vec<BlobRef>),
    /// Groups of one blob with their proof.
    Ranges {
        /// Of this blob.
        blob: BlobRef,
        /// These groups.
        span: Span,
    },
    /// What is there?
    Have {
        /// Of this tree.
        root: Option<Root>,
        /// Of these blobs.
        blobs: Vec<BlobRef>,
    },
}

/// What a peer asks of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// See [`Request::Path`].
    Path(StorePathHash),
    /// See [`Request::Closure`].
    Closure {
        /// This root.
        root: Root,
        /// Without what has these tags.
        have: Tags,
    },
    /// See [`Request::Batch`].
    Batch(Vec<BlobDigest>),
    /// See [`Request::Ranges`].
    Ranges {
        /// Of this blob.
        digest: BlobDigest,
        /// These groups.
        span: Span,
    },
    /// See [`Request::Have`].
    Have {
        /// Of this tree.
        root: Option<Root>,
        /// Of these blobs.
        digests: Vec<BlobDigest>,
    },
}

/// A request as it came, and what its asker takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// What is asked.
    pub asked: Asked,
    /// Whether the body may be compressed.
    pub takes_zstd: bool,
}

/// Why a request cannot be answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Not one length-prefixed message.
    #[error("the request is no message: {0}")]
    Frame(#[from] FrameError),
    /// Something follows the message.
    #[error("{0} bytes follow the request")]
    TooMuch(usize),
    /// None of the kinds that this version knows.
    #[error("the request is of an unknown kind")]
    Unknown,
    /// More than may be asked at once.
    #[error("{count} {what} are asked for, more than {max}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count: u64,
        /// How many there may be.
        max: u64,
    },
    /// A digest of the wrong length.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// A store path hash of the wrong length.
    #[error("a store path hash has 20 bytes, not {0}")]
    StorePathHash(usize),
    /// No root.
    #[error(transparent)]
    Root(#[from] RootError),
    /// Tags that are cut off, or too many.
    #[error("the tags of Directories that are there are cut off, or too many")]
    Tags,
    /// An empty range, or one that no blob can have.
    #[error("the range of groups is empty, backwards or too far out")]
    Range,
}

impl Request {
    /// Its kind in one word, as a log has it.
    pub fn kind(&self) -> &'static str {
        match self {
            Request::Path(_) => "path",
            Request::Closure { .. } => "closure",
            Request::Batch(_) => "batch",
            Request::Ranges { .. } => "ranges",
            Request::Have { .. } => "have",
        }
    }

    /// The bytes that go over the wire. `takes_zstd` allows the body of the reply to be compressed.
    pub fn encode(&self, takes_zstd: bool) -> Bytes {
        use proto::request::Request as Kind;
        let digest = |digest: &[u8; 32]| Bytes::copy_from_slice(digest);
        let kind = match self {
            Request::Path(hash) => {
                Kind::Path(proto::PathRequest { hash: Bytes::copy_from_slice(hash.as_bytes()) })
            }
            Request::Closure { root, known } => {
                Kind::Closure(proto::ClosureRequest { root: root.to_bytes().into(), have: known.to_tags() })
            }
            Request::Batch(blobs) => Kind::Batch(proto::BatchRequest {
                digests: blobs.iter().map(|blob| digest(blob.digest.as_bytes())).collect(),
            }),
            Request::Ranges { blob, span } => {
                let range = proto::GroupRange { start: span.groups().start, end: span.groups().end };
                Kind::Ranges(proto::RangesRequest {
                    digest: digest(blob.digest.as_bytes()),
                    range: Some(range),
                })
            }
            Request::Have { root, blobs } => Kind::Have(proto::HaveRequest {
                digests: blobs.iter().map(|blob| digest(blob.digest.as_bytes())).collect(),
                root: root.as_ref().map(|root| root.to_bytes().into()).unwrap_or_default(),
            }),
        };
        frame::put_message(&proto::Request { request: Some(kind), zstd: takes_zstd })
    }

    /// The longest reply that an honest peer gives to this, in bytes.
    pub fn reply_bytes_max(&self) -> usize {
        self.body_bytes_max() + REPLY_OVERHEAD_BYTES
    }

    /// The longest body that an honest peer gives to this, in bytes, not compressed.
    pub(crate) fn body_bytes_max(&self) -> usize {
        let body = match self {
            Request::Path(_) => CLAIMS_BYTES_MAX,
            Request::Closure { root, .. } => closure_bytes_max(root),
            Request::Batch(blobs) => batch_bytes_max(blobs.len()),
            Request::Ranges { span, .. } => span_bytes_max(*span),
            Request::Have { blobs, .. } => (blobs.len() + 1) * ITEM_OVERHEAD_BYTES + BITMAPS_BYTES_MAX,
        };
        body.min(CLOSURE_BYTES_MAX)
    }

    /// What of a compressed reply is held at once while it is checked, in bytes: the longest item, and what is made of it
    /// before it is known to be false.
    pub(crate) fn expanded_bytes_max(&self) -> usize {
        match self {
            Request::Path(_) => 3 * CLAIM_BYTES_MAX,
            Request::Closure { root, .. } => directory_bytes_max(root),
            Request::Batch(_) | Request::Ranges { .. } => self.body_bytes_max(),
            Request::Have { .. } => HAVE_ITEM_BYTES_MAX + RUNS_MAX * RUN_BYTES,
        }
    }
}

fn batch_bytes_max(blobs: usize) -> usize {
    let contents = blobs.saturating_mul(INLINE_BYTES_MAX as usize).min(BATCH_BYTES_MAX as usize);
    contents + blobs * ITEM_OVERHEAD_BYTES
}

/// An entry is at most a symlink with the longest name and target.
fn closure_bytes_max(root: &Root) -> usize {
    let entries = match root.node() {
        Node::Directory { size, .. } => (*size).min(ENTRIES_MAX) as usize + 1,
        Node::File { .. } | Node::Symlink { .. } => 0,
    };
    entries.saturating_mul(255 + 4095 + 2 * ITEM_OVERHEAD_BYTES)
}

/// How long a bitmap is that tells of all groups of a blob.
pub(crate) fn bitmap_bytes(blob: &BlobRef) -> usize {
    let bytes = blob.size.div_ceil(GROUP_BYTES).div_ceil(8);
    BITMAP_BYTES_MAX.min(usize::try_from(bytes).unwrap_or(usize::MAX))
}

/// The longest Directory of a tree: it has no more entries than the tree.
pub(crate) fn directory_bytes_max(root: &Root) -> usize {
    closure_bytes_max(root).min(DIRECTORY_BYTES_MAX)
}

/// Each group comes with less than one parent of its own, and all with one path from the root.
fn span_bytes_max(span: Span) -> usize {
    let groups = (span.groups().end - span.groups().start).min(SPAN_GROUPS_MAX) as usize;
    groups * (GROUP_BYTES as usize + 64) + 2 * 64 * 64
}

impl Question {
    /// Reads a request as it came over the wire.
    pub fn decode(mut bytes: Bytes) -> Result<Self, RequestError> {
        limit("bytes", bytes.len(), REQUEST_BYTES_MAX)?;
        let message = frame::take(&mut bytes)?;
        if !bytes.is_empty() {
            return Err(RequestError::TooMuch(bytes.len()));
        }
        // Counted before they are made: an empty digest takes two bytes here, and a hundred in memory.
        limit("blobs", count(&message, &[BATCH_FIELD, DIGESTS_FIELD])?, BATCH_BLOBS_MAX)?;
        limit("blobs", count(&message, &[HAVE_FIELD, DIGESTS_FIELD])?, HAVE_BLOBS_MAX)?;
        let request = proto::Request::decode(message).map_err(FrameError::from)?;
        let asked = Asked::of(request.request.ok_or(RequestError::Unknown)?)?;
        Ok(Self { asked, takes_zstd: request.zstd })
    }
}

impl Asked {
    fn of(kind: proto::request::Request) -> Result<Self, RequestError> {
        use proto::request::Request as Kind;
        Ok(match kind {
            Kind::Path(path) => {
                let hash: [u8; 20] =
                    path.hash[..].try_into().map_err(|_| RequestError::StorePathHash(path.hash.len()))?;
                Asked::Path(hash.into())
            }
            Kind::Closure(closure) => Asked::Closure {
                root: Root::from_bytes(&closure.root)?,
                have: Tags::from_bytes(&closure.have).ok_or(RequestError::Tags)?,
            },
            Kind::Batch(batch) => Asked::Batch(digests(&batch.digests)?),
            Kind::Ranges(ranges) => {
                let range = ranges.range.ok_or(RequestError::Range)?;
                let span = Span::from_groups(range.start..range.end).ok_or(RequestError::Range)?;
                limit("groups", (range.end - range.start) as usize, SPAN_GROUPS_MAX as usize)?;
                Asked::Ranges { digest: ranges.digest[..].try_into()?, span }
            }
            Kind::Have(have) => Asked::Have {
                root: (!have.root.is_empty()).then(|| Root::from_bytes(&have.root)).transpose()?,
                digests: digests(&have.digests)?,
            },
        })
    }
}

fn limit(what: &'static str, count: usize, max: usize) -> Result<(), RequestError> {
    if count > max {
        return Err(RequestError::TooMany { what, count: count as u64, max: max as u64 });
    }
    Ok(())
}

fn digests(digests: &[Bytes]) -> Result<Vec<BlobDigest>, RequestError> {
    Ok(digests.iter().map(|digest| BlobDigest::try_from(&digest[..])).collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn requests() -> impl Strategy<Value = Request> {
        let digest = any::<[u8; 32]>();
        let blob = (digest, any::<u64>()).prop_map(|(digest, size)| BlobRef { digest: digest.into(), size });
        prop_oneof![
            any::<[u8; 20]>().prop_map(|hash| Request::Path(hash.into())),
            (digest, any::<u64>()).prop_map(|(digest, size)| {
                Request::Closure {
                    root: Node::Directory { digest: digest.into(), size }.into(),
                    known: Known::default(),
                }
            }),
            prop::collection::vec(blob.clone(), 0..20).prop_map(Request::Batch),
            (blob.clone(), 0u64..1 << 30, 1..=SPAN_GROUPS_MAX).prop_map(|(blob, start, length)| {
                Request::Ranges { blob, span: Span::from_groups(start..start + length).unwrap() }
            }),
            prop::collection::vec(blob, 0..20).prop_map(|blobs| Request::Have { root: None, blobs }),
            (digest, any::<u64>()).prop_map(|(digest, size)| {
                let root = Node::Directory { digest: digest.into(), size }.into();
                Request::Have { root: Some(root), blobs: Vec::new() }
            }),
        ]
    }

    fn digests_of(blobs: Vec<BlobRef>) -> Vec<BlobDigest> {
        blobs.into_iter().map(|blob| blob.digest).collect()
    }

    fn as_asked(request: Request) -> Asked {
        match request {
            Request::Path(hash) => Asked::Path(hash),
            Request::Closure { root, known } => {
                Asked::Closure { root, have: Tags::from_bytes(&known.to_tags()).unwrap() }
            }
            Request::Batch(blobs) => Asked::Batch(digests_of(blobs)),
            Request::Ranges { blob, span } => Asked::Ranges { digest: blob.digest, span },
            Request::Have { root, blobs } => Asked::Have { root, digests: digests_of(blobs) },
        }
    }

    proptest! {
        #[test]
        fn over_the_wire(request in requests(), takes_zstd in any::<bool>()) {
            let question = Question::decode(request.encode(takes_zstd)).unwrap();
            prop_assert_eq!(question, Question { asked: as_asked(request), takes_zstd });
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Question::decode(bytes.into());
        }

        #[test]
        fn altered_requests_never_panic(
            request in requests(), at in any::<prop::sample::Index>(), byte in any::<u8>()
        ) {
            let mut bytes = request.encode(true).to_vec();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = Question::decode(bytes.into());
        }
    }

    #[test]
    fn too_many_blobs_are_refused() {
        let request = Request::Batch(vec![BlobRef::of(b"1"); BATCH_BLOBS_MAX + 1]);
        let error = RequestError::TooMany { what: "blobs", count: 1025, max: 1024 };
        assert_eq!(Question::decode(request.encode(false)), Err(error));
    }

    #[test]
    fn the_longest_requests_are_short_enough() {
        let root: Root = Node::Symlink { target: vec![b'x'; 4095].as_slice().try_into().unwrap() }.into();
        let blobs = vec![BlobRef::of(b"1"); HAVE_BLOBS_MAX];
        let have = Request::Have { root: Some(root), blobs }.encode(true);
        assert!(Question::decode(have.clone()).is_ok() && have.len() < REQUEST_BYTES_MAX / 2 + 20_000);
        const { assert!(crate::KNOWN_MAX * 8 + 5000 < REQUEST_BYTES_MAX) };
    }

    /// Also where the digests are spread over the parts of one list.
    #[test]
    fn empty_digests_are_counted_before_they_are_made() {
        let list = |field: u32, digests: usize| {
            let mut bytes = vec![(field as u8) << 3 | 2];
            prost::encoding::encode_varint(digests as u64 * 2, &mut bytes);
            [bytes, [0x0a, 0].repeat(digests)].concat()
        };
        for (field, max) in [(BATCH_FIELD, BATCH_BLOBS_MAX), (HAVE_FIELD, HAVE_BLOBS_MAX)] {
            let error = |count| RequestError::TooMany { what: "blobs", count, max: max as u64 };
            let many = list(field, 100_000);
            assert_eq!(Question::decode(frame::put(&many)), Err(error(100_000)));
            let parts = list(field, max / 2).repeat(3);
            assert_eq!(Question::decode(frame::put(&parts)), Err(error(max as u64 / 2 * 3)));
            assert!(matches!(Question::decode(frame::put(&list(field, max))), Err(RequestError::Digest(_))));
        }
    }
}
