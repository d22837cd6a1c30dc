//! The machine that fetches.
//!
//! ```text
//!   Goal ─► Find ─► claims ─► candidates ─► closure ─► blobs ─► (NAR hash) ─► Done
//!                    │            ▲            │          │          │
//!                    │            └── a root at fault yields to the next ──┘
//!                    └─ a lie: its peer is blamed and dropped, what it owed is asked elsewhere
//! ```
//!
//! Time comes in by `now`; nothing here sleeps, reads or sends.

mod candidates;
mod holders;
mod lookups;
mod pace;
mod peers;
mod pieces;
mod queue;
mod replies;
mod sharing;
#[cfg(test)]
mod tests;
mod tree;
mod types;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use firn_castore::Closure;
use firn_nix::StorePathHash;
use firn_trust::{Admitted, TrustedPath};

pub use self::candidates::Candidate;
use self::candidates::Candidates;
use self::lookups::Find;
use self::pace::Mark;
use self::peers::Peers;
use self::tree::{Question, Task, Tree};
pub use self::types::{AskId, Goal, Input, Limits, Micros, Outcome, Output, Rejection};
use crate::{Key, Known, PeerId, Request};

/// How long a request may go unanswered while nothing comes, or as good as nothing.
const ASK_TIMEOUT: Micros = Micros::from_millis(20_000);
/// How long a question for claims, or of what somebody has, may go on, though something comes: the answer is short.
const SHORT_TIMEOUT: Micros = Micros::from_millis(10_000);
/// A peer that sends more slowly than this, in bytes a second, is given up.
const RATE_MIN: u64 = 8 << 10;
/// Not everybody is looked at for each answer: in between only those of whom something has come.
const LOOK: Micros = Micros::from_millis(20);

/// What is to become of the tree at hand.
enum Verdict {
    GoOn,
    Whole,
    Hopeless,
    Stalled,
}

struct InFlight {
    peer: PeerId,
    task: Task,
    since: Micros,
    /// How many bytes of contents it asks for.
    bytes: u64,
    /// How many bytes of the reply have come.
    received: u64,
    /// How many bytes the peer had sent when it was asked, of all its replies.
    sent_before: u64,
    mark: Mark,
}

/// Fetches one [`Goal`] from many peers, none of which is believed.
pub struct Fetch {
    goal: Goal,
    me: PeerId,
    limits: Limits,
    begun: Option<Micros>,
    /// When time was last looked at.
    stepped_at: Micros,
    /// When all peers were looked at.
    looked_at: Micros,
    /// When they are to be looked at again; `None` while nothing calls for it.
    look_at: Option<Micros>,
    /// Of whom something has come since.
    touched: BTreeSet<PeerId>,
    /// There was nobody left to be asked for this.
    lacking: Option<Key>,
    peers: Peers,
    /// Look-ups that have begun.
    finds: BTreeMap<Key, Find>,
    bytes_in_flight: u64,
    /// When somebody was last done with being asked for claims.
    claims_at: Micros,
    in_flight: BTreeMap<AskId, InFlight>,
    next_id: u64,
    candidates: Candidates,
    tree: Option<Tree>,
    last_rejection: Option<Rejection>,
    /// Whether somebody knows of the path under keys that are not trusted.
    heard_untrusted: bool,
    outputs: VecDeque<Output>,
    done: bool,
}

impl Fetch {
    /// Begins. By `me`, this node's name, those who fetch the same tree share the work; `seed` decides among equals, so
    /// that many nodes do not all begin with the same peer.
    pub fn new(goal: Goal, me: PeerId, limits: Limits, seed: u64) -> Self {
        let candidates = match &goal {
            Goal::Tree(root) => Candidates::of_root(root.clone()),
            Goal::Claims(_) | Goal::Path(_) => Candidates::default(),
        };
        Self {
            goal,
            me,
            limits,
            begun: None,
            stepped_at: Micros::default(),
            looked_at: Micros::default(),
            look_at: Some(Micros::default()),
            touched: BTreeSet::new(),
            lacking: None,
            peers: Peers::new(seed, limits),
            finds: BTreeMap::new(),
            bytes_in_flight: 0,
            claims_at: Micros(0),
            in_flight: BTreeMap::new(),
            next_id: 0,
            candidates,
            tree: None,
            last_rejection: None,
            heard_untrusted: false,
            outputs: VecDeque::new(),
            done: false,
        }
    }

