//! Fetching one tree: its Directories, then its blobs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use firn_bao::{BLOB_BYTES_MAX, Span, VerifiedSpan};
use firn_castore::{BlobDigest, BlobRef, Closure, Root};
use firn_store::MissingBlob;
use firn_trust::{Admitted, NarHasher};

use super::candidates::Candidate;
use super::queue::{Queue, Work};
use super::{Micros, Rejection};
use crate::check::{BatchAnswer, Lie, RootFault, Verified};
use crate::{Known, PeerId, Request};

/// How long one peer has for the closure before another one is asked as well.
const HEDGE: Micros = Micros::from_millis(1_000);
/// How long a root may bring nothing while another one waits.
const PATIENCE: Micros = Micros::from_millis(10_000);

/// What a request is good for.
#[derive(Debug, Clone)]
pub(super) enum Task {
    Claims,
    Closure,
    Batch(Vec<BlobRef>),
    Span(BlobRef, Span),
    /// Proves the length that a peer says a blob has.
    Tail {
        claimed: BlobRef,
        wanted: Span,
        other: BlobRef,
    },
}

impl Task {
    pub(super) fn is_of_tree(&self) -> bool {
        !matches!(self, Task::Claims)
    }
}

/// Who is at fault.
pub(super) enum Fault {
    OfRoot(Rejection),
    OfPeer(Lie),
}

impl<E: Into<Rejection>> From<E> for Fault {
    fn from(rejection: E) -> Self {
        Fault::OfRoot(rejection.into())
    }
}

/// What a reply has brought.
#[derive(Default)]
pub(super) struct Taken {
    /// To be asked of the same peer at once.
    pub(super) follow_up: Option<(Request, Task)>,
    pub(super) closure: Option<Arc<Closure>>,
    pub(super) spans: Vec<VerifiedSpan>,
    /// Something was not to be had now: the peer is to be left alone for a while, or it would be asked again at once.
    pub(super) is_busy: bool,
}

pub(super) struct Tree {
    pub(super) candidate: Candidate,
    pub(super) closure: Option<Arc<Closure>>,
    /// Set once the blobs are here and the tree waits for its judgement.
    pub(super) is_ending: bool,
    /// What is still to be asked for; `None` until the store has been looked through.
    queue: Option<Queue>,
    /// Batches and spans that were asked for.
    asked: usize,
    closures_asked: u64,
    /// Peers that have not this root at all.
    without: BTreeSet<PeerId>,
    lacks: BTreeMap<PeerId, BTreeSet<BlobDigest>>,
    begun: Micros,
    progress_at: Micros,
}

impl Tree {
    pub(super) fn new(candidate: Candidate, now: Micros) -> Self {
        Self {
            candidate,
            closure: None,
            is_ending: false,
            queue: None,
            asked: 0,
            closures_asked: 0,
            without: BTreeSet::new(),
            lacks: BTreeMap::new(),
            begun: now,
            progress_at: now,
        }
    }

    pub(super) fn root(&self) -> &Root {
        self.candidate.root()
    }

    /// Something for this peer to do, if there is something that it may have.
    pub(super) fn next_task(&mut self, peer: &PeerId, now: Micros) -> Option<(Request, Task)> {
        if self.without.contains(peer) {
            return None;
        }
        if self.closure.is_none() {
            let allowed = 1 + now.0.saturating_sub(self.begun.0) / HEDGE.0;
            return (self.closures_asked < allowed).then(|| {
                self.closures_asked += 1;
                (Request::Closure { root: self.root().clone(), known: Known::default() }, Task::Closure)
            });
        }
        let nothing = BTreeSet::new();
        let work = self.queue.as_mut()?.take(self.lacks.get(peer).unwrap_or(&nothing))?;
        self.asked += 1;
        Some(match work {
            Work::Batch(blobs) => (Request::Batch(blobs.clone()), Task::Batch(blobs)),
            Work::Span(blob, span) => (Request::Ranges { blob, span }, Task::Span(blob, span)),
        })
    }

    /// Whether this peer may have something that is still to be asked for.
    pub(super) fn can_serve(&self, peer: &PeerId) -> bool {
        let nothing = BTreeSet::new();
        let lacks = self.lacks.get(peer).unwrap_or(&nothing);
        !self.without.contains(peer) && self.queue.as_ref().is_none_or(|queue| queue.has_for(lacks))
    }

    /// Whether it waits for peers rather than for the store.
    pub(super) fn wants_peers(&self) -> bool {
        self.closure.is_none() || self.queue.as_ref().is_some_and(|queue| !queue.is_empty())
    }

    pub(super) fn blobs_are_here(&self) -> bool {
        self.asked == 0 && self.queue.as_ref().is_some_and(Queue::is_empty)
    }

    /// Not while the store is looked through or the NAR is hashed: what comes of it must meet this tree.
    fn waits_for_peers(&self) -> bool {
        !self.is_ending && (self.closure.is_none() || self.queue.is_some())
    }

    pub(super) fn is_stalled(&self, now: Micros) -> bool {
        self.waits_for_peers() && self.progress_at.after(PATIENCE) <= now
    }

    /// When time alone changes something.
    pub(super) fn next_event(&self, others: bool) -> Option<Micros> {
        let hedge =
            self.closure.is_none().then(|| self.begun.after(Micros(HEDGE.0 * self.closures_asked.max(1))));
        let patience = (others && self.waits_for_peers()).then(|| self.progress_at.after(PATIENCE));
        [hedge, patience].into_iter().flatten().min()
    }

