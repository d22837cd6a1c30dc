//! Reads a NAR, chunk by chunk, ahead of whoever takes it, as far as there is memory for it.

use std::collections::{BTreeSet, VecDeque};
use std::mem;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use firn_nix::NarLayout;
use firn_store::{Buffers, Hold, Item, NarChunk, NarChunks, StoreError};
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio_util::task::AbortOnDropHandle;

use crate::ahead::Ahead;
use crate::flights::Seat;
use crate::memory::Reserved;
use crate::passing::Passing;
use crate::{Engine, EngineError, Resolved};

/// How many chunks are cut at once.
const CUT_CHUNKS: usize = 8;

/// What was read of a chunk.
struct Read {
    /// What is left of it.
    rest: NarChunk,
    bytes: Result<Bytes, StoreError>,
    took: Duration,
}

/// Reads a NAR in order.
pub(crate) struct Reader {
    engine: Engine,
    resolved: Resolved,
    _hold: Hold,
    layout: Arc<NarLayout>,
    /// The bytes that are still to be read.
    left: Range<u64>,
    /// The flight that brings what is read; `None` where all should be here.
    seat: Option<Seat>,
    /// What the disk has no room for is read from here.
    passing: Option<Passing>,
    /// What was lost while it was read, and came anew.
    mended: BTreeSet<Item>,
    /// How the last of it was lost.
    lost: Option<EngineError>,
    /// What is not cut yet, if anything is.
    chunks: Option<NarChunks>,
    /// Cut, and not read.
    cut: VecDeque<NarChunk>,
    /// What chunks are read into.
    buffers: Buffers,
    ahead: Ahead,
    /// Since when whoever takes has what it has got last.
    given: Option<Instant>,
    /// In order. Dropping one ends its work, unless it is being done.
    reading: VecDeque<AbortOnDropHandle<Result<Read, EngineError>>>,
    /// Read and verified.
    ready: Bytes,
}

impl Reader {
    pub(crate) fn new(
        engine: Engine,
        resolved: Resolved,
        hold: Hold,
        layout: Arc<NarLayout>,
        range: Range<u64>,
        seat: Option<Seat>,
    ) -> Self {
        let end = range.end.min(layout.nar_size());
        let left = range.start.min(end)..end;
        let chunks = Some(NarChunks::new(layout.segments(left.clone())));
        Self {
            engine,
            resolved,
            _hold: hold,
            layout,
            left,
            seat,
            passing: None,
            mended: BTreeSet::new(),
            lost: None,
            chunks,
            cut: VecDeque::new(),
            buffers: Buffers::default(),
            ahead: Ahead::default(),
            given: None,
            reading: VecDeque::new(),
            ready: Bytes::new(),
        }
    }

