//! Trees of a liar's own making.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use firn_bao::{Span, VerifiedSpan};
use firn_castore::{
    BlobDigest, BlobRef, Closure, ClosureBuilder, Directory, DirectoryDigest, Node, PathComponent, Root,
};
use firn_exchange::{Known, Request, SPAN_GROUPS_MAX, Shared, SharedView, Verified, answer, check};
use firn_store::{Blobs, MemoryStore};
use firn_trust::Policy;
use prost::encoding::encode_varint;

use super::{LieKind, mangle};

/// Blobs up to this length are changed first.
const CHANGED_BYTES_MAX: u64 = 4 << 20;
/// How often the bomb doubles.
const BOMB_DOUBLINGS: u32 = 60;
/// How long the file is that nobody can have.
const HUGE_BYTES: u64 = 1 << 63;
/// What a tree without contents is replaced by.
const INVENTED: &[u8] = b"nobody has built this";

/// A tree that is no store path's, with the blobs that were made for it; the others it shares with the true tree.
pub(super) struct FalseTree {
    root: Root,
    /// Parents first.
    directories: Vec<Directory>,
    made: Option<BlobDigest>,
    view: SharedView,
}

impl FalseTree {
    /// The tree that a liar of this kind puts in the place of the true one; `None` where it cannot read that.
    pub(super) fn make(kind: LieKind, truth: &SharedView, root: &Root, seed: u64) -> Option<Self> {
        match kind {
            LieKind::EntriesBomb => return bomb(),
            LieKind::FalseSizes => return false_sizes(),
            _ => {}
        }
        let closure = closure(truth, root)?;
        let longer_by_one = kind == LieKind::WrongLengthDirectory;
        let Some(target) = target(&closure, longer_by_one, seed) else {
            let longer = INVENTED.len() as u64 + u64::from(longer_by_one);
            let claimed = if kind == LieKind::HugeFile { HUGE_BYTES } else { longer };
            let blob = BlobRef { size: claimed, ..BlobRef::of(INVENTED) };
            let root = Node::File { blob, executable: false }.into();
            return Self::new(root, Vec::new(), Some(Bytes::from_static(INVENTED)));
        };
        if kind == LieKind::HugeFile {
            let claimed = BlobRef { size: HUGE_BYTES, ..target };
            return Self::altered(&closure, target.digest, claimed, None);
        }
        if longer_by_one {
            let claimed = BlobRef { size: target.size + 1, ..target };
            return Self::altered(&closure, target.digest, claimed, None);
        }
        let mut contents = BytesMut::from(&read_blob(truth, target)?[..]);
        *contents.first_mut()? ^= 1;
        let contents = contents.freeze();
        Self::altered(&closure, target.digest, BlobRef::of(&contents), Some(contents))
    }

    pub(super) fn root(&self) -> &Root {
        &self.root
    }

    /// Whether this blob was made for this tree.
    pub(super) fn has_made(&self, digest: &BlobDigest) -> bool {
        self.made.as_ref() == Some(digest)
    }

    /// Shows the blobs that were made for it.
    pub(super) fn view(&self) -> &SharedView {
        &self.view
    }

    /// The answer to a request for the closure.
    pub(super) fn closure_reply(&self) -> Bytes {
        mangle::reply(self.directories.iter().map(|directory| {
            let mut item = BytesMut::new();
            encode_varint(directory.encoded().len() as u64, &mut item);
            item.extend_from_slice(directory.encoded());
            item.freeze()
        }))
    }

    fn new(root: Root, directories: Vec<Directory>, made: Option<Bytes>) -> Option<Self> {
        let store = MemoryStore::new();
        let shared = Shared::default();
        let mut digest = None;
        if let Some(contents) = made {
            let whole = VerifiedSpan::of(contents);
            store.keep_spans(std::slice::from_ref(&whole)).ok()?;
            let blob = whole.blob();
            let file = Root::from(Node::File { blob, executable: false });
            shared.add_root(&ClosureBuilder::new(file).ok()?.finish().ok()?);
            digest = Some(blob.digest);
        }
        let view = SharedView::new(Arc::new(store), Arc::new(shared));
        Some(Self { root, directories, made: digest, view })
    }

