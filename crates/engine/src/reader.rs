//! Reads a NAR, chunk by chunk, ahead of whoever takes it.

use std::collections::VecDeque;

use bytes::Bytes;
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

/// The flight that brings what is read.
pub(crate) struct Boarded {
    pub(crate) seat: Seat,
    /// How many bytes are still to be handed on.
    pub(crate) left: u64,
    /// Whether the last of them wait for the flight's end.
    pub(crate) must_land: bool,
}

/// Reads a NAR in order.
pub(crate) struct Reader {
    engine: Engine,
    resolved: Resolved,
    _hold: Hold,
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
    pub(crate) fn new(engine: Engine, resolved: Resolved, hold: Hold, chunks: NarChunks) -> Self {
        let (cut, reading, ready) = (VecDeque::new(), VecDeque::new(), VecDeque::new());
        Self { engine, resolved, _hold: hold, chunks: Some(chunks), cut, reading, ready }
    }

    /// The next bytes; `None` at the end.
    pub(crate) async fn next(&mut self, boarded: &mut Option<Boarded>) -> Result<Option<Bytes>, EngineError> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                return Ok(Some(bytes));
            }
            let is_more = match boarded {
                Some(flight) => {
                    // Once the flight has ended well all is here.
                    let landed = flight.seat.look();
                    let is_more = self.read_what_came(flight, landed).await?;
                    if landed {
                        *boarded = None;
                    }
                    is_more
                }
                None => self.read_ahead().await?,
            };
            if !is_more {
                return Ok(None);
            }
        }
    }

    /// Reads the next chunk, and has those that follow it read meanwhile. False at the end.
    async fn read_ahead(&mut self) -> Result<bool, EngineError> {
        self.fill().await?;
        let Some(first) = self.reading.pop_front() else { return Ok(false) };
        let (rest, pieces) = first.await.map_err(|_| EngineError::Ending)??;
        let missing = rest.wants().map(|blob| StoreError::Missing(Item::Blob(blob.digest)));
        let pieces = match (pieces, missing) {
            (Ok(pieces), None) => pieces,
            (Err(error), _) | (Ok(_), Some(error)) => {
                self.reading.clear();
                return Err(self.engine.0.lost(self.resolved.facts(), error).await);
            }
        };
        self.ready = pieces.into();
        self.fill().await?;
        Ok(true)
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
    ///
    /// `landed` was looked at before: whatever comes later is waited for.
    async fn read_what_came(&mut self, flight: &mut Boarded, landed: bool) -> Result<bool, EngineError> {
        let Some(chunk) = self.next_chunk().await? else { return Ok(false) };
        let (rest, pieces) = read(self.engine.clone(), chunk).await?;
        let pieces = match pieces {
            Ok(pieces) => pieces,
            Err(error) => return Err(self.engine.0.lost(self.resolved.facts(), error).await),
        };
        let wanted = rest.wants();
        let is_read = wanted.is_none();
        if !is_read {
            self.cut.push_front(rest);
        }
        flight.left = flight.left.saturating_sub(pieces.iter().map(|bytes| bytes.len() as u64).sum());
        if flight.left == 0 && flight.must_land {
            flight.seat.landing.clone().await?;
        } else if let Some(blob) = wanted
            && pieces.is_empty()
            && !landed
        {
            flight.seat.read(blob.digest);
            flight.seat.wait().await?;
        }
        self.ready = pieces.into();
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
