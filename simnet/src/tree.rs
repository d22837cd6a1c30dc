//! Trees to be fetched.

use std::sync::Arc;

use bytes::Bytes;
use firn_bao::{Span, VerifiedSpan};
use firn_castore::{BlobRef, Closure, Directory, Node, PathComponent, Root, SymlinkTarget};
use firn_nix::{NarHash, NarLayout, Sha256Writer, write_nar};
use firn_store::{Blobs, Directories, MemoryStore, StoreError, closure};

use crate::dice::Dice;

/// What kind of tree it is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TreePlan {
    /// One file.
    File,
    /// One symlink.
    Symlink,
    /// A few levels of small files.
    Small,
    /// More small files than go into one batch.
    Many,
    /// Small files, and blobs of several spans.
    Large,
    /// One small file, one of a few groups, one of several spans; the same for each seed but for the bytes.
    Fixed,
    /// So many blobs of a mebibyte, and a few small files beside them.
    Mebibytes(u32),
    /// So many folders of two files of about seven kilobytes.
    Folders(u32),
}

/// A whole tree in a store.
#[derive(Clone)]
pub(crate) struct Tree {
    /// All of it, and perhaps more.
    pub(crate) store: Arc<MemoryStore>,
    /// Its Directories.
    pub(crate) closure: Arc<Closure>,
}

const EXPECT_MEMORY: &str = "a store in memory takes what is legal";
const EXPECT_LEGAL: &str = "the simulation makes legal trees";

impl Tree {
    /// Makes a tree.
    pub(crate) fn make(plan: TreePlan, dice: &mut Dice) -> Self {
        let mut maker = Maker { store: Arc::new(MemoryStore::new()), nodes: Vec::new(), dice };
        let top = match plan {
            TreePlan::File => {
                let sizes = maker.dice.pick(&[0..1, 1..1000, 16_384..16_385, 65_537..300_000]);
                maker.file(sizes)
            }
            TreePlan::Symlink => maker.symlink(),
            TreePlan::Small => maker.directory(3),
            TreePlan::Many => maker.many(),
            TreePlan::Large => maker.large(),
            TreePlan::Fixed => maker.fixed(),
            TreePlan::Mebibytes(count) => maker.mebibytes(count),
            TreePlan::Folders(count) => maker.folders(count),
        };
        Self::in_store(maker.store, &top.into())
    }

    /// A tree that is in this store.
    pub(crate) fn in_store(store: Arc<MemoryStore>, root: &Root) -> Self {
        let closure = closure(&*store, root).expect(EXPECT_MEMORY).expect(EXPECT_LEGAL);
        Self { store, closure: Arc::new(closure) }
    }

    /// Its root.
    pub(crate) fn root(&self) -> &Root {
        self.closure.root()
    }

    /// The hash and the length of its NAR.
    pub(crate) fn nar(&self) -> (NarHash, u64) {
        nar(&self.store, &self.closure).expect(EXPECT_MEMORY)
    }

    /// Its contents anew, in a store of their own.
    pub(crate) fn copy(&self) -> Arc<MemoryStore> {
        let store = MemoryStore::new();
        let directories: Vec<_> = self.closure.directories().cloned().collect();
        store.keep_directories(&directories).expect(EXPECT_MEMORY);
        for blob in self.closure.blobs() {
            let contents = self.store.read_span(&blob, Span::whole(blob.size)).expect(EXPECT_MEMORY);
            store.keep_spans(&[contents.expect("the whole tree is here")]).expect(EXPECT_MEMORY);
        }
        Arc::new(store)
    }

    /// The same tree but for one byte of one of its files; its NAR has the same length. `None` where no file has a byte.
    pub(crate) fn altered(&self) -> Option<Self> {
        let blob = self.closure.blobs().into_iter().find(|blob| blob.size > 0)?;
        let store = self.copy();
        let read = store.read_span(&blob, Span::whole(blob.size)).expect(EXPECT_MEMORY)?;
        let mut contents = read.bytes().to_vec();
        contents[0] ^= 1;
        let other = keep(&store, contents.into());
        let mut by_size: Vec<&Directory> = self.closure.directories().collect();
        by_size.sort_by_key(|directory| directory.size());
        let mut altered = std::collections::BTreeMap::new();
        let replace = |node: &Node, altered: &std::collections::BTreeMap<_, Node>| match node {
            Node::File { blob: old, executable } if *old == blob => {
                Node::File { blob: other, executable: *executable }
            }
            Node::Directory { digest, .. } => altered.get(digest).unwrap_or(node).clone(),
            Node::File { .. } | Node::Symlink { .. } => node.clone(),
        };
        for directory in by_size {
            let entries: Vec<_> =
                directory.iter().map(|(name, node)| (name.clone(), replace(node, &altered))).collect();
            let made = Directory::build(entries).expect(EXPECT_LEGAL);
            altered.insert(directory.digest(), made.node());
            store.keep_directories(&[made]).expect(EXPECT_MEMORY);
        }
        let root = replace(self.root().node(), &altered).into();
        Some(Self::in_store(store, &root))
    }
}

