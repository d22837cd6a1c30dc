//! Layouts of random trees, and of trees that are hard in some way.

use std::{collections::BTreeMap, io, ops::Range, sync::Arc};

use firn_castore::{BlobRef, DEPTH_MAX, Directory, Node, PathComponent};
use firn_nix::{
    LITERAL_BYTES_MAX, LayoutError, NarHash, NarLayout, NarReader, NarWriteError, Segment, Sha256Writer,
    write_nar,
};
use proptest::prelude::*;

use crate::tree::{Built, Tree, closure, directory, file, link, parse, program};

fn names() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_filter("no name has it", |byte| !matches!(byte, 0 | b'/'));
    let any_name = proptest::collection::vec(byte, 1..20)
        .prop_map(|name| if matches!(&name[..], b"." | b"..") { b"...".to_vec() } else { name });
    prop_oneof!["[a-d]{1,3}".prop_map(String::into_bytes), any_name]
}

fn trees() -> impl Strategy<Value = Tree> {
    let contents = proptest::collection::vec(any::<u8>(), 0..40);
    let leaf = prop_oneof![
        (contents, any::<bool>())
            .prop_map(|(contents, executable)| Tree::File { contents: contents.into(), executable }),
        "[a-z/.]{1,20}".prop_map(|target| link(&target)),
    ];
    leaf.prop_recursive(5, 60, 8, |inner| {
        proptest::collection::btree_map(names(), inner, 0..8).prop_map(Tree::Directory)
    })
}

/// No segment is empty, no literal too long, and no two literals could be one.
fn check_shape(segments: &[Segment]) {
    assert!(segments.iter().all(|segment| segment.bytes() > 0));
    let literal = |segment: &Segment| matches!(segment, Segment::Literal(_)).then(|| segment.bytes());
    assert!(segments.iter().filter_map(literal).all(|bytes| bytes <= LITERAL_BYTES_MAX as u64));
    for pair in segments.windows(2) {
        if let (Some(one), Some(two)) = (literal(&pair[0]), literal(&pair[1])) {
            assert!(one + two > LITERAL_BYTES_MAX as u64 - 8 * 1024);
        }
    }
}

fn check_range(built: &Built, nar: &[u8], range: Range<u64>) {
    let segments: Vec<Segment> = built.layout.segments(range.clone()).collect();
    check_shape(&segments);
    let end = range.end.min(nar.len() as u64);
    let want = if range.start < end { &nar[range.start as usize..end as usize] } else { &[] };
    assert_eq!(built.render(segments.into_iter()), want, "{range:?}");
}

proptest! {
    #[test]
    fn a_layout_is_the_nar(tree in trees(), ranges: [(prop::sample::Index, prop::sample::Index); 8]) {
        let (built, nar) = (Built::new(&tree), tree.nar());
        prop_assert_eq!(built.layout.nar_size(), nar.len() as u64);
        let mut written = Vec::new();
        built.write_nar(&mut written);
        prop_assert_eq!(&written, &nar);
        prop_assert_eq!(parse(&nar[..]), tree);
        check_range(&built, &nar, 0..u64::MAX);
        for (start, end) in ranges {
            let (start, end) = (start.index(nar.len() + 1) as u64, end.index(nar.len() + 9) as u64);
            check_range(&built, &nar, start..end);
        }
    }

    #[test]
    fn what_the_reader_accepts_is_what_a_writer_writes(tree in trees(), at: prop::sample::Index, bit in 0..8u8) {
        let mut nar = tree.nar();
        let at = at.index(nar.len());
        nar[at] ^= 1u8 << bit;
        if NarReader::new(&nar[..]).finish().is_ok() {
            prop_assert_eq!(parse(&nar[..]).nar(), nar);
        }
    }
}

fn name(text: &str) -> PathComponent {
    text.try_into().unwrap()
}

#[test]
fn every_range_of_a_small_tree() {
    let tree = directory([
        (b"a", directory([(b"empty", file("")), (b"run", program("#!/bin/sh\n"))])),
        (b"b", directory([])),
        (b"c", link("a/run")),
    ]);
    let (built, nar) = (Built::new(&tree), tree.nar());
    for start in 0..=nar.len() as u64 + 1 {
        check_range(&built, &nar, start..u64::MAX);
        for end in (start.saturating_sub(1)..=nar.len() as u64 + 1).step_by(7) {
            check_range(&built, &nar, start..end);
        }
    }
}

#[test]
fn an_empty_file_is_all_literal() {
    for tree in [file(""), program(""), directory([(b"a", file("")), (b"b", file(""))])] {
        let built = Built::new(&tree);
        let segments: Vec<_> = built.layout.segments(0..u64::MAX).collect();
        assert_eq!(segments, [Segment::Literal(tree.nar().into())]);
    }
}

