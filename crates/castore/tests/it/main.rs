//! What the castore encodings are, byte by byte, and what is refused.

#![allow(clippy::unwrap_used, clippy::panic)]

mod any;
mod golden;
mod properties;
mod refused;

use bytes::Bytes;
use data_encoding::HEXLOWER;

/// Hex with spaces where they help the eye.
pub(crate) fn hex(text: &str) -> Bytes {
    let mut specification = HEXLOWER.specification();
    specification.ignore.push(' ');
    specification.encoding().unwrap().decode(text.as_bytes()).unwrap().into()
}
