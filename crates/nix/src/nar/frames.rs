//! What stands in a NAR around the contents of files.

use firn_castore::{PathComponent, SymlinkTarget};

use super::frame::{
    CLOSE, CONTENTS, DIRECTORY, ENTRY, EXECUTABLE, FILE, MAGIC, NODE, SYMLINK, padding, put, put_fixed,
};

/// The bytes of a NAR between the contents of two files, which takes names and lengths to know, but no digests.
///
/// A NAR is the frames of its entries in the order of their names, with each file's contents between its
/// [`NarFrame::File`] and its [`NarFrame::FileEnd`]. The topmost entry is the one without a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NarFrame<'a> {
    /// A directory begins.
    Open {
        /// Its name.
        name: Option<&'a PathComponent>,
    },
    /// The directory that was opened last and is not closed yet ends.
    Close {
        /// Whether it is the topmost entry.
        is_top: bool,
    },
    /// A file begins; its contents are next.
    File {
        /// Its name.
        name: Option<&'a PathComponent>,
        /// The owner's executable bit.
        executable: bool,
        /// The length of its contents in bytes.
        size: u64,
    },
    /// A file ends.
    FileEnd {
        /// Whether it is the topmost entry.
        is_top: bool,
        /// The length of its contents in bytes.
        size: u64,
    },
    /// A symlink.
    Symlink {
        /// Its name.
        name: Option<&'a PathComponent>,
        /// Where it points.
        target: &'a SymlinkTarget,
    },
}

impl NarFrame<'_> {
    /// Appends the frame's bytes.
    pub fn put(&self, buffer: &mut Vec<u8>) {
        match *self {
            NarFrame::Open { name } => {
                begin(buffer, name);
                put_fixed(buffer, DIRECTORY);
            }
            NarFrame::Close { is_top } => end(buffer, is_top),
            NarFrame::File { name, executable, size } => {
                begin(buffer, name);
                put_fixed(buffer, FILE);
                if executable {
                    put_fixed(buffer, EXECUTABLE);
                }
                put_fixed(buffer, CONTENTS);
                buffer.extend_from_slice(&size.to_le_bytes());
            }
            NarFrame::FileEnd { is_top, size } => {
                buffer.extend_from_slice(padding(size));
                end(buffer, is_top);
            }
            NarFrame::Symlink { name, target } => {
                begin(buffer, name);
                put_fixed(buffer, SYMLINK);
                put(buffer, target.as_bytes());
                end(buffer, name.is_none());
            }
        }
    }
}

/// What is before any node.
fn begin(buffer: &mut Vec<u8>, name: Option<&PathComponent>) {
    match name {
        None => put_fixed(buffer, MAGIC),
        Some(name) => {
            put_fixed(buffer, ENTRY);
            put(buffer, name.as_bytes());
            put_fixed(buffer, NODE);
        }
    }
}

/// What is behind any node: its own end, and that of the entry around it.
fn end(buffer: &mut Vec<u8>, is_top: bool) {
    put_fixed(buffer, CLOSE);
    if !is_top {
        put_fixed(buffer, CLOSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nar_of_a_directory_as_nix_writes_it() {
        let (file, link) = (PathComponent::try_from("f").unwrap(), PathComponent::try_from("l").unwrap());
        let mut nar = Vec::new();
        NarFrame::Open { name: None }.put(&mut nar);
        NarFrame::File { name: Some(&file), executable: true, size: 2 }.put(&mut nar);
        nar.extend_from_slice(b"ab");
        NarFrame::FileEnd { is_top: false, size: 2 }.put(&mut nar);
        NarFrame::Symlink { name: Some(&link), target: &"f".try_into().unwrap() }.put(&mut nar);
        NarFrame::Close { is_top: true }.put(&mut nar);
        let mut expected = Vec::new();
        let fields = "nix-archive-1 ( type directory entry ( name f node ( type regular executable _ contents ab ) ) \
                      entry ( name l node ( type symlink target f ) ) )";
        for field in fields.split(' ') {
            put(&mut expected, field.trim_matches('_').as_bytes());
        }
        assert_eq!(nar, expected);
    }
}
