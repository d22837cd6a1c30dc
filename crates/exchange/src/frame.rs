//! Length-prefixed items: a varint, as protobuf writes it, then so many bytes.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{decode_varint, encode_varint, encoded_len_varint};

/// Bytes that are no sequence of items.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length is no varint.
    #[error("an item's length is no varint")]
    Length,
    /// The item is longer than what is left.
    #[error("an item of {length} bytes is cut off after {left}")]
    Truncated {
        /// By its prefix.
        length: u64,
        /// What is there of it.
        left: usize,
    },
    /// The item is not the protobuf message that it should be.
    #[error("an item is not protobuf: {0}")]
    Protobuf(#[from] prost::DecodeError),
    /// The item has a group, which no message of the protocol has.
    #[error("an item has a group in it")]
    Group,
}

/// Takes the first item off the bytes.
pub(crate) fn take(bytes: &mut Bytes) -> Result<Bytes, FrameError> {
    let length = decode_varint(bytes).map_err(|_| FrameError::Length)?;
    match usize::try_from(length) {
        Ok(fits) if fits <= bytes.remaining() => Ok(bytes.split_to(fits)),
        _ => Err(FrameError::Truncated { length, left: bytes.remaining() }),
    }
}

/// One item.
pub(crate) fn put(item: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(item.len() + 10);
    encode_varint(item.len() as u64, &mut framed);
    framed.put_slice(item);
    framed.freeze()
}

/// The length of one item with its prefix.
pub(crate) fn put_bytes(item: &[u8]) -> usize {
    encoded_len_varint(item.len() as u64) + item.len()
}

/// One item that is a message.
pub(crate) fn put_message(message: &impl Message) -> Bytes {
    message.encode_length_delimited_to_vec().into()
}
