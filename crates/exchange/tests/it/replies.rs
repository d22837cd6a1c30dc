//! Replies made by hand.

use bytes::{BufMut, Bytes, BytesMut};
use firn_bao::{BLOB_BYTES_MAX, Groups, Span, SpanError};
use firn_castore::{BlobRef, ClosureError, Directory, DirectoryDigest, DirectoryError, Node, Root};
use firn_exchange::{
    BITMAP_BYTES_MAX, BITMAPS_BYTES_MAX, BatchAnswer, CLAIM_BYTES_MAX, CLAIMS_MAX, FrameError, Known, Lie,
    Presence, RUNS_MAX, Request, RootFault, Verified, check, check_bytes_max,
};
use firn_proto::exchange as proto;
use firn_proto::exchange::Status;
use firn_proto::pathinfo::PathInfo;
use firn_trust::{REFERENCES_MAX, SIGNATURES_MAX};
use prost::Message;
use prost::encoding::encode_varint;

use crate::world::{World, contents, file, name, policy};

fn header(status: i32) -> Bytes {
    proto::ReplyHeader { status, ..Default::default() }.encode_length_delimited_to_vec().into()
}

/// An honest header and these items.
pub(crate) fn items<M: Message>(items: &[M]) -> Bytes {
    let mut reply = header(0).to_vec();
    items.iter().for_each(|item| reply.extend(item.encode_length_delimited_to_vec()));
    reply.into()
}

fn frames(frames: &[&[u8]]) -> Bytes {
    let mut reply = BytesMut::from(&header(0)[..]);
    for frame in frames {
        encode_varint(frame.len() as u64, &mut reply);
        reply.put_slice(frame);
    }
    reply.freeze()
}

fn checked(request: &Request, reply: Bytes) -> Result<Verified, Lie> {
    check(request, reply, &policy())
}

fn lie(request: &Request, reply: Bytes) -> Lie {
    checked(request, reply).unwrap_err()
}

#[test]
fn statuses() {
    for request in World::new().public.requests() {
        let status = |status: Status| checked(&request, header(status.into()));
        assert!(matches!(status(Status::Missing), Ok(Verified::Missing)));
        assert!(matches!(status(Status::Busy), Ok(Verified::Busy { after: None })));
        assert!(matches!(status(Status::Refused), Ok(Verified::Refused)));
        // What another version may say.
        assert!(matches!(checked(&request, header(4)), Ok(Verified::Refused)));
        assert!(matches!(checked(&request, header(-1)), Ok(Verified::Refused)));
        assert_eq!(lie(&request, Bytes::new()), Lie::Garbage(FrameError::Length));
        let more = [&header(Status::Missing.into())[..], &[0]].concat();
        assert_eq!(lie(&request, more.into()), Lie::NotAsked);
    }
}

#[test]
fn lengths_of_items_that_are_not_there_take_no_memory() {
    let request = directories_of(World::new().public.closure.root().clone());
    let huge = [&header(0)[..], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]].concat();
    assert_eq!(lie(&request, huge.into()), Lie::Garbage(FrameError::Truncated { length: u64::MAX, left: 0 }));
    let no_varint = [&header(0)[..], &[0xff; 11]].concat();
    assert_eq!(lie(&request, no_varint.into()), Lie::Garbage(FrameError::Length));
}

#[test]
fn claims_that_are_not_about_what_was_asked() {
    let world = World::new();
    let claim = world.claim().to_proto();
    let other = Request::Path(*world.private.path.facts().path.hash());
    assert_eq!(lie(&other, items(std::slice::from_ref(&claim))), Lie::NotAsked);
    let request = Request::Path(*world.public.path.facts().path.hash());
    assert!(matches!(checked(&request, items(&vec![claim.clone(); CLAIMS_MAX])), Ok(Verified::Claims(_))));
    assert_eq!(lie(&request, items(&vec![claim; CLAIMS_MAX + 1])), Lie::NotAsked);
    let empty = proto::Claim::default();
    assert_eq!(lie(&request, items(&[empty])), Lie::EmptyClaim);
}

