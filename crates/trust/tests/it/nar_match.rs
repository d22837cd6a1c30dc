//! Whether a tree is the one whose NAR was signed.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use firn_bao::{GROUP_BYTES, HashedPiece, Outboard, PIECE_BYTES, Span, VerifiedSpan, hash_blob};
use firn_castore::{BlobRef, Closure, ClosureBuilder, Directory, Node, PathComponent};
use firn_nix::{NarFacts, NarHash, NarLayout, Segment, Sha256Writer, write_nar};
use firn_trust::{
    Admitted, Ground, NarHasher, NarMismatch, NarRenderer, PathFacts, RenderedNar, SignedNarInfo,
    TrustedPath, WholeBlob,
};

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
            let hashed = hash_blob(&mut &contents[..]).unwrap();
            let (blob, outboard) = (hashed.blob(), hashed.outboard().clone());
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
        let parents = held.outboard.parents_of(blob.size, span).unwrap();
        VerifiedSpan::check(blob, span, parents, bytes).unwrap()
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

/// What a NAR is rendered of.
#[derive(Clone)]
enum Part {
    Literal(Bytes),
    Blob(Bytes),
    /// Of a blob of so many bytes.
    Piece(u64, HashedPiece),
}

impl Tree {
    /// The parts of this tree's NAR; those of blobs of more than one piece come in pieces.
    fn parts(&self) -> Vec<Part> {
        let layout = NarLayout::new(self.closure.clone()).unwrap();
        let mut parts = Vec::new();
        for segment in layout.segments(0..layout.nar_size()) {
            match segment {
                Segment::Literal(bytes) => parts.push(Part::Literal(bytes)),
                Segment::Blob { blob, .. } if blob.size > PIECE_BYTES => {
                    parts.extend(pieces(&self.blob(blob).bytes).map(|piece| Part::Piece(blob.size, piece)));
                }
                Segment::Blob { blob, .. } => parts.push(Part::Blob(self.blob(blob).bytes.clone())),
            }
        }
        parts
    }

    fn rendered(&self) -> RenderedNar {
        render(&self.parts()).unwrap()
    }
}

fn pieces(bytes: &Bytes) -> impl Iterator<Item = HashedPiece> {
    let starts = (0..bytes.len()).step_by(PIECE_BYTES as usize);
    let piece = |start: usize| bytes.slice(start..bytes.len().min(start + PIECE_BYTES as usize));
    starts.map(piece).enumerate().map(|(index, piece)| HashedPiece::of(index as u64, piece))
}

fn render(parts: &[Part]) -> Result<RenderedNar, NarMismatch> {
    let mut renderer = NarRenderer::new();
    for part in parts {
        match part {
            Part::Literal(bytes) => renderer.literal(bytes),
            Part::Blob(bytes) => renderer.blob(&WholeBlob::hash(bytes.clone()).0),
            Part::Piece(size, piece) => renderer.piece(*size, piece),
        }
    }
    renderer.finish()
}

#[test]
fn a_tree_is_proven_by_its_nar_that_was_hashed_with_its_blobs() {
    let tree = Tree::standard();
    let rendered = tree.rendered();
    assert_eq!((rendered.nar_hash(), rendered.nar_size()), tree.nar());
    let proof = rendered.prove(&tree.signed_for(&tree.closure), tree.closure.clone()).unwrap();
    assert_eq!(TrustedPath::nar_match(proof), tree.taken_for(&tree).unwrap());
    // It does not matter how that is cut which lies between the blobs, nor whether an empty blob is named.
    let cut = |part: Part| match part {
        Part::Literal(bytes) => {
            vec![Part::Literal(bytes.slice(..7)), Part::Blob(Bytes::new()), Part::Literal(bytes.slice(7..))]
        }
        part => vec![part],
    };
    assert_eq!(render(&tree.parts().into_iter().flat_map(cut).collect::<Vec<_>>()), Ok(rendered));
    // An empty file is a NAR too.
    let empty = Tree::new(&[("empty", Vec::new(), false)], "elsewhere");
    assert!(empty.rendered().prove(&empty.signed_for(&empty.closure), empty.closure.clone()).is_ok());
}

