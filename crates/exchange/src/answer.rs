//! The side that gives.

use std::collections::{BTreeMap, BTreeSet, VecDeque, btree_map};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::{Bytes, BytesMut};
use firn_bao::{Span, VerifiedSpan};
use firn_castore::{BlobDigest, BlobRef, Closure, DirectoryDigest, Node, Root};
use firn_nix::StorePathHash;
use firn_proto::exchange as proto;
use firn_store::{Store, StoreError, Visible};
use firn_trust::{Claim, TrustedPath};

use crate::frame;
use crate::{Asked, BATCH_BYTES_MAX, CLOSURE_BYTES_MAX, INLINE_BYTES_MAX, Key};

/// All that can be reached from what is shared. Whatever is not in here does not exist for peers.
#[derive(Debug, Default)]
pub struct Shared(RwLock<Reachable>);

#[derive(Debug, Default)]
struct Reachable {
    claims: BTreeMap<StorePathHash, Claim>,
    roots: BTreeMap<Root, SharedRoot>,
    /// Each with its length, and how many of the roots have it.
    blobs: BTreeMap<BlobDigest, (u64, u32)>,
}

#[derive(Debug)]
struct SharedRoot {
    /// The length of all its Directories as a reply has them.
    closure_bytes: usize,
    /// As what it is shared: itself, and paths. Never empty.
    holders: BTreeSet<Visible>,
}

impl Shared {
    /// Shares a path and all beneath it. One that is shared with another root must be [removed](Shared::remove) first.
    pub fn add_path(&self, path: &TrustedPath, closure: &Closure) {
        let hash = *path.facts().path.hash();
        let mut reachable = self.write();
        reachable.claims.insert(hash, path.claim().clone());
        reachable.add(Visible::Path(hash), closure);
    }

    /// Shares a tree that needs no path.
    pub fn add_root(&self, closure: &Closure) {
        self.write().add(Visible::Root(closure.root().clone()), closure);
    }

    /// Whether this is shared as such.
    pub fn has(&self, what: &Visible) -> bool {
        let reachable = self.read();
        match what {
            Visible::Path(hash) => reachable.claims.contains_key(hash),
            Visible::Root(root) => reachable.roots.get(root).is_some_and(|root| root.holders.contains(what)),
        }
    }

    /// Shares something no longer. What of its tree other shared trees have as well stays shared.
    pub fn remove(&self, what: &Visible, closure: &Closure) {
        let mut reachable = self.write();
        if let Visible::Path(hash) = what {
            reachable.claims.remove(hash);
        }
        reachable.remove(what, closure);
    }

    /// Shares this instead, all at once.
    pub fn replace(&self, other: Shared) {
        *self.write() = other.0.into_inner().unwrap_or_else(PoisonError::into_inner);
    }

    /// Under which keys a holder of all this can be found.
    pub fn keys(&self) -> Vec<Key> {
        let reachable = self.read();
        let paths = reachable.claims.keys().copied().map(Key::Path);
        paths.chain(reachable.roots.keys().cloned().map(Key::Root)).collect()
    }

    fn claim(&self, hash: &StorePathHash) -> Option<Claim> {
        self.read().claims.get(hash).cloned()
    }

    fn closure_bytes(&self, root: &Root) -> Option<usize> {
        self.read().roots.get(root).map(|root| root.closure_bytes)
    }

    fn holders(&self, root: &Root) -> Vec<Visible> {
        self.read().roots.get(root).map(|root| root.holders.iter().cloned().collect()).unwrap_or_default()
    }

    fn blob(&self, digest: BlobDigest) -> Option<BlobRef> {
        self.read().blobs.get(&digest).map(|(size, _)| BlobRef { digest, size: *size })
    }