    /// Takes what has happened.
    pub fn handle(&mut self, now: Micros, input: Input) {
        if self.done {
            return;
        }
        // What comes of one peer is about that one; all else may give anybody something to do.
        if !matches!(
            input,
            Input::Found { .. } | Input::Answered { .. } | Input::Failed(_) | Input::Received { .. }
        ) {
            self.look_at_all();
        }
        match input {
            Input::Found { key, peer } => {
                self.peers.found(peer, key);
                self.touched.insert(peer);
            }
            Input::FindEnded(key) => self.find_ended(now, &key),
            Input::Answered { id, result } => {
                // What comes after it was cancelled is dropped.
                if let Some(ask) = self.settle(id) {
                    self.answered(now, ask, result);
                }
            }
            Input::Failed(id) => {
                if let Some(ask) = self.settle(id) {
                    self.failed(now, ask);
                }
            }
            Input::Unreachable(id) => {
                if let Some(ask) = self.settle(id) {
                    let peer = ask.peer;
                    self.failed(now, ask);
                    self.peers.give_up(&peer);
                }
            }
            Input::Slow(peer) => self.peers.wait_no_longer(peer),
            Input::Received { id, bytes } => {
                if let Some(ask) = self.in_flight.get_mut(&id)
                    && bytes > ask.received
                {
                    self.peers.sent(&ask.peer, bytes - ask.received, now);
                    ask.received = bytes;
                }
            }
            Input::Recalled { closure, known } => self.recalled(now, closure, known),
            Input::Reading(digest) => {
                if let Some(tree) = &mut self.tree {
                    tree.read(&digest);
                }
            }
            Input::Missing(blobs) => {
                if let Some(tree) = &mut self.tree {
                    self.outputs.extend(tree.begin_blobs(blobs, now).into_iter().map(Output::Keep));
                }
            }
            Input::Hashed(Ok(proof)) => {
                if let Some(closure) = self.tree.as_ref().and_then(|tree| tree.closure.clone()) {
                    let path = Box::new(TrustedPath::nar_match(*proof));
                    self.finish(Outcome::Path(path, closure));
                }
            }
            Input::Hashed(Err(mismatch)) => self.reject(mismatch.into()),
        }
    }

    /// What is to be done next; `None` until something comes in or [`Fetch::deadline`] passes.
    pub fn poll(&mut self, now: Micros) -> Option<Output> {
        while self.outputs.is_empty() && !self.done && self.step(now) {}
        self.outputs.pop_front()
    }

    /// When to poll again at the latest.
    pub fn deadline(&self) -> Option<Micros> {
        if self.done {
            return None;
        }
        let asks = self.in_flight.values().map(|ask| self.ends_at(ask));
        let own = [
            self.end(),
            self.peers.next_event(self.stepped_at),
            self.look_at,
            self.candidates.ripe_at(),
            self.tree.as_ref().and_then(|tree| tree.next_event(self.stepped_at, self.candidates.others())),
            self.next_find(),
            self.patience_ends(),
        ];
        // What time could bring up to the last step, it has brought: more must come in from outside.
        asks.chain(own.into_iter().flatten()).filter(|at| *at > self.stepped_at).min()
    }

    /// It is not only about those of whom something has come.
    fn look_at_all(&mut self) {
        self.look_at = Some(self.looked_at);
    }

    fn end(&self) -> Option<Micros> {
        Some(self.begun?.after(self.limits.deadline?))
    }

    /// Does what can be done now; true if there may be more at once.
    fn step(&mut self, now: Micros) -> bool {
        self.stepped_at = now;
        let begun = *self.begun.get_or_insert(now);
        if self.limits.deadline.is_some_and(|deadline| now >= begun.after(deadline)) {
            self.finish(Outcome::TimedOut);
            return false;
        }
        self.peers.wake(now);
        self.expire(now);
        // What a tree at hand needs comes before what others may come to vouch for.
        self.ask_tree(now);
        if self.done {
            return false;
        }
        if let Goal::Claims(hash) | Goal::Path(hash) = self.goal {
            self.ask_claims(now, hash);
        }
        if self.tree.is_some() {
            return false;
        }
        self.choose(now);
        self.lacking = self.lacks_peers();
        self.find_again(now);
        self.tree.is_some() && !self.done
    }

    /// When a request is given up. Each [`RATE_MIN`] bytes that its peer has sent since, of all that was asked of it, give it a
    /// second more, so that a byte now and then does not keep it.
    fn ends_at(&self, ask: &InFlight) -> Micros {
        let sent = self.peers.bytes_sent(&ask.peer) - ask.sent_before;
        let at_rate = |bytes: u64| {
            ask.since.after(ASK_TIMEOUT).after(Micros(bytes.saturating_mul(1_000_000) / RATE_MIN))
        };
        match ask.task {
            Task::Claims | Task::Have => ask.since.after(SHORT_TIMEOUT),
            // Its length is not known: it must not pause either.
            Task::Closure => {
                at_rate(sent).min(ask.since.max(self.peers.progress_at(&ask.peer)).after(ASK_TIMEOUT))
            }
            Task::Piece(_) | Task::Tail { .. } => at_rate(sent.min(ask.bytes)),
        }
    }