    /// The store has been looked through: these blobs are to be fetched. Gives those that need no peer.
    pub(super) fn begin_blobs(&mut self, missing: Vec<MissingBlob>, now: Micros) -> Option<VerifiedSpan> {
        self.progress_at = now;
        let empty = BlobRef::of(b"");
        let has_empty = missing.iter().any(|missing| missing.blob == empty);
        self.queue = Some(Queue::new(missing.into_iter().filter(|missing| missing.blob != empty)));
        has_empty.then(|| VerifiedSpan::whole(empty, Bytes::new()).ok())?
    }

    /// What was asked for did not come.
    pub(super) fn give_back(&mut self, task: Task) {
        match task {
            Task::Claims => {}
            Task::Closure => self.closures_asked = self.closures_asked.saturating_sub(1),
            Task::Batch(blobs) => self.put_back(Work::Batch(blobs)),
            Task::Span(blob, span) | Task::Tail { claimed: blob, wanted: span, .. } => {
                self.put_back(Work::Span(blob, span));
            }
        }
    }

    fn put_back(&mut self, work: Work) {
        self.asked = self.asked.saturating_sub(1);
        if let Some(queue) = &mut self.queue {
            queue.put_back(work);
        }
    }

    fn lack(&mut self, peer: PeerId, blob: BlobDigest) {
        self.lacks.entry(peer).or_default().insert(blob);
    }

    /// Takes what a reply has proven.
    pub(super) fn take(
        &mut self,
        now: Micros,
        peer: PeerId,
        task: Task,
        verified: Verified,
    ) -> Result<Taken, Fault> {
        let mut taken = Taken::default();
        match (task, verified) {
            (_, Verified::BadRoot(fault)) => return Err(fault.into()),
            (Task::Closure, Verified::Closure(closure)) => {
                self.begin_closure(&closure)?;
                taken.closure = Some(closure);
            }
            (Task::Closure, _) => {
                self.closures_asked = self.closures_asked.saturating_sub(1);
                self.without.insert(peer);
                return Ok(taken);
            }
            (Task::Batch(_), Verified::Batch(answers)) => {
                self.asked -= 1;
                self.take_batch(peer, answers, &mut taken)?;
            }
            (Task::Span(..), Verified::Span(span)) => {
                self.asked -= 1;
                taken.spans.push(span);
            }
            (Task::Span(claimed, wanted), Verified::OtherSize(other)) => {
                // Who errs, the root's claimant or this peer? The last group under the peer's length tells.
                let request = Request::Ranges { blob: other, span: Span::last(other.size) };
                taken.follow_up = Some((request, Task::Tail { claimed, wanted, other }));
                return Ok(taken);
            }
            (Task::Tail { claimed, other, .. }, Verified::Span(_)) => {
                return Err(RootFault::BlobSize { blob: claimed, actual: other.size }.into());
            }
            (Task::Tail { claimed, .. }, Verified::OtherSize(_)) => {
                return Err(Fault::OfPeer(Lie::TwoSizes(claimed.digest)));
            }
            (task, _) => {
                self.note_missing(peer, &task);
                self.give_back(task);
                return Ok(taken);
            }
        }
        if taken.closure.is_some() || !taken.spans.is_empty() {
            self.progress_at = now;
        }
        Ok(taken)
    }

    fn begin_closure(&mut self, closure: &Arc<Closure>) -> Result<(), Fault> {
        if let Some(blob) = closure.blobs().into_iter().find(|blob| blob.size > BLOB_BYTES_MAX) {
            return Err(RootFault::BlobTooLong(blob).into());
        }
        if let Some(Admitted::Signed(signed)) = self.candidate.admitted() {
            // Only for its first check, the NAR's length: before a blob is asked for.
            NarHasher::new(signed.clone(), closure.clone())?;
        }
        self.closure = Some(closure.clone());
        Ok(())
    }

    fn take_batch(
        &mut self,
        peer: PeerId,
        answers: Vec<(BlobRef, BatchAnswer)>,
        taken: &mut Taken,
    ) -> Result<(), RootFault> {
        let mut again = Vec::new();
        for (blob, answer) in answers {
            match answer {
                BatchAnswer::Here(span) => taken.spans.push(span),
                BatchAnswer::OtherSize(fault) => return Err(fault),
                BatchAnswer::Busy => {
                    taken.is_busy = true;
                    again.push(blob);
                }
                BatchAnswer::Missing => {
                    self.lack(peer, blob.digest);
                    again.push(blob);
                }
                BatchAnswer::TooLarge => {
                    if let Some(queue) = &mut self.queue {
                        queue.put_back(Work::Span(blob, Span::whole(blob.size)));
                    }
                }
            }
        }
        if let Some(queue) = &mut self.queue
            && !again.is_empty()
        {
            queue.put_back(Work::Batch(again));
        }
        Ok(())
    }

    fn note_missing(&mut self, peer: PeerId, task: &Task) {
        match task {
            Task::Claims | Task::Closure => {}
            Task::Batch(blobs) => blobs.iter().for_each(|blob| self.lack(peer, blob.digest)),
            Task::Span(blob, _) | Task::Tail { claimed: blob, .. } => self.lack(peer, blob.digest),
        }
    }
}