    fn read(&self) -> RwLockReadGuard<'_, Reachable> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Reachable> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reachable {
    fn add(&mut self, holder: Visible, closure: &Closure) {
        if let Some(root) = self.roots.get_mut(closure.root()) {
            root.holders.insert(holder);
            return;
        }
        let closure_bytes =
            closure.directories().map(|directory| frame::put_bytes(directory.encoded())).sum();
        let holders = BTreeSet::from([holder]);
        self.roots.insert(closure.root().clone(), SharedRoot { closure_bytes, holders });
        for blob in closure.blobs() {
            self.blobs.entry(blob.digest).or_insert((blob.size, 0)).1 += 1;
        }
    }

    fn remove(&mut self, holder: &Visible, closure: &Closure) {
        let Some(root) = self.roots.get_mut(closure.root()) else { return };
        if !root.holders.remove(holder) || !root.holders.is_empty() {
            return;
        }
        self.roots.remove(closure.root());
        for blob in closure.blobs() {
            if let btree_map::Entry::Occupied(mut entry) = self.blobs.entry(blob.digest) {
                match &mut entry.get_mut().1 {
                    1 => drop(entry.remove()),
                    count => *count -= 1,
                }
            }
        }
    }
}

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
    head: Option<Bytes>,
    is_ok: bool,
    view: SharedView,
    body: Body,
}

enum Body {
    Empty,
    Items(VecDeque<Bytes>),
    Directories { queue: VecDeque<DirectoryDigest>, seen: BTreeSet<DirectoryDigest> },
    Batch { digests: VecDeque<BlobDigest>, bytes_left: u64 },
    Span(BlobRef, Span),
}

/// Answers what a peer asks, out of what it may see. What cannot be understood is refused.
pub fn answer(view: &SharedView, request: Bytes) -> Reply {
    let (status, body) = match Asked::decode(request) {
        Ok(asked) => body(view, asked),
        Err(_) => (proto::Status::Refused, Body::Empty),
    };
    let header = proto::ReplyHeader { status: status.into() };
    let is_ok = status == proto::Status::Ok;
    Reply { head: Some(frame::put_message(&header)), is_ok, view: view.clone(), body }
}

fn body(view: &SharedView, asked: Asked) -> (proto::Status, Body) {
    let body = match asked {
        Asked::Path(hash) => view.shared.claim(&hash).map(|claim| {
            view.used(&[Visible::Path(hash)]);
            Body::Items(VecDeque::from([frame::put_message(&claim.to_proto())]))
        }),
        Asked::Closure(root) => match view.shared.closure_bytes(&root) {
            // No asker would take so long a reply, and each would take it for a lie.
            Some(bytes) if bytes > CLOSURE_BYTES_MAX => return (proto::Status::Refused, Body::Empty),
            bytes => bytes.map(|_| {
                view.used(&view.shared.holders(&root));
                directories(&root)
            }),
        },
        Asked::Batch(digests) => Some(Body::Batch { digests: digests.into(), bytes_left: BATCH_BYTES_MAX }),
        Asked::Ranges { digest, span } => view.shared.blob(digest).map(|blob| {
            // A range past the end means the last group: it tells the asker the true length.
            let span = if span.fits(blob.size) { span } else { Span::last(blob.size) };
            Body::Span(blob, span)
        }),
        Asked::Have(digests) => {
            let item = |digest| match view.shared.blob(digest) {
                Some(blob) => proto::HaveItem { size: blob.size, ..proto::HaveItem::default() },
                None => {
                    proto::HaveItem { status: proto::Status::Missing.into(), ..proto::HaveItem::default() }
                }
            };
            Some(Body::Items(digests.into_iter().map(|digest| frame::put_message(&item(digest))).collect()))
        }
    };
    match body {
        Some(body) => (proto::Status::Ok, body),
        None => (proto::Status::Missing, Body::Empty),
    }
}

fn directories(root: &Root) -> Body {
    match root.node() {
        Node::Directory { digest, .. } => {
            Body::Directories { queue: VecDeque::from([*digest]), seen: BTreeSet::from([*digest]) }
        }
        Node::File { .. } | Node::Symlink { .. } => Body::Empty,
    }
}

