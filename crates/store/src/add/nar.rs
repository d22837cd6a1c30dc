//! The NAR's hash, in order.

use std::ops::Range;

use bytes::Bytes;
use firn_nix::{NarFrame, NarHash, Sha256Writer};

use super::entries::{Entries, Entry, Kind};

/// What of a NAR a job is.
pub(super) enum Contents {
    /// These entries, with the contents of the files among them.
    Entries(Range<usize>, Vec<Bytes>),
    /// A piece of a file: the file's index, whether it is its first and its last.
    Piece { entry: usize, is_first: bool, is_last: bool, bytes: Bytes },
}

/// Hashes what comes in order.
pub(super) struct NarStage {
    hasher: Sha256Writer,
    frames: Vec<u8>,
    /// How many bytes of contents it has taken.
    pub(super) content_bytes: u64,
}

impl NarStage {
    pub(super) fn new() -> Self {
        Self { hasher: Sha256Writer::new(), frames: Vec::new(), content_bytes: 0 }
    }

    /// Takes what comes next.
    pub(super) fn take(&mut self, entries: &Entries, contents: Contents) {
        match contents {
            Contents::Entries(range, files) => {
                let mut files = files.into_iter();
                for entry in &entries.list()[range] {
                    entry.frame().put(&mut self.frames);
                    if let Kind::File { stamp, .. } = &entry.kind {
                        self.contents(&files.next().unwrap_or_default());
                        self.end_file(entry, stamp.size);
                    }
                }
                self.flush();
            }
            Contents::Piece { entry, is_first, is_last, bytes } => {
                let entry = &entries.list()[entry];
                if is_first {
                    entry.frame().put(&mut self.frames);
                }
                self.contents(&bytes);
                if let (true, Kind::File { stamp, .. }) = (is_last, &entry.kind) {
                    self.end_file(entry, stamp.size);
                }
            }
        }
    }

    pub(super) fn finish(mut self) -> (NarHash, u64) {
        self.flush();
        self.hasher.finish()
    }

    fn contents(&mut self, bytes: &[u8]) {
        self.flush();
        self.hasher.update(bytes);
        self.content_bytes += bytes.len() as u64;
    }

    fn end_file(&mut self, entry: &Entry, size: u64) {
        NarFrame::FileEnd { is_top: entry.name.is_none(), size }.put(&mut self.frames);
    }

    fn flush(&mut self) {
        self.hasher.update(&self.frames);
        self.frames.clear();
    }
}