#[test]
fn literals_of_many_entries_stay_short() {
    let entries = (0..20_000u32).map(|number| (format!("{number:05}").into_bytes(), link("target")));
    let tree = Tree::Directory(entries.collect());
    let (built, nar) = (Built::new(&tree), tree.nar());
    check_range(&built, &nar, 0..u64::MAX);
    assert!(built.layout.segments(0..u64::MAX).count() > 50);
    check_range(&built, &nar, nar.len() as u64 / 2..nar.len() as u64 / 2 + 1000);
}

#[test]
fn what_the_tree_has_many_times_is_laid_out_once() {
    let leaf = Directory::build([(name("x"), Node::File { blob: BlobRef::of(b"leaf"), executable: false })]);
    let mut directories = vec![leaf.unwrap()];
    for _ in 0..20 {
        let below = directories.last().unwrap().node();
        directories.push(Directory::build([(name("l"), below.clone()), (name("r"), below)]).unwrap());
    }
    let top = directories.last().unwrap().node();
    let layout = NarLayout::new(Arc::new(closure(top, directories))).unwrap();
    // Both children are one Directory: what stands within the left one stands within the right one again.
    let (before, after) = (24 + 16 + 16 + 24, 16);
    let child_bytes = (layout.nar_size() - before - after) / 2;
    for place in [0, 1_000_003, child_bytes / 2, child_bytes - 5000] {
        let left = before + place;
        let right = left + child_bytes;
        // Of an entry, the name differs: it lies in the first 88 bytes.
        let range = |start: u64| layout.segments(start + 88..start + 5000).collect::<Vec<_>>();
        assert!(range(left) == range(right), "{place}");
    }
}

#[test]
fn the_deepest_tree_has_a_layout() {
    let mut directories = vec![Directory::build([]).unwrap()];
    for _ in 1..DEPTH_MAX {
        let below = directories.last().unwrap().node();
        directories.push(Directory::build([(name("d"), below)]).unwrap());
    }
    let top = directories.last().unwrap().node();
    let layout = NarLayout::new(Arc::new(closure(top, directories))).unwrap();
    let mut nar = Vec::new();
    write_nar(&layout, &mut nar, |_, _| Ok::<_, io::Error>(())).unwrap();
    assert_eq!(nar.len() as u64, layout.nar_size());
    NarReader::new(&nar[..]).finish().unwrap();
}

#[test]
fn lengths_over_64_bits_are_refused() {
    let of = |sizes: &[u64]| {
        let entries = sizes.iter().enumerate().map(|(index, size)| {
            let blob = BlobRef { digest: [index as u8; 32].into(), size: *size };
            (name(&index.to_string()), Node::File { blob, executable: true })
        });
        let directory = Directory::build(entries).unwrap();
        NarLayout::new(Arc::new(closure(directory.node(), vec![directory])))
    };
    assert_eq!(of(&[u64::MAX]).unwrap_err(), LayoutError::Overflow);
    assert_eq!(of(&[u64::MAX - 100]).unwrap_err(), LayoutError::Overflow);
    assert_eq!(of(&[1 << 63, 1 << 63]).unwrap_err(), LayoutError::Overflow);
    let large = of(&[1 << 63, 1 << 62]).unwrap();
    let last: Vec<_> = large.segments(large.nar_size() - 48..u64::MAX).collect();
    assert_eq!(last.iter().map(Segment::bytes).sum::<u64>(), 48);
}

#[test]
fn a_blob_of_another_length_is_no_nar() {
    let built = Built::new(&file("hello"));
    let write = |contents: &'static [u8]| {
        write_nar(&built.layout, &mut io::sink(), |_, out| out.write_all(contents)).unwrap_err()
    };
    assert!(matches!(write(b"hell"), NarWriteError::BlobLength { got: 4, .. }));
    assert!(matches!(write(b"hello!"), NarWriteError::BlobLength { got: 6, .. }));
    let missing = |_: BlobRef, _: &mut dyn io::Write| Err(io::Error::from(io::ErrorKind::NotFound));
    let error = write_nar(&built.layout, &mut io::sink(), missing).unwrap_err();
    assert!(matches!(error, NarWriteError::Blob { .. }));
}

#[test]
fn segments_go_to_other_threads() {
    fn sent<T: Send + 'static>(value: T) -> T {
        value
    }
    let tree = Tree::Directory(BTreeMap::from([(b"a".to_vec(), file("1"))]));
    let built = Built::new(&tree);
    let segments = sent(built.layout.segments(0..u64::MAX));
    let mut hasher = Sha256Writer::new();
    hasher.update(&built.render(segments));
    assert_eq!(hasher.finish(), (NarHash::of(&tree.nar()), built.layout.nar_size()));
}
