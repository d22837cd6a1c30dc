//! The side that gives.

mod items;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use firn_bao::{GROUP_BYTES, Span, VerifiedBytes};
use firn_castore::{BlobDigest, BlobRef, Node};
use firn_proto::exchange as proto;
use firn_store::{Store, StoreError, Visible};

use crate::compress::{ENCODER_BYTES, SAMPLE_BYTES, Squeezer, is_worth_it};
use crate::frame;
use crate::known::Tags;
use crate::order::Pending;
use crate::shared::{Extent, Shared};
use crate::{
    Asked, BATCH_BYTES_MAX, BITMAPS_BYTES_MAX, CLOSURE_BYTES_MAX, FELLOWS_MAX, Fellow, INLINE_BYTES_MAX, Key,
    Micros, Question,
};
use items::{have_blob, have_tree, put_batch_item, undamaged};

/// Is told of what a peer reads.
type OnUse = Arc<dyn Fn(&Visible) + Send + Sync>;

/// What one peer may see of a store.
#[derive(Clone)]
pub struct SharedView {
    store: Arc<dyn Store>,
    shared: Arc<Shared>,
    on_use: Option<OnUse>,
}

impl SharedView {
    /// A view of what is shared.
    pub fn new(store: Arc<dyn Store>, shared: Arc<Shared>) -> Self {
        Self { store, shared, on_use: None }
    }

    /// The same view; `on_use` is called with each path and tree that a peer begins to read through it.
    pub fn watched(self, on_use: OnUse) -> Self {
        Self { on_use: Some(on_use), ..self }
    }

    fn used(&self, what: &[Visible]) {
        if let Some(on_use) = &self.on_use {
            what.iter().for_each(|what| on_use(what));
        }
    }
}

/// A reply that is pulled piece by piece, so that its memory stays flat.
pub struct Reply {
    /// Goes out first.
    header: Option<proto::ReplyHeader>,
    view: SharedView,
    body: Body,
    about: Option<Key>,
    may_be_compressed: bool,
    squeezing: Option<Squeezing>,
    /// Items that were looked at, and go first.
    seen: VecDeque<Bytes>,
    /// What plain pieces take in memory.
    pieces_bytes: usize,
}

/// A body that is being compressed.
struct Squeezing {
    level: i32,
    /// Bytes of it that were taken in.
    bytes: u64,
    /// None until the body has shown that it is worth it, and after its end.
    squeezer: Option<Squeezer>,
}

enum Body {
    Empty,
    Claim(Bytes),
    Directories { pending: Pending, longest_bytes: usize, have: Tags },
    Batch { digests: VecDeque<BlobDigest>, bytes_left: u64 },
    Span(BlobRef, Span),
    Proof(Bytes),
    Have { tree: Option<Extent>, digests: VecDeque<BlobDigest>, bitmap_bytes_left: usize },
}

impl Body {
    /// What it takes in memory besides its pieces. Never more than at first.
    fn memory_bytes(&self) -> usize {
        match self {
            // A proof is counted with the pieces.
            Body::Empty | Body::Span(..) | Body::Proof(_) => 0,
            Body::Claim(bytes) => bytes.len(),
            Body::Directories { pending, have, .. } => pending.memory_bytes() + have.memory_bytes(),
            Body::Batch { digests, .. } | Body::Have { digests, .. } => {
                digests.capacity() * size_of::<BlobDigest>()
            }
        }
    }
}

/// Answers what a peer asks, out of what it may see. What cannot be understood is refused.
pub fn answer(view: &SharedView, request: Bytes) -> Reply {
    let Ok(Question { asked, takes_zstd }) = Question::decode(request) else {
        return Reply::new(view, proto::Status::Refused, Body::Empty);
    };
    let about = match &asked {
        Asked::Path(hash) => Some(Key::Path(*hash)),
        Asked::Closure { root, .. } | Asked::Have { root: Some(root), .. } => Some(Key::Root(root.clone())),
        Asked::Batch(_) | Asked::Ranges { .. } | Asked::Have { root: None, .. } => None,
    };
    let (status, body) = body(view, asked);
    let may_be_compressed = takes_zstd && status == proto::Status::Ok;
    Reply { about, may_be_compressed, ..Reply::new(view, status, body) }
}

