//! The items of a body.

use bytes::{Bytes, BytesMut};
use firn_bao::{Groups, Span, VerifiedBytes};
use firn_castore::BlobDigest;
use firn_proto::exchange as proto;
use firn_store::StoreError;
use prost::encoding::{WireType, encode_key, encode_varint};

use super::SharedView;
use crate::shared::Extent;
use crate::{BITMAP_BYTES_MAX, INLINE_BYTES_MAX, frame};

/// What the disk has damaged is not here: others may have it, and all else that was asked for can still be given.
pub(super) fn undamaged<T: Default>(read: Result<T, StoreError>) -> Result<T, StoreError> {
    match read {
        Err(StoreError::Damaged { .. }) => Ok(T::default()),
        read => read,
    }
}

/// The field of a [`proto::BatchItem`] that comes last.
const CONTENTS_FIELD: u32 = 2;

/// Puts an item behind others. Contents are read to where they stay.
pub(super) fn put_batch_item(
    items: &mut VerifiedBytes,
    view: &SharedView,
    digest: BlobDigest,
    bytes_left: &mut u64,
) -> Result<(), StoreError> {
    let status = match view.shared.blob(digest) {
        None => proto::Status::Missing,
        Some(blob) if blob.size > INLINE_BYTES_MAX => proto::Status::Refused,
        Some(blob) => match bytes_left.checked_sub(blob.size) {
            None => proto::Status::Busy,
            Some(left) => {
                let before = items.len();
                items.push(&head_of(blob.size));
                if undamaged(view.store.read_onto(items, &blob, Span::whole(blob.size)))? {
                    *bytes_left = left;
                    return Ok(());
                }
                items.truncate(before);
                proto::Status::Missing
            }
        },
    };
    items.push(&frame::put_message(&proto::BatchItem { status: status.into(), contents: Bytes::new() }));
    Ok(())
}

/// What is before so many bytes of contents: the length of the item, the key of the field and its length.
fn head_of(contents: u64) -> Bytes {
    let mut field = BytesMut::with_capacity(2 * 10);
    if contents > 0 {
        encode_key(CONTENTS_FIELD, WireType::LengthDelimited, &mut field);
        encode_varint(contents, &mut field);
    }
    let mut head = BytesMut::with_capacity(3 * 10);
    encode_varint(field.len() as u64 + contents, &mut head);
    head.extend_from_slice(&field);
    head.freeze()
}

pub(super) fn have_tree(extent: Extent) -> proto::HaveItem {
    match extent {
        Extent::Whole => proto::HaveItem::default(),
        Extent::Partial => proto::HaveItem { partial: true, ..Default::default() },
        Extent::Nothing => have_nothing(),
    }
}

pub(super) fn have_blob(
    view: &SharedView,
    digest: BlobDigest,
    bitmap_bytes_left: &mut usize,
) -> Result<proto::HaveItem, StoreError> {
    let Some(blob) = view.shared.blob(digest) else { return Ok(have_nothing()) };
    let runs = view.store.groups(&blob)?;
    if runs == [Span::whole(blob.size)] {
        return Ok(proto::HaveItem { size: blob.size, ..Default::default() });
    }
    if runs.is_empty() {
        return Ok(have_nothing());
    }
    let bytes_max = BITMAP_BYTES_MAX.min(*bitmap_bytes_left);
    let groups: Bytes = runs.into_iter().collect::<Groups>().to_bitmap(bytes_max).into();
    *bitmap_bytes_left -= groups.len();
    Ok(proto::HaveItem { size: blob.size, partial: true, groups, ..Default::default() })
}

fn have_nothing() -> proto::HaveItem {
    proto::HaveItem { status: proto::Status::Missing.into(), ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_before_contents_is_what_protobuf_puts_there() {
        for length in [0, 1, 127, 128, 16_383, 16_384, INLINE_BYTES_MAX] {
            let contents = Bytes::from(vec![7; length as usize]);
            let whole = frame::put_message(&proto::BatchItem { status: 0, contents: contents.clone() });
            assert!([&head_of(length)[..], &contents].concat() == whole, "{length}");
        }
    }
}
