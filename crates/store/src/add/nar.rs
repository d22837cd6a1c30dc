//! The NAR's hash, in order.

use std::ops::Range;

use firn_bao::{HashedPiece, PIECE_BYTES};
use firn_nix::NarFrame;
use firn_trust::{NarRenderer, RenderedNar, WholeBlob};

use super::{
    entries::{Entries, Entry, Kind},
    walk::Stamp,
};

/// What of a NAR a job is.
pub(super) enum Contents {
    /// These entries, with the contents of the files among them.
    Entries(Range<usize>, Vec<WholeBlob>),
    /// A piece of the file of this index.
    Piece { entry: usize, piece: HashedPiece },
}

/// Hashes what comes in order.
pub(super) struct NarStage {
    /// Large, and handed from thread to thread.
    renderer: Box<NarRenderer>,
    frames: Vec<u8>,
    /// How many bytes of contents it has taken.
    pub(super) content_bytes: u64,
}

impl NarStage {
    pub(super) fn new() -> Self {
        Self { renderer: Box::default(), frames: Vec::new(), content_bytes: 0 }
    }

    /// Takes what comes next.
    pub(super) fn take(&mut self, entries: &Entries, contents: Contents) {
        match contents {
            Contents::Entries(range, files) => {
                let mut files = files.into_iter();
                for entry in &entries.list()[range] {
                    entry.frame().put(&mut self.frames);
                    if let Kind::File { stamp, .. } = &entry.kind {
                        let file = files.next().expect("each file that was read has its blob");
                        self.flush();
                        self.renderer.blob(&file);
                        self.content_bytes += stamp.size;
                        self.end_file(entry, stamp.size);
                    }
                }
                self.flush();
            }
            Contents::Piece { entry, piece } => {
                let entry = &entries.list()[entry];
                let Some(Stamp { size, .. }) = entry.stamp() else { return };
                if piece.index() == 0 {
                    entry.frame().put(&mut self.frames);
                    self.flush();
                }
                self.renderer.piece(size, &piece);
                self.content_bytes += piece.bytes().len() as u64;
                if (piece.index() + 1) * PIECE_BYTES >= size {
                    self.end_file(entry, size);
                    self.flush();
                }
            }
        }
    }

    pub(super) fn finish(self) -> RenderedNar {
        self.renderer.finish().expect("the jobs have come in the order of the NAR")
    }

    fn end_file(&mut self, entry: &Entry, size: u64) {
        NarFrame::FileEnd { is_top: entry.name.is_none(), size }.put(&mut self.frames);
    }

    fn flush(&mut self) {
        self.renderer.literal(&self.frames);
        self.frames.clear();
    }
}
