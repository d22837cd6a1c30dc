//! Replies that are compressed.

use bytes::Bytes;
use firn_bao::Span;
use firn_castore::{BlobRef, Directory};
use firn_exchange::{BatchAnswer, Request, Verified, answer, check};
use firn_store::conformance;

use crate::world::{World, closure_of, contents, file, name, policy};

fn squeezed(world: &World, request: &Request, level: i32) -> Bytes {
    answer(&world.view(), request.encode(true)).compressed(level).collect().unwrap()
}

/// Shares files with these contents.
fn share(world: &World, files: &[Vec<u8>]) -> Vec<BlobRef> {
    let blobs = files.iter().map(|contents| conformance::add(&*world.store, contents)).collect();
    let entries = files.iter().enumerate().map(|(i, contents)| (name(&format!("{i}")), file(contents)));
    let top = Directory::build(entries).unwrap();
    world.shared.add_root(&closure_of(top.node(), &[top]));
    blobs
}

fn noise(bytes: usize, seed: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut noise);
    noise
}

#[test]
fn a_compressed_reply_says_the_same() {
    let world = World::new();
    for request in world.public.requests() {
        let plain = world.reply(&request);
        for level in [1, 3, 6, 9, 12, 22] {
            let reply = squeezed(&world, &request, level);
            let verified = check(&request, reply.clone(), &policy()).unwrap();
            assert_eq!(format!("{verified:?}"), format!("{:?}", world.ask(&request).unwrap()));
            assert!(reply.len() <= plain.len(), "{request:?}: {} of {}", reply.len(), plain.len());
        }
    }
    let blob = BlobRef::of(&contents(100_000, 3));
    let request = Request::Ranges { blob, span: Span::whole(100_000) };
    let bytes = squeezed(&world, &request, 3).len();
    assert!(bytes < 20_000, "{bytes}");
}

#[test]
fn what_does_not_shrink_goes_as_it_is() {
    let world = World::new();
    let long = share(&world, &[noise(1 << 20, 0)])[0];
    let short = share(&world, &(0..30).map(|i| noise(5000, i)).collect::<Vec<_>>());
    for request in [
        Request::Ranges { blob: long, span: Span::whole(1 << 20) },
        Request::Batch(short),
        Request::Batch(vec![]),
    ] {
        assert_eq!(squeezed(&world, &request, 3), world.reply(&request));
    }
    let missing = Request::Ranges { blob: BlobRef::of(b"?"), span: Span::whole(1) };
    assert_eq!(squeezed(&world, &missing, 3), world.reply(&missing));
}

#[test]
fn nothing_is_compressed_for_who_does_not_take_it() {
    let world = World::new();
    for request in world.public.requests() {
        let reply = answer(&world.view(), request.encode(false)).compressed(3).collect().unwrap();
        assert_eq!(reply, world.reply(&request));
    }
}

#[test]
fn a_body_of_many_pieces_is_counted_and_whole() {
    let world = World::new();
    // Half of it shrinks: the compressed body is longer than a piece.
    let file = |i: usize| [noise(30_000, i), contents(30_000, i)].concat();
    let blobs = share(&world, &(0..60).map(file).collect::<Vec<_>>());
    let request = Request::Batch(blobs.clone());
    let mut reply = answer(&world.view(), request.encode(true)).compressed(3);
    let (mut whole, mut pieces) = (Vec::new(), 0);
    while let Some(piece) = reply.next().unwrap() {
        whole.extend_from_slice(&piece);
        pieces += 1;
    }
    let (level, bytes) = reply.squeezed().unwrap();
    assert!(pieces > 2 && level == 3 && bytes > 60 * 60_000, "{pieces} pieces, {bytes} bytes");
    let Ok(Verified::Batch(answers)) = check(&request, whole.into(), &policy()) else { panic!() };
    assert!(answers.iter().all(|(_, answer)| matches!(answer, BatchAnswer::Here(_))));
}

#[test]
fn memory_is_counted_for_the_encoder_as_long_as_there_may_be_one() {
    let world = World::new();
    let blobs = share(&world, &[noise(100_000, 0), contents(100_000, 0)]);
    let memory = |blob: BlobRef| {
        let request = Request::Ranges { blob, span: Span::whole(blob.size) };
        let plain = answer(&world.view(), request.encode(true)).memory_bytes();
        let mut reply = answer(&world.view(), request.encode(true)).compressed(3);
        let mut memory = vec![reply.memory_bytes()];
        while reply.next().unwrap().is_some() {
            memory.push(reply.memory_bytes());
        }
        (plain, memory)
    };
    let (plain, as_it_is) = memory(blobs[0]);
    assert!(as_it_is[0] > 4 * plain && as_it_is[1..].iter().all(|bytes| *bytes == plain), "{as_it_is:?}");
    // The header, then all of the body.
    let (plain, shrunk) = memory(blobs[1]);
    assert!(shrunk[0] == shrunk[1] && (plain..shrunk[1] / 2).contains(&shrunk[2]), "{plain}, {shrunk:?}");
}
