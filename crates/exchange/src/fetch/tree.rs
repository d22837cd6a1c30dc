//! Fetching one tree: its Directories, then its blobs.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use firn_bao::{BLOB_BYTES_MAX, Span, VerifiedSpan};
use firn_castore::{BlobDigest, BlobRef, Closure, Root};
use firn_store::MissingBlob;
use firn_trust::{Admitted, NarHasher};

use super::candidates::Candidate;
use super::holders::{Extent, Holders};
use super::peers::Peers;
use super::pieces::{PieceId, Pieces};
use super::queue::{End, Queue, Work};
use super::sharing::{Offer, Sharing};
use super::{Micros, Rejection};
use crate::check::{BatchAnswer, RootFault, Verified};
use crate::{Known, PeerId, Request};

/// How long one peer has for the closure before another one is asked as well.
const HEDGE: Micros = Micros::from_millis(1_000);
/// How long a root may bring nothing while another one waits.
const PATIENCE: Micros = Micros::from_millis(10_000);
/// How long until the queue is looked through again for a peer that has something of it, which is left to others.
const AGAIN: Micros = Micros::from_millis(100);
/// How many blobs a fellow is asked about at once.
const POLL_BLOBS: usize = 512;

/// What a request is good for.
#[derive(Debug, Clone)]
pub(super) enum Task {
    Claims,
    Closure,
    Have,
    Piece(PieceId),
    /// Proves the length that a peer says a blob has.
    Tail {
        piece: PieceId,
        claimed: BlobRef,
        other: BlobRef,
    },
}

impl Task {
    pub(super) fn is_of_tree(&self) -> bool {
        !matches!(self, Task::Claims)
    }

    /// Whether the tree gets on by it.
    pub(super) fn brings_contents(&self) -> bool {
        matches!(self, Task::Closure | Task::Piece(_) | Task::Tail { .. })
    }

    pub(super) fn piece(&self) -> Option<PieceId> {
        match self {
            Task::Piece(piece) | Task::Tail { piece, .. } => Some(*piece),
            Task::Claims | Task::Closure | Task::Have => None,
        }
    }
}

/// Something to ask of a peer.
pub(super) struct Question {
    pub(super) request: Request,
    pub(super) task: Task,
    /// How many bytes of contents it asks for.
    pub(super) bytes: u64,
}

/// What a reply has brought.
#[derive(Default)]
pub(super) struct Taken {
    /// To be asked of the same peer at once.
    pub(super) follow_up: Option<Question>,
    pub(super) closure: Option<Arc<Closure>>,
    pub(super) spans: Vec<VerifiedSpan>,
    pub(super) is_busy: bool,
    /// Nobody else need be asked for this any longer.
    pub(super) done: Option<PieceId>,
}

pub(super) struct Tree {
    pub(super) candidate: Candidate,
    pub(super) closure: Option<Arc<Closure>>,
    /// Set once the blobs are here and the tree waits for its judgement.
    pub(super) is_ending: bool,
    /// What is offered so that it is not sent again; `None` until the store was asked.
    known: Option<Known>,
    /// What is still to be asked for; `None` until the store has been looked through.
    queue: Option<Queue>,
    /// What was asked for.
    pieces: Pieces,
    holders: Holders,
    /// Who was asked for the Directories.
    closure_asked: BTreeSet<PeerId>,
    begun: Micros,
    progress_at: Micros,
    has_come: bool,
    is_read: bool,
    sharing: Sharing,
}

impl Tree {
    pub(super) fn new(candidate: Candidate, me: PeerId, now: Micros) -> Self {
        let mut holders = Holders::new(me);
        candidate.claimants().iter().for_each(|claimant| holders.presume_whole(*claimant, now));
        Self {
            candidate,
            closure: None,
            is_ending: false,
            known: None,
            queue: None,
            pieces: Pieces::default(),
            holders,
            closure_asked: BTreeSet::new(),
            begun: now,
            progress_at: now,
            has_come: false,
            is_read: false,
            sharing: Sharing::default(),
        }
    }

    pub(super) fn root(&self) -> &Root {
        self.candidate.root()
    }

    /// Somebody who vouches for the root will have it.
    pub(super) fn claimed_by(&mut self, now: Micros, peer: PeerId, admitted: Admitted) {
        self.holders.presume_whole(peer, now);
        self.candidate.claimed_by(peer, admitted);
    }