/// What an honest peer may have got from its user's Nix, or have made in another version.
#[test]
fn a_claim_that_cannot_be_read_is_passed_over_and_the_others_count() {
    let world = World::new();
    let request = Request::Path(*world.public.path.facts().path.hash());
    let honest = world.claim().to_proto();
    let changed = |change: fn(&mut PathInfo)| {
        let mut claim = honest.clone();
        change(claim.path_info.as_mut().unwrap());
        claim
    };
    let odd = [
        changed(|info| info.narinfo = None),
        changed(|info| info.entry = None),
        changed(|info| info.references = vec![Bytes::new(); REFERENCES_MAX + 1]),
        changed(|info| info.references = vec![Bytes::from_static(&[0; 19])]),
        changed(|info| {
            let signatures = vec![Default::default(); SIGNATURES_MAX + 1];
            info.narinfo.as_mut().unwrap().signatures = signatures;
        }),
        changed(|info| info.narinfo.as_mut().unwrap().nar_sha256 = Bytes::from_static(&[1; 20])),
    ];
    for odd in odd {
        let alone = checked(&request, items(std::slice::from_ref(&odd)));
        assert!(matches!(alone, Ok(Verified::Untrusted)), "{odd:?}: {alone:?}");
        let beside = checked(&request, items(&[odd.clone(), honest.clone()]));
        assert!(matches!(&beside, Ok(Verified::Claims(claims)) if claims.len() == 1), "{odd:?}: {beside:?}");
    }
}

#[test]
fn claims_that_no_trusted_key_speaks_for_are_told_from_none() {
    let world = World::new();
    let request = Request::Path(*world.public.path.facts().path.hash());
    let trusted = world.claim().clone();
    let mut unknown = trusted.clone();
    unknown.signatures.clear();
    unknown.attestations.clear();
    assert!(matches!(checked(&request, items(&[unknown.to_proto()])), Ok(Verified::Untrusted)));
    let both = items(&[unknown.to_proto(), trusted.to_proto()]);
    assert!(matches!(checked(&request, both), Ok(Verified::Claims(claims)) if claims.len() == 1));
    assert!(matches!(checked(&request, header(0)), Ok(Verified::Claims(claims)) if claims.is_empty()));
}

#[test]
fn a_claim_of_nothing_but_empty_signatures_is_too_much_before_it_is_taken_apart() {
    let request = Request::Path(*World::new().public.path.facts().path.hash());
    // path_info{narinfo{signatures: [{}, {}, ..]}}: two bytes each, which would become fifty.
    let field = |tag: u8, contents: &[u8]| {
        let mut field = vec![tag];
        encode_varint(contents.len() as u64, &mut field);
        [&field[..], contents].concat()
    };
    let claim = field(0x0a, &field(0x1a, &[0x1a, 0].repeat(16 << 20)));
    assert_eq!(lie(&request, frames(&[&claim])), Lie::TooMuch);
    let alone = checked(&request, frames(&[&claim[..CLAIM_BYTES_MAX + 1]]));
    assert!(matches!(alone, Err(Lie::TooMuch)), "{alone:?}");
}

/// A reply whose body is one zstd frame of these parts.
fn squeezed(parts: impl IntoIterator<Item = Vec<u8>>) -> Bytes {
    let header = proto::ReplyHeader { encoding: proto::Encoding::Zstd.into(), ..Default::default() };
    let mut encoder = zstd::stream::write::Encoder::new(header.encode_length_delimited_to_vec(), 1).unwrap();
    parts.into_iter().for_each(|part| std::io::Write::write_all(&mut encoder, &part).unwrap());
    encoder.finish().unwrap().into()
}

fn framed(item: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    encode_varint(item.len() as u64, &mut frame);
    [&frame[..], item].concat()
}

/// `path_info{narinfo{..}}` or `path_info{..}` with this in it.
fn claim_of(is_of_narinfo: bool, list: &[u8]) -> Vec<u8> {
    let field = |tag: u8, contents: &[u8]| [&[tag][..], &framed(contents)].concat();
    match is_of_narinfo {
        true => field(0x0a, &field(0x1a, list)),
        false => field(0x0a, list),
    }
}

