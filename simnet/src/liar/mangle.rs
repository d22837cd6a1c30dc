//! Makes false bytes out of true ones.

use bytes::{BufMut, Bytes, BytesMut};
use firn_bao::{Span, VerifiedSpan};
use firn_castore::{BlobDigest, BlobRef};
use firn_exchange::{Asked, Request, SharedView, answer};
use firn_nix::Signature;
use firn_proto::exchange as proto;
use prost::Message;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

/// The status of a reply, and its body.
pub(super) fn header(reply: &Bytes) -> Option<(proto::Status, Bytes)> {
    let mut body = reply.clone();
    let header = proto::ReplyHeader::decode_length_delimited(&mut body).ok()?;
    Some((proto::Status::try_from(header.status).ok()?, body))
}

/// A good reply with these items.
pub(super) fn reply(items: impl IntoIterator<Item = Bytes>) -> Bytes {
    let header = proto::ReplyHeader { status: proto::Status::Ok.into(), ..Default::default() };
    let mut reply = BytesMut::from(&header.encode_length_delimited_to_vec()[..]);
    items.into_iter().for_each(|item| reply.put(item));
    reply.freeze()
}

/// The item of one blob.
pub(super) fn one_of_batch(view: &SharedView, digest: BlobDigest) -> Option<Bytes> {
    // A request names blobs by their digests alone.
    let request = Request::Batch(vec![BlobRef { digest, size: 0 }]);
    let reply = answer(view, request.encode(false)).collect().ok()?;
    Some(header(&reply)?.1)
}

/// Not even a length.
pub(super) fn garbage(seed: u64) -> Bytes {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut bytes = vec![0xff; 16 + (rng.next_u32() % 4096) as usize];
    rng.fill_bytes(&mut bytes[12..]);
    bytes.into()
}

/// Nothing, the header, or half of it all.
pub(super) fn beginning(reply: Bytes, seed: u64) -> Bytes {
    match seed % 3 {
        0 => Bytes::new(),
        1 => reply.slice(..reply.len().min(1)),
        _ => half(reply),
    }
}

/// The first half.
pub(super) fn half(reply: Bytes) -> Bytes {
    reply.slice(..reply.len() / 2)
}

/// Another last byte of the body, if there is one.
pub(super) fn last_byte(reply: Bytes) -> Bytes {
    match header(&reply) {
        Some((proto::Status::Ok, body)) if !body.is_empty() => with_last_byte_changed(&reply),
        _ => reply,
    }
}

fn with_last_byte_changed(bytes: &[u8]) -> Bytes {
    let mut changed = BytesMut::from(bytes);
    if let Some(last) = changed.last_mut() {
        *last ^= 0x20;
    }
    changed.freeze()
}

/// Another last byte of each blob that is not empty.
pub(super) fn batch_bytes(honest: Bytes) -> Bytes {
    let Some((proto::Status::Ok, body)) = header(&honest) else { return honest };
    let change = |item: &mut proto::BatchItem| item.contents = with_last_byte_changed(&item.contents);
    batch_items(body, |items| items.iter_mut().for_each(change)).unwrap_or(honest)
}

/// A reply with the items of this body, changed.
fn batch_items(mut body: Bytes, change: impl FnOnce(&mut Vec<proto::BatchItem>)) -> Option<Bytes> {
    let mut items = Vec::new();
    while !body.is_empty() {
        items.push(proto::BatchItem::decode_length_delimited(&mut body).ok()?);
    }
    change(&mut items);
    Some(reply(items.iter().map(|item| item.encode_length_delimited_to_vec().into())))
}

/// One byte more than there is by the length in front of a span.
pub(super) fn length(honest: Bytes) -> Bytes {
    let Some((proto::Status::Ok, body)) = header(&honest) else { return honest };
    let Some((length, rest)) = body.split_first_chunk::<8>() else { return honest };
    let longer = u64::from_le_bytes(*length).wrapping_add(1).to_le_bytes();
    reply([Bytes::copy_from_slice(&longer), Bytes::copy_from_slice(rest)])
}

