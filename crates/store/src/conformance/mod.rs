//! What every store must do, as tests that run on any of them.
#![allow(clippy::unwrap_used, clippy::panic)] // These are tests, though other crates may run them too.

mod adopted;
mod blobs;
mod intake;
mod keeping;
mod room;
mod together;
mod trees;

use std::{collections::BTreeSet, fs, path::Path};

use bytes::Bytes;
use firn_bao::{HashedBlob, HashedPiece, PIECE_BYTES, Span, VerifiedBytes, VerifiedSpan};
use firn_castore::{BlobRef, Directory, Node, PathComponent, Root};
use firn_nix::{NarFacts, NarHash, StorePath, StorePathHash};
use firn_trust::{PathFacts, StoredPath, TrustedPath};

use crate::{Blobs, Item, Store, StoreError};

type Case = fn(&dyn Store);
/// A test that needs files of its own, in this directory.
type FileCase = fn(&dyn Store, &Path);

/// Runs all tests, each on a store of its own, which must be empty; `make` may keep it at the path that it is given,
/// where there is nothing. `scratch` is an empty directory.
pub fn run(scratch: &Path, make: impl Fn(&Path) -> Box<dyn Store>) {
    let cases =
        [blobs::CASES, intake::CASES, trees::CASES, keeping::CASES, room::CASES, together::CASES].concat();
    for (i, case) in cases.into_iter().enumerate() {
        let store = make(&scratch.join(format!("store-{i}")));
        case(&*store);
        assert!(store.damaged_records().unwrap().is_empty());
    }
    for (i, case) in adopted::CASES.iter().enumerate() {
        let files = scratch.join(format!("files-{i}"));
        fs::create_dir(&files).unwrap();
        case(&*make(&scratch.join(format!("adopting-{i}"))), &files);
    }
}

/// Some bytes, different for each seed.
pub fn contents(size: u64, seed: u64) -> Bytes {
    let mut bytes = vec![0; size as usize];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes.into()
}

/// A record of a path that was added here, whose NAR hash is made up.
pub fn stored_path(name: &str, root: &Root, shared: bool) -> StoredPath {
    let hash: [u8; 20] = blake3::hash(name.as_bytes()).as_bytes()[..20].try_into().unwrap();
    let path = StorePath::new(StorePathHash::from(hash), name).unwrap();
    let nar = NarFacts { nar_hash: NarHash::of(name.as_bytes()), nar_size: 1, references: BTreeSet::new() };
    let facts = PathFacts { path, root: root.clone(), nar, deriver: None, ca: None };
    TrustedPath::added_here(facts, Vec::new(), &[]).to_stored(shared)
}

/// A directory with a large file, a small file and a directory with an empty one, and what must be kept of it.
pub fn sample(seed: u64) -> (Root, Vec<Directory>, Vec<Bytes>) {
    let blobs = vec![contents(100_000, seed), contents(100, seed), Bytes::new()];
    let file = |i: usize| Node::File { blob: BlobRef::of(&blobs[i]), executable: i == 1 };
    let inner = directory([("empty", file(2))]);
    let link = Node::Symlink { target: "small".try_into().unwrap() };
    let top = directory([("large", file(0)), ("small", file(1)), ("inner", inner.node()), ("link", link)]);
    (top.node().into(), vec![top, inner], blobs)
}

/// A Directory of these entries.
pub fn directory<'a>(entries: impl IntoIterator<Item = (&'a str, Node)>) -> Directory {
    let entries = entries.into_iter().map(|(name, node)| (PathComponent::try_from(name).unwrap(), node));
    Directory::build(entries).unwrap()
}

/// Keeps a whole blob.
pub fn add(store: &dyn Blobs, bytes: &[u8]) -> BlobRef {
    let span = VerifiedSpan::of(Bytes::copy_from_slice(bytes));
    store.keep_spans(std::slice::from_ref(&span)).unwrap();
    span.blob()
}

/// Keeps all of a [`sample`], without making it visible.
pub fn keep_sample(store: &dyn Store, seed: u64) -> Root {
    let (root, directories, blobs) = sample(seed);
    store.keep_directories(&directories).unwrap();
    for bytes in &blobs {
        add(store, bytes);
    }
    root
}

/// Copies a blob of more than one piece in, as from a file, its last piece first.
pub fn copy_in(store: &dyn Store, bytes: &Bytes) -> BlobRef {
    let incoming = store.begin_blob(bytes.len() as u64).unwrap();
    for piece in pieces(bytes).iter().rev() {
        incoming.write(piece).unwrap();
    }
    incoming.finish().unwrap()
}

fn pieces(bytes: &Bytes) -> Vec<HashedPiece> {
    let step = PIECE_BYTES as usize;
    let cut = |index: usize| bytes.slice(index * step..bytes.len().min((index + 1) * step));
    (0..bytes.len().div_ceil(step)).map(|index| HashedPiece::of(index as u64, cut(index))).collect()
}

/// Keeps a blob that stays in a file, which this writes.
fn adopt(store: &dyn Store, file: &Path, bytes: &[u8]) -> BlobRef {
    fs::write(file, bytes).unwrap();
    let blob = HashedBlob::of(bytes);
    store.adopt_blob(file, &blob).unwrap();
    blob.blob()
}

/// The bytes of a span, if they are here.
fn read(store: &dyn Store, blob: &BlobRef, span: Span) -> Option<Bytes> {
    let mut onto = VerifiedBytes::expecting(0);
    onto.push(b"before");
    let has_come = store.read_onto(&mut onto, blob, span).unwrap();
    let read = store.read_span(blob, span).unwrap();
    let behind = read.as_ref().map_or(&b""[..], |read| read.bytes());
    assert!(has_come == read.is_some() && onto[..] == [b"before", behind].concat());
    let read = read?;
    assert_eq!((read.blob(), read.span()), (*blob, span));
    Some(read.bytes().clone())
}

fn read_whole(store: &dyn Store, blob: &BlobRef) -> Option<Bytes> {
    read(store, blob, Span::whole(blob.size))
}

/// Nothing of this blob is here.
fn is_absent(store: &dyn Store, blob: &BlobRef) -> bool {
    store.has_blob(&blob.digest).unwrap().is_none()
        && store.groups(blob).unwrap().is_empty()
        && read(store, blob, groups(0, 1)).is_none()
}

/// One span of a blob, as it comes from a peer.
pub fn span_of(bytes: &Bytes, span: Span) -> VerifiedSpan {
    let hashed = HashedBlob::of(bytes);
    let size = hashed.blob().size;
    let range = span.bytes(size);
    let part = bytes.slice(range.start as usize..range.end as usize);
    let parents = hashed.outboard().parents_of(size, span).unwrap();
    VerifiedSpan::check(hashed.blob(), span, parents, part).unwrap()
}

fn groups(start: u64, end: u64) -> Span {
    Span::from_groups(start..end).unwrap()
}

fn file(blob: BlobRef) -> Node {
    Node::File { blob, executable: false }
}

/// Whether a commit was refused since this blob is missing.
fn lacks(result: Result<(), StoreError>, blob: &BlobRef) -> bool {
    matches!(result, Err(StoreError::Missing(Item::Blob(digest))) if digest == blob.digest)
}

/// What all visible things need is here and is what it was.
fn assert_sound(store: &dyn Store) {
    crate::verify_all(store, &mut |finding| panic!("{finding:?}"));
}