    fn expire(&mut self, now: Micros) {
        let expired: Vec<AskId> =
            self.in_flight.iter().filter(|(_, ask)| self.ends_at(ask) <= now).map(|(id, _)| *id).collect();
        for id in expired {
            self.outputs.push_back(Output::Cancel(id));
            if let Some(ask) = self.settle(id) {
                self.failed(now, ask);
            }
        }
    }

    fn ask(&mut self, now: Micros, peer: PeerId, question: Question) {
        let Question { request, task, bytes } = question;
        let id = AskId(self.next_id);
        self.next_id += 1;
        let mark = self.peers.asked(&peer, bytes, now);
        let sent_before = self.peers.bytes_sent(&peer);
        self.bytes_in_flight += bytes;
        let ask = InFlight { peer, task, since: now, bytes, received: 0, sent_before, mark };
        self.in_flight.insert(id, ask);
        self.outputs.push_back(Output::Ask { peer, id, request });
    }

    fn ask_claims(&mut self, now: Micros, hash: StorePathHash) {
        let key = Key::Path(hash);
        self.find(key.clone());
        for peer in self.peers.ready_for(&key, now, None, |_| Some(())) {
            if self.in_flight.len() < self.limits.in_flight_max && self.candidates.begin_asking(peer) {
                let request = Request::Path(hash);
                self.ask(now, peer, Question { request, task: Task::Claims, bytes: 0 });
            }
        }
    }

    /// Picks the next root to try, if it is time.
    fn choose(&mut self, now: Micros) {
        let Some(key) = self.claims_key() else {
            return match self.candidates.next() {
                Some(candidate) => self.begin_tree(now, candidate),
                None => self.finish_without_root(),
            };
        };
        let more = self.is_asking_claims()
            || !self.is_over(&key)
            || self.peers.any_left(&key, |p| self.peers.waits_for(p) && !self.candidates.has_asked(p));
        if more && !self.candidates.is_ripe(now) {
            return;
        }
        if matches!(self.goal, Goal::Claims(_)) {
            let claims = self.candidates.take_admitted();
            return match claims.is_empty() {
                false => self.finish(Outcome::Claims(claims)),
                true if more => {}
                true => self.finish_without_root(),
            };
        }
        match self.candidates.next() {
            Some(candidate) => self.begin_tree(now, candidate),
            None if more => {}
            None if self.may_find_claims(&key, now) => {}
            None => self.finish_without_root(),
        }
    }

    fn is_asking_claims(&self) -> bool {
        let is_waited_for =
            |ask: &InFlight| matches!(ask.task, Task::Claims) && self.peers.waits_for(&ask.peer);
        self.in_flight.values().any(is_waited_for)
    }

    fn claims_key(&self) -> Option<Key> {
        match &self.goal {
            Goal::Claims(hash) | Goal::Path(hash) => Some(Key::Path(*hash)),
            Goal::Tree(_) => None,
        }
    }

    fn finish_without_root(&mut self) {
        let outcome = match self.last_rejection.take() {
            Some(rejection) => Outcome::Rejected(rejection),
            None if self.heard_untrusted => Outcome::Untrusted,
            None => Outcome::NotFound,
        };
        self.finish(outcome);
    }

    fn begin_tree(&mut self, now: Micros, candidate: Candidate) {
        self.find(Key::Root(candidate.root().clone()));
        let path = candidate.admitted().map(|admitted| admitted.facts().path.clone());
        self.outputs.push_back(Output::Recall { root: candidate.root().clone(), path });
        self.tree = Some(Tree::new(candidate, self.me, now));
        self.look_at_all();
    }

    /// What is here of the Directories need not be asked for.
    fn recalled(&mut self, now: Micros, closure: Option<Arc<Closure>>, known: Known) {
        let Some(tree) = &mut self.tree else { return };
        match tree.recalled(now, closure, known) {
            Ok(Some(closure)) => self.outputs.push_back(Output::Look(closure)),
            Ok(None) => {}
            Err(rejection) => self.reject(rejection),
        }
    }

