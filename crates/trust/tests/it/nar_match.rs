//! Whether a tree is the one whose NAR was signed.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use firn_bao::{GROUP_BYTES, Outboard, Span, VerifiedSpan, hash_blob};
use firn_castore::{BlobRef, Closure, ClosureBuilder, Directory, Node, PathComponent};
use firn_nix::{NarFacts, NarHash, NarLayout, Sha256Writer, write_nar};
use firn_trust::{Admitted, Ground, NarHasher, NarMismatch, PathFacts, SignedNarInfo, TrustedPath};

use crate::said::{claim, facts, policy, trusted};

struct Blob {
    blob: BlobRef,
    bytes: Bytes,
    outboard: Outboard,
}

/// A tree with all its contents.
struct Tree {
    closure: Arc<Closure>,
    blobs: Vec<Blob>,
}

impl Tree {
    /// A directory of files, each with its contents and its executable bit, and one symlink.
    fn new(files: &[(&str, Vec<u8>, bool)], target: &str) -> Self {
        let mut blobs = Vec::new();
        let name = |text: &str| PathComponent::try_from(text).unwrap();
        let mut entries = vec![(name("link"), Node::Symlink { target: target.try_into().unwrap() })];
        for (file, contents, executable) in files {
            let (blob, outboard) = hash_blob(&mut &contents[..]).unwrap();
            entries.push((name(file), Node::File { blob, executable: *executable }));
            blobs.push(Blob { blob, bytes: contents.clone().into(), outboard });
        }
        let directory = Directory::build(entries).unwrap();
        let mut builder = ClosureBuilder::new(directory.node().into()).unwrap();
        builder.insert(directory).unwrap();
        Self { closure: Arc::new(builder.finish().unwrap()), blobs }
    }

    fn standard() -> Self {
        Self::new(&files(), "elsewhere")
    }

    fn blob(&self, blob: BlobRef) -> &Blob {
        self.blobs.iter().find(|held| held.blob == blob).unwrap()
    }

    fn span(&self, blob: BlobRef, span: Span) -> VerifiedSpan {
        let held = self.blob(blob);
        let range = span.bytes(blob.size);
        let bytes = held.bytes.slice(range.start as usize..range.end as usize);
        VerifiedSpan::check(blob, span, held.outboard.as_bytes(), bytes).unwrap()
    }

    fn nar(&self) -> (NarHash, u64) {
        let layout = NarLayout::new(self.closure.clone()).unwrap();
        let mut hash = Sha256Writer::new();
        write_nar(&layout, &mut hash, |blob, out| {
            out.write_all(&self.blob(blob).bytes).unwrap();
            Ok::<(), Infallible>(())
        })
        .unwrap();
        hash.finish()
    }

    /// Another root, and the true NAR of this tree.
    fn signed_for(&self, root: &Closure) -> SignedNarInfo {
        let (nar_hash, nar_size) = self.nar();
        let nar = NarFacts { nar_hash, nar_size, references: facts().nar.references };
        let facts = PathFacts { root: root.root().clone(), nar, ..facts() };
        match policy().admit(claim(facts, &[trusted()], &[])) {
            Ok(Admitted::Signed(signed)) => signed,
            other => panic!("{other:?}"),
        }
    }

    /// What comes of taking this tree for the one that `honest` has signed.
    fn taken_for(&self, honest: &Tree) -> Result<TrustedPath, NarMismatch> {
        let mut hasher = NarHasher::new(honest.signed_for(&self.closure), self.closure.clone())?;
        while let Some((blob, span)) = hasher.wanted() {
            hasher.feed(&self.span(blob, span))?;
        }
        Ok(TrustedPath::nar_match(hasher.finish()?))
    }
}

fn contents(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i / 3 % 251) as u8).collect()
}

fn files() -> Vec<(&'static str, Vec<u8>, bool)> {
    vec![
        ("empty", Vec::new(), false),
        ("huge", contents((2 << 20) + 5), false),
        ("middle", contents(40_000), true),
        ("small", b"small".to_vec(), false),
        ("twice", b"small".to_vec(), false),
    ]
}

/// The standard tree with one of its files changed.
fn with(file: &str, change: impl FnOnce(&mut Vec<u8>, &mut bool)) -> Tree {
    let mut files = files();
    let (_, contents, executable) = files.iter_mut().find(|(name, ..)| *name == file).unwrap();
    change(contents, executable);
    Tree::new(&files, "elsewhere")
}

fn hash_mismatch(tree: &Tree) {
    let honest = Tree::standard();
    let error = NarMismatch::Hash { signed: honest.nar().0, actual: tree.nar().0 };
    assert_eq!(tree.taken_for(&honest), Err(error));
}

fn size_mismatch(tree: &Tree) {
    let honest = Tree::standard();
    let error = NarMismatch::Size { signed: honest.nar().1, actual: tree.nar().1 };
    let refused = NarHasher::new(honest.signed_for(&tree.closure), tree.closure.clone());
    assert_eq!(refused.err(), Some(error), "before a single span is asked for");
}