/// A piece of a reply is about so long, so that many small items do not cost a step each.
const PIECE_BYTES: usize = 128 << 10;

impl Reply {
    /// Whether there is something for this peer; else the reply says only that there is not.
    pub fn is_ok(&self) -> bool {
        self.is_ok
    }

    /// The next piece; `None` at the end. After an error, or where a piece has gone meanwhile, the stream must be broken
    /// off: what was sent is no whole reply.
    // No Iterator: an error ends it.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<Bytes>, ReplyError> {
        let Some(first) = self.next_item()? else { return Ok(None) };
        if first.len() >= PIECE_BYTES {
            return Ok(Some(first));
        }
        let mut piece = BytesMut::from(&first[..]);
        while piece.len() < PIECE_BYTES
            && let Some(item) = self.next_item()?
        {
            piece.extend_from_slice(&item);
        }
        Ok(Some(piece.freeze()))
    }

    fn next_item(&mut self) -> Result<Option<Bytes>, ReplyError> {
        if let Some(head) = self.head.take() {
            return Ok(Some(self.begin(head)?));
        }
        match &mut self.body {
            Body::Empty | Body::Span(..) => Ok(None),
            Body::Items(items) => Ok(items.pop_front()),
            Body::Directories { queue, seen } => {
                let Some(digest) = queue.pop_front() else { return Ok(None) };
                let directory = self.view.store.directory(&digest)?.ok_or(ReplyError::Gone)?;
                for (_, node) in &directory {
                    if let Node::Directory { digest, .. } = node
                        && seen.insert(*digest)
                    {
                        queue.push_back(*digest);
                    }
                }
                Ok(Some(frame::put(directory.encoded())))
            }
            Body::Batch { digests, bytes_left } => match digests.pop_front() {
                Some(digest) => Ok(Some(frame::put_message(&batch_item(&self.view, digest, bytes_left)?))),
                None => Ok(None),
            },
        }
    }

    /// A span is read before the header says that it is here.
    fn begin(&mut self, head: Bytes) -> Result<Bytes, ReplyError> {
        let Body::Span(blob, span) = &self.body else { return Ok(head) };
        match undamaged(self.view.store.read_span(blob, *span))? {
            Some(proven) => {
                self.body = Body::Items(VecDeque::from([proven.to_proof()]));
                Ok(head)
            }
            None => {
                self.body = Body::Empty;
                let header = proto::ReplyHeader { status: proto::Status::Missing.into() };
                Ok(frame::put_message(&header))
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
    /// It was there when the reply began.
    #[error("what was to be sent has gone")]
    Gone,
}

/// What the disk has damaged is not here: others may have it, and all else that was asked for can still be given.
fn undamaged(read: Result<Option<VerifiedSpan>, StoreError>) -> Result<Option<VerifiedSpan>, StoreError> {
    match read {
        Err(StoreError::Damaged { .. }) => Ok(None),
        read => read,
    }
}

fn batch_item(
    view: &SharedView,
    digest: BlobDigest,
    bytes_left: &mut u64,
) -> Result<proto::BatchItem, StoreError> {
    let with = |status: proto::Status| proto::BatchItem { status: status.into(), contents: Bytes::new() };
    let Some(blob) = view.shared.blob(digest) else { return Ok(with(proto::Status::Missing)) };
    if blob.size > INLINE_BYTES_MAX {
        return Ok(with(proto::Status::Refused));
    }
    let Some(left) = bytes_left.checked_sub(blob.size) else { return Ok(with(proto::Status::Busy)) };
    match undamaged(view.store.read_span(&blob, Span::whole(blob.size)))? {
        Some(whole) => {
            *bytes_left = left;
            Ok(proto::BatchItem { status: proto::Status::Ok.into(), contents: whole.bytes().clone() })
        }
        None => Ok(with(proto::Status::Missing)),
    }
}