    fn is_fellow(&self, peer: &PeerId) -> bool {
        self.holders.extent(peer) == Extent::Partial
    }

    /// The store was asked what it has of the Directories. Gives them where they are all here.
    pub(super) fn recalled(
        &mut self,
        now: Micros,
        closure: Option<Arc<Closure>>,
        known: Known,
    ) -> Result<Option<Arc<Closure>>, Rejection> {
        (self.begun, self.progress_at) = (now, now);
        self.known = Some(known);
        let closure = closure.filter(|closure| closure.root() == self.root() && self.closure.is_none());
        if let Some(closure) = &closure {
            self.begin_closure(closure)?;
        }
        Ok(closure)
    }

    /// Who may have something to do, and who comes first: what fellows have is taken from them, so that who has all can give
    /// what nobody else has. Strangers may be fellows; they have nothing to do where there are enough of these.
    pub(super) fn order(&self) -> impl Fn(&PeerId) -> Option<u8> {
        let stranger = match &self.closure {
            None => Some(1),
            Some(_) => self.holders.welcomes_strangers().then_some(0),
        };
        move |peer| match self.holders.extent(peer) {
            Extent::Unknown => stranger,
            Extent::Partial => Some(0),
            Extent::Whole | Extent::Nothing => Some(1),
        }
    }

    /// Something for this peer to do, if there is something that it may have.
    pub(super) fn next_question(&mut self, peer: &PeerId, peers: &Peers, now: Micros) -> Option<Question> {
        let known = self.known.clone()?;
        let is_stranger = self.holders.extent(peer) == Extent::Unknown;
        if self.wants_peers() && self.holders.is_due(peer, now) && !(is_stranger && self.closure.is_none()) {
            return Some(self.poll(*peer, peers, now));
        }
        if self.closure.is_none() {
            let allowed = 1 + now.0.saturating_sub(self.begun.0) / HEDGE.0;
            let may_ask = (self.closure_asked.len() as u64) < allowed
                && !self.closure_asked.contains(peer)
                && self.holders.extent(peer) != Extent::Nothing;
            return may_ask.then(|| {
                self.closure_asked.insert(*peer);
                let request = Request::Closure { root: self.root().clone(), known };
                Question { request, task: Task::Closure, bytes: 0 }
            });
        }
        let bytes_max = peers.pace(peer).room(self.holders.has_fellows())?;
        let (piece, work) = self.next_piece(peer, peers, bytes_max, now)?;
        let bytes = work.bytes();
        let request = match work {
            Work::Batch(blobs) => Request::Batch(blobs),
            Work::Span(blob, span) => Request::Ranges { blob, span },
        };
        Some(Question { request, task: Task::Piece(piece), bytes })
    }

    /// A question of what it has. A fellow is asked for what a reader needs next, and for what this node would ask somebody
    /// else for next, for that it may have by now.
    fn poll(&mut self, peer: PeerId, peers: &Peers, now: Micros) -> Question {
        let mut blobs = Vec::new();
        if let (Some(queue), true) = (&self.queue, self.is_fellow(&peer)) {
            let holders = &self.holders;
            let partners = holders.partners(|partner| peers.is_usable(partner, now));
            let (end, rank) = self.sharing.next();
            let is_next =
                |blob: &BlobRef, run: Span| holders.rank(&partners, blob, run.groups().start) <= rank;
            blobs = queue.first_blobs(End::Front, POLL_BLOBS / 2, |_, _| true);
            blobs.extend(queue.first_blobs(end, POLL_BLOBS / 2, is_next));
            blobs.sort_unstable();
            blobs.dedup();
        }
        self.holders.polling(peer);
        let request = Request::Have { root: Some(self.root().clone()), blobs };
        Question { request, task: Task::Have, bytes: 0 }
    }

    /// First what another one owes and does not send, then what nobody was asked for, then what a slower one would send
    /// much later.
    fn next_piece(
        &mut self,
        peer: &PeerId,
        peers: &Peers,
        bytes_max: u64,
        now: Micros,
    ) -> Option<(PieceId, Work)> {
        let has_all = |holders: &Holders, work: &Work| {
            work.parts().iter().all(|(blob, span)| holders.has_all_of(peer, blob, *span))
        };
        let holders = &self.holders;
        let may = |work: &Work| has_all(holders, work);
        if let Some(again) = self.pieces.owed(*peer, peers, now, self.progress_at, may) {
            return Some(again);
        }
        if let Some(work) = self.take_new(peer, peers, bytes_max, now) {
            return Some((self.pieces.begin(work.clone(), *peer, now), work));
        }
        let holders = &self.holders;
        self.pieces.late(*peer, peers, now, |work| has_all(holders, work))
    }