/// The whole reply to whoever cannot be answered now: it is to ask again after this time.
pub fn busy(after: Micros) -> Bytes {
    let busy_ms = u32::try_from(after.0.div_ceil(1000)).unwrap_or(u32::MAX);
    let status = proto::Status::Busy.into();
    frame::put_message(&proto::ReplyHeader { status, busy_ms, ..Default::default() })
}

fn body(view: &SharedView, asked: Asked) -> (proto::Status, Body) {
    let body = match asked {
        Asked::Path(hash) => view.shared.claim(&hash).map(|claim| {
            view.used(&[Visible::Path(hash)]);
            Body::Claim(frame::put_message(&claim.to_proto()))
        }),
        Asked::Closure { root, have } => match view.shared.directories(&root) {
            // No asker would take so long a reply, and each would take it for a lie.
            Some((bytes, _)) if bytes > CLOSURE_BYTES_MAX => return (proto::Status::Refused, Body::Empty),
            known => known.map(|(_, order)| {
                view.used(&view.shared.holders(&root));
                let longest_bytes = order.longest_bytes();
                Body::Directories { pending: Pending::new(order), longest_bytes, have }
            }),
        },
        Asked::Batch(digests) => Some(Body::Batch { digests: digests.into(), bytes_left: BATCH_BYTES_MAX }),
        Asked::Ranges { digest, span } => view.shared.blob(digest).map(|blob| {
            // A range past the end means the last group: it tells the asker the true length.
            let span = if span.fits(blob.size) { span } else { Span::last(blob.size) };
            Body::Span(blob, span)
        }),
        Asked::Have { root, digests } => {
            let tree = root.map(|root| view.shared.extent(&root));
            Some(Body::Have { tree, digests: digests.into(), bitmap_bytes_left: BITMAPS_BYTES_MAX })
        }
    };
    match body {
        Some(body) => (proto::Status::Ok, body),
        None => (proto::Status::Missing, Body::Empty),
    }
}

/// A piece of a reply is about so long, so that many small items do not cost a step each.
const PIECE_BYTES: usize = 128 << 10;
/// A compressed piece, so that most bodies are one, and their encoder is gone when it is sent.
const SQUEEZED_BYTES: usize = 512 << 10;

/// What a Directory takes in memory while it is read and sent, times its length: its entries take more than its bytes.
const DIRECTORY_FACTOR: usize = 8;

/// About how much memory plain pieces take, two of which are held at once: a span, a claim and a Directory are read as a
/// whole, all else is cut.
fn pieces_bytes(body: &Body) -> usize {
    let whole = match body {
        // What is read, and the proof that is made of it.
        Body::Span(_, span) => {
            let groups = usize::try_from(span.groups().end - span.groups().start).unwrap_or(usize::MAX);
            groups.saturating_mul(2 * GROUP_BYTES as usize)
        }
        Body::Directories { longest_bytes, .. } => longest_bytes.saturating_mul(DIRECTORY_FACTOR),
        Body::Claim(bytes) => bytes.len(),
        Body::Empty | Body::Batch { .. } | Body::Proof(_) | Body::Have { .. } => 0,
    };
    whole.saturating_add(2 * PIECE_BYTES)
}

impl Reply {
    fn new(view: &SharedView, status: proto::Status, body: Body) -> Self {
        let header = proto::ReplyHeader { status: status.into(), ..Default::default() };
        let (view, header) = (view.clone(), Some(header));
        let (seen, squeezing) = (VecDeque::new(), None);
        let pieces_bytes = pieces_bytes(&body);
        Self { header, view, body, about: None, may_be_compressed: false, squeezing, seen, pieces_bytes }
    }

    /// Whether there is something for this peer; else the reply says only that there is not.
    pub fn is_ok(&self) -> bool {
        self.header.as_ref().is_some_and(|header| header.status() == proto::Status::Ok)
    }

    /// Whether something is here of what was asked about; a request for what is there is answered where nothing is, too.
    pub fn has_something(&self) -> bool {
        self.is_ok() && !matches!(&self.body, Body::Have { tree: Some(Extent::Nothing), .. })
    }

