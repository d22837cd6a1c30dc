//! Contents of files.

use firn_bao::{GROUP_BYTES, PIECE_BYTES, Span, VerifiedBytes};
use firn_castore::BlobRef;

use super::{Case, add, contents, file, groups, keep_sample, lacks, read, read_whole, sample, span_of};
use crate::{Store, StoreError, closure, missing_blobs};

pub(super) const CASES: &[Case] = &[
    blobs_come_back,
    any_span_comes_back,
    spans_come_in_any_order,
    overlapping_spans_make_a_blob,
    a_partial_blob_is_read_as_far_as_it_is_here,
    a_partial_blob_is_not_whole,
    a_false_length_never_becomes_a_blob,
    another_length_is_not_here,
    a_span_past_the_end_is_an_error,
    keeping_again_changes_nothing,
    spans_of_many_blobs_are_kept_together,
];

const SIZES: [u64; 11] = [
    0,
    1,
    1024,
    GROUP_BYTES - 1,
    GROUP_BYTES,
    GROUP_BYTES + 1,
    2 * GROUP_BYTES,
    100_000,
    PIECE_BYTES,
    PIECE_BYTES + 1,
    3_000_000,
];

fn blobs_come_back(store: &dyn Store) {
    for size in SIZES {
        let bytes = contents(size, size);
        let blob = add(store, &bytes);
        assert_eq!(store.has_blob(&blob.digest).unwrap(), Some(size));
        assert_eq!(read(store, &blob, Span::whole(size)).unwrap(), bytes);
    }
}

fn any_span_comes_back(store: &dyn Store) {
    let bytes = contents(5 * GROUP_BYTES + 7, 0);
    let blob = add(store, &bytes);
    for start in 0..6 {
        for end in start + 1..=6 {
            let range = groups(start, end).bytes(blob.size);
            let part = bytes.slice(range.start as usize..range.end as usize);
            assert_eq!(read(store, &blob, groups(start, end)).unwrap(), part, "groups {start}..{end}");
        }
    }
}

fn spans_come_in_any_order(store: &dyn Store) {
    for size in SIZES {
        let bytes = contents(size, size + 1);
        let blob = BlobRef::of(&bytes);
        let spans: Vec<_> = Span::whole(size).pieces(2).collect();
        let (later, sooner): (Vec<_>, Vec<_>) = spans.iter().rev().enumerate().partition(|(i, _)| i % 3 == 0);
        for (left, (_, span)) in
            sooner.iter().chain(&later).enumerate().map(|(i, s)| (spans.len() - i - 1, s))
        {
            assert_eq!(store.has_blob(&blob.digest).unwrap(), None);
            store.keep_spans(&[span_of(&bytes, **span)]).unwrap();
            assert_eq!(store.has_blob(&blob.digest).unwrap(), (left == 0).then_some(size));
        }
        assert_eq!(read(store, &blob, Span::whole(size)).unwrap(), bytes);
    }
}

fn overlapping_spans_make_a_blob(store: &dyn Store) {
    let bytes = contents(6 * GROUP_BYTES + 1, 0);
    for span in [groups(1, 4), groups(3, 6), groups(2, 3), groups(5, 7), groups(0, 2)] {
        store.keep_spans(&[span_of(&bytes, span)]).unwrap();
    }
    let blob = BlobRef::of(&bytes);
    assert_eq!(read(store, &blob, Span::whole(blob.size)).unwrap(), bytes);
}

fn another_length_is_not_here(store: &dyn Store) {
    for size in [100, 100_000] {
        let blob = add(store, &contents(size, 0));
        for claimed in [size - 1, size + 1, 0, u64::from(u32::MAX)] {
            let other = BlobRef { size: claimed, ..blob };
            assert_eq!(read(store, &other, groups(0, 1)), None, "{claimed} bytes instead of {size}");
        }
        assert_eq!(read(store, &BlobRef { size: u64::MAX, ..blob }, Span::whole(u64::MAX)), None);
        // To ask for it does no harm.
        assert_eq!(store.has_blob(&blob.digest).unwrap(), Some(size));
    }
}

fn a_span_past_the_end_is_an_error(store: &dyn Store) {
    for size in [0, 100, 100_000] {
        let blob = add(store, &contents(size, 0));
        let end = Span::whole(size).groups().end;
        let past = store.read_span(&blob, groups(end - 1, end + 1));
        assert!(matches!(past, Err(StoreError::Span { blob: named, .. }) if named == blob));
        let past = store.read_onto(&mut VerifiedBytes::expecting(0), &blob, groups(end - 1, end + 1));
        assert!(matches!(past, Err(StoreError::Span { blob: named, .. }) if named == blob));
    }
}

fn keeping_again_changes_nothing(store: &dyn Store) {
    let root = keep_sample(store, 0);
    store.commit_root(&root, false, None).unwrap();
    keep_sample(store, 0);
    for bytes in sample(0).2 {
        let whole = span_of(&bytes, Span::whole(bytes.len() as u64));
        store.keep_spans(std::slice::from_ref(&whole)).unwrap();
        assert_eq!(read(store, &whole.blob(), whole.span()).unwrap(), bytes);
    }
    assert!(missing_blobs(store, &closure(store, &root).unwrap().unwrap()).unwrap().is_empty());
}

