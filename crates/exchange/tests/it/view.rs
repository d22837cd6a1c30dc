//! What a peer sees, and what it cannot tell from what is not there.

use std::sync::Arc;

use firn_bao::Span;
use firn_castore::{BlobDigest, BlobRef, Closure, Directory, Node, SymlinkTarget};
use firn_exchange::{
    BATCH_BLOBS_MAX, BATCH_BYTES_MAX, BatchAnswer, CLOSURE_BYTES_MAX, HAVE_BLOBS_MAX, Known, Presence,
    Request, SPAN_GROUPS_MAX, Shared, SharedView, Unshareable, Verified, answer, check, shareable,
};
use firn_store::Blobs;
use firn_trust::{Admitted, PathFacts, REFERENCES_MAX, TooMany, TrustedPath};

use crate::world::{World, closure_of, contents, key, name, policy};

#[test]
fn what_is_shared_is_given_whole() {
    let world = World::new();
    for request in world.public.requests() {
        match (&request, world.ask(&request).unwrap()) {
            (Request::Path(_), Verified::Claims(claims)) => {
                let [Admitted::Attested(path)] = &claims[..] else { panic!("{claims:?}") };
                assert_eq!(path.facts(), world.public.path.facts());
                assert_eq!(path.attestations(), world.public.path.attestations());
            }
            (Request::Closure { .. }, Verified::Closure(closure)) => {
                assert_eq!(closure.root(), world.public.closure.root());
                assert_eq!(closure.blobs(), world.public.blobs());
            }
            (Request::Batch(blobs), Verified::Batch(answers)) => {
                assert_eq!(blobs.len(), answers.len());
                for (wanted, (blob, answer)) in blobs.iter().zip(answers) {
                    let BatchAnswer::Here(span) = answer else { panic!("{blob:?}: {answer:?}") };
                    assert_eq!((wanted, &span.blob(), BlobRef::of(span.bytes())), (&blob, wanted, *wanted));
                }
            }
            (Request::Ranges { blob, span }, Verified::Span(proven)) => {
                assert_eq!((proven.blob(), proven.span()), (*blob, *span));
                assert_eq!(proven.bytes()[..], contents(100_000, 3)[16_384..65_536]);
            }
            (Request::Have { blobs: asked, .. }, Verified::Have { tree, blobs }) => {
                assert_eq!(tree, Some(Presence::Whole));
                let whole = asked.iter().map(|blob| (*blob, Presence::Whole)).collect::<Vec<_>>();
                assert_eq!(blobs, whole);
            }
            (request, verified) => panic!("{request:?}: {verified:?}"),
        }
    }
}

#[test]
fn honest_replies_are_within_their_bounds() {
    let world = World::new();
    for request in world.public.requests() {
        assert!(world.reply(&request).len() <= request.reply_bytes_max(), "{request:?}");
    }
}

#[test]
fn what_is_private_looks_like_what_is_not_there() {
    let world = World::new();
    let not_here = World::new();
    let nothing = SharedView::new(not_here.store.clone(), Shared::default().into());
    let common = BlobRef::of(&contents(5_000, 1));
    for request in world.private.requests() {
        // The one blob that is shared with the public tree as well is no secret.
        let request = match request {
            Request::Batch(blobs) => {
                Request::Batch(blobs.into_iter().filter(|blob| *blob != common).collect())
            }
            Request::Have { root, blobs } => {
                Request::Have { root, blobs: blobs.into_iter().filter(|blob| *blob != common).collect() }
            }
            request => request,
        };
        match (&request, world.ask(&request).unwrap()) {
            (Request::Path(_) | Request::Closure { .. } | Request::Ranges { .. }, Verified::Missing) => {}
            (Request::Batch(_), Verified::Batch(answers)) => {
                assert!(!answers.is_empty());
                assert!(answers.iter().all(|(_, answer)| *answer == BatchAnswer::Missing));
            }
            (Request::Have { .. }, Verified::Have { tree, blobs }) => {
                assert_eq!(tree, Some(Presence::Missing));
                assert!(!blobs.is_empty());
                assert!(blobs.iter().all(|(_, presence)| *presence == Presence::Missing));
            }
            (request, verified) => panic!("{request:?}: {verified:?}"),
        }
        let of_nothing = answer(&nothing, request.encode(false)).collect().unwrap();
        assert_eq!(world.reply(&request), of_nothing, "{request:?}");
    }
    assert!(matches!(world.ask(&Request::Batch(vec![common])), Ok(Verified::Batch(_))));
    let request = Request::Have { root: None, blobs: vec![common] };
    let Ok(Verified::Have { tree: None, blobs }) = world.ask(&request) else { panic!() };
    assert_eq!(blobs, [(common, Presence::Whole)]);
}