    /// About how much memory it takes from now on. Less than before once it is known that the body goes plain, or all of it
    /// is compressed: most of the memory is the encoder's, and a reply may be on its way long after that.
    pub fn memory_bytes(&self) -> usize {
        let squeezing = match &self.squeezing {
            None => 0,
            Some(squeezing) if self.header.is_none() && squeezing.squeezer.is_none() => SQUEEZED_BYTES,
            Some(_) => ENCODER_BYTES + SQUEEZED_BYTES,
        };
        squeezing.saturating_add(self.pieces_bytes).saturating_add(self.body.memory_bytes())
    }

    /// The path or the root that was asked about, if the request names one.
    pub fn about(&self) -> Option<&Key> {
        self.about.as_ref()
    }

    /// Whether the asker takes a compressed body, and there is one.
    pub fn may_be_compressed(&self) -> bool {
        self.may_be_compressed
    }

    /// The same reply with its body compressed, if that begins with something that gets shorter; `level` as zstd counts
    /// them. Only before the first piece, and where it [may be](Reply::may_be_compressed); else nothing changes.
    pub fn compressed(mut self, level: i32) -> Self {
        if self.header.is_some() && self.may_be_compressed {
            self.squeezing = Some(Squeezing { level, bytes: 0, squeezer: None });
        }
        self
    }

    /// The level at which the body is compressed, and how many bytes of it were so far.
    pub fn squeezed(&self) -> Option<(i32, u64)> {
        self.squeezing.as_ref().map(|squeezing| (squeezing.level, squeezing.bytes))
    }

    /// The same reply, which hints at these as well. Only before the first piece.
    pub fn hinting(mut self, fellows: &[Fellow]) -> Self {
        if let Some(header) = &mut self.header {
            header.fellows = fellows.iter().take(FELLOWS_MAX).map(Fellow::to_proto).collect();
        }
        self
    }

