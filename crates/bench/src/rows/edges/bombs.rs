//! Messages that are small on the wire and would be large in memory, and peers that answer with them.
//!
//! docs/PROTOCOL.md tells how messages are framed; what stands here is written byte by byte, as no code of ours says it.

use std::{
    collections::BTreeMap,
    io::Write,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use bytes::Bytes;
use firn_castore::{BlobRef, Directory, Node, PathComponent, Root};
use firn_exchange::{Asked, Question};
use firn_net::{Answerer, BrokenOff, Peer, ReplyBody};

use super::BenchError;
use crate::{cost::start, tools::Tool};

/// Headers of replies: with a plain body, with one that is a zstd frame, and of one that has nothing.
const OK: &[u8] = &[0];
const OK_ZSTD: &[u8] = &[2, 0x10, 1];
const MISSING: &[u8] = &[2, 0x08, 1];
/// The item of a `Have` reply that promises all of a root.
const ROOT_IN_PART: &[u8] = &[2, 0x18, 1];
const MIB: usize = 1 << 20;
const SIGNATURES_BYTES: usize = 5 * MIB - 32;
const HINTS_BYTES: usize = 10 * MIB;
const ZEROS_BYTES: usize = 255 * MIB;
const BITMAP_BYTES: usize = MIB - 64;
/// The blobs of a tree that is promised, each so large that its bitmap may be long.
const BLOBS: usize = 64;
const BLOB_BYTES: u64 = 1 << 47;
const PIECE_BYTES: usize = 60_000;
const UNIT_BYTES: usize = 64 << 10;

/// What makes a reply large in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Swollen {
    /// A claim with empty signatures.
    Claims,
    /// A header of empty hints.
    Hints,
    /// Empty Directories, one after the other.
    Zeros,
    /// A bitmap for each blob.
    Bitmaps,
}

impl Swollen {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Claims => "claims",
            Self::Hints => "hints",
            Self::Zeros => "zeros",
            Self::Bitmaps => "bitmaps",
        }
    }

    /// The reply.
    pub(super) fn make(self) -> Result<Bytes, BenchError> {
        match self {
            Self::Claims => {
                // A PathInfo, in it a NarInfo, in it the signatures.
                let inner = [&[0x1a][..], &varint(SIGNATURES_BYTES)].concat();
                let outer = [&[0x0a][..], &varint(inner.len() + SIGNATURES_BYTES), &inner].concat();
                squeezed(item(&outer, SIGNATURES_BYTES, b"\x1a\0"))
            }
            Self::Hints => Ok([varint(HINTS_BYTES), b"\x22\0".repeat(HINTS_BYTES / 2)].concat().into()),
            Self::Zeros => squeezed(repeated(ZEROS_BYTES, b"\0")),
            Self::Bitmaps => {
                let size = varint(BLOB_BYTES as usize);
                let first = [&[0x10][..], &size, &[0x18, 1, 0x22], &varint(BITMAP_BYTES)].concat();
                let items = (0..BLOBS).flat_map(move |_| item(&first, BITMAP_BYTES, b"\xaa"));
                squeezed(std::iter::once(ROOT_IN_PART.to_vec()).chain(items))
            }
        }
    }
}

/// The longest request of a kind that names nothing but empty digests.
pub(super) fn empty_digests(bytes: usize) -> Vec<u8> {
    let digests = b"\x0a\0".repeat(bytes / 2);
    let message = [&[0x1a][..], &varint(digests.len()), &digests].concat();
    [varint(message.len()), message].concat()
}

/// A tree that nobody has; its only Directory names blobs of which only the size is true.
pub(super) fn promised(number: usize) -> (Root, Bytes) {
    let entries = (0..BLOBS).map(|blob| {
        let name = PathComponent::try_from(Bytes::from(format!("blob-{blob}"))).expect("it is a name");
        let blob = BlobRef { size: BLOB_BYTES, ..BlobRef::of(format!("{number} {blob}").as_bytes()) };
        (name, Node::File { blob, executable: false })
    });
    let directory = Directory::build(entries).expect("names differ, and sizes are within the limit");
    let root = Node::Directory { digest: directory.digest(), size: directory.size() }.into();
    let encoded = directory.encoded();
    (root, [OK, &varint(encoded.len()), encoded].concat().into())
}