#[test]
fn lists_of_a_claim_are_counted_before_they_are_made() {
    let request = Request::Path(*World::new().public.path.facts().path.hash());
    let many = 1_000_000;
    let signatures = claim_of(true, &[0x1a, 0].repeat(many));
    let names = claim_of(true, &[0x22, 0].repeat(many));
    let references = claim_of(false, &[0x12, 0].repeat(many));
    let attestations = [0x12, 0].repeat(many);
    // One list in many parts, as protobuf joins them.
    let parts = claim_of(true, &[0x1a, 0].repeat(1000)).repeat(many / 1000);
    for claim in [signatures, names, references, attestations, parts] {
        let reply = squeezed([framed(&claim)]);
        assert!(reply.len() < 10_000, "{}", reply.len());
        for reply in [reply, frames(&[&claim])] {
            let passed_over = checked(&request, reply);
            assert!(matches!(passed_over, Ok(Verified::Untrusted)), "{passed_over:?}");
        }
    }
}

/// It would be 250 MiB of empty items, which is found out at the first.
#[test]
fn a_body_is_expanded_no_further_than_it_is_true() {
    let world = World::new();
    let root = Root::from(Node::Directory { digest: [1; 32].into(), size: 1 << 20 });
    let zeros = squeezed((0..250).map(|_| vec![0; 1 << 20]));
    assert!(zeros.len() < 30_000);
    assert_eq!(lie(&directories_of(root.clone()), zeros.clone()), Lie::Directory(DirectoryDigest::of(b"")));
    assert!(check_bytes_max(&directories_of(root), &zeros) < 80 << 20);
    // Nor does an item come that is longer than any Directory of the tree.
    let small = world.public.closure.root().clone();
    let long = squeezed([framed(&vec![7; 1 << 20])]);
    assert_eq!(lie(&directories_of(small), long), Lie::TooMuch);
    let batch = Request::Batch(vec![BlobRef::of(b"1"); 1000]);
    assert_eq!(lie(&batch, squeezed([framed(&vec![7; 100 << 10])])), Lie::TooMuch);
}

#[test]
fn of_bitmaps_as_many_runs_are_made_as_a_reply_may_have() {
    let blobs: Vec<BlobRef> =
        (0..64).map(|number| BlobRef { digest: [number; 32].into(), size: 1 << 47 }).collect();
    let item = proto::HaveItem {
        size: 1 << 47,
        partial: true,
        groups: vec![0xaa; BITMAP_BYTES_MAX].into(),
        ..Default::default()
    };
    let request = Request::Have { root: None, blobs };
    let said = |items: usize, item: &proto::HaveItem| {
        checked(&request, squeezed((0..items).map(|_| item.encode_length_delimited_to_vec())))
    };
    assert!(matches!(said(64, &item), Err(Lie::TooMuch)), "more than all bitmaps of a reply may take");
    let shorter = proto::HaveItem { groups: item.groups.slice(..BITMAPS_BYTES_MAX / 64), ..item.clone() };
    let Ok(Verified::Have { blobs, .. }) = said(64, &shorter) else { panic!() };
    let runs = |presence: &Presence| match presence {
        Presence::Partial(groups) => groups.run_count(),
        other => panic!("{other:?}"),
    };
    let runs: Vec<usize> = blobs.iter().map(|(_, presence)| runs(presence)).collect();
    assert_eq!((runs[0], runs.iter().sum::<usize>()), (RUNS_MAX, RUNS_MAX));
    let longer = proto::HaveItem { groups: vec![0xaa; BITMAP_BYTES_MAX + 100].into(), ..item };
    assert!(matches!(said(1, &longer), Err(Lie::TooMuch)));
}