/// Small blobs and large ones, from which groups are missing.
fn a_partial_blob_is_read_as_far_as_it_is_here(store: &dyn Store) {
    for size in [7 * GROUP_BYTES + 5, 3 * PIECE_BYTES + 7] {
        let bytes = contents(size, 0);
        let blob = BlobRef::of(&bytes);
        let end = Span::whole(size).groups().end;
        let here = [groups(1, 3), groups(end - 2, end)];
        for span in here {
            store.keep_spans(&[span_of(&bytes, span)]).unwrap();
        }
        assert_eq!(store.groups(&blob).unwrap(), here);
        for (start, end) in (0..end).flat_map(|start| [(start, start + 1), (start, (start + 2).min(end))]) {
            let span = groups(start, end);
            let range = span.bytes(size);
            let is_here = here.iter().any(|run| run.groups().start <= start && end <= run.groups().end);
            let part = bytes.slice(range.start as usize..range.end as usize);
            assert_eq!(read(store, &blob, span), is_here.then_some(part), "groups {start}..{end}");
        }
        store.keep_spans(&[span_of(&bytes, groups(3, 5))]).unwrap();
        assert_eq!(store.groups(&blob).unwrap()[0], groups(1, 5));
        assert_eq!(read(store, &blob, groups(2, 4)).unwrap(), bytes.slice(0x8000..0x10000));
    }
}

fn a_partial_blob_is_not_whole(store: &dyn Store) {
    for size in [3 * GROUP_BYTES, 2 * PIECE_BYTES] {
        let bytes = contents(size, 0);
        let blob = BlobRef::of(&bytes);
        let whole = Span::whole(size);
        let (most, rest) = whole.split(whole.groups().end - 1);
        store.keep_spans(&[span_of(&bytes, most)]).unwrap();
        store.keep_spans(&[span_of(&bytes, most)]).unwrap();
        assert_eq!(store.has_blob(&blob.digest).unwrap(), None);
        assert_eq!(read_whole(store, &blob), None);
        assert!(lacks(store.commit_root(&file(blob).into(), true, None), &blob));
        assert_eq!(store.usage().unwrap().partials, 1);
        // It comes whole from somewhere else meanwhile; a span that comes late changes nothing.
        add(store, &bytes);
        assert_eq!(store.usage().unwrap().partials, 0);
        store.keep_spans(&[span_of(&bytes, rest.unwrap())]).unwrap();
        assert_eq!(read_whole(store, &blob).unwrap(), bytes);
        assert_eq!(store.groups(&blob).unwrap(), [whole]);
        assert_eq!(store.usage().unwrap().partials, 0);
    }
}

/// The first groups of a blob prove nothing about its length.
fn a_false_length_never_becomes_a_blob(store: &dyn Store) {
    let bytes = contents(8 * GROUP_BYTES, 0);
    let blob = BlobRef::of(&bytes);
    let lie = BlobRef { size: blob.size - 1, ..blob };
    let first = span_of(&bytes, groups(0, 7));
    let proof =
        firn_bao::VerifiedSpan::check(lie, first.span(), first.parents().clone(), first.bytes().clone());
    store.keep_spans(&[proof.unwrap()]).unwrap();
    assert_eq!(store.groups(&blob).unwrap(), []);
    assert_eq!(store.groups(&lie).unwrap(), [groups(0, 7)]);
    add(store, &bytes);
    assert_eq!(store.has_blob(&blob.digest).unwrap(), Some(blob.size));
    assert_eq!(read_whole(store, &lie), None);
    assert_eq!(read_whole(store, &blob).unwrap(), bytes);
}

/// Whole ones and parts, some of them twice, some of what is here already.
fn spans_of_many_blobs_are_kept_together(store: &dyn Store) {
    store.keep_spans(&[]).unwrap();
    let blobs: Vec<_> = SIZES.iter().map(|size| contents(*size, size + 2)).collect();
    let mut spans = Vec::new();
    for bytes in &blobs {
        let whole = Span::whole(bytes.len() as u64);
        spans.push(span_of(bytes, whole));
        spans.extend(whole.pieces(2).map(|span| span_of(bytes, span)));
        spans.push(span_of(bytes, whole));
    }
    add(store, &blobs[2]);
    let large = contents(2 * PIECE_BYTES + 5, 9);
    spans.push(span_of(&large, groups(3, 7)));
    store.keep_spans(&spans[5..7]).unwrap();
    store.keep_spans(&spans).unwrap();
    for bytes in &blobs {
        assert_eq!(read_whole(store, &BlobRef::of(bytes)).unwrap(), *bytes);
    }
    assert_eq!(store.groups(&BlobRef::of(&large)).unwrap(), [groups(3, 7)]);
    assert_eq!(store.usage().unwrap().partials, 1);
}