    fn take_new(&mut self, peer: &PeerId, peers: &Peers, bytes_max: u64, now: Micros) -> Option<Work> {
        let (queue, holders) = (self.queue.as_mut()?, &self.holders);
        let has_something = matches!(holders.extent(peer), Extent::Whole | Extent::Partial);
        if !has_something || !holders.may_have_more(peer, queue.edition(), now) {
            return None;
        }
        let offer = Offer::new(holders, peers, peer, now);
        let work = self.sharing.take(queue, &offer, bytes_max, self.is_read, now);
        if work.is_none() {
            let has_none = queue.is_seen_whole() && !queue.has(|blob, run| holders.part_of(peer, blob, run));
            let until = if has_none { Micros(u64::MAX) } else { now.after(AGAIN) };
            self.holders.has_nothing_until(peer, queue.edition(), until);
        }
        work
    }

    /// Whether this peer has, or may turn out to have, something that is still to be asked for.
    pub(super) fn can_serve(&self, peer: &PeerId) -> bool {
        match self.holders.extent(peer) {
            Extent::Unknown => true,
            Extent::Whole => self
                .queue
                .as_ref()
                .is_none_or(|queue| queue.has(|blob, span| self.holders.part_of(peer, blob, span))),
            Extent::Partial | Extent::Nothing => false,
        }
    }

    /// Whether it waits for peers rather than for the store.
    pub(super) fn wants_peers(&self) -> bool {
        match &self.closure {
            None => self.known.is_some(),
            Some(_) => self.queue.as_ref().is_some_and(|queue| !queue.is_empty() || !self.pieces.is_empty()),
        }
    }

    pub(super) fn is_all_asked(&self) -> bool {
        !self.pieces.is_empty() && self.queue.as_ref().is_some_and(Queue::is_empty)
    }

    pub(super) fn blobs_are_here(&self) -> bool {
        self.pieces.is_empty() && self.queue.as_ref().is_some_and(Queue::is_empty)
    }

    /// Not while the store is looked through or the NAR is hashed: what comes of it must meet this tree.
    fn waits_for_peers(&self) -> bool {
        !self.is_ending && (self.closure.is_none() || self.queue.is_some())
    }

    pub(super) fn is_stalled(&self, now: Micros) -> bool {
        self.waits_for_peers() && self.progress_at.after(PATIENCE) <= now
    }

    /// Whether something of it has come, or somebody is fetching it as well, so that it is worth waiting for more.
    pub(super) fn may_go_on(&self) -> bool {
        self.has_come || self.holders.has_fellows()
    }

    /// When something of it came last.
    pub(super) fn progress_at(&self) -> Micros {
        self.progress_at
    }

    /// When, after this time, time alone changes something.
    pub(super) fn next_event(&self, now: Micros, others: bool) -> Option<Micros> {
        let hedge = self
            .closure
            .is_none()
            .then(|| self.begun.after(Micros(HEDGE.0 * self.closure_asked.len().max(1) as u64)));
        let patience = (others && self.waits_for_peers()).then(|| self.progress_at.after(PATIENCE));
        let poll = self.holders.next_poll(now).filter(|_| self.wants_peers());
        let help = self.sharing.more_at();
        let owed = self.pieces.next_owed(now, self.progress_at);
        [hedge, patience, poll, help, owed].into_iter().flatten().filter(|at| *at > now).min()
    }

    /// The store has been looked through: these blobs are to be fetched. Gives those that need no peer.
    pub(super) fn begin_blobs(&mut self, missing: Vec<MissingBlob>, now: Micros) -> Option<VerifiedSpan> {
        self.progress_at = now;
        let empty = BlobRef::of(b"");
        let has_empty = missing.iter().any(|missing| missing.blob == empty);
        let queue = Queue::new(missing.into_iter().filter(|missing| missing.blob != empty));
        self.pieces.begin_blobs(queue.bytes());
        self.queue = Some(queue);
        has_empty.then(|| VerifiedSpan::whole(empty, Bytes::new()).ok())?
    }

    /// A reader waits for this blob.
    pub(super) fn read(&mut self, digest: &BlobDigest) {
        self.is_read = true;
        if let Some(queue) = &mut self.queue {
            queue.bring_forward(digest);
        }
    }