/// All Directories of a tree, if a store has them of an earlier fetch.
pub(crate) fn recall(store: &MemoryStore, root: &Root) -> Result<Option<Arc<Closure>>, StoreError> {
    match closure(store, root) {
        Ok(here) => Ok(here.map(Arc::new)),
        // What it claims to be is no tree: whoever is asked for it will show that.
        Err(StoreError::Tree { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Renders a NAR out of a store.
pub(crate) fn nar(store: &MemoryStore, closure: &Arc<Closure>) -> Result<(NarHash, u64), StoreError> {
    let layout = NarLayout::new(closure.clone()).expect("simulated trees are small");
    let mut hash = Sha256Writer::new();
    let written = write_nar(&layout, &mut hash, |blob, out| -> Result<(), StoreError> {
        let whole = store.read_span(&blob, Span::whole(blob.size))?;
        let whole = whole.ok_or(StoreError::Missing(firn_store::Item::Blob(blob.digest)))?;
        out.write_all(whole.bytes()).map_err(StoreError::Reader)
    });
    match written {
        Ok(()) => Ok(hash.finish()),
        Err(firn_nix::NarWriteError::Blob { source, .. }) => Err(source),
        Err(error) => Err(StoreError::Reader(std::io::Error::other(error))),
    }
}

/// Keeps a whole blob.
fn keep(store: &MemoryStore, contents: Bytes) -> BlobRef {
    let whole = VerifiedSpan::of(contents);
    store.keep_spans(std::slice::from_ref(&whole)).expect(EXPECT_MEMORY);
    whole.blob()
}

struct Maker<'a> {
    store: Arc<MemoryStore>,
    /// Those that may be used again.
    nodes: Vec<Node>,
    dice: &'a mut Dice,
}

impl Maker<'_> {
    fn blob(&mut self, size: u64) -> BlobRef {
        let contents = Bytes::from(self.dice.bytes(size as usize));
        keep(&self.store, contents)
    }

    fn file(&mut self, sizes: std::ops::Range<u64>) -> Node {
        let size = self.dice.between(sizes);
        let node = Node::File { blob: self.blob(size), executable: self.dice.percent(20) };
        self.nodes.push(node.clone());
        node
    }

    fn symlink(&mut self) -> Node {
        let length = self.dice.between(1..40) as usize;
        let target: Vec<u8> = self.dice.bytes(length).into_iter().map(|byte| byte.max(1)).collect();
        Node::Symlink { target: SymlinkTarget::try_from(Bytes::from(target)).expect(EXPECT_LEGAL) }
    }

    fn name(&mut self) -> PathComponent {
        let length = self.dice.between(1..12) as usize;
        let legal = |byte: u8| if matches!(byte, 0 | b'/' | b'.') { b'x' } else { byte };
        let bytes: Vec<u8> = self.dice.bytes(length).into_iter().map(legal).collect();
        PathComponent::try_from(Bytes::from(bytes)).expect(EXPECT_LEGAL)
    }

    fn build(&mut self, nodes: Vec<Node>) -> Node {
        let mut entries = std::collections::BTreeMap::new();
        for node in nodes {
            entries.insert(self.name(), node);
        }
        let directory = Directory::build(entries).expect(EXPECT_LEGAL);
        self.store.keep_directories(std::slice::from_ref(&directory)).expect(EXPECT_MEMORY);
        self.nodes.push(directory.node());
        directory.node()
    }

    fn directory(&mut self, levels: u32) -> Node {
        let count = self.dice.between(0..7);
        let nodes = (0..count).map(|_| self.node(levels)).collect();
        self.build(nodes)
    }

    fn node(&mut self, levels: u32) -> Node {
        match self.dice.between(0..100) {
            0..25 if levels > 0 => self.directory(levels - 1),
            25..32 => self.symlink(),
            32..42 if !self.nodes.is_empty() => self.dice.pick(&self.nodes.clone()),
            42..46 => self.file(0..1),
            46..52 => self.file(65_537..250_000),
            52..70 => self.file(1000..65_537),
            _ => self.file(1..1000),
        }
    }

    fn many(&mut self) -> Node {
        let count = self.dice.between(300..700);
        let files: Vec<Node> = (0..count).map(|_| self.file(1..40)).collect();
        let deeper = self.directory(1);
        let flat = self.build(files);
        self.build(vec![deeper, flat])
    }

    fn large(&mut self) -> Node {
        let count = self.dice.between(1..3);
        let mut nodes: Vec<Node> = (0..count).map(|_| self.file(1_000_000..2_600_000)).collect();
        nodes.push(self.directory(2));
        self.build(nodes)
    }

    fn mebibytes(&mut self, count: u32) -> Node {
        let mut nodes: Vec<Node> = (0..count).map(|_| self.file(1 << 20..(1 << 20) + 1)).collect();
        nodes.extend((0..20).map(|_| self.file(100..5_000)));
        self.build(nodes)
    }

    fn folders(&mut self, count: u32) -> Node {
        let mut folder = || {
            let files = (0..2).map(|_| self.file(6_000..8_000)).collect();
            self.build(files)
        };
        let folders = (0..count).map(|_| folder()).collect();
        self.build(folders)
    }

    fn fixed(&mut self) -> Node {
        let nodes = vec![self.file(101..102), self.file(100_001..100_002), self.file(2_500_003..2_500_004)];
        let inner = self.build(nodes);
        let file = self.file(77..78);
        self.build(vec![inner, file])
    }
}