#[test]
fn directories_are_not_given_as_blobs() {
    let world = World::new();
    let directory = world.public.closure.directories().next().unwrap();
    let blob =
        BlobRef { digest: BlobDigest::from(directory.digest()), size: directory.encoded().len() as u64 };
    let request = Request::Ranges { blob, span: Span::whole(blob.size) };
    assert!(matches!(world.ask(&request), Ok(Verified::Missing)));
}

#[test]
fn a_blob_that_is_too_large_for_a_batch_is_said_to_be() {
    let world = World::new();
    let (large, small) = (BlobRef::of(&contents(100_000, 3)), BlobRef::of(b"leaf"));
    let Ok(Verified::Batch(answers)) = world.ask(&Request::Batch(vec![large, small])) else { panic!() };
    assert_eq!(answers[0], (large, BatchAnswer::TooLarge));
    assert!(matches!(answers[1].1, BatchAnswer::Here(_)));
}

#[test]
fn a_batch_over_its_bytes_is_answered_as_far_as_they_go() {
    let world = World::new();
    let blob = BlobRef::of(&contents(20_000, 2));
    let fits = BATCH_BYTES_MAX as usize / 20_000;
    let Ok(Verified::Batch(answers)) = world.ask(&Request::Batch(vec![blob; BATCH_BLOBS_MAX])) else {
        panic!()
    };
    let here = |(_, answer): &&(BlobRef, BatchAnswer)| matches!(answer, BatchAnswer::Here(_));
    assert_eq!(answers.iter().filter(here).count(), fits);
    assert!(answers[fits..].iter().all(|(_, answer)| *answer == BatchAnswer::Busy));
}

#[test]
fn a_damaged_blob_is_missing_and_spoils_nothing_beside_it() {
    let world = World::new();
    let (damaged, sound) = (BlobRef::of(&contents(20_000, 2)), BlobRef::of(b"leaf"));
    assert!(world.store.damage_blob(&damaged.digest));
    assert!(world.store.read_span(&damaged, Span::whole(damaged.size)).is_err());
    let Ok(Verified::Batch(answers)) = world.ask(&Request::Batch(vec![damaged, sound])) else { panic!() };
    assert_eq!(answers[0].1, BatchAnswer::Missing);
    assert!(matches!(answers[1].1, BatchAnswer::Here(_)));
    // A span is read before anything is said of it.
    let request = Request::Ranges { blob: damaged, span: Span::whole(damaged.size) };
    assert!(matches!(world.ask(&request), Ok(Verified::Missing)));
}

#[test]
fn a_range_past_the_end_is_answered_with_the_last_group_and_its_true_length() {
    let world = World::new();
    let blob = BlobRef::of(&contents(100_000, 3));
    for claimed in [1 << 20, 114_689, 98_304, 1] {
        let lie = BlobRef { size: claimed, ..blob };
        let Ok(Verified::OtherSize(other)) =
            world.ask(&Request::Ranges { blob: lie, span: Span::last(claimed) })
        else {
            panic!("{claimed}")
        };
        assert_eq!(other, blob);
    }
    let tail = Request::Ranges { blob, span: Span::last(blob.size) };
    let Ok(Verified::Span(tail)) = world.ask(&tail) else { panic!() };
    assert_eq!(tail.bytes()[..], contents(100_000, 3)[98_304..]);
}

#[test]
fn a_root_without_directories() {
    let world = World::new();
    for node in [
        Node::Symlink { target: SymlinkTarget::try_from("to").unwrap() },
        Node::File { blob: BlobRef::of(b"leaf"), executable: true },
    ] {
        let closure = closure_of(node, &[]);
        let request = Request::Closure { root: closure.root().clone(), known: Known::default() };
        assert!(matches!(world.ask(&request), Ok(Verified::Missing)));
        world.shared.add_root(&closure);
        let Ok(Verified::Closure(got)) = world.ask(&request) else { panic!() };
        assert_eq!(got, closure);
    }
}