    fn ask_tree(&mut self, now: Micros) {
        let Some(mut tree) = self.tree.take() else { return };
        let key = Key::Root(tree.root().clone());
        let looks_at_all =
            self.looked_at.after(LOOK) <= now || self.look_at.is_some_and(|look_at| look_at <= now);
        let touched = std::mem::take(&mut self.touched);
        let among = (!looks_at_all).then_some(&touched);
        // What is asked of others leaves nothing more for them.
        let mut idle = BTreeSet::new();
        while self.in_flight.len() < self.limits.in_flight_max
            && self.bytes_in_flight < self.limits.bytes_in_flight_max
        {
            let ready = {
                let order = tree.order();
                self.peers.ready_for(&key, now, among, |peer| order(peer).filter(|_| !idle.contains(peer)))
            };
            let next = ready.into_iter().find_map(|peer| {
                let question = tree.next_question(&peer, &self.peers, now);
                if question.is_none() {
                    idle.insert(peer);
                }
                Some((peer, question?))
            });
            let Some((peer, question)) = next else { break };
            self.ask(now, peer, question);
        }
        if looks_at_all {
            (self.looked_at, self.look_at) = (now, None);
        } else if now > self.looked_at || !touched.is_empty() {
            self.look_at = Some(self.looked_at.after(LOOK));
        }
        let verdict = self.judge(&tree, &key, now, looks_at_all);
        self.tree = Some(tree);
        if looks_at_all {
            self.lacking = self.lacks_peers();
        }
        self.find_again(now);
        match verdict {
            Verdict::GoOn => {}
            Verdict::Whole => self.end_tree(),
            Verdict::Hopeless => self.reject(Rejection::Undeliverable),
            Verdict::Stalled => self.put_back_tree(),
        }
    }

    fn judge(&self, tree: &Tree, key: &Key, now: Micros, looks_at_all: bool) -> Verdict {
        let is_asking = self.in_flight.values().any(|ask| ask.task.brings_contents());
        let is_patient = tree.may_go_on() && now < tree.progress_at().after(self.limits.patience);
        if tree.is_ending {
            Verdict::GoOn
        } else if tree.blobs_are_here() {
            Verdict::Whole
        } else if tree.is_stalled(now) && self.candidates.others() {
            Verdict::Stalled
        } else if looks_at_all
            && !is_asking
            && !is_patient
            && tree.wants_peers()
            && self.is_over(key)
            && !self.peers.any_left(key, |peer| tree.can_serve(peer))
        {
            Verdict::Hopeless
        } else {
            Verdict::GoOn
        }
    }

    /// All blobs of the tree have been given to the store.
    fn end_tree(&mut self) {
        let Some(tree) = &mut self.tree else { return };
        let Some(closure) = tree.closure.clone() else { return };
        tree.is_ending = true;
        match tree.candidate.admitted().cloned() {
            None => self.finish(Outcome::Tree(closure)),
            Some(Admitted::Attested(path)) => self.finish(Outcome::Path(Box::new(path), closure)),
            Some(Admitted::Signed(signed)) => self.outputs.push_back(Output::HashNar(signed, closure)),
        }
    }

    /// Another root gets its turn; this one was only slow, and comes back after the others.
    fn put_back_tree(&mut self) {
        if let Some(tree) = self.tree.take() {
            self.cancel(|ask| ask.task.is_of_tree());
            self.candidates.put_back(tree.candidate);
        }
    }

    /// This root will not do.
    fn reject(&mut self, reason: Rejection) {
        let Some(tree) = self.tree.take() else { return };
        self.cancel(|ask| ask.task.is_of_tree());
        let root = tree.root().clone();
        let claimants = tree.candidate.claimants().iter().copied().collect();
        if reason == Rejection::Undeliverable {
            self.candidates.forget(&root);
        }
        self.last_rejection = Some(reason.clone());
        self.outputs.push_back(Output::Reject { root, claimants, reason });
    }

    fn cancel(&mut self, which: impl Fn(&InFlight) -> bool) -> Vec<InFlight> {
        let ids: Vec<AskId> =
            self.in_flight.iter().filter(|(_, ask)| which(ask)).map(|(id, _)| *id).collect();
        let mut cancelled = Vec::new();
        for id in ids {
            self.outputs.push_back(Output::Cancel(id));
            cancelled.extend(self.settle(id));
        }
        cancelled
    }

    /// Nobody waits for this any more.
    fn settle(&mut self, id: AskId) -> Option<InFlight> {
        let ask = self.in_flight.remove(&id)?;
        self.touched.insert(ask.peer);
        self.peers.settled(&ask.peer, ask.bytes);
        self.bytes_in_flight = self.bytes_in_flight.saturating_sub(ask.bytes);
        if matches!(ask.task, Task::Claims) {
            self.claims_at = self.stepped_at;
        }
        Some(ask)
    }

    fn finish(&mut self, outcome: Outcome) {
        self.cancel(|_| true);
        self.done = true;
        self.outputs.push_back(Output::Done(outcome));
    }

    /// Whether this peer has been heard of.
    pub fn knows(&self, peer: &PeerId) -> bool {
        self.peers.knows(peer)
    }

    /// Whether all of the tree that is not here has been asked for, and is waited for.
    pub fn is_all_asked(&self) -> bool {
        self.tree.as_ref().is_some_and(Tree::is_all_asked)
    }

    /// The peers that have been heard of.
    pub fn peers(&self) -> BTreeSet<PeerId> {
        self.peers.all()
    }
}