    /// What was asked for did not come.
    pub(super) fn give_back(&mut self, peer: PeerId, task: &Task, now: Micros) {
        match task {
            Task::Claims => {}
            Task::Closure => {
                self.closure_asked.remove(&peer);
            }
            Task::Have => self.holders.not_told(peer, now),
            Task::Piece(piece) | Task::Tail { piece, .. } => {
                let work = self.pieces.give_back(*piece, peer);
                self.put_back(work);
            }
        }
    }

    fn put_back(&mut self, work: Option<Work>) {
        if let (Some(queue), Some(work)) = (&mut self.queue, work) {
            queue.put_back(&work);
        }
    }

    /// Takes what a reply has proven.
    pub(super) fn take(
        &mut self,
        now: Micros,
        peer: PeerId,
        task: &Task,
        verified: Verified,
    ) -> Result<Taken, Rejection> {
        let mut taken = Taken::default();
        match (task, verified) {
            (_, Verified::BadRoot(fault)) => return Err(fault.into()),
            (Task::Closure, Verified::Closure(closure)) => {
                self.begin_closure(&closure)?;
                self.holders.presume_whole(peer, now);
                taken.closure = Some(closure);
            }
            (Task::Closure, verified) => {
                self.closure_asked.remove(&peer);
                match verified {
                    Verified::Overlap => self.known = Some(Known::default()),
                    _ => self.holders.has_nothing(peer, now),
                }
                return Ok(taken);
            }
            (Task::Have, Verified::Have { tree: Some(tree), blobs }) => {
                self.holders.told(peer, &tree, blobs, now);
                return Ok(taken);
            }
            (Task::Piece(piece), Verified::Batch(answers)) => {
                self.take_batch(now, peer, *piece, answers, &mut taken)?;
            }
            (Task::Piece(piece), Verified::Span(span)) => {
                self.pieces.end(*piece);
                taken.done = Some(*piece);
                taken.spans.push(span);
            }
            (Task::Piece(piece), Verified::OtherSize(other)) => {
                // Who errs, the root's claimant or this peer? The last group under the peer's length tells.
                let claimed = BlobRef { size: self.size_of(*piece), ..other };
                let request = Request::Ranges { blob: other, span: Span::last(other.size) };
                let task = Task::Tail { piece: *piece, claimed, other };
                taken.follow_up = Some(Question { request, task, bytes: 0 });
                return Ok(taken);
            }
            (Task::Tail { claimed, other, .. }, Verified::Span(_)) => {
                return Err(RootFault::BlobSize { blob: *claimed, actual: other.size }.into());
            }
            // Also where it tells a third length for the last group: it has not proven what it said first, perhaps because
            // it has learned better meanwhile.
            (task, _) => {
                if let Some(work) = task.piece().and_then(|piece| self.pieces.work(piece)) {
                    let parts = work.parts();
                    parts.iter().for_each(|(blob, _)| self.holders.lacks(peer, blob.digest, now));
                }
                self.give_back(peer, task, now);
                return Ok(taken);
            }
        }
        if taken.closure.is_some() || !taken.spans.is_empty() {
            (self.progress_at, self.has_come) = (now, true);
        }
        Ok(taken)
    }

    /// The length that the Directories claim of the blob of which this piece is a part.
    fn size_of(&self, piece: PieceId) -> u64 {
        match self.pieces.work(piece) {
            Some(Work::Span(blob, _)) => blob.size,
            Some(Work::Batch(_)) | None => 0,
        }
    }

    fn begin_closure(&mut self, closure: &Arc<Closure>) -> Result<(), Rejection> {
        if let Some(blob) = closure.files().find(|blob| blob.size > BLOB_BYTES_MAX) {
            return Err(RootFault::BlobTooLong(*blob).into());
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
        now: Micros,
        peer: PeerId,
        piece: PieceId,
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
                // What is small enough to be asked for in a batch is small enough to be given in one.
                BatchAnswer::Missing | BatchAnswer::TooLarge => {
                    self.holders.lacks(peer, blob.digest, now);
                    again.push(blob);
                }
            }
        }
        if again.is_empty() {
            self.pieces.end(piece);
            taken.done = Some(piece);
        } else {
            // Others that were asked for the same may have it.
            let left = self.pieces.give_back(piece, peer);
            self.put_back(left.map(|_| Work::Batch(again)));
        }
        Ok(())
    }
}
