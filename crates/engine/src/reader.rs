//! Reads a NAR, chunk by chunk, ahead of whoever takes it.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;

use bytes::Bytes;
use firn_nix::NarLayout;
use firn_store::{Hold, Item, NarChunk, NarChunks, StoreError};
use tokio_util::task::AbortOnDropHandle;

use crate::flights::Seat;
use crate::{Engine, EngineError, Resolved};

/// How many chunks are being read, or have been read and are not taken yet, besides the one that is being taken.
const AHEAD_MAX: usize = 2;
/// How many chunks are cut at once.
const CUT_CHUNKS: usize = 8;

/// What was read of a chunk, and what is left of it.
type Read = (NarChunk, Result<Vec<Bytes>, StoreError>);

/// Reads a NAR in order.
pub(crate) struct Reader {
    engine: Engine,
    resolved: Resolved,
    _hold: Hold,
    layout: NarLayout,
    /// The bytes that are still to be read.
    left: Range<u64>,
    /// The flight that brings what is read; `None` where all should be here.
    seat: Option<Seat>,
    /// What was lost while it was read, and came anew.
    mended: BTreeSet<Item>,
    /// What is not cut yet, if anything is.
    chunks: Option<NarChunks>,
    /// Cut, and not read.
    cut: VecDeque<NarChunk>,
    /// In order. Dropping one ends its work, unless it is being done.
    reading: VecDeque<AbortOnDropHandle<Result<Read, EngineError>>>,
    /// Read and verified.
    ready: VecDeque<Bytes>,
}

impl Reader {
    pub(crate) fn new(
        engine: Engine,
        resolved: Resolved,
        hold: Hold,
        layout: NarLayout,
        range: Range<u64>,
        seat: Option<Seat>,
    ) -> Self {
        let end = range.end.min(layout.nar_size());
        let left = range.start.min(end)..end;
        let chunks = Some(NarChunks::new(layout.segments(left.clone())));
        let (cut, reading, ready) = (VecDeque::new(), VecDeque::new(), VecDeque::new());
        let (_hold, mended) = (hold, BTreeSet::new());
        Self { engine, resolved, _hold, layout, left, seat, mended, chunks, cut, reading, ready }
    }

    /// The next bytes; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, EngineError> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                return Ok(Some(bytes));
            }
            let is_more = match self.seat.take() {
                Some(seat) => self.read_what_came(seat).await?,
                None => self.read_ahead().await?,
            };
            if !is_more {
                return Ok(None);
            }
        }
    }

    /// What was read is to be handed on.
    fn took(&mut self, pieces: Vec<Bytes>) {
        self.left.start += pieces.iter().map(|bytes| bytes.len() as u64).sum::<u64>();
        self.ready = pieces.into();
    }

    /// Reads the next chunk, and has those that follow it read meanwhile. False at the end.
    async fn read_ahead(&mut self) -> Result<bool, EngineError> {
        self.fill().await?;
        let Some(first) = self.reading.pop_front() else { return Ok(false) };
        let (rest, pieces) = first.await.map_err(|_| EngineError::Ending)??;
        let missing = rest.wants().map(|blob| StoreError::Missing(Item::Blob(blob.digest)));
        match (pieces, missing) {
            (Ok(pieces), None) => self.took(pieces),
            (Err(error), _) | (Ok(_), Some(error)) => {
                self.mend(error).await?;
                return Ok(true);
            }
        }
        self.fill().await?;
        Ok(true)
    }

    /// Has what was lost brought by peers, and goes on with what was not read yet. What is lost twice is an error.
    async fn mend(&mut self, error: StoreError) -> Result<(), EngineError> {
        self.reading.clear();
        self.cut.clear();
        let error = self.engine.0.lost(self.resolved.facts(), error).await;
        let EngineError::Gone { source, .. } = &error else { return Err(error) };
        let is_new = source.lost().is_some_and(|item| self.mended.insert(item.clone()));
        if !is_new {
            return Err(error);
        }
        match self.engine.bring(&self.resolved).await {
            Ok((closure, seat)) if closure.root() == self.layout.closure().root() => self.seat = seat,
            _ => return Err(error),
        }
        self.chunks = Some(NarChunks::new(self.layout.segments(self.left.clone())));
        Ok(())
    }

    async fn fill(&mut self) -> Result<(), EngineError> {
        while self.reading.len() < AHEAD_MAX
            && let Some(chunk) = self.next_chunk().await?
        {
            let read = read(self.engine.clone(), chunk);
            self.reading.push_back(AbortOnDropHandle::new(tokio::spawn(read)));
        }
        Ok(())
    }

    /// Reads as much of the next chunk as has come, or waits for more to come. False at the end.
    async fn read_what_came(&mut self, mut seat: Seat) -> Result<bool, EngineError> {
        // Once the flight has ended well all is here; whatever comes later than this look is waited for.
        let landed = seat.look();
        let Some(chunk) = self.next_chunk().await? else { return Ok(false) };
        let (rest, pieces) = read(self.engine.clone(), chunk).await?;
        let pieces = match pieces {
            Ok(pieces) => pieces,
            Err(error) => {
                // The flight has taken what is lost for here.
                let _ = seat.landing.await;
                self.mend(error).await?;
                return Ok(true);
            }
        };
        let wanted = rest.wants();
        if wanted.is_some() {
            self.cut.push_front(rest);
        }
        self.took(pieces);
        if self.left.start == self.layout.nar_size() {
            seat.landing.clone().await?;
        } else if let Some(blob) = wanted
            && self.ready.is_empty()
            && !landed
        {
            seat.read(blob.digest);
            seat.wait().await?;
        }
        self.seat = Some(seat).filter(|_| !landed);
        Ok(true)
    }

    /// The next chunk that is to be read. Cutting blocks as well, in a directory of a million names.
    async fn next_chunk(&mut self) -> Result<Option<NarChunk>, EngineError> {
        if self.cut.is_empty()
            && let Some(mut chunks) = self.chunks.take()
        {
            let cut = move || {
                let cut: VecDeque<_> = chunks.by_ref().take(CUT_CHUNKS).collect();
                let is_more = cut.len() == CUT_CHUNKS;
                (cut, is_more.then_some(chunks))
            };
            (self.cut, self.chunks) = self.engine.run_blocking(cut).await?;
        }
        Ok(self.cut.pop_front())
    }
}

async fn read(engine: Engine, mut chunk: NarChunk) -> Result<Read, EngineError> {
    let store = engine.store().clone();
    let read = move || {
        let pieces = chunk.read(&*store);
        (chunk, pieces)
    };
    engine.run_blocking(read).await
}