    /// The next piece; `None` at the end. After an error, or where a piece has gone meanwhile, the stream must be broken
    /// off: what was sent is no whole reply.
    // No Iterator: an error ends it.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<Bytes>, ReplyError> {
        if let Some(header) = self.header.take() {
            let mut header = self.begin(header)?;
            if self.squeezing.is_some() && self.begin_squeezing()? {
                header.encoding = proto::Encoding::Zstd.into();
                // Compressing may take long, and a header alone tells the asker that something comes.
                return Ok(Some(frame::put_message(&header)));
            }
            return self.gather(frame::put_message(&header)).map(Some);
        }
        if self.squeezing.is_some() {
            return self.squeeze();
        }
        match self.next_item()? {
            Some(first) => self.gather(first).map(Some),
            None => Ok(None),
        }
    }

    /// Joins what follows to what comes first, if both are short.
    fn gather(&mut self, first: Bytes) -> Result<Bytes, ReplyError> {
        if first.len() >= PIECE_BYTES {
            return Ok(first);
        }
        let Some(second) = self.next_item()? else { return Ok(first) };
        if second.len() >= PIECE_BYTES {
            self.seen.push_front(second);
            return Ok(first);
        }
        let mut piece = BytesMut::with_capacity(PIECE_BYTES.max(first.len() + second.len()) + (8 << 10));
        piece.extend_from_slice(&first);
        piece.extend_from_slice(&second);
        while piece.len() < PIECE_BYTES
            && let Some(item) = self.next_item()?
        {
            piece.extend_from_slice(&item);
        }
        Ok(piece.freeze())
    }

    /// Looks at how the body begins; false: it goes as it is.
    fn begin_squeezing(&mut self) -> Result<bool, ReplyError> {
        let mut sample = Vec::with_capacity(SAMPLE_BYTES);
        let mut seen = VecDeque::new();
        while sample.len() < SAMPLE_BYTES
            && let Some(item) = self.next_item()?
        {
            sample.extend_from_slice(&item[..item.len().min(SAMPLE_BYTES)]);
            seen.push_back(item);
        }
        self.seen = seen;
        match self.squeezing.take_if(|_| !is_worth_it(&sample)) {
            Some(_) => Ok(false),
            None => {
                if let Some(squeezing) = &mut self.squeezing {
                    squeezing.squeezer = Some(Squeezer::new(squeezing.level)?);
                }
                Ok(true)
            }
        }
    }

    /// The next piece of the compressed body.
    fn squeeze(&mut self) -> Result<Option<Bytes>, ReplyError> {
        let taken = self.squeezing.as_mut().and_then(|squeezing| squeezing.squeezer.take());
        let Some(mut squeezer) = taken else { return Ok(None) };
        while squeezer.ready() < SQUEEZED_BYTES {
            let Some(item) = self.next_item()? else { return Ok(Some(squeezer.finish()?)) };
            squeezer.put(&item)?;
            if let Some(squeezing) = &mut self.squeezing {
                squeezing.bytes += item.len() as u64;
            }
        }
        let piece = squeezer.take();
        if let Some(squeezing) = &mut self.squeezing {
            squeezing.squeezer = Some(squeezer);
        }
        Ok(Some(piece))
    }

    /// A span is read before the header says that it is here.
    fn begin(&mut self, header: proto::ReplyHeader) -> Result<proto::ReplyHeader, ReplyError> {
        let Body::Span(blob, span) = &self.body else { return Ok(header) };
        match undamaged(self.view.store.read_span(blob, *span))? {
            Some(proven) => {
                self.body = Body::Proof(proven.to_proof());
                Ok(header)
            }
            None => {
                self.body = Body::Empty;
                self.squeezing = None;
                Ok(proto::ReplyHeader { status: proto::Status::Missing.into(), ..Default::default() })
            }
        }
    }

    fn next_item(&mut self) -> Result<Option<Bytes>, ReplyError> {
        if let Some(item) = self.seen.pop_front() {
            return Ok(Some(item));
        }
        let view = &self.view;
        match &mut self.body {
            Body::Empty | Body::Span(..) => Ok(None),
            Body::Claim(bytes) | Body::Proof(bytes) => {
                let bytes = std::mem::take(bytes);
                Ok((!bytes.is_empty()).then_some(bytes))
            }
            Body::Directories { pending, have, .. } => {
                let Some(digest) = pending.next() else { return Ok(None) };
                let directory = view.store.directory(&digest)?.ok_or(ReplyError::Gone)?;
                for (_, node) in &directory {
                    if let Node::Directory { digest, size } = node
                        && !have.has(digest)
                        && !pending.name(digest, *size)
                    {
                        return Err(ReplyError::Gone);
                    }
                }
                Ok(Some(frame::put(directory.encoded())))
            }
            Body::Batch { digests, bytes_left } => {
                let contents_max = digests.len().saturating_mul(INLINE_BYTES_MAX as usize);
                let mut items =
                    VerifiedBytes::expecting(contents_max.min(PIECE_BYTES + INLINE_BYTES_MAX as usize));
                while items.len() < PIECE_BYTES
                    && let Some(digest) = digests.pop_front()
                {
                    put_batch_item(&mut items, view, digest, bytes_left)?;
                }
                Ok((!items.is_empty()).then(|| items.into()))
            }
            Body::Have { tree, digests, bitmap_bytes_left } => {
                if let Some(extent) = tree.take() {
                    return Ok(Some(frame::put_message(&have_tree(extent))));
                }
                match digests.pop_front() {
                    Some(digest) => {
                        Ok(Some(frame::put_message(&have_blob(view, digest, bitmap_bytes_left)?)))
                    }
                    None => Ok(None),
                }
            }
        }
    }

    /// All pieces in one.
    pub fn collect(mut self) -> Result<Bytes, ReplyError> {
        let mut whole = Vec::new();
        while let Some(piece) = self.next()? {
            whole.extend_from_slice(&piece);
        }
        Ok(whole.into())
    }
}

/// Why a reply cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ReplyError {
    /// The store could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The body could not be compressed.
    #[error("compressing failed: {0}")]
    Compress(#[from] io::Error),
    /// It was there when the reply began.
    #[error("what was to be sent has gone")]
    Gone,
}