/// Another last Directory, or one where there should be none.
pub(super) fn last_directory(honest: Bytes) -> Bytes {
    let Some((proto::Status::Ok, body)) = header(&honest) else { return honest };
    match body.is_empty() {
        true => reply([Bytes::from_static(&[0])]),
        false => with_last_byte_changed(&honest),
    }
}

/// The same again behind it.
pub(super) fn twice(reply: Bytes) -> Bytes {
    [&reply[..], &reply[..]].concat().into()
}

/// Bytes that no blob of the tree has, with their proof.
const OTHER: &[u8] = b"bytes of another blob";

/// For a span another one of the same blob, or all of another blob; for small blobs each other's contents.
pub(super) fn other_bytes(view: &SharedView, asked: &Asked, honest: Bytes) -> Bytes {
    let Some((proto::Status::Ok, body)) = header(&honest) else { return honest };
    match asked {
        Asked::Ranges { digest, span } => {
            let groups = span.groups();
            let length = groups.end.saturating_sub(groups.start);
            // Past the end is the last group.
            let others = [groups.end..groups.end.saturating_add(length), 0..length];
            let others = others.into_iter().filter_map(Span::from_groups).filter_map(|span| {
                let request = Request::Ranges { blob: BlobRef { digest: *digest, size: 0 }, span };
                answer(view, request.encode(false)).collect().ok()
            });
            let other = others.into_iter().find(|other| *other != honest);
            other.unwrap_or_else(|| reply([VerifiedSpan::of(Bytes::from_static(OTHER)).to_proof()]))
        }
        Asked::Batch(_) => batch_items(body, |items| {
            let mut contents: Vec<Bytes> = items.iter().map(|item| item.contents.clone()).collect();
            contents.rotate_left(1);
            if contents.iter().zip(items.iter()).all(|(other, item)| *other == item.contents) {
                contents.fill(Bytes::from_static(OTHER));
            }
            let here = items.iter_mut().zip(contents).filter(|(item, _)| item.status() == proto::Status::Ok);
            here.for_each(|(item, other)| item.contents = other);
        })
        .unwrap_or(honest),
        Asked::Path(_) | Asked::Closure { .. } | Asked::Have { .. } => honest,
    }
}

/// One item more, or one byte more.
pub(super) fn more(asked: &Asked, honest: Bytes) -> Bytes {
    let Some((proto::Status::Ok, body)) = header(&honest) else { return honest };
    match asked {
        Asked::Batch(_) => {
            batch_items(body, |items| items.push(proto::BatchItem::default())).unwrap_or(honest)
        }
        // Behind all Directories of a tree an empty one is either known or belongs nowhere.
        Asked::Closure { .. } | Asked::Ranges { .. } => [&honest[..], &[0]].concat().into(),
        Asked::Path(_) | Asked::Have { .. } => honest,
    }
}

/// How often the bomb's block stands in its frame: 256 MiB in all.
const BOMB_BLOCKS: usize = 2048;

/// A zstd frame of blocks of 128 KiB of zeros, each four bytes long, without a last one (RFC 8878, section 3.1.1).
pub(super) fn bomb(honest: Bytes) -> Bytes {
    if !matches!(header(&honest), Some((proto::Status::Ok, _))) {
        return honest;
    }
    let header = proto::ReplyHeader { encoding: proto::Encoding::Zstd.into(), ..Default::default() };
    let mut bomb = header.encode_length_delimited_to_vec();
    // The magic number, no content size and no checksum, a window of 128 KiB.
    bomb.extend([0x28, 0xb5, 0x2f, 0xfd, 0x00, 7 << 3]);
    for _ in 0..BOMB_BLOCKS {
        // Not the last, of type RLE, 128 KiB long: little-endian in three bytes; then the byte to repeat.
        bomb.extend([0x02, 0x00, 0x10, 0x00]);
    }
    bomb.into()
}

/// Not by this key.
pub(super) fn forge(signature: &Signature) -> Signature {
    let mut bytes = *signature.as_bytes();
    bytes[0] ^= 1;
    Signature::new(signature.key_name().clone(), bytes)
}
