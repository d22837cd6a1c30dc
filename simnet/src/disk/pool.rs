//! What is put into the store: blobs of all sizes that matter, and trees that share them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use firn_bao::{GROUP_BYTES, HashedBlob, PIECE_BYTES, Span, VerifiedSpan};
use firn_castore::{
    BlobRef, Closure, ClosureBuilder, Directory, DirectoryDigest, Node, PathComponent, Root, SymlinkTarget,
};

use crate::dice::Dice;

const EXPECT_LEGAL: &str = "the simulation makes legal trees";
/// In bytes.
const SIZES: [u64; 24] = [
    0,
    1,
    2,
    100,
    101,
    1000,
    5000,
    GROUP_BYTES - 1,
    GROUP_BYTES,
    GROUP_BYTES + 1,
    2 * GROUP_BYTES,
    3 * GROUP_BYTES + 5,
    4 * GROUP_BYTES,
    5 * GROUP_BYTES - 1,
    100_000,
    9 * GROUP_BYTES + 7,
    // From here on a run takes few of them.
    PIECE_BYTES - 1,
    PIECE_BYTES,
    PIECE_BYTES + 1,
    PIECE_BYTES + 2,
    PIECE_BYTES + GROUP_BYTES,
    PIECE_BYTES + GROUP_BYTES + 1,
    PIECE_BYTES + 5 * GROUP_BYTES,
    2 * PIECE_BYTES + 7,
];
const SMALL_COUNT: u64 = 16;

/// A blob's contents and all parents of its hash tree.
#[derive(Debug)]
pub(super) struct Sample {
    pub(super) bytes: Bytes,
    pub(super) hashed: HashedBlob,
}

impl Sample {
    fn of(bytes: Bytes) -> Self {
        Self { hashed: HashedBlob::of(&bytes), bytes }
    }

    pub(super) fn blob(&self) -> BlobRef {
        self.hashed.blob()
    }

    pub(super) fn part(&self, span: Span) -> Bytes {
        let range = span.bytes(self.blob().size);
        self.bytes.slice(range.start as usize..range.end as usize)
    }

    pub(super) fn span(&self, span: Span) -> VerifiedSpan {
        let blob = self.blob();
        let parents = self.hashed.outboard().parents_of(blob.size, span).expect("all parents are here");
        VerifiedSpan::check(blob, span, parents, self.part(span))
            .expect("they were computed from the contents")
    }
}

/// All blobs that runs use: made once, since to make them takes longer than a run.
#[derive(Debug)]
pub struct Pool {
    samples: Vec<Sample>,
    by_blob: BTreeMap<BlobRef, usize>,
}

impl Pool {
    /// Makes the blobs, the same ones each time.
    #[allow(clippy::new_without_default, reason = "it takes a while")]
    pub fn new() -> Self {
        let mut dice = Dice::new(0);
        let samples: Vec<_> =
            SIZES.iter().map(|size| Sample::of(dice.bytes(*size as usize).into())).collect();
        let by_blob = samples.iter().enumerate().map(|(i, sample)| (sample.blob(), i)).collect();
        Self { samples, by_blob }
    }

    pub(super) fn samples(&self) -> &[Sample] {
        &self.samples
    }

    pub(super) fn sample(&self, blob: &BlobRef) -> &Sample {
        &self.samples[self.by_blob[blob]]
    }
}

/// A tree with all that is beneath it.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) root: Root,
    pub(super) directories: BTreeMap<DirectoryDigest, Directory>,
    pub(super) blobs: BTreeSet<BlobRef>,
}

impl Tree {
    pub(super) fn closure(&self) -> Arc<Closure> {
        let mut builder = ClosureBuilder::new(self.root.clone()).expect(EXPECT_LEGAL);
        while let Some(digest) = builder.next_missing() {
            builder.insert(self.directories[&digest].clone()).expect(EXPECT_LEGAL);
        }
        Arc::new(builder.finish().expect(EXPECT_LEGAL))
    }
}

/// Makes trees out of few blobs, so that they share them, and Directories too.
pub(super) fn trees(pool: &Pool, dice: &mut Dice) -> Vec<Tree> {
    let small: Vec<u64> = (0..dice.between(3..7)).map(|_| dice.between(0..SMALL_COUNT)).collect();
    let large = (0..dice.pick(&[0, 0, 1, 2])).map(|_| dice.between(SMALL_COUNT..SIZES.len() as u64));
    let large: Vec<u64> = large.collect();
    let chosen: Vec<usize> = small.into_iter().chain(large).map(|i| i as usize).collect();
    let mut grower = Grower { pool, dice, chosen, made: BTreeMap::new() };
    let count = grower.dice.between(2..6);
    let mut trees: Vec<Tree> = (0..count).map(|_| grower.tree()).collect();
    trees.sort_by_key(|tree| tree.root.to_bytes());
    trees.dedup_by(|a, b| a.root == b.root);
    trees
}

struct Grower<'a> {
    pool: &'a Pool,
    dice: &'a mut Dice,
    chosen: Vec<usize>,
    /// To be used again.
    made: BTreeMap<DirectoryDigest, Directory>,
}

impl Grower<'_> {
    fn tree(&mut self) -> Tree {
        let top = match self.dice.between(0..10) {
            0 => self.file(),
            1 => self.symlink(),
            _ => self.directory(2),
        };
        let mut tree =
            Tree { root: top.clone().into(), directories: BTreeMap::new(), blobs: BTreeSet::new() };
        self.descend(&top, &mut tree);
        tree
    }

    fn descend(&self, node: &Node, tree: &mut Tree) {
        match node {
            Node::Symlink { .. } => {}
            Node::File { blob, .. } => {
                tree.blobs.insert(*blob);
            }
            Node::Directory { digest, .. } => {
                let directory = &self.made[digest];
                if tree.directories.insert(*digest, directory.clone()).is_none() {
                    directory.iter().for_each(|(_, node)| self.descend(node, tree));
                }
            }
        }
    }

    fn file(&mut self) -> Node {
        let sample = self.dice.pick(&self.chosen);
        Node::File { blob: self.pool.samples[sample].blob(), executable: self.dice.percent(20) }
    }

    fn symlink(&mut self) -> Node {
        let target = format!("../{}", self.dice.between(0..9));
        Node::Symlink { target: SymlinkTarget::try_from(Bytes::from(target)).expect(EXPECT_LEGAL) }
    }

    fn directory(&mut self, levels: u64) -> Node {
        let again: Vec<Node> = self.made.values().map(Directory::node).collect();
        if levels < 2 && !again.is_empty() && self.dice.percent(30) {
            return self.dice.pick(&again);
        }
        let entries: BTreeMap<PathComponent, Node> = (0..self.dice.between(0..6))
            .map(|i| {
                let name = format!("{i}-{}", self.dice.between(0..100));
                let node = match self.dice.between(0..10) {
                    0 => self.symlink(),
                    1..4 if levels > 0 => self.directory(levels - 1),
                    _ => self.file(),
                };
                (PathComponent::try_from(Bytes::from(name)).expect(EXPECT_LEGAL), node)
            })
            .collect();
        let directory = Directory::build(entries).expect(EXPECT_LEGAL);
        let node = directory.node();
        self.made.insert(directory.digest(), directory);
        node
    }
}