#[test]
fn a_nar_that_was_hashed_proves_no_other_tree() {
    let honest = Tree::standard();
    let liars = [
        with("small", |contents, _| contents[0] ^= 1),
        with("huge", |contents, _| contents[2 << 20] ^= 0x80),
        Tree::new(&files(), "elsewherf"),
    ];
    for liar in liars {
        // The honest NAR with the liar's root: what a key has signed, and yet not the NAR of this tree.
        let signed = honest.signed_for(&liar.closure);
        let refused = honest.rendered().prove(&signed, liar.closure.clone());
        assert_eq!(refused, Err(NarMismatch::OtherTree));
        let error = NarMismatch::Hash { signed: honest.nar().0, actual: liar.nar().0 };
        assert_eq!(liar.rendered().prove(&signed, liar.closure.clone()), Err(error));
        let refused = honest.rendered().prove(&signed, honest.closure.clone());
        assert_eq!(refused, Err(NarMismatch::OtherRoot));
    }
    let longer = with("small", |contents, _| contents.extend(b"12345678"));
    let refused = longer.rendered().prove(&honest.signed_for(&longer.closure), longer.closure.clone());
    assert!(matches!(refused, Err(NarMismatch::Size { .. })));
}

#[test]
fn what_is_literal_is_no_blob() {
    let tree = Tree::standard();
    let signed = tree.signed_for(&tree.closure);
    // The very NAR that was signed, and of this tree; but nobody has hashed what its blobs are.
    let as_literal = |part: Part| match part {
        Part::Blob(bytes) => Part::Literal(bytes),
        part => part,
    };
    let rendered = render(&tree.parts().into_iter().map(as_literal).collect::<Vec<_>>()).unwrap();
    assert_eq!(rendered.nar_hash(), tree.nar().0);
    assert_eq!(rendered.prove(&signed, tree.closure.clone()), Err(NarMismatch::OtherTree));
    let as_blob = |part: Part| match part {
        Part::Literal(bytes) => Part::Blob(bytes),
        part => part,
    };
    let rendered = render(&tree.parts().into_iter().map(as_blob).collect::<Vec<_>>()).unwrap();
    assert_eq!(rendered.prove(&signed, tree.closure.clone()), Err(NarMismatch::OtherTree));
}

#[test]
fn pieces_that_are_not_the_next_ones_make_no_nar() {
    let tree = Tree::standard();
    let parts = tree.parts();
    let at = parts.iter().position(|part| matches!(part, Part::Piece(..))).unwrap();
    let with = |change: fn(&mut Vec<Part>, usize)| {
        let mut parts = parts.clone();
        change(&mut parts, at);
        render(&parts)
    };
    assert_eq!(with(|_, _| {}), Ok(tree.rendered()));
    let changes: [fn(&mut Vec<Part>, usize); 7] = [
        |parts, at| parts.swap(at, at + 1),
        |parts, at| drop(parts.remove(at)),
        |parts, at| drop(parts.remove(at + 2)),
        |parts, at| parts.insert(at + 1, parts[at].clone()),
        |parts, at| parts.insert(at + 1, Part::Literal(Bytes::from_static(b"x"))),
        |parts, at| parts.insert(at + 1, Part::Blob(Bytes::from_static(b"x"))),
        |parts, at| {
            let Part::Piece(size, _) = &mut parts[at + 1] else { panic!() };
            *size += 1;
        },
    ];
    for change in changes {
        assert_eq!(with(change), Err(NarMismatch::OutOfOrder));
    }
    assert_eq!(render(&parts[..=at]), Err(NarMismatch::OutOfOrder));
}

#[test]
fn a_span_that_is_not_whole_is_no_whole_blob() {
    let tree = Tree::standard();
    let huge = tree.blobs[1].blob;
    let (first, _) = Span::whole(huge.size).split(64);
    assert!(WholeBlob::of_span(&tree.span(huge, first)).is_none());
    let whole = WholeBlob::of_span(&tree.span(huge, Span::whole(huge.size))).unwrap();
    assert_eq!((whole.blob(), whole.bytes()), (huge, &tree.blobs[1].bytes));
}
