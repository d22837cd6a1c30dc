//! NARs out of a store, chunk by chunk.

use std::{
    collections::VecDeque,
    io::{self, Write},
    ops::Range,
    sync::{Arc, mpsc},
    thread,
};

use bytes::{Bytes, BytesMut};
use firn_bao::{GROUP_BYTES, Span};
use firn_castore::{BlobRef, Closure};
use firn_nix::{LayoutError, NarLayout, Segment, Segments};

use crate::{Blobs, Item, StoreError};

/// How much is read and verified at a time, about.
pub const NAR_CHUNK_BYTES: u64 = 512 << 10;
/// How many groups of a blob are read at a time.
const READ_GROUPS: u64 = NAR_CHUNK_BYTES / GROUP_BYTES;
/// What is shorter is gathered: many small pieces cost whoever takes them more than the copy does.
const GATHER_BYTES: usize = 64 << 10;
/// How many chunks [`write_nar_to`] reads ahead of what it writes.
const AHEAD_MAX: usize = 3;

/// Cuts a NAR, or a part of it, into [`NarChunk`]s, in order. Nothing is read by that.
#[derive(Debug, Clone)]
pub struct NarChunks {
    segments: Segments,
    /// What is left of the blob at hand.
    blob: Option<(BlobRef, Range<u64>)>,
}

/// Some of a NAR, about [`NAR_CHUNK_BYTES`], that is yet to be read.
#[derive(Debug, Clone)]
pub struct NarChunk {
    parts: VecDeque<Part>,
}

#[derive(Debug, Clone)]
enum Part {
    Literal(Bytes),
    /// These bytes of a blob, and the span that has them.
    Blob {
        blob: BlobRef,
        span: Span,
        range: Range<u64>,
    },
}

impl Part {
    fn bytes(&self) -> u64 {
        match self {
            Part::Literal(bytes) => bytes.len() as u64,
            Part::Blob { range, .. } => range.end - range.start,
        }
    }
}

impl NarChunks {
    /// Cuts these segments.
    pub fn new(segments: Segments) -> Self {
        Self { segments, blob: None }
    }

    fn next_part(&mut self) -> Option<Part> {
        if let Some((blob, range)) = &mut self.blob
            && let Some(span) = Span::covering(range.clone(), blob.size)
        {
            // Cuts are the same wherever a range begins: a span that is aligned has the fewest parents.
            let first = span.groups().start;
            let (span, _) = span.split(READ_GROUPS - first % READ_GROUPS);
            let end = range.end.min(span.bytes(blob.size).end);
            let part = Part::Blob { blob: *blob, span, range: range.start..end };
            range.start = end;
            return Some(part);
        }
        match self.segments.next()? {
            Segment::Literal(bytes) => Some(Part::Literal(bytes)),
            Segment::Blob { blob, range } => {
                self.blob = Some((blob, range));
                self.next_part()
            }
        }
    }
}

impl Iterator for NarChunks {
    type Item = NarChunk;

    fn next(&mut self) -> Option<NarChunk> {
        let mut parts = VecDeque::new();
        let mut bytes = 0;
        while bytes < NAR_CHUNK_BYTES
            && let Some(part) = self.next_part()
        {
            bytes += part.bytes();
            parts.push_back(part);
        }
        (!parts.is_empty()).then_some(NarChunk { parts })
    }
}

impl NarChunk {
    /// Reads and verifies what is left of it, up to the first blob that is not here. What was read is left no longer.
    pub fn read(&mut self, store: &dyn Blobs) -> Result<Vec<Bytes>, StoreError> {
        let small =
            self.parts.iter().map(Part::bytes).filter(|bytes| *bytes < GATHER_BYTES as u64).sum::<u64>();
        let mut gathered = Gathered { pieces: Vec::new(), small: BytesMut::with_capacity(small as usize) };
        while let Some(part) = self.parts.front() {
            match part {
                Part::Literal(bytes) => gathered.push(bytes.clone()),
                Part::Blob { blob, span, range } => {
                    let Some(read) = store.read_span(blob, *span)? else { break };
                    let start = span.bytes(blob.size).start;
                    gathered.push(
                        read.bytes().slice((range.start - start) as usize..(range.end - start) as usize),
                    );
                }
            }
            self.parts.pop_front();
        }
        Ok(gathered.finish())
    }

    /// The blob that reading has stopped at; `None` once all is read.
    pub fn wants(&self) -> Option<BlobRef> {
        self.parts.iter().find_map(|part| match part {
            Part::Literal(_) => None,
            Part::Blob { blob, .. } => Some(*blob),
        })
    }
}

/// Large pieces as they are, what lies between them in one.
struct Gathered {
    pieces: Vec<Bytes>,
    small: BytesMut,
}

impl Gathered {
    fn push(&mut self, bytes: Bytes) {
        if bytes.len() < GATHER_BYTES {
            self.small.extend_from_slice(&bytes);
        } else {
            self.end_small();
            self.pieces.push(bytes);
        }
    }

    fn end_small(&mut self) {
        if !self.small.is_empty() {
            self.pieces.push(self.small.split().freeze());
        }
    }

    fn finish(mut self) -> Vec<Bytes> {
        self.end_small();
        self.pieces
    }
}

/// Why a NAR was not written.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// The tree has no NAR.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The store; a blob that is not here is [`StoreError::Missing`].
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The NAR could not be put where it belongs.
    #[error("the NAR could not be written: {0}")]
    Io(#[from] io::Error),
}

/// Writes the whole NAR of a tree that is here. A thread reads and verifies ahead of the writing.
pub fn write_nar_to(
    store: &dyn Blobs,
    closure: Arc<Closure>,
    out: &mut dyn Write,
) -> Result<(), RenderError> {
    let layout = NarLayout::new(closure)?;
    let chunks = NarChunks::new(layout.segments(0..layout.nar_size()));
    thread::scope(|scope| {
        let (sender, read) = mpsc::sync_channel(AHEAD_MAX);
        let read_ahead = move || {
            for chunk in chunks {
                let read = read_whole(store, chunk);
                let failed = read.is_err();
                // Nobody takes any more once writing has failed.
                if sender.send(read).is_err() || failed {
                    break;
                }
            }
        };
        thread::Builder::new().spawn_scoped(scope, read_ahead)?;
        for pieces in read {
            pieces?.iter().try_for_each(|piece| out.write_all(piece))?;
        }
        Ok(())
    })
}

fn read_whole(store: &dyn Blobs, mut chunk: NarChunk) -> Result<Vec<Bytes>, StoreError> {
    let pieces = chunk.read(store)?;
    match chunk.wants() {
        Some(blob) => Err(StoreError::Missing(Item::Blob(blob.digest))),
        None => Ok(pieces),
    }
}
