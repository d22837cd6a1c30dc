//! NARs out of a store, chunk by chunk.

use std::{
    collections::VecDeque,
    io::{self, Write},
    num::NonZero,
    ops::Range,
    sync::{
        Arc, Mutex,
        mpsc::{self, SyncSender},
    },
    thread,
};

use bytes::Bytes;
use firn_bao::{GROUP_BYTES, Span, VerifiedBytes};
use firn_castore::{BlobRef, Closure};
use firn_nix::{LayoutError, NarLayout, Segment, Segments};

use crate::{Blobs, Buffers, Item, StoreError, lock};

/// How much is read and verified at a time, about.
pub const NAR_CHUNK_BYTES: u64 = 1 << 20;
/// How many groups of a blob are read at a time.
const READ_GROUPS: u64 = NAR_CHUNK_BYTES / GROUP_BYTES;
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

    /// Its first bytes, no more than these and whole groups of a blob, and what follows them.
    fn split(self, bytes_max: u64) -> (Option<Self>, Option<Self>) {
        match self {
            Part::Literal(mut bytes) => {
                let first = bytes.split_to(bytes.len().min(bytes_max as usize));
                let part = |bytes: Bytes| (!bytes.is_empty()).then_some(Part::Literal(bytes));
                (part(first), part(bytes))
            }
            Part::Blob { blob, span, range } => {
                let end = range.start.saturating_add(bytes_max) / GROUP_BYTES;
                let groups = end.saturating_sub(span.groups().start);
                if groups == 0 {
                    return (None, Some(Part::Blob { blob, span, range }));
                }
                let (span, rest) = span.split(groups);
                let middle = range.end.min(span.bytes(blob.size).end);
                let rest = rest.map(|span| Part::Blob { blob, span, range: middle..range.end });
                (Some(Part::Blob { blob, span, range: range.start..middle }), rest)
            }
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
    /// How long what is left of it is.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(Part::bytes).sum()
    }

    /// Keeps its first bytes, no more than these, or than a group where these are less; gives what follows them.
    pub fn split(&mut self, bytes_max: u64) -> Option<Self> {
        let mut left = bytes_max.max(GROUP_BYTES);
        let fit = self.parts.iter().take_while(|part| match left.checked_sub(part.bytes()) {
            Some(rest) => {
                left = rest;
                true
            }
            None => false,
        });
        let mut parts = self.parts.split_off(fit.count());
        let (first, rest) = parts.pop_front()?.split(left);
        self.parts.extend(first);
        rest.into_iter().for_each(|rest| parts.push_front(rest));
        (!parts.is_empty()).then_some(Self { parts })
    }

    /// Reads and verifies what is left of it, up to the first blob that is not here. What was read is left no longer.
    pub fn read(&mut self, store: &dyn Blobs, buffers: &Buffers) -> Result<Bytes, StoreError> {
        let mut read = VerifiedBytes::within(buffers.take_used(), self.bytes() as usize);
        while let Some(part) = self.parts.front() {
            match part {
                Part::Literal(bytes) => read.push(bytes),
                Part::Blob { blob, span, range } if span.bytes(blob.size) == *range => {
                    if !store.read_onto(&mut read, blob, *span)? {
                        break;
                    }
                }
                Part::Blob { blob, span, range } => {
                    let Some(whole) = store.read_span(blob, *span)? else { break };
                    let start = span.bytes(blob.size).start;
                    read.push(&whole.bytes()[(range.start - start) as usize..(range.end - start) as usize]);
                }
            }
            self.parts.pop_front();
        }
        Ok(buffers.freeze(read.into()))
    }

    /// As [`NarChunk::read`], where all of it must be here.
    pub fn read_whole(mut self, store: &dyn Blobs, buffers: &Buffers) -> Result<Bytes, StoreError> {
        let bytes = self.read(store, buffers)?;
        match self.wants() {
            Some(blob) => Err(StoreError::Missing(Item::Blob(blob.digest))),
            None => Ok(bytes),
        }
    }

    /// The spans of blobs that are still to be read.
    pub fn spans(&self) -> impl Iterator<Item = (BlobRef, Span)> {
        self.parts.iter().filter_map(|part| match part {
            Part::Literal(_) => None,
            Part::Blob { blob, span, .. } => Some((*blob, *span)),
        })
    }

    /// The blob that reading has stopped at; `None` once all is read.
    pub fn wants(&self) -> Option<BlobRef> {
        self.spans().next().map(|(blob, _)| blob)
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

/// A chunk, and where to put what is read of it.
type Job = (NarChunk, SyncSender<Result<Bytes, StoreError>>);

/// Writes the whole NAR of a tree that is here. Threads read and verify ahead of the writing.
pub fn write_nar_to(
    store: &dyn Blobs,
    closure: Arc<Closure>,
    out: &mut dyn Write,
) -> Result<(), RenderError> {
    let layout = NarLayout::new(closure)?;
    let mut chunks = NarChunks::new(layout.segments(0..layout.nar_size()));
    let (jobs, queue) = mpsc::channel::<Job>();
    let queue = &Mutex::new(queue);
    let next_job = || lock(queue).recv();
    let buffers = &Buffers::default();
    let read_ahead = || {
        while let Ok((chunk, done)) = next_job() {
            // Nobody waits for it once writing has failed.
            let _ = done.send(chunk.read_whole(store, buffers));
        }
    };
    // The thread that writes has a core of its own: one more that reads would take turns with it.
    let threads = (thread::available_parallelism().map_or(1, NonZero::get) - 1).clamp(1, AHEAD_MAX);
    thread::scope(move |scope| {
        for _ in 0..threads {
            thread::Builder::new().spawn_scoped(scope, read_ahead)?;
        }
        let mut reading = VecDeque::new();
        loop {
            while reading.len() < AHEAD_MAX
                && let Some(chunk) = chunks.next()
            {
                let (done, read) = mpsc::sync_channel(1);
                if jobs.send((chunk, done)).is_ok() {
                    reading.push_back(read);
                }
            }
            // Where a thread has panicked the scope does so too.
            let Some(Ok(bytes)) = reading.pop_front().map(|read| read.recv()) else { return Ok(()) };
            out.write_all(&bytes?)?;
        }
    })
}

#[cfg(test)]
mod tests {
    use firn_castore::{ClosureBuilder, Node, PathComponent};
    use firn_nix::write_nar;

    use super::*;
    use crate::{Directories, MemoryStore, conformance};

    /// A tree of small files and large ones, in a store; its NAR, rendered without the store.
    fn tree(store: &MemoryStore) -> (Arc<Closure>, Vec<u8>) {
        let sizes = (0..300).map(|number| number * 37).chain([70_000, 3 << 20, 5_000_001]);
        let blobs: Vec<_> = sizes.zip(0..).map(|(size, seed)| conformance::contents(size, seed)).collect();
        let entries = blobs.iter().enumerate().map(|(number, bytes)| {
            let node = Node::File { blob: conformance::add(store, bytes), executable: number % 2 == 0 };
            (PathComponent::try_from(format!("{number:04}").as_str()).unwrap(), node)
        });
        let directory = firn_castore::Directory::build(entries).unwrap();
        store.keep_directories(std::slice::from_ref(&directory)).unwrap();
        let mut builder = ClosureBuilder::new(directory.node().into()).unwrap();
        builder.insert(directory).unwrap();
        let closure = Arc::new(builder.finish().unwrap());
        let mut nar = Vec::new();
        write_nar(&NarLayout::new(closure.clone()).unwrap(), &mut nar, |blob, out| {
            out.write_all(blobs.iter().find(|bytes| BlobRef::of(bytes) == blob).unwrap())
        })
        .unwrap();
        (closure, nar)
    }

    #[test]
    fn a_nar_is_the_same_whole_and_in_parts() {
        let store = MemoryStore::new();
        let (closure, nar) = tree(&store);
        let mut written = Vec::new();
        write_nar_to(&store, closure.clone(), &mut written).unwrap();
        assert!(written == nar);
        let (layout, size) = (NarLayout::new(closure).unwrap(), nar.len() as u64);
        for range in [0..1, size - 1..size, 999_999..4_000_001, 2_000_000..2_000_000, 70..size] {
            let (mut part, buffers) = (Vec::new(), Buffers::default());
            for mut chunk in NarChunks::new(layout.segments(range.clone())) {
                let bytes = chunk.read(&store, &buffers).unwrap();
                assert!(chunk.wants().is_none());
                assert!(bytes.len() as u64 <= 2 * NAR_CHUNK_BYTES, "{}", bytes.len());
                part.extend(bytes);
            }
            assert!(part == nar[range.start as usize..range.end as usize], "{range:?}");
        }
    }

    #[test]
    fn a_chunk_is_split_into_pieces() {
        let store = MemoryStore::new();
        let (closure, nar) = tree(&store);
        let (layout, buffers) = (NarLayout::new(closure).unwrap(), Buffers::default());
        for (range, bytes_max) in
            [(0..nar.len(), 64 << 10), (1_000_001..3_000_001, 100_000), (0..nar.len(), 0)]
        {
            let mut pieces = Vec::new();
            for chunk in NarChunks::new(layout.segments(range.start as u64..range.end as u64)) {
                let (mut left, whole, before) = (Some(chunk.clone()), chunk.bytes(), pieces.len());
                while let Some(mut piece) = left {
                    left = piece.split(bytes_max);
                    let bytes = piece.bytes();
                    assert!(bytes > 0 && bytes <= bytes_max.max(GROUP_BYTES), "{bytes}");
                    pieces.extend(piece.read(&store, &buffers).unwrap());
                    assert!(piece.wants().is_none() && piece.bytes() == 0);
                }
                assert_eq!((pieces.len() - before) as u64, whole);
            }
            assert!(pieces == nar[range.clone()], "{range:?} {bytes_max}");
        }
        let mut chunk = NarChunks::new(layout.segments(0..1_000)).next().unwrap();
        assert!(chunk.split(1_000_000).is_none());
    }

    #[test]
    fn what_is_not_here_is_named_and_what_was_read_is_not_read_again() {
        let store = MemoryStore::new();
        let (closure, nar) = tree(&store);
        let empty = MemoryStore::new();
        let error = write_nar_to(&empty, closure.clone(), &mut io::sink()).unwrap_err();
        assert!(matches!(error, RenderError::Store(StoreError::Missing(Item::Blob(_)))), "{error}");

        let layout = NarLayout::new(closure).unwrap();
        let buffers = Buffers::default();
        let mut chunk = NarChunks::new(layout.segments(0..1_000)).next().unwrap();
        let before = chunk.read(&empty, &buffers).unwrap();
        assert!(!before.is_empty() && chunk.wants().is_some());
        let after = chunk.read(&store, &buffers).unwrap();
        assert_eq!([before, after].concat(), nar[..1_000]);
    }

    #[test]
    fn who_takes_no_more_ends_it() {
        struct Full(usize);
        impl Write for Full {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let store = MemoryStore::new();
        let (closure, _) = tree(&store);
        let error = write_nar_to(&store, closure, &mut Full(2_000_000)).unwrap_err();
        assert!(matches!(error, RenderError::Io(error) if error.kind() == io::ErrorKind::StorageFull));
    }
}