/// A peer that answers so whatever can be answered so.
pub(super) struct Bomber {
    pub(super) swollen: Swollen,
    pub(super) reply: Bytes,
    /// The trees that it promises, and the replies that have their Directories.
    pub(super) trees: BTreeMap<Root, Bytes>,
    /// How often it has given that reply, over all peers of a row.
    pub(super) given: Arc<AtomicUsize>,
}

impl Answerer for Bomber {
    fn answer(&self, _: Peer, request: Bytes) -> Box<dyn ReplyBody> {
        let asked = Question::decode(request).map(|question| question.asked);
        let reply = match (self.swollen, asked) {
            (Swollen::Hints, _) | (Swollen::Claims, Ok(Asked::Path(_))) => self.swollen(),
            (Swollen::Zeros, Ok(Asked::Closure { .. })) => self.swollen(),
            (Swollen::Bitmaps, Ok(Asked::Closure { root, .. })) => self.trees.get(&root).cloned(),
            (Swollen::Bitmaps, Ok(Asked::Have { root: Some(_), digests })) => match digests.len() {
                0 => Some([OK, ROOT_IN_PART].concat().into()),
                _ => self.swollen(),
            },
            _ => None,
        };
        Box::new(Pieces(reply.unwrap_or(Bytes::from_static(MISSING))))
    }
}

impl Bomber {
    fn swollen(&self) -> Option<Bytes> {
        self.given.fetch_add(1, Ordering::Relaxed);
        Some(self.reply.clone())
    }
}

struct Pieces(Bytes);

impl ReplyBody for Pieces {
    fn next(&mut self) -> Result<Option<Bytes>, BrokenOff> {
        let piece = self.0.split_to(PIECE_BYTES.min(self.0.len()));
        Ok((!piece.is_empty()).then_some(piece))
    }
}

fn varint(number: usize) -> Vec<u8> {
    let (mut bytes, mut left) = (Vec::new(), number);
    while left >= 0x80 {
        bytes.push(left as u8 | 0x80);
        left >>= 7;
    }
    bytes.push(left as u8);
    bytes
}

/// An item: its beginning, and then the unit again and again.
fn item(first: &[u8], rest: usize, unit: &'static [u8]) -> impl Iterator<Item = Vec<u8>> + use<> {
    let first = [&varint(first.len() + rest), first].concat();
    std::iter::once(first).chain(repeated(rest, unit))
}

fn repeated(bytes: usize, unit: &'static [u8]) -> impl Iterator<Item = Vec<u8>> {
    let piece = unit.repeat(UNIT_BYTES / unit.len());
    let last = piece[..bytes % piece.len()].to_vec();
    std::iter::repeat_n(piece.clone(), bytes / piece.len()).chain([last])
}

/// A reply whose body is these bytes as zstd packs them best.
fn squeezed(parts: impl Iterator<Item = Vec<u8>> + Send) -> Result<Bytes, BenchError> {
    let mut command = Tool::Zstd.command()?;
    command.args(["-19", "-q", "-c"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = start(&mut command)?;
    let input = child.stdin.take();
    let failed = |source| BenchError::Start { program: "zstd".into(), source };
    let output = thread::scope(|scope| {
        let written = scope.spawn(|| {
            let Some(mut input) = input else { return Ok(()) };
            parts.into_iter().try_for_each(|part| input.write_all(&part))
        });
        let output = child.wait_with_output().map_err(failed)?;
        written.join().unwrap_or(Ok(())).map_err(failed)?;
        Ok(output)
    })?;
    Ok([OK_ZSTD, &output.stdout].concat().into())
}
