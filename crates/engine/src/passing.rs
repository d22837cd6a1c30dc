//! A NAR that the disk has no room for: it is fetched window by window into memory, read there, and forgotten.

use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use firn_bao::Groups;
use firn_castore::{BlobRef, Closure, Root};
use firn_exchange::{Goal, Outcome, Rejection};
use firn_nix::{NarLayout, Sha256Writer};
use firn_store::{Blobs, Buffers, MemoryStore, MissingBlob, NarChunk, NarChunks, Store, StoreError};
use firn_trust::NarMismatch;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use crate::flight::{Cockpit, Crew, Part, Plan, fly};
use crate::heard::Heard;
use crate::inner::{Inner, in_vain};
use crate::{EngineError, NAR_PIECE_BYTES, Progress, Resolved, telling};

/// How much of a NAR a window has, in bytes. Where all windows are taken there are small ones, of [`NAR_PIECE_BYTES`]: no
/// reader waits for another one.
const WINDOW_BYTES: u64 = 8 << 20;
/// How many windows there may be at once, of all NARs, without the small ones. What is read of one takes as much again.
const WINDOWS_MAX: usize = 8;

/// Says who may have a window that is not small.
pub(crate) struct Windows(Arc<Semaphore>);

impl Default for Windows {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(WINDOWS_MAX)))
    }
}

/// Reads a NAR in order, without the store keeping any of it.
pub(crate) struct Passing {
    inner: Arc<Inner>,
    resolved: Resolved,
    closure: Arc<Closure>,
    /// What is neither fetched nor being fetched; `None` while that is being cut.
    chunks: Option<Chunks>,
    /// The window after the one that is read.
    ahead: Option<AbortOnDropHandle<Result<Window, EngineError>>>,
    /// Of a root that waits for its NAR match; the last window is given only after that.
    hash: Option<Sha256Writer>,
    /// The peers that were asked for the windows.
    heard: Heard,
    /// Read, of the window that this permit is for.
    ready: VecDeque<Bytes>,
    permit: Option<OwnedSemaphorePermit>,
}

/// What is left of a NAR.
struct Chunks {
    first: Option<NarChunk>,
    others: NarChunks,
}

/// Some of the NAR, fetched.
struct Window {
    chunks: Vec<NarChunk>,
    contents: Arc<MemoryStore>,
    /// What follows it, if anything does.
    rest: Option<Chunks>,
    permit: Option<OwnedSemaphorePermit>,
}

/// The Directories of a tree that the store has no room for.
pub(crate) async fn closure(inner: &Arc<Inner>, root: &Root) -> Result<Arc<Closure>, EngineError> {
    let part = Part { closure: None, blobs: Vec::new() };
    fetch(inner, root, part, Arc::default(), Heard::default()).await
}

impl Passing {
    /// Of a NAR that is not proven, nothing but the whole can be had.
    pub(crate) fn new(
        inner: Arc<Inner>,
        resolved: Resolved,
        layout: &NarLayout,
        range: Range<u64>,
    ) -> Result<Self, EngineError> {
        let closure = layout.closure().clone();
        let hash = match &resolved {
            Resolved::Proven(_) => None,
            Resolved::Signed(_) if range == (0..layout.nar_size()) => Some(Sha256Writer::default()),
            Resolved::Signed(_) => return Err(rejected(NarMismatch::OutOfOrder)),
        };
        let path = &resolved.facts().path;
        tracing::info!(%path, "the disk has no room for it: its NAR is passed on, and not kept");
        let chunks = Some(Chunks { first: None, others: NarChunks::new(layout.segments(range)) });
        let (heard, ready) = Default::default();
        Ok(Self { inner, resolved, closure, chunks, ahead: None, hash, heard, ready, permit: None })
    }

