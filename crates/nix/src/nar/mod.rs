//! NARs: trees as one flat sequence of bytes.
//!
//! ```text
//! archive   = "nix-archive-1" node
//! node      = "(" "type" "regular" [ "executable" "" ] "contents" contents ")"
//!           | "(" "type" "symlink" "target" target ")"
//!           | "(" "type" "directory" { "entry" "(" "name" name "node" node ")" } ")"
//! ```
//!
//! Each of these strings stands as its length (8 bytes, little endian), its bytes, and zeros up to a multiple of 8.
//! Names are sorted bytewise. Source: figure 5.2 of Eelco Dolstra's thesis, and `archive.cc` in Nix.

mod frame;
mod frames;
mod layout;
mod reader;
mod segments;
mod writer;

pub use frames::NarFrame;
pub use layout::{LayoutError, NarLayout};
pub use reader::{NarContents, NarError, NarEvent, NarReader};
pub use segments::{LITERAL_BYTES_MAX, Segment, Segments};
pub use writer::{NarWriteError, write_nar};
