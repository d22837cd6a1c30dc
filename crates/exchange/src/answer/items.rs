//! The items of a body.

use bytes::Bytes;
use firn_bao::{Groups, Span, VerifiedSpan};
use firn_castore::BlobDigest;
use firn_proto::exchange as proto;
use firn_store::StoreError;

use super::SharedView;
use crate::shared::Extent;
use crate::{BITMAP_BYTES_MAX, INLINE_BYTES_MAX};

/// What the disk has damaged is not here: others may have it, and all else that was asked for can still be given.
pub(super) fn undamaged(
    read: Result<Option<VerifiedSpan>, StoreError>,
) -> Result<Option<VerifiedSpan>, StoreError> {
    match read {
        Err(StoreError::Damaged { .. }) => Ok(None),
        read => read,
    }
}

pub(super) fn batch_item(
    view: &SharedView,
    digest: BlobDigest,
    bytes_left: &mut u64,
) -> Result<proto::BatchItem, StoreError> {
    let with = |status: proto::Status| proto::BatchItem { status: status.into(), contents: Bytes::new() };
    let Some(blob) = view.shared.blob(digest) else { return Ok(with(proto::Status::Missing)) };
    if blob.size > INLINE_BYTES_MAX {
        return Ok(with(proto::Status::Refused));
    }
    let Some(left) = bytes_left.checked_sub(blob.size) else { return Ok(with(proto::Status::Busy)) };
    match undamaged(view.store.read_span(&blob, Span::whole(blob.size)))? {
        Some(whole) => {
            *bytes_left = left;
            Ok(proto::BatchItem { status: proto::Status::Ok.into(), contents: whole.bytes().clone() })
        }
        None => Ok(with(proto::Status::Missing)),
    }
}

pub(super) fn have_tree(extent: Extent) -> proto::HaveItem {
    match extent {
        Extent::Whole => proto::HaveItem::default(),
        Extent::Partial => proto::HaveItem { partial: true, ..Default::default() },
        Extent::Nothing => have_nothing(),
    }
}

pub(super) fn have_blob(view: &SharedView, digest: BlobDigest) -> Result<proto::HaveItem, StoreError> {
    let Some(blob) = view.shared.blob(digest) else { return Ok(have_nothing()) };
    let runs = view.store.groups(&blob)?;
    if runs == [Span::whole(blob.size)] {
        return Ok(proto::HaveItem { size: blob.size, ..Default::default() });
    }
    if runs.is_empty() {
        return Ok(have_nothing());
    }
    let groups = runs.into_iter().collect::<Groups>().to_bitmap(BITMAP_BYTES_MAX).into();
    Ok(proto::HaveItem { size: blob.size, partial: true, groups, ..Default::default() })
}

fn have_nothing() -> proto::HaveItem {
    proto::HaveItem { status: proto::Status::Missing.into(), ..Default::default() }
}