    /// Waits for the first bytes that [`Passing::next`] will give.
    pub(crate) async fn begun(&mut self) -> Result<(), EngineError> {
        while self.ready.is_empty() {
            self.permit = None;
            match self.read_window().await {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    if error.is_absence() {
                        self.forget();
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// The next bytes; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, EngineError> {
        self.begun().await?;
        Ok(self.ready.pop_front())
    }

    /// Reads the next window, and has the one after it fetched if there is room for it. False at the end.
    async fn read_window(&mut self) -> Result<bool, EngineError> {
        let window = match self.ahead.take() {
            Some(ahead) => ahead.await.map_err(|_| EngineError::Ending)??,
            None => {
                let Some(chunks) = self.chunks.take() else { return Ok(false) };
                let permit = self.permit();
                self.window(chunks, permit).await?
            }
        };
        let Window { chunks, contents, rest, permit } = window;
        let mut hash = self.hash.take();
        let read = move || {
            let buffers = Buffers::default();
            let read = chunks.into_iter().map(|chunk| chunk.read_whole(&*contents, &buffers));
            let read = read.collect::<Result<VecDeque<_>, _>>()?;
            if let Some(hash) = &mut hash {
                read.iter()
                    .for_each(|bytes| hash.write_all(bytes).expect("writing into a hash does not fail"));
            }
            Ok::<_, StoreError>((read, hash))
        };
        (self.ready, self.hash) = self.inner.crew.pool.run(read).await??;
        (self.permit, self.chunks) = (permit, rest);
        match self.chunks {
            Some(_) => self.fetch_ahead(),
            None => self.check_hash()?,
        }
        Ok(!self.ready.is_empty())
    }

    /// Refuses a NAR that is not the signed one.
    fn check_hash(&mut self) -> Result<(), EngineError> {
        let Some(hash) = self.hash.take() else { return Ok(()) };
        let (signed, (actual, _)) = (self.resolved.facts().nar.nar_hash, hash.finish());
        match signed == actual {
            true => Ok(()),
            false => {
                self.ready.clear();
                Err(rejected(NarMismatch::Hash { signed, actual }))
            }
        }
    }

    fn permit(&self) -> Option<OwnedSemaphorePermit> {
        self.inner.windows.0.clone().try_acquire_owned().ok()
    }

    fn fetch_ahead(&mut self) {
        if let Some(permit) = self.permit()
            && let Some(chunks) = self.chunks.take()
        {
            let window = self.window(chunks, Some(permit)).in_current_span();
            self.ahead = Some(AbortOnDropHandle::new(tokio::spawn(window)));
        }
    }

    /// Fetches the first window of this.
    fn window(
        &self,
        mut chunks: Chunks,
        permit: Option<OwnedSemaphorePermit>,
    ) -> impl Future<Output = Result<Window, EngineError>> + use<> {
        let (inner, closure, heard) = (self.inner.clone(), self.closure.clone(), self.heard.clone());
        async move {
            let store = inner.crew.store.clone();
            let contents = Arc::new(MemoryStore::new());
            let (kept, root) = (contents.clone(), closure.root().clone());
            let bytes_max = if permit.is_some() { WINDOW_BYTES } else { NAR_PIECE_BYTES };
            let cut = move || {
                let window = chunks.cut(bytes_max);
                let blobs = missing(&*store, &kept, &window)?;
                Ok::<_, StoreError>((window, chunks.rest(), blobs))
            };
            let (window, rest, blobs) = inner.crew.pool.run(cut).await??;
            if !blobs.is_empty() {
                let part = Part { closure: Some(closure), blobs };
                fetch(&inner, &root, part, contents.clone(), heard).await?;
            }
            Ok(Window { chunks: window, contents, rest, permit })
        }
    }

    /// Forgets what could not be had or was not what it claims: another root is looked for.
    fn forget(&self) {
        let facts = self.resolved.facts();
        self.inner.crew.undelivered.add(&facts.root, self.heard.who_was_reached());
        self.inner.index.disown(facts.path.hash(), Some(&facts.root));
    }
}

impl Chunks {
    fn next(&mut self) -> Option<NarChunk> {
        self.first.take().or_else(|| self.others.next())
    }

    /// The first of it, no more than this, or than a chunk group where that is more.
    fn cut(&mut self, bytes_max: u64) -> Vec<NarChunk> {
        let (mut window, mut left) = (Vec::new(), bytes_max);
        while left > 0
            && let Some(mut chunk) = self.next()
        {
            self.first = chunk.split(left);
            left = left.saturating_sub(chunk.bytes());
            window.push(chunk);
        }
        window
    }

    /// It itself, if there is anything in it.
    fn rest(mut self) -> Option<Self> {
        self.first = self.next();
        self.first.is_some().then_some(self)
    }
}

/// What has to be fetched for these chunks. What the store has goes to where the rest will come.
fn missing(
    store: &dyn Store,
    contents: &MemoryStore,
    chunks: &[NarChunk],
) -> Result<Vec<MissingBlob>, StoreError> {
    let mut missing = BTreeMap::<BlobRef, Groups>::new();
    for (blob, span) in chunks.iter().flat_map(NarChunk::spans) {
        match store.read_span(&blob, span) {
            Ok(Some(here)) => contents.keep_spans(&[here])?,
            // Peers may have what is damaged here.
            Ok(None) | Err(_) => missing.entry(blob).or_default().insert(span.groups()),
        }
    }
    let missing = missing.into_iter();
    Ok(missing.map(|(blob, groups)| MissingBlob { blob, spans: groups.spans() }).collect())
}

fn rejected(mismatch: NarMismatch) -> EngineError {
    EngineError::Rejected(Rejection::Nar(mismatch))
}

/// Brings a part of a tree to where nothing else is kept.
async fn fetch(
    inner: &Arc<Inner>,
    root: &Root,
    part: Part,
    into: Arc<MemoryStore>,
    heard: Heard,
) -> Result<Arc<Closure>, EngineError> {
    let goal = Goal::Tree(root.clone());
    let span = telling::span(&goal, None);
    let crew = Crew { store: into, ..inner.crew.clone() };
    let ((progress, _), (changes, _)) = (watch::channel(Progress::default()), watch::channel(0));
    let (_reading, reading) = watch::channel(None);
    let cockpit = Cockpit { progress, reading, changes, heard };
    let plan = Plan { goal, may_share: false, part: Some(part) };
    match fly(crew, inner.index.clone(), plan, cockpit).instrument(span).await?.0 {
        Outcome::Tree(closure) => Ok(closure),
        outcome => Err(in_vain(outcome)),
    }
}
