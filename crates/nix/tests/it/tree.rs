//! Trees in memory, their closures, and a writer of NARs that knows nothing of layouts.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    io::{self, Read},
    os::unix::{ffi::OsStrExt, fs::PermissionsExt, fs::symlink},
    path::Path,
    sync::Arc,
};

use bytes::Bytes;
use firn_castore::{BlobDigest, BlobRef, Closure, ClosureBuilder, Directory, Node, PathComponent};
use firn_nix::{NarEvent, NarLayout, NarReader, Segment, write_nar};

type Entries = BTreeMap<Vec<u8>, Tree>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Tree {
    File { contents: Bytes, executable: bool },
    Symlink(Vec<u8>),
    Directory(Entries),
}

pub(crate) fn file(contents: impl Into<Bytes>) -> Tree {
    Tree::File { contents: contents.into(), executable: false }
}

pub(crate) fn program(contents: impl Into<Bytes>) -> Tree {
    Tree::File { contents: contents.into(), executable: true }
}

pub(crate) fn link(target: &str) -> Tree {
    Tree::Symlink(target.into())
}

pub(crate) fn directory<const N: usize>(entries: [(&[u8], Tree); N]) -> Tree {
    Tree::Directory(entries.map(|(name, tree)| (name.to_vec(), tree)).into())
}

impl Tree {
    pub(crate) fn write(&self, path: &Path) {
        match self {
            Tree::File { contents, executable } => {
                fs::write(path, contents).unwrap();
                let mode = if *executable { 0o755 } else { 0o644 };
                fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
            }
            Tree::Symlink(target) => symlink(OsStr::from_bytes(target), path).unwrap(),
            Tree::Directory(entries) => {
                fs::create_dir(path).unwrap();
                for (name, tree) in entries {
                    tree.write(&path.join(OsStr::from_bytes(name)));
                }
            }
        }
    }

    /// The NAR, written as its grammar says, step by step.
    pub(crate) fn nar(&self) -> Vec<u8> {
        let mut nar = Vec::new();
        put(&mut nar, b"nix-archive-1");
        self.put(&mut nar);
        nar
    }

    fn put(&self, nar: &mut Vec<u8>) {
        put(nar, b"(");
        put(nar, b"type");
        match self {
            Tree::File { contents, executable } => {
                put(nar, b"regular");
                if *executable {
                    put(nar, b"executable");
                    put(nar, b"");
                }
                put(nar, b"contents");
                put(nar, contents);
            }
            Tree::Symlink(target) => {
                put(nar, b"symlink");
                put(nar, b"target");
                put(nar, target);
            }
            Tree::Directory(entries) => {
                put(nar, b"directory");
                for (name, tree) in entries {
                    for string in [&b"entry"[..], b"(", b"name", name, b"node"] {
                        put(nar, string);
                    }
                    tree.put(nar);
                    put(nar, b")");
                }
            }
        }
        put(nar, b")");
    }
}

fn put(nar: &mut Vec<u8>, string: &[u8]) {
    nar.extend((string.len() as u64).to_le_bytes());
    nar.extend(string);
    nar.resize(nar.len().next_multiple_of(8), 0);
}

/// A closure and the contents of its files.
pub(crate) struct Built {
    pub(crate) layout: NarLayout,
    blobs: BTreeMap<BlobDigest, Bytes>,
}

impl Built {
    pub(crate) fn new(tree: &Tree) -> Self {
        let (mut directories, mut blobs) = (Vec::new(), BTreeMap::new());
        let top = node(tree, &mut directories, &mut blobs);
        let closure = Arc::new(closure(top, directories));
        Self { layout: NarLayout::new(closure).unwrap(), blobs }
    }

    pub(crate) fn blob(&self, blob: &BlobRef) -> &Bytes {
        &self.blobs[&blob.digest]
    }

    /// The bytes that these segments stand for.
    pub(crate) fn render(&self, segments: impl Iterator<Item = Segment>) -> Vec<u8> {
        let mut bytes = Vec::new();
        for segment in segments {
            match segment {
                Segment::Literal(literal) => bytes.extend(literal),
                Segment::Blob { blob, range } => {
                    bytes.extend(&self.blob(&blob)[range.start as usize..range.end as usize]);
                }
            }
        }
        bytes
    }

    pub(crate) fn write_nar(&self, out: &mut dyn io::Write) {
        write_nar(&self.layout, out, |blob, out| out.write_all(self.blob(&blob))).unwrap();
    }
}

/// A closure of directories in any order.
pub(crate) fn closure(top: Node, directories: Vec<Directory>) -> Closure {
    let by_digest: BTreeMap<_, _> = directories.into_iter().map(|of| (of.digest(), of)).collect();
    let mut builder = ClosureBuilder::new(top.into()).unwrap();
    while let Some(digest) = { builder.missing().next() } {
        builder.insert(by_digest[&digest].clone()).unwrap();
    }
    builder.finish().unwrap()
}

fn node(tree: &Tree, directories: &mut Vec<Directory>, blobs: &mut BTreeMap<BlobDigest, Bytes>) -> Node {
    match tree {
        Tree::File { contents, executable } => {
            let blob = BlobRef::of(contents);
            blobs.insert(blob.digest, contents.clone());
            Node::File { blob, executable: *executable }
        }
        Tree::Symlink(target) => Node::Symlink { target: target[..].try_into().unwrap() },
        Tree::Directory(entries) => {
            let entries: Vec<_> = entries
                .iter()
                .map(|(name, tree)| (name[..].try_into().unwrap(), node(tree, directories, blobs)))
                .collect();
            let directory = Directory::build(entries).unwrap();
            let node = directory.node();
            directories.push(directory);
            node
        }
    }
}

/// The tree that a NAR holds.
pub(crate) fn parse(nar: impl Read) -> Tree {
    let mut reader = NarReader::new(nar);
    let mut open: Vec<(Option<PathComponent>, Entries)> = Vec::new();
    let mut top = None;
    while let Some(event) = reader.next().unwrap() {
        let (name, tree) = match event {
            NarEvent::Open { name } => {
                open.push((name, BTreeMap::new()));
                continue;
            }
            NarEvent::Close => {
                let (name, entries) = open.pop().unwrap();
                (name, Tree::Directory(entries))
            }
            NarEvent::Symlink { name, target } => (name, Tree::Symlink(target.as_bytes().to_vec())),
            NarEvent::File { name, executable, size } => {
                let mut contents = Vec::new();
                reader.contents().read_to_end(&mut contents).unwrap();
                assert_eq!(contents.len() as u64, size);
                (name, Tree::File { contents: contents.into(), executable })
            }
        };
        match (open.last_mut(), name) {
            (Some((_, entries)), Some(name)) => {
                assert_eq!(entries.insert(name.as_bytes().to_vec(), tree), None);
            }
            (None, None) => assert_eq!(top.replace(tree), None),
            (open, name) => panic!("{name:?} in {open:?}"),
        }
    }
    reader.finish().unwrap();
    top.unwrap()
}