/// As where the Directory that names a blob is at fault: whoever has a part of it tells of more groups than were asked about.
#[test]
fn a_bitmap_that_is_longer_than_the_blob_is_no_lie() {
    let blob = BlobRef { digest: [1; 32].into(), size: 20_000 };
    let request = Request::Have { root: None, blobs: vec![blob] };
    let said = |size| {
        let item =
            proto::HaveItem { size, partial: true, groups: vec![0xff; 5000].into(), ..Default::default() };
        match checked(&request, items(&[item])) {
            Ok(Verified::Have { blobs, .. }) => blobs[0].1.clone(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(said(600 << 20), Presence::Missing);
    let mut all = Groups::default();
    all.insert(0..8);
    assert_eq!(
        said(20_000),
        Presence::Partial(all),
        "of the bits of two groups no more than a byte is heard"
    );
}

#[test]
fn directories_that_nobody_named() {
    let world = World::new();
    let request = directories_of(world.public.closure.root().clone());
    let honest: Vec<&[u8]> = world.public.closure.directories().map(|d| &d.encoded()[..]).collect();
    assert!(matches!(checked(&request, frames(&honest)), Ok(Verified::Closure(_))));
    let digest = |at: usize| DirectoryDigest::of(honest[at]);
    assert_eq!(lie(&request, frames(&honest[1..])), Lie::Directory(digest(1)), "a child before its parent");
    assert_eq!(lie(&request, frames(&[honest[0], honest[0]])), Lie::Directory(digest(0)), "one twice");
    let more = [&honest[..], &[b""]].concat();
    assert_eq!(lie(&request, frames(&more)), Lie::Directory(DirectoryDigest::of(b"")), "one too many");
    assert_eq!(lie(&request, frames(&honest[..2])), Lie::Incomplete);
    assert_eq!(lie(&request, frames(&[])), Lie::Incomplete);
    assert_eq!(lie(&request, frames(&[b"garbage"])), Lie::Directory(DirectoryDigest::of(b"garbage")));
    let of_a_file = directories_of(file(b"x").into());
    assert_eq!(lie(&of_a_file, frames(&[b""])), Lie::Directory(DirectoryDigest::of(b"")));
}

fn fault(top: Node, directories: &[&[u8]]) -> RootFault {
    match checked(&directories_of(top.into()), frames(directories)) {
        Ok(Verified::BadRoot(fault)) => fault,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_root_is_at_fault_where_its_own_directories_are_no_tree() {
    let leaf = Directory::build([(name("x"), file(b"1"))]).unwrap();
    let digest = leaf.digest();
    let claims_two = Node::Directory { digest, size: 2 };
    let error = ClosureError::DirectorySize { digest, claimed: 2, actual: 1 };
    assert_eq!(fault(claims_two.clone(), &[leaf.encoded()]), RootFault::Closure(error.clone()));
    let top = Directory::build([(name("a"), claims_two)]).unwrap();
    assert_eq!(fault(top.node(), &[top.encoded(), leaf.encoded()]), RootFault::Closure(error));

    let garbage = Node::Directory { digest: DirectoryDigest::of(b"garbage"), size: 1 };
    let not_canonical = fault(garbage, &[b"garbage"]);
    assert!(matches!(not_canonical, RootFault::Directory(DirectoryError::Protobuf(_))), "{not_canonical}");

    let endless = Node::Directory { digest: [1; 32].into(), size: 1 << 60 };
    assert_eq!(fault(endless, &[]), RootFault::Closure(ClosureError::TooManyEntries((1 << 60) + 1)));

    let blob = BlobRef::of(b"1");
    let longer = Node::File { blob: BlobRef { size: 2, ..blob }, executable: false };
    let top = Directory::build([(name("a"), file(b"1")), (name("b"), longer)]).unwrap();
    let error = ClosureError::BlobSize { digest: blob.digest, first: 1, second: 2 };
    assert_eq!(fault(top.node(), &[top.encoded()]), RootFault::Closure(error));
}

fn item(status: Status, contents: &[u8]) -> proto::BatchItem {
    proto::BatchItem { status: status.into(), contents: Bytes::copy_from_slice(contents) }
}

#[test]
fn batches() {
    let blobs = [BlobRef::of(b"one"), BlobRef::of(b""), BlobRef::of(b"three")];
    let request = Request::Batch(blobs.to_vec());
    let ok = |contents: &[u8]| item(Status::Ok, contents);
    let answers = |items_of: &[proto::BatchItem]| match checked(&request, items(items_of)) {
        Ok(Verified::Batch(answers)) => answers.into_iter().map(|(_, answer)| answer).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    let all = answers(&[ok(b"one"), ok(b""), ok(b"three")]);
    assert!(all.iter().all(|answer| matches!(answer, BatchAnswer::Here(_))));
    let none = answers(&[item(Status::Missing, b""), item(Status::Busy, b""), item(Status::Refused, b"")]);
    assert_eq!(none, [BatchAnswer::Missing, BatchAnswer::Busy, BatchAnswer::TooLarge]);

    assert_eq!(lie(&request, items(&[ok(b"one"), ok(b"")])), Lie::Incomplete);
    assert_eq!(lie(&request, items(&[ok(b"one"), ok(b""), ok(b"three"), ok(b"")])), Lie::NotAsked);
    assert_eq!(lie(&request, items(&[ok(b"one"), ok(b""), item(Status::Missing, b"x")])), Lie::NotAsked);
    let status = proto::BatchItem { status: 9, contents: Bytes::new() };
    assert_eq!(answers(&[ok(b"one"), status, ok(b"three")])[1], BatchAnswer::Missing);
    let swapped = lie(&request, items(&[ok(b"three"), ok(b""), ok(b"one")]));
    let source = SpanError::WrongBytes { offset: 0 };
    assert_eq!(swapped, Lie::Blob { blob: blobs[0], source: source.clone() });
    let short = lie(&request, items(&[ok(b"on"), ok(b""), ok(b"three")]));
    assert_eq!(short, Lie::Blob { blob: blobs[0], source: source.clone() });
    let empty = lie(&request, items(&[ok(b""), ok(b""), ok(b"three")]));
    assert_eq!(empty, Lie::Blob { blob: blobs[0], source });
}

#[test]
fn a_file_of_another_length_than_its_directory_claims() {
    let world = World::new();
    let true_blob = BlobRef::of(&contents(20_000, 2));
    for claimed in [0, 1, 19_999, 20_001, 1 << 40] {
        let blob = BlobRef { size: claimed, ..true_blob };
        let Ok(Verified::Batch(answers)) = world.ask(&Request::Batch(vec![blob])) else { panic!() };
        let fault = RootFault::BlobSize { blob, actual: 20_000 };
        assert_eq!(answers, [(blob, BatchAnswer::OtherSize(fault))]);
        let ranges = Request::Ranges { blob, span: Span::from_groups(0..1).unwrap() };
        let Ok(Verified::OtherSize(other)) = world.ask(&ranges) else { panic!() };
        assert_eq!(other, true_blob);
    }
}

#[test]
fn a_length_in_the_header_that_no_blob_has() {
    let blob = BlobRef::of(&contents(20_000, 2));
    let request = Request::Ranges { blob, span: Span::whole(blob.size) };
    let with_size = |size: u64| [&header(0)[..], &size.to_le_bytes()].concat().into();
    assert!(matches!(checked(&request, with_size(BLOB_BYTES_MAX)), Ok(Verified::OtherSize(_))));
    let source = SpanError::Size { header: BLOB_BYTES_MAX + 1, claimed: blob.size };
    assert_eq!(lie(&request, with_size(BLOB_BYTES_MAX + 1)), Lie::Blob { blob, source });
    let source = SpanError::Truncated;
    assert_eq!(lie(&request, with_size(blob.size)), Lie::Blob { blob, source });
}

fn directories_of(root: Root) -> Request {
    Request::Closure { root, known: Known::default() }
}

#[test]
fn presences() {
    let blobs = vec![BlobRef::of(b"1"), BlobRef { digest: BlobRef::of(b"2").digest, size: 40_000 }];
    let request = Request::Have { root: None, blobs: blobs.clone() };
    let whole = proto::HaveItem { size: 1, ..Default::default() };
    let groups = Bytes::from_static(&[5]);
    let partial = proto::HaveItem { size: 40_000, partial: true, groups, ..Default::default() };
    let mut some = Groups::default();
    [0..1, 2..3].into_iter().for_each(|run| some.insert(run));
    let said = |said: &[proto::HaveItem]| match checked(&request, items(said)) {
        Ok(Verified::Have { tree: None, blobs }) => blobs,
        other => panic!("{other:?}"),
    };
    let presences = said(&[whole.clone(), partial.clone()]);
    assert_eq!(presences, [(blobs[0], Presence::Whole), (blobs[1], Presence::Partial(some))]);
    // What is of another length is not what was asked about.
    let other = proto::HaveItem { size: 40_001, ..partial };
    assert_eq!(said(&[whole.clone(), other])[1], (blobs[1], Presence::Missing));
    assert_eq!(lie(&request, items(std::slice::from_ref(&whole))), Lie::Incomplete);
    assert_eq!(lie(&request, items(&vec![whole.clone(); 3])), Lie::NotAsked);
    let unknown = proto::HaveItem { status: 7, ..Default::default() };
    assert_eq!(said(&[whole, unknown])[1], (blobs[1], Presence::Missing));
}