#[test]
fn the_right_tree_matches() {
    let tree = Tree::standard();
    let path = tree.taken_for(&tree).unwrap();
    assert_eq!(path.ground(), Ground::NarMatch);
    assert_eq!(path.facts().root, *tree.closure.root());
    assert_eq!((&path.facts().deriver, &path.facts().ca), (&None, &None));
    assert_eq!(path.signatures().len(), 1);
    assert!(path.attestations().is_empty());
}

#[test]
fn another_byte_is_found() {
    hash_mismatch(&with("small", |contents, _| contents[0] ^= 1));
    hash_mismatch(&with("huge", |contents, _| contents[2 << 20] ^= 0x80));
}

#[test]
fn another_name_and_another_target_of_the_same_length_are_found() {
    let mut renamed = files();
    renamed[3].0 = "smalk";
    hash_mismatch(&Tree::new(&renamed, "elsewhere"));
    hash_mismatch(&Tree::new(&files(), "elsewherf"));
}

#[test]
fn another_length_is_refused_before_a_span_is_asked_for() {
    size_mismatch(&with("small", |contents, _| contents.extend(b"12345678")));
    size_mismatch(&with("middle", |contents, _| contents.truncate(1)));
    size_mismatch(&with("empty", |contents, _| contents.push(0)));
    size_mismatch(&Tree::new(&files()[1..], "elsewhere"));
    size_mismatch(&Tree::new(&files(), "a target that is too long"));
}

#[test]
fn the_executable_bit_is_found() {
    size_mismatch(&with("middle", |_, executable| *executable = false));
    size_mismatch(&with("small", |_, executable| *executable = true));
    // The bit moved from one file to another of the same kind: the same length.
    let mut moved = files();
    moved[2].2 = false;
    moved[3].2 = true;
    hash_mismatch(&Tree::new(&moved, "elsewhere"));
}

#[test]
fn a_length_within_the_padding_is_found() {
    // Five bytes and six take the same room in a NAR.
    hash_mismatch(&with("small", |contents, _| contents.push(0)));
}

#[test]
fn the_closure_must_be_that_of_the_root() {
    let (honest, other) = (Tree::standard(), with("small", |contents, _| contents[0] ^= 1));
    let refused = NarHasher::new(honest.signed_for(&honest.closure), other.closure.clone());
    assert_eq!(refused.err(), Some(NarMismatch::OtherRoot));
}

#[test]
fn a_nar_that_is_too_long_to_count_is_refused() {
    let node = Node::File { blob: BlobRef { digest: [1; 32].into(), size: u64::MAX - 3 }, executable: false };
    let closure = Arc::new(ClosureBuilder::new(node.into()).unwrap().finish().unwrap());
    let refused = NarHasher::new(Tree::standard().signed_for(&closure), closure);
    assert!(matches!(refused.err(), Some(NarMismatch::Layout(_))));
}

#[test]
fn spans_out_of_order_are_refused_and_cost_nothing() {
    let tree = Tree::standard();
    let mut hasher = NarHasher::new(tree.signed_for(&tree.closure), tree.closure.clone()).unwrap();
    let huge = tree.blobs[1].blob;
    let middle = tree.blobs[2].blob;
    let (first, rest) = Span::whole(huge.size).split(64);
    assert_eq!(hasher.wanted(), Some((huge, first)), "a megabyte at once");
    let wrong = [
        tree.span(middle, Span::whole(middle.size)),
        tree.span(huge, Span::whole(huge.size)),
        tree.span(huge, rest.unwrap()),
        tree.span(huge, Span::from_groups(0..63).unwrap()),
        tree.span(huge, Span::from_groups(1..65).unwrap()),
    ];
    for span in &wrong {
        assert_eq!(hasher.feed(span), Err(NarMismatch::OutOfOrder));
    }
    hasher.feed(&tree.span(huge, first)).unwrap();
    assert_eq!(hasher.feed(&tree.span(huge, first)), Err(NarMismatch::OutOfOrder), "the same again");
    while let Some((blob, span)) = hasher.wanted() {
        hasher.feed(&tree.span(blob, span)).unwrap();
    }
    assert_eq!(hasher.feed(&tree.span(huge, first)), Err(NarMismatch::OutOfOrder), "after the end");
    assert!(hasher.finish().is_ok());
}

#[test]
fn no_proof_before_the_end() {
    let tree = Tree::standard();
    let spans = 3 + 1 + 1 + 1;
    for fed in 0..spans {
        let mut hasher = NarHasher::new(tree.signed_for(&tree.closure), tree.closure.clone()).unwrap();
        for _ in 0..fed {
            let (blob, span) = hasher.wanted().unwrap();
            assert!(span.groups().end - span.groups().start <= (1 << 20) / GROUP_BYTES);
            hasher.feed(&tree.span(blob, span)).unwrap();
        }
        assert_eq!(hasher.finish(), Err(NarMismatch::OutOfOrder), "after {fed} spans");
    }
}
