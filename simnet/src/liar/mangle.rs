//! Makes false bytes out of true ones.

use bytes::{BufMut, Bytes, BytesMut};
use firn_castore::{BlobDigest, BlobRef};
use firn_exchange::{Request, SharedView, answer};
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
    let Some((proto::Status::Ok, mut body)) = header(&honest) else { return honest };
    let mut items = Vec::new();
    while !body.is_empty() {
        let Ok(mut item) = proto::BatchItem::decode_length_delimited(&mut body) else { return honest };
        item.contents = with_last_byte_changed(&item.contents);
        items.push(item.encode_length_delimited_to_vec().into());
    }
    reply(items)
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

/// Not by this key.
pub(super) fn forge(signature: &Signature) -> Signature {
    let mut bytes = *signature.as_bytes();
    bytes[0] ^= 1;
    Signature::new(signature.key_name().clone(), bytes)
}