    /// Waits for the first contents that a flight brings; not at all where everything is here.
    pub(crate) async fn begun(&mut self) -> Result<(), EngineError> {
        if let Some(seat) = &mut self.seat {
            while !seat.look() && seat.progress.borrow().bytes_done == 0 {
                match seat.wait().await {
                    Ok(()) => {}
                    Err(error) if error.is_no_room() => {
                        self.pass()?;
                        break;
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        match &mut self.passing {
            Some(passing) => passing.begun().await,
            None => Ok(()),
        }
    }

    /// From now on, what is read is not kept.
    pub(crate) fn pass(&mut self) -> Result<(), EngineError> {
        self.seat = None;
        self.reading.clear();
        self.cut.clear();
        let (inner, resolved) = (self.engine.0.clone(), self.resolved.clone());
        self.passing = Some(Passing::new(inner, resolved, &self.layout, self.left.clone())?);
        Ok(())
    }

    /// All that it reads.
    pub(crate) fn stream(self) -> BoxStream<'static, Result<Bytes, EngineError>> {
        futures::stream::try_unfold(self, |mut reader| async move {
            let bytes = reader.next().await?;
            Ok(bytes.map(|bytes| (bytes, reader)))
        })
        .boxed()
    }

    /// The next bytes; `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, EngineError> {
        loop {
            if !self.ready.is_empty() {
                self.given = Some(Instant::now());
                return Ok(Some(mem::take(&mut self.ready)));
            }
            if let Some(passing) = &mut self.passing {
                return passing.next().await;
            }
            let is_more = match self.seat.take() {
                Some(seat) => self.read_what_came(seat).await,
                None => self.read_ahead().await,
            };
            match is_more {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                Err(error) if error.is_no_room() => self.pass()?,
                Err(error @ (EngineError::Ending | EngineError::Store(_))) => return Err(error),
                // What nobody brings is told of as what was lost.
                Err(error) => return Err(self.lost.take().unwrap_or(error)),
            }
        }
    }

    /// What was read is to be handed on.
    fn took(&mut self, bytes: Bytes) {
        self.left.start += bytes.len() as u64;
        self.ready = bytes;
    }

    /// Reads the next chunk, and has those that follow it read meanwhile if that helps. False at the end.
    async fn read_ahead(&mut self) -> Result<bool, EngineError> {
        let taking = self.given.map(|given| given.elapsed());
        let Read { rest, bytes, took } = match self.reading.pop_front() {
            Some(read) => read.await.map_err(|_| EngineError::Ending)??,
            None => match self.next_piece().await? {
                Some((chunk, memory)) => self.read(chunk, memory).await?,
                None => return Ok(false),
            },
        };
        let missing = rest.wants().map(|blob| StoreError::Missing(Item::Blob(blob.digest)));
        match (bytes, missing) {
            (Ok(bytes), None) => self.took(bytes),
            (Err(error), _) | (Ok(_), Some(error)) => {
                self.mend(error).await?;
                return Ok(true);
            }
        }
        if let Some(taking) = taking {
            self.ahead.saw(took, taking);
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
        self.lost = Some(error);
        self.chunks = Some(NarChunks::new(self.layout.segments(self.left.clone())));
        Ok(())
    }

    async fn fill(&mut self) -> Result<(), EngineError> {
        while self.reading.len() < self.ahead.chunks()
            && self.engine.0.nar_memory.is_ample()
            && let Some((chunk, memory)) = self.next_piece().await?
        {
            let read = self.read(chunk, memory);
            self.reading.push_back(AbortOnDropHandle::new(tokio::spawn(read)));
        }
        Ok(())
    }

    /// Reads as much of the next chunk as has come, or waits for more to come. False at the end.
    async fn read_what_came(&mut self, mut seat: Seat) -> Result<bool, EngineError> {
        // Once the flight has ended well all is here; whatever comes later than this look is waited for.
        let landed = seat.look();
        let Some((chunk, memory)) = self.next_piece().await? else { return Ok(false) };
        let Read { rest, bytes, .. } = self.read(chunk, memory).await?;
        let bytes = match bytes {
            Ok(bytes) => bytes,
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
        self.took(bytes);
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

    /// As much of the next chunk as there is memory for, and that memory.
    async fn next_piece(&mut self) -> Result<Option<(NarChunk, Reserved)>, EngineError> {
        let Some(mut chunk) = self.next_chunk().await? else { return Ok(None) };
        let memory = self.engine.0.nar_memory.reserve(chunk.bytes());
        if let Some(rest) = chunk.split(memory.bytes()) {
            self.cut.push_front(rest);
            // Those of before are too large to be kept for pieces.
            self.buffers = Buffers::default();
        }
        Ok(Some((chunk, memory)))
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

    fn read(
        &self,
        mut chunk: NarChunk,
        memory: Reserved,
    ) -> impl Future<Output = Result<Read, EngineError>> + use<> {
        let (engine, buffers) = (self.engine.clone(), self.buffers.clone());
        async move {
            let store = engine.store().clone();
            let read = move || {
                let begun = Instant::now();
                let bytes = chunk.read(&*store, &buffers).map(|bytes| memory.hold(bytes));
                Read { rest: chunk, bytes, took: begun.elapsed() }
            };
            engine.run_blocking(read).await
        }
    }
}