    /// The same tree with another blob wherever it has `old`.
    fn altered(closure: &Closure, old: BlobDigest, new: BlobRef, made: Option<Bytes>) -> Option<Self> {
        let mut altered: BTreeMap<DirectoryDigest, Directory> = BTreeMap::new();
        let replace = |node: &Node, altered: &BTreeMap<DirectoryDigest, Directory>| match node {
            Node::File { blob, executable } if blob.digest == old => {
                Node::File { blob: new, executable: *executable }
            }
            Node::Directory { digest, .. } => {
                altered.get(digest).map_or_else(|| node.clone(), Directory::node)
            }
            Node::File { .. } | Node::Symlink { .. } => node.clone(),
        };
        // Children have fewer entries beneath them than their parents.
        let mut by_size: Vec<&Directory> = closure.directories().collect();
        by_size.sort_by_key(|directory| directory.size());
        for directory in by_size {
            let entries = directory.iter().map(|(name, node)| (name.clone(), replace(node, &altered)));
            altered.insert(directory.digest(), Directory::build(entries.collect::<Vec<_>>()).ok()?);
        }
        let root = Root::from(replace(closure.root().node(), &altered));
        let by_digest = altered.into_values().map(|directory| (directory.digest(), directory)).collect();
        let directories = parents_first(&root, by_digest);
        Self::new(root, directories, made)
    }
}

/// Directories, each of which holds the one below it twice.
fn bomb() -> Option<FalseTree> {
    let name = |text: &str| PathComponent::try_from(text).ok();
    let mut directories = vec![Directory::build([]).ok()?];
    for _ in 0..BOMB_DOUBLINGS {
        let below = directories.last()?.node();
        directories.push(Directory::build([(name("left")?, below.clone()), (name("right")?, below)]).ok()?);
    }
    directories.reverse();
    let root = directories.first()?.node().into();
    FalseTree::new(root, directories, None)
}

/// Three Directories, each in the one above it, which claims for it the size that it would have with the one above it
/// inside: the nearest to a cycle that digests allow.
fn false_sizes() -> Option<FalseTree> {
    let name = |text: &str| PathComponent::try_from(text).ok();
    let claimed = |directory: &Directory, size| Node::Directory { digest: directory.digest(), size };
    let bottom = Directory::build([]).ok()?;
    let middle = Directory::build([(name("below")?, claimed(&bottom, 3))]).ok()?;
    let below = [(name("below")?, claimed(&middle, 5)), (name("bottom")?, claimed(&bottom, 4))];
    let top = Directory::build(below).ok()?;
    let root = top.node().into();
    FalseTree::new(root, vec![top, middle, bottom], None)
}

fn parents_first(root: &Root, mut directories: BTreeMap<DirectoryDigest, Directory>) -> Vec<Directory> {
    let child = |node: &Node| match node {
        Node::Directory { digest, .. } => Some(*digest),
        Node::File { .. } | Node::Symlink { .. } => None,
    };
    let mut seen: BTreeSet<DirectoryDigest> = child(root.node()).into_iter().collect();
    let mut queue: VecDeque<DirectoryDigest> = seen.iter().copied().collect();
    let mut ordered = Vec::new();
    while let Some(directory) = queue.pop_front().and_then(|digest| directories.remove(&digest)) {
        let children = directory.iter().filter_map(|(_, node)| child(node));
        queue.extend(children.filter(|digest| seen.insert(*digest)));
        ordered.push(directory);
    }
    ordered
}

/// The blob to lie about: not empty, and one byte more makes the NAR no longer if that matters and can be had.
fn target(closure: &Closure, longer_by_one: bool, seed: u64) -> Option<BlobRef> {
    let mut blobs = closure.blobs();
    blobs.retain(|blob| blob.size > 0);
    let smallest = blobs.iter().copied().min_by_key(|blob| blob.size)?;
    blobs.retain(|blob| blob.size <= CHANGED_BYTES_MAX && !(longer_by_one && blob.size.is_multiple_of(8)));
    if blobs.is_empty() {
        return Some(smallest);
    }
    blobs.get((seed % blobs.len() as u64) as usize).copied()
}

fn ask(view: &SharedView, request: &Request) -> Option<Verified> {
    let reply = answer(view, request.encode(false)).collect().ok()?;
    check(request, reply, &Policy::default()).ok()
}

fn closure(view: &SharedView, root: &Root) -> Option<Arc<Closure>> {
    match ask(view, &Request::Closure { root: root.clone(), known: Known::default() })? {
        Verified::Closure(closure) => Some(closure),
        _ => None,
    }
}

fn read_blob(view: &SharedView, blob: BlobRef) -> Option<Bytes> {
    let mut contents = BytesMut::new();
    for span in Span::whole(blob.size).pieces(SPAN_GROUPS_MAX) {
        match ask(view, &Request::Ranges { blob, span })? {
            Verified::Span(span) => contents.extend_from_slice(span.bytes()),
            _ => return None,
        }
    }
    Some(contents.freeze())
}
