//! Reads everything that is visible.

use std::{collections::BTreeSet, fmt};

use firn_bao::Span;
use firn_castore::{BlobRef, DirectoryDigest, Node, Root};
use firn_nix::StorePath;

use crate::{Item, Store, StoreError};

/// How many groups are read at a time: 1 MiB.
const READ_GROUPS: u64 = 64;

/// What a damaged item is part of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// A store path.
    Path(StorePath),
    /// A tree without a path.
    Root(Root),
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Holder::Path(path) => write!(f, "{path}"),
            Holder::Root(root) => write!(f, "{root}"),
        }
    }
}

/// Something that is not what it was.
#[derive(Debug)]
pub struct Finding {
    /// What was found: [`StoreError::Damaged`], [`StoreError::Missing`], or that something cannot be read.
    pub error: StoreError,
    /// Everything visible that it concerns.
    pub holders: Vec<Holder>,
}

/// What was read by [`verify_all`]; what several trees share counts once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verified {
    /// How many Directories.
    pub directories: u64,
    /// How many blobs.
    pub blobs: u64,
    /// How long these blobs are together.
    pub blob_bytes: u64,
    /// How many paths, and trees without one, all this belongs to.
    pub holders: u64,
    /// How many things were not what they were.
    pub findings: u64,
}

/// Reads and verifies all that is reachable from paths and roots, each thing once, and tells of what is damaged.
pub fn verify_all(store: &dyn Store, on_damage: &mut dyn FnMut(Finding)) -> Verified {
    verify_some(store, |_, _| true, on_damage)
}

/// As [`verify_all`], for the wanted ones of all paths and roots alone.
pub fn verify_some(
    store: &dyn Store,
    is_wanted: impl Fn(&Holder, &Root) -> bool,
    on_damage: &mut dyn FnMut(Finding),
) -> Verified {
    let mut verified = Verified::default();
    let mut holders = holders(store, |error| {
        verified.findings += 1;
        on_damage(Finding { error, holders: Vec::new() });
    });
    holders.retain(|(holder, root)| is_wanted(holder, root));
    verified.holders = holders.len() as u64;
    let mut seen = Seen::default();
    let mut bad = Vec::new();
    for (_, root) in &holders {
        walk(store, root, &mut seen, |thing| {
            let result = match thing {
                Thing::Directory(digest) => {
                    verified.directories += 1;
                    read_directory(store, digest)
                }
                Thing::Blob(blob) => {
                    verified.blobs += 1;
                    verified.blob_bytes += blob.size;
                    read_blob(store, blob)
                }
            };
            bad.extend(result.err().map(|error| (thing, error)));
        });
    }
    verified.findings += bad.len() as u64;
    for (thing, error) in bad {
        let concerned = holders.iter().filter(|(_, root)| concerns(store, root, thing));
        on_damage(Finding { error, holders: concerned.map(|(holder, _)| holder.clone()).collect() });
    }
    verified
}

/// Everything visible, with its root.
fn holders(store: &dyn Store, mut on_error: impl FnMut(StoreError)) -> Vec<(Holder, Root)> {
    let mut holders = Vec::new();
    match store.paths() {
        Ok(paths) => holders.extend(paths.iter().map(|p| (Holder::Path(p.path().clone()), p.root().clone()))),
        Err(error) => on_error(error),
    }
    match store.roots() {
        Ok(roots) => holders.extend(roots.into_iter().map(|(root, _)| (Holder::Root(root.clone()), root))),
        Err(error) => on_error(error),
    }
    holders
}

/// What stands beneath a root.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Thing {
    Directory(DirectoryDigest),
    Blob(BlobRef),
}

#[derive(Default)]
struct Seen {
    directories: BTreeSet<DirectoryDigest>,
    blobs: BTreeSet<BlobRef>,
}

/// Goes to all beneath a root that was not seen yet, as far as Directories can be read.
fn walk(store: &dyn Store, root: &Root, seen: &mut Seen, mut visit: impl FnMut(Thing)) {
    let mut stack = vec![root.node().clone()];
    while let Some(node) = stack.pop() {
        match node {
            Node::Symlink { .. } => {}
            Node::File { blob, .. } => {
                if seen.blobs.insert(blob) {
                    visit(Thing::Blob(blob));
                }
            }
            Node::Directory { digest, .. } => {
                if seen.directories.insert(digest) {
                    visit(Thing::Directory(digest));
                    if let Ok(Some(directory)) = store.directory(&digest) {
                        stack.extend(directory.iter().map(|(_, node)| node.clone()));
                    }
                }
            }
        }
    }
}

/// Whether something damaged stands beneath a root. This reads Directories again, which only happens after damage.
fn concerns(store: &dyn Store, root: &Root, damaged: Thing) -> bool {
    let mut found = false;
    walk(store, root, &mut Seen::default(), |thing| found |= thing == damaged);
    found
}

fn read_directory(store: &dyn Store, digest: DirectoryDigest) -> Result<(), StoreError> {
    store.directory(&digest)?.map(drop).ok_or(StoreError::Missing(Item::Directory(digest)))
}

fn read_blob(store: &dyn Store, blob: BlobRef) -> Result<(), StoreError> {
    for span in Span::whole(blob.size).pieces(READ_GROUPS) {
        store.read_span(&blob, span)?.ok_or(StoreError::Missing(Item::Blob(blob.digest)))?;
    }
    Ok(())
}
