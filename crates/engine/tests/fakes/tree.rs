//! Trees in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use firn_castore::{BlobRef, Closure, ClosureBuilder, Directory, Node, Root};
use firn_nix::{NarLayout, write_nar};
use firn_store::{Store, conformance};

/// A tree with all its contents.
pub(crate) struct Tree {
    pub(crate) closure: Arc<Closure>,
    pub(crate) nar: Vec<u8>,
    blobs: BTreeMap<BlobRef, Vec<u8>>,
}

/// A tree of these files, by their paths; those that lie in `bin` are executable. A symlink comes along.
pub(crate) fn tree(files: &[(&str, Vec<u8>)]) -> Tree {
    let mut directories = Vec::new();
    let files = files.iter().map(|(path, contents)| (*path, contents.clone()));
    let blobs = files.clone().map(|(_, contents)| (BlobRef::of(&contents), contents)).collect();
    let node = directory(files.collect(), false, &mut directories);
    finish(node, directories, blobs)
}

/// A tree that is one file.
pub(crate) fn file(contents: Vec<u8>) -> Tree {
    let blob = BlobRef::of(&contents);
    finish(Node::File { blob, executable: false }, Vec::new(), BTreeMap::from([(blob, contents)]))
}

/// Bytes that no other seed gives.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(|_| next()).collect()
}

/// A tree with small files, an empty one, and one that takes several requests.
pub(crate) fn varied(seed: u64) -> Tree {
    tree(&[
        ("bin/program", noise(seed, 20_000)),
        ("share/doc/empty", Vec::new()),
        ("share/doc/small", noise(seed + 1, 100)),
        ("share/large", noise(seed + 2, 3 << 20)),
        ("zero", vec![0; 5]),
    ])
}

impl Tree {
    pub(crate) fn root(&self) -> Root {
        self.closure.root().clone()
    }

    /// Puts all of it into a store; nothing is committed.
    pub(crate) fn keep(&self, store: &dyn Store) {
        self.keep_all_but(store, b"no file has these contents");
    }

    /// Puts all but one file into a store.
    pub(crate) fn keep_all_but(&self, store: &dyn Store, left_out: &[u8]) {
        for contents in self.blobs.values().filter(|contents| *contents != left_out) {
            conformance::add(store, contents);
        }
        let directories: Vec<_> = self.closure.directories().cloned().collect();
        store.keep_directories(&directories).unwrap();
    }

    /// Whether all contents are in a store.
    pub(crate) fn is_in(&self, store: &dyn Store) -> bool {
        self.blobs.keys().all(|blob| store.has_blob(&blob.digest).unwrap() == Some(blob.size))
    }
}

fn directory(files: Vec<(&str, Vec<u8>)>, executable: bool, all: &mut Vec<Directory>) -> Node {
    let mut beneath: BTreeMap<&str, Vec<(&str, Vec<u8>)>> = BTreeMap::new();
    let mut entries = vec![("link", Node::Symlink { target: b"target".as_slice().try_into().unwrap() })];
    for (path, contents) in files {
        match path.split_once('/') {
            Some((first, rest)) => beneath.entry(first).or_default().push((rest, contents)),
            None => entries.push((path, Node::File { blob: BlobRef::of(&contents), executable })),
        }
    }
    for (name, files) in beneath {
        entries.push((name, directory(files, name == "bin", all)));
    }
    let entries = entries.into_iter().map(|(name, node)| (name.try_into().unwrap(), node));
    let directory = Directory::build(entries).unwrap();
    let node = directory.node();
    all.push(directory);
    node
}

fn finish(node: Node, directories: Vec<Directory>, blobs: BTreeMap<BlobRef, Vec<u8>>) -> Tree {
    let mut builder = ClosureBuilder::new(Root::from(node)).unwrap();
    // They were built from the leaves up, and a closure wants parents first.
    for directory in directories.into_iter().rev() {
        if builder.is_missing(&directory.digest()) {
            builder.insert(directory).unwrap();
        }
    }
    let closure = Arc::new(builder.finish().unwrap());
    let mut nar = Vec::new();
    let layout = NarLayout::new(closure.clone()).unwrap();
    write_nar(&layout, &mut nar, |blob, out| out.write_all(&blobs[&blob])).unwrap();
    Tree { closure, nar, blobs }
}
