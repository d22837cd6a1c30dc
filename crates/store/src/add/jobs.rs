//! Cutting a tree into jobs of about as many bytes.

use std::{
    ops::Range,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use firn_bao::{HashedPiece, PIECE_BYTES, Pieces};
use firn_castore::BlobRef;

use super::{AddError, entries::Entries, read::OpenFile, walk::Stamp};
use crate::{Incoming, Intake, lock};

/// A job of several files ends when it has this many bytes.
const JOB_BYTES: u64 = 256 * 1024;
/// A job has at most this many entries.
const JOB_ENTRIES_MAX: usize = 256;

/// Something that one thread does at one time.
pub(super) struct Job<'a> {
    /// Jobs are counted in the order of a NAR.
    pub(super) number: u64,
    /// How many bytes of contents it reads, at most a piece.
    pub(super) bytes: u64,
    pub(super) part: Part<'a>,
}

pub(super) enum Part<'a> {
    /// All of these entries; each file is at most a piece long.
    Entries(Unit, Range<usize>),
    /// A piece of a file.
    Piece(Arc<Large<'a>>, u64),
}

/// Where something stands among all runs of entries and large files.
pub(super) type Unit = u64;

/// Goes through the entries once.
pub(super) struct Cursor<'a> {
    entries: &'a Entries,
    next: usize,
    /// The file that is being cut, and its next piece.
    large: Option<(Arc<Large<'a>>, u64)>,
    /// How many jobs it has given.
    pub(super) jobs: u64,
    /// How many units it has given, of a large file perhaps only some of it.
    pub(super) units: u64,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(entries: &'a Entries) -> Self {
        Self { entries, next: 0, large: None, jobs: 0, units: 0 }
    }

    /// The next job.
    pub(super) fn take(&mut self) -> Option<Job<'a>> {
        let (part, bytes) = match self.large.take() {
            Some((large, piece)) => self.cut(large, piece),
            None => self.begin_unit()?,
        };
        self.jobs += 1;
        Some(Job { number: self.jobs - 1, bytes, part })
    }

    /// What comes next, and how many bytes of contents that is.
    fn begin_unit(&mut self) -> Option<(Part<'a>, u64)> {
        let (begin, unit) = (self.next, self.units);
        let first = self.entries.list().get(begin)?;
        self.units += 1;
        if let Some(stamp) = first.stamp()
            && stamp.size > PIECE_BYTES
        {
            self.next += 1;
            return Some(self.cut(Arc::new(Large::new(begin, unit, stamp)), 0));
        }
        let mut bytes = 0;
        for entry in self.entries.list()[begin..].iter().take(JOB_ENTRIES_MAX) {
            let size = entry.stamp().map_or(0, |stamp| stamp.size);
            if bytes >= JOB_BYTES || size > PIECE_BYTES - bytes {
                break;
            }
            bytes += size;
            self.next += 1;
        }
        Some((Part::Entries(unit, begin..self.next), bytes))
    }

    fn cut(&mut self, large: Arc<Large<'a>>, piece: u64) -> (Part<'a>, u64) {
        if piece + 1 < large.pieces() {
            self.large = Some((large.clone(), piece + 1));
        }
        let range = large.piece(piece);
        (Part::Piece(large, piece), range.end - range.start)
    }
}

/// A file of more than a piece, of which several threads may read.
pub(super) struct Large<'a> {
    pub(super) entry: usize,
    pub(super) unit: Unit,
    pub(super) stamp: Stamp,
    opened: OnceLock<Result<Opened<'a>, Mutex<Option<AddError>>>>,
    pieces_done: AtomicU64,
}

pub(super) struct Opened<'a> {
    pub(super) file: OpenFile,
    sink: Sink<'a>,
}

/// Where the pieces go.
enum Sink<'a> {
    Copy(Box<dyn Incoming + 'a>),
    Adopt(Mutex<Pieces>),
}

impl<'a> Large<'a> {
    fn new(entry: usize, unit: Unit, stamp: Stamp) -> Self {
        Self { entry, unit, stamp, opened: OnceLock::new(), pieces_done: AtomicU64::new(0) }
    }

    pub(super) fn pieces(&self) -> u64 {
        self.stamp.size.div_ceil(PIECE_BYTES)
    }

    /// Where a piece lies in the file.
    pub(super) fn piece(&self, index: u64) -> Range<u64> {
        let begin = index * PIECE_BYTES;
        begin..self.stamp.size.min(begin + PIECE_BYTES)
    }

    /// Opens it if nobody has yet; of a failure only the first who is told is told why.
    pub(super) fn opened(
        &self,
        open: impl FnOnce() -> Result<Opened<'a>, AddError>,
    ) -> Result<&Opened<'a>, Option<AddError>> {
        let opened = self.opened.get_or_init(|| open().map_err(|error| Mutex::new(Some(error))));
        opened.as_ref().map_err(|error| lock(error).take())
    }

    /// Ends a thread's work on a piece that was written. The last one gets the file.
    pub(super) fn piece_done(self: Arc<Self>) -> Option<Opened<'a>> {
        self.pieces_done.fetch_add(1, Ordering::AcqRel);
        let large = Arc::into_inner(self)?;
        // If not all were written something has failed, and whom it failed tells.
        let is_whole = large.pieces_done.load(Ordering::Acquire) == large.pieces();
        if is_whole { large.opened.into_inner()?.ok() } else { None }
    }
}

impl<'a> Opened<'a> {
    pub(super) fn copy(file: OpenFile, incoming: Box<dyn Incoming + 'a>) -> Self {
        Self { file, sink: Sink::Copy(incoming) }
    }

    pub(super) fn adopt(file: OpenFile, size: u64) -> Self {
        Self { file, sink: Sink::Adopt(Mutex::new(Pieces::new(size))) }
    }

    pub(super) fn write(&self, piece: &HashedPiece) -> Result<(), AddError> {
        match &self.sink {
            Sink::Copy(incoming) => incoming.write(piece)?,
            Sink::Adopt(pieces) => lock(pieces).insert(piece).expect("it was cut to fit"),
        }
        Ok(())
    }

    /// Keeps the blob, all pieces of which were written.
    pub(super) fn finish<S: Intake + ?Sized>(self, store: &S) -> Result<BlobRef, AddError> {
        self.file.check()?;
        match self.sink {
            Sink::Copy(incoming) => Ok(incoming.finish()?),
            Sink::Adopt(pieces) => {
                let pieces = pieces.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
                let blob = pieces.finish().expect("all pieces were written");
                store.adopt_blob(self.file.path(), &blob)?;
                Ok(blob.blob())
            }
        }
    }
}
