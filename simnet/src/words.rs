//! Words and changed bytes that both simulations need.

use bytes::{Bytes, BytesMut};
use firn_exchange::{Key, Request};

/// What a broken link or store makes of bytes.
pub(crate) fn with_last_byte_changed(bytes: &Bytes) -> Bytes {
    let mut changed = BytesMut::from(&bytes[..]);
    if let Some(last) = changed.last_mut() {
        *last ^= 1;
    }
    changed.freeze()
}

/// A key in a few words.
pub(crate) fn short(key: &Key) -> String {
    match key {
        Key::Path(hash) => format!("who vouches for {hash}"),
        Key::Root(root) => format!("holders of {root}"),
    }
}

/// A request in a few words.
pub(crate) fn what(request: &Request) -> String {
    match request {
        Request::Path(_) => "claims".into(),
        Request::Closure { root, .. } => format!("the Directories of {root}"),
        Request::Batch(blobs) => format!("{} small blobs", blobs.len()),
        Request::Ranges { blob, span } => {
            format!("groups {:?} of {:?} of {} bytes", span.groups(), blob.digest, blob.size)
        }
        Request::Have { blobs, .. } => format!("what it has of {} blobs", blobs.len()),
    }
}
