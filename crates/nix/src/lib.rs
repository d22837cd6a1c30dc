//! Nix's formats: store paths, hashes, signatures, narinfo text and NARs.
//!
//! A [`StorePath`] names what Nix stores, [`NarFacts`] is what a Nix [`Signature`] says of it, and [`NarInfo`] is the
//! text that a binary cache serves. A [`NarLayout`] is the NAR of a castore closure, of which any range can be had
//! without rendering what lies before it; [`NarReader`] takes a NAR apart.
//!
//! Every decoder is strict: what it accepts, it writes again with the same meaning. Deliberately absent: files,
//! sockets, decompression, store directories other than [`STORE_DIR`], and any opinion on which key to trust.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]
#![deny(clippy::print_stdout, clippy::print_stderr)] // They panic where nobody can be told.

mod content_address;
mod facts;
mod hash;
mod key;
mod nar;
mod narinfo;
pub mod nixbase32;
mod store_path;

pub use content_address::{ContentAddress, ContentAddressError, ContentHash, source_store_path};
pub use facts::{NarFacts, fingerprint};
pub use hash::{FileHash, HashError, NarHash, Sha256Writer};
pub use key::{KEY_NAME_BYTES_MAX, KeyError, KeyName, PublicKey, Signature, SignatureError, SigningKey};
pub use nar::{
    LITERAL_BYTES_MAX, LayoutError, NarContents, NarError, NarEvent, NarFrame, NarLayout, NarReader,
    NarWriteError, Segment, Segments, write_nar,
};
pub use narinfo::{NARINFO_BYTES_MAX, NarInfo, NarInfoError};
pub use store_path::{STORE_DIR, STORE_PATH_NAME_BYTES_MAX, StorePath, StorePathError, StorePathHash};
