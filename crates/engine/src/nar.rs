//! A NAR as a stream of bytes, from a tree that is here or on its way.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use firn_bao::{GROUP_BYTES, Span};
use firn_castore::{BlobRef, Closure};
use firn_exchange::Rejection;
use firn_nix::{NarLayout, Segment, Segments};
use firn_store::Store;
use firn_trust::NarMismatch;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};

use crate::flights::{Landed, Seat};
use crate::{Engine, EngineError, Resolved};

/// How much is read before it is handed on.
const CHUNK_BYTES: usize = 512 << 10;
/// How much of a blob is read at once.
const READ_GROUPS: u64 = CHUNK_BYTES as u64 / GROUP_BYTES;

/// A NAR that can be had.
pub struct Nar {
    size: u64,
    is_proven: bool,
    contents: Contents,
}

/// Where its bytes come from.
pub(crate) struct Contents {
    pub(crate) engine: Engine,
    pub(crate) resolved: Resolved,
}

/// A NAR whose tree is known.
pub struct OpenNar {
    layout: NarLayout,
    engine: Engine,
    /// The flight that brings the blobs; `None` where all are here.
    seat: Option<Seat>,
}

impl Nar {
    pub(crate) fn new(size: u64, is_proven: bool, contents: Contents) -> Self {
        Self { size, is_proven, contents }
    }

    /// Its length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether its root is believed, so that any part of it may be given away.
    pub fn is_proven(&self) -> bool {
        self.is_proven
    }

    /// Waits until its bytes can be given away: for the Directories if the root is believed, for the whole tree and its
    /// NAR match if it is not.
    pub async fn open(self) -> Result<OpenNar, EngineError> {
        let Contents { engine, resolved } = self.contents;
        let facts = resolved.facts();
        let (closure, seat) = if engine.is_here(facts.path.hash()) {
            (engine.local_closure(facts.root.clone()).await?.ok_or(EngineError::Gone)?, None)
        } else {
            let seat = engine.board(&resolved);
            match &resolved {
                Resolved::Proven(path) => {
                    let closure = seat.clone().closure().await;
                    match closure.ok().filter(|closure| *closure.root() == path.facts().root) {
                        Some(closure) => (closure, Some(seat)),
                        None => {
                            let seat = engine.board_tree(path);
                            (seat.clone().closure().await?, Some(seat))
                        }
                    }
                }
                Resolved::Signed(_) => (seat.closure_of_landed().await?, None),
            }
        };
        let layout = NarLayout::new(closure)?;
        let actual = layout.nar_size();
        if actual != self.size {
            let mismatch = NarMismatch::Size { signed: self.size, actual };
            return Err(EngineError::Rejected(Rejection::Nar(mismatch)));
        }
        Ok(OpenNar { layout, engine, seat })
    }
}

impl OpenNar {
    /// These bytes of it. What has not come yet is waited for; an error ends the stream.
    ///
    /// The last bytes of a NAR that is on its way come once it has been committed: whoever has it all stops reading, and
    /// with the last reader the flight ends.
    pub fn read(self, range: Range<u64>) -> BoxStream<'static, Result<Bytes, EngineError>> {
        let size = self.layout.nar_size();
        let left = range.end.min(size).saturating_sub(range.start);
        let must_land = range.end >= size;
        let reader = Reader {
            store: self.engine.store().clone(),
            segments: self.layout.segments(range),
            blob: None,
            is_waiting: false,
        };
        let engine = self.engine;
        let chunks =
            futures::stream::try_unfold((reader, self.seat, left), move |(reader, mut seat, left)| {
                let engine = engine.clone();
                async move {
                    let mut reader = reader;
                    loop {
                        // Marks what has come so far as seen before looking, so that nothing that comes later is missed.
                        let landed = seat.as_mut().is_none_or(Seat::look);
                        let filled;
                        (reader, filled) = engine.run_blocking(move || reader.fill()).await?;
                        let bytes = filled?;
                        if !bytes.is_empty() {
                            let left = left.saturating_sub(bytes.len() as u64);
                            if let Some(seat) = &seat
                                && must_land
                                && left == 0
                            {
                                seat.landing.clone().await?;
                            }
                            return Ok(Some((bytes, (reader, seat, left))));
                        }
                        match &mut seat {
                            _ if !reader.is_waiting => return Ok(None),
                            Some(seat) if !landed => seat.wait().await?,
                            _ => return Err(EngineError::Gone),
                        }
                    }
                }
            });
        chunks.into_stream().boxed()
    }
}

impl Seat {
    /// Waits for the tree's Directories.
    async fn closure(mut self) -> Result<Arc<Closure>, EngineError> {
        loop {
            if let Some(closure) = self.progress.borrow_and_update().closure.clone() {
                return Ok(closure);
            }
            tokio::select! {
                landed = self.landing.clone() => return closure_of(landed?),
                Ok(()) = self.progress.changed() => {}
            }
        }
    }

    async fn closure_of_landed(self) -> Result<Arc<Closure>, EngineError> {
        closure_of(self.landing.await?)
    }

    /// Whether the flight has ended well; what it has brought so far counts as seen.
    fn look(&mut self) -> bool {
        self.progress.mark_unchanged();
        matches!(self.landing.clone().now_or_never(), Some(Ok(_)))
    }

    /// Waits for a change.
    async fn wait(&mut self) -> Result<(), EngineError> {
        tokio::select! {
            landed = self.landing.clone() => landed.map(|_| ()),
            Ok(()) = self.progress.changed() => Ok(()),
        }
    }
}

fn closure_of(landed: Landed) -> Result<Arc<Closure>, EngineError> {
    match landed {
        Landed::Here(fetched) => Ok(fetched.closure),
        Landed::Claims(_) => Err(EngineError::NotFound),
    }
}

/// Renders segments out of the store.
struct Reader {
    store: Arc<dyn Store>,
    segments: Segments,
    /// What is left of the blob at hand.
    blob: Option<(BlobRef, Range<u64>)>,
    /// Whether the blob at hand was not there.
    is_waiting: bool,
}

impl Reader {
    /// Reads about [`CHUNK_BYTES`], fewer at the end or where a blob is not here yet. Blocks.
    fn fill(mut self) -> (Self, Result<Bytes, EngineError>) {
        let bytes = self.read();
        (self, bytes)
    }

    fn read(&mut self) -> Result<Bytes, EngineError> {
        let mut chunk = BytesMut::new();
        self.is_waiting = false;
        while chunk.len() < CHUNK_BYTES {
            if let Some((blob, range)) = &mut self.blob
                && let Some(span) = Span::covering(range.clone(), blob.size)
            {
                let (span, _) = span.split(READ_GROUPS);
                let Some(read) = self.store.read_span(blob, span)? else {
                    self.is_waiting = true;
                    break;
                };
                let whole = span.bytes(blob.size);
                let part = range.start..range.end.min(whole.end);
                let at = (part.start - whole.start) as usize..(part.end - whole.start) as usize;
                chunk.extend_from_slice(&read.bytes()[at]);
                range.start = part.end;
                continue;
            }
            match self.segments.next() {
                Some(Segment::Literal(bytes)) => chunk.extend_from_slice(&bytes),
                Some(Segment::Blob { blob, range }) => self.blob = Some((blob, range)),
                None => break,
            }
        }
        Ok(chunk.freeze())
    }
}