#[test]
fn a_closure_that_no_reply_can_hold_is_refused_rather_than_begun() {
    // Symlinks with long targets: five Directories of 60 MiB each, which share one target in memory.
    let target = SymlinkTarget::try_from(&[b'x'; 4095][..]).unwrap();
    let heavy = |prefix: &str| {
        let link = |i| (name(&format!("{prefix}{i}")), Node::Symlink { target: target.clone() });
        Directory::build((0..15_000).map(link)).unwrap()
    };
    let below: Vec<_> = ["a", "b", "c", "d", "e"].map(heavy).into();
    let bytes: usize = below.iter().map(|directory| directory.encoded().len()).sum();
    assert!(bytes > CLOSURE_BYTES_MAX);
    let top = Directory::build(below.iter().map(|d| (name(&d.digest().to_string()), d.node()))).unwrap();
    let node = top.node();
    let closure = closure_of(node, &[vec![top], below].concat());
    let world = World::new();
    world.shared.add_root(&closure);
    assert!(matches!(
        world.ask(&Request::Closure { root: closure.root().clone(), known: Known::default() }),
        Ok(Verified::Refused)
    ));

    // As a path it is not told of, either.
    let facts = PathFacts { root: closure.root().clone(), ..world.public.path.facts().clone() };
    assert_not_told(&TrustedPath::added_here(facts, Vec::new(), &[key()]), &closure);
}

/// Whoever shares it all the same has nothing of it for peers.
fn assert_not_told(path: &TrustedPath, closure: &Closure) {
    assert!(shareable(path, closure).is_err());
    let (world, shared) = (World::new(), Shared::default());
    shared.add_path(path, closure);
    assert!(shared.keys().is_empty());
    let view = SharedView::new(world.store, Arc::new(shared));
    let request = Request::Path(*path.facts().path.hash());
    let reply = answer(&view, request.encode(false)).collect().unwrap();
    assert!(matches!(check(&request, reply, &policy()), Ok(Verified::Missing)));
}

#[test]
fn a_claim_that_no_peer_takes_is_not_told() {
    let world = World::new();
    let told = |references: usize| {
        let mut facts = world.public.path.facts().clone();
        facts.nar.references =
            (0..references).map(|n| format!("{}-{n}", "0".repeat(32)).parse().unwrap()).collect();
        TrustedPath::added_here(facts, Vec::new(), &[key()])
    };
    let closure = &world.public.closure;
    assert_eq!(shareable(&told(REFERENCES_MAX), closure), Ok(()));
    let too_many = TooMany { what: "references", count: REFERENCES_MAX + 1, max: REFERENCES_MAX };
    assert_eq!(shareable(&told(REFERENCES_MAX + 1), closure), Err(Unshareable::Claim(too_many)));
    assert_not_told(&told(REFERENCES_MAX + 1), closure);
}

#[test]
fn requests_that_are_none_are_refused() {
    let world = World::new();
    let refused = |request: Vec<u8>| {
        let reply = answer(&world.view(), request.into()).collect().unwrap();
        // One item: a header whose field 1 is 3.
        assert_eq!(reply[..], [2, 8, 3]);
    };
    refused(vec![]);
    refused(vec![0]);
    refused(vec![0xff; 11]);
    refused(b"GET / HTTP/1.1\r\n".to_vec());
    let blob = BlobRef::of(b"leaf");
    let mut padded = Request::Batch(vec![blob]).encode(false).to_vec();
    padded.push(0);
    refused(padded);
    refused(Request::Batch(vec![blob; BATCH_BLOBS_MAX + 1]).encode(false).to_vec());
    refused(Request::Have { root: None, blobs: vec![blob; HAVE_BLOBS_MAX + 1] }.encode(false).to_vec());
    let span = Span::from_groups(0..SPAN_GROUPS_MAX + 1).unwrap();
    refused(Request::Ranges { blob, span }.encode(false).to_vec());
    // ranges{digest: 32 bytes, range{start: 1, end: 1}}: empty; {start: 2, end: 1}: backwards; {end: 2^60}: too far.
    let ranges = |range: &[u8]| {
        let body = [&[0x0a, 32][..], &[7; 32], &[0x12, range.len() as u8], range].concat();
        [&[body.len() as u8 + 2, 0x22, body.len() as u8][..], &body].concat()
    };
    for range in [&[8, 1, 16, 1][..], &[8, 2, 16, 1], &[16, 128, 128, 128, 128, 128, 128, 128, 128, 16], &[]]
    {
        refused(ranges(range));
    }
    // path{hash: 19 bytes}, batch{digests: 31 bytes}, closure{root: nothing}.
    refused([&[23, 0x0a, 21, 0x0a, 19][..], &[1; 19]].concat());
    refused([&[35, 0x1a, 33, 0x0a, 31][..], &[1; 31]].concat());
    refused(vec![2, 0x12, 0]);
}
