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
mod peers;
mod queue;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use firn_bao::VerifiedSpan;
use firn_castore::{Closure, Root};
use firn_nix::StorePathHash;
use firn_store::MissingBlob;
use firn_trust::{Admitted, NarMatch, NarMismatch, SignedNarInfo, TrustedPath};

pub use self::candidates::Candidate;
use self::candidates::Candidates;
use self::peers::Peers;
use self::tree::{Fault, Task, Tree};
use crate::check::{Lie, RootFault, Verified};
use crate::{Key, PeerId, Request};

/// A time or a duration in microseconds; what it counts from is the driver's choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Micros(pub u64);

impl Micros {
    /// So many milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis * 1000)
    }

    pub(crate) fn after(self, duration: Micros) -> Self {
        Self(self.0.saturating_add(duration.0))
    }
}

/// What is to be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Goal {
    /// What can be believed of this path, without its contents.
    Claims(StorePathHash),
    /// This path, with the first of its roots that can be believed and delivered.
    Path(StorePathHash),
    /// This tree, which is its own proof.
    Tree(Root),
}

/// How far a fetch goes.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// When it fails, from its beginning; `None` for never.
    pub deadline: Option<Micros>,
    /// How often in a row a peer may fail to answer before it is given up.
    pub failures_max: u32,
    /// Unanswered requests in all.
    pub in_flight_max: usize,
    /// Unanswered requests to one peer.
    pub in_flight_peer_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { deadline: None, failures_max: 4, in_flight_max: 32, in_flight_peer_max: 4 }
    }
}

/// Names one request of one fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AskId(u64);

/// What the driver tells the machine.
#[derive(Debug)]
pub enum Input {
    /// This peer may have that.
    Found {
        /// What was looked for.
        key: Key,
        /// Who may have it.
        peer: PeerId,
    },
    /// The look-up is over.
    FindEnded(Key),
    /// A reply came and was [checked](crate::check).
    Answered {
        /// To which request.
        id: AskId,
        /// What it proves.
        result: Result<Verified, Lie>,
    },
    /// No reply came. That is no lie.
    Failed(AskId),
    /// Of the blobs that the machine wanted [looked up](Output::Look), this is not in the local store.
    Missing(Vec<MissingBlob>),
    /// The NAR of the tree was hashed.
    Hashed(Result<Box<NarMatch>, NarMismatch>),
}

/// What the machine wants of the driver.
#[derive(Debug)]
pub enum Output {
    /// Look for peers; tell by [`Input::Found`] and [`Input::FindEnded`].
    Find(Key),
    /// Ask; tell by [`Input::Answered`] or [`Input::Failed`].
    Ask {
        /// Whom.
        peer: PeerId,
        /// Under this name.
        id: AskId,
        /// What.
        request: Request,
    },
    /// The reply to this request is wanted no longer.
    Cancel(AskId),
    /// Store the Directories.
    KeepClosure(Arc<Closure>),
    /// Say what of these blobs is not in the store, by [`Input::Missing`].
    Look(Arc<Closure>),
    /// Store the bytes.
    Keep(VerifiedSpan),
    /// Hash the tree's NAR out of the store, once all that was to be stored is; tell by [`Input::Hashed`].
    HashNar(SignedNarInfo, Arc<Closure>),
    /// This peer has lied. It is asked nothing more.
    Blame {
        /// Who.
        peer: PeerId,
        /// How.
        lie: Lie,
    },
    /// This root is not what it claims, or cannot be had. No peer is to blame for that.
    Reject {
        /// Which root.
        root: Root,
        /// Who named it.
        claimants: Vec<PeerId>,
        /// Why.
        reason: Rejection,
    },
    /// The fetch is over.
    Done(Outcome),
}

/// Why a root is given up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// It is not what it claims.
    #[error(transparent)]
    Fault(#[from] RootFault),
    /// Its NAR is not the signed one.
    #[error(transparent)]
    Nar(#[from] NarMismatch),
    /// Nobody that could be reached has all of it.
    #[error("nobody that can be reached has all of it")]
    Undeliverable,
}

/// How a fetch ended.
#[derive(Debug)]
pub enum Outcome {
    /// What is believed of the path, best first.
    Claims(Vec<Admitted>),
    /// The path is believed and its tree is here.
    Path(Box<TrustedPath>, Arc<Closure>),
    /// The tree is here.
    Tree(Arc<Closure>),
    /// Nobody that could be reached knows of it.
    NotFound,
    /// Somebody knows of it, and nobody says what a trusted key has signed.
    Untrusted,
    /// Roots were named, and none could be believed and delivered. The last one's reason.
    Rejected(Rejection),
    /// The deadline has passed.
    TimedOut,
}

/// How long a request may go unanswered.
const ASK_TIMEOUT: Micros = Micros::from_millis(20_000);

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
}

/// Fetches one [`Goal`] from many peers, none of which is believed.
pub struct Fetch {
    goal: Goal,
    limits: Limits,
    begun: Option<Micros>,
    /// When time was last looked at.
    stepped_at: Micros,
    peers: Peers,
    /// Look-ups that have begun; true when they are over.
    finds: BTreeMap<Key, bool>,
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
    /// Begins. `seed` decides among equals, so that many nodes do not all begin with the same peer.
    pub fn new(goal: Goal, limits: Limits, seed: u64) -> Self {
        let candidates = match &goal {
            Goal::Tree(root) => Candidates::of_root(root.clone()),
            Goal::Claims(_) | Goal::Path(_) => Candidates::default(),
        };
        Self {
            goal,
            limits,
            begun: None,
            stepped_at: Micros::default(),
            peers: Peers::new(seed, limits),
            finds: BTreeMap::new(),
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
        match input {
            Input::Found { key, peer } => self.peers.found(peer, key),
            Input::FindEnded(key) => {
                self.finds.insert(key, true);
            }
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
        let asks = self.in_flight.values().map(|ask| ask.since.after(ASK_TIMEOUT));
        let own = [
            self.end(),
            self.peers.next_awake(),
            self.candidates.ripe_at(),
            self.tree.as_ref().and_then(|tree| tree.next_event(self.candidates.others())),
        ];
        // What time could bring up to the last step, it has brought: more must come in from outside.
        asks.chain(own.into_iter().flatten()).filter(|at| *at > self.stepped_at).min()
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
        if let Goal::Claims(hash) | Goal::Path(hash) = self.goal {
            self.ask_claims(now, hash);
        }
        if self.tree.is_none() && !self.done {
            self.choose(now);
        }
        if self.tree.is_none() || self.done {
            return false;
        }
        self.ask_tree(now);
        self.tree.is_none()
    }

    fn expire(&mut self, now: Micros) {
        let expired: Vec<AskId> = self
            .in_flight
            .iter()
            .filter(|(_, ask)| ask.since.after(ASK_TIMEOUT) <= now)
            .map(|(id, _)| *id)
            .collect();
        for id in expired {
            self.outputs.push_back(Output::Cancel(id));
            if let Some(ask) = self.settle(id) {
                self.failed(now, ask);
            }
        }
    }

    fn find(&mut self, key: Key) {
        if !self.finds.contains_key(&key) {
            self.finds.insert(key.clone(), false);
            self.outputs.push_back(Output::Find(key));
        }
    }

    fn is_over(&self, key: &Key) -> bool {
        self.finds.get(key).copied().unwrap_or(false)
    }

    fn ask(&mut self, now: Micros, peer: PeerId, request: Request, task: Task) {
        let id = AskId(self.next_id);
        self.next_id += 1;
        self.peers.asked(&peer);
        self.in_flight.insert(id, InFlight { peer, task, since: now });
        self.outputs.push_back(Output::Ask { peer, id, request });
    }

    fn ask_claims(&mut self, now: Micros, hash: StorePathHash) {
        let key = Key::Path(hash);
        self.find(key.clone());
        for peer in self.peers.idle_for(&key) {
            if self.in_flight.len() < self.limits.in_flight_max && self.candidates.begin_asking(peer) {
                self.ask(now, peer, Request::Path(hash), Task::Claims);
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
        let waiting = self.in_flight.values().any(|ask| matches!(ask.task, Task::Claims));
        let more =
            waiting || !self.is_over(&key) || self.peers.any_left(&key, |p| !self.candidates.has_asked(p));
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
            None => self.finish_without_root(),
        }
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
        self.tree = Some(Tree::new(candidate, now));
    }

    fn ask_tree(&mut self, now: Micros) {
        let Some(mut tree) = self.tree.take() else { return };
        let key = Key::Root(tree.root().clone());
        while self.in_flight.len() < self.limits.in_flight_max {
            let idle = self.peers.idle_for(&key);
            let next = idle.into_iter().find_map(|peer| Some((peer, tree.next_task(&peer, now)?)));
            let Some((peer, (request, task))) = next else { break };
            self.ask(now, peer, request, task);
        }
        let verdict = self.judge(&tree, &key, now);
        self.tree = Some(tree);
        match verdict {
            Verdict::GoOn => {}
            Verdict::Whole => self.end_tree(),
            Verdict::Hopeless => self.reject(Rejection::Undeliverable),
            Verdict::Stalled => self.put_back_tree(),
        }
    }

    fn judge(&self, tree: &Tree, key: &Key, now: Micros) -> Verdict {
        let is_asking = self.in_flight.values().any(|ask| ask.task.is_of_tree());
        if tree.is_ending {
            Verdict::GoOn
        } else if tree.blobs_are_here() {
            Verdict::Whole
        } else if tree.is_stalled(now) && self.candidates.others() {
            Verdict::Stalled
        } else if !is_asking
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
        self.peers.settled(&ask.peer);
        Some(ask)
    }

    fn failed(&mut self, now: Micros, ask: InFlight) {
        self.peers.failed(&ask.peer, ask.since, now);
        self.give_back(ask);
    }

    /// What was asked must be asked again.
    fn give_back(&mut self, ask: InFlight) {
        match (&mut self.tree, ask.task) {
            (_, Task::Claims) => self.candidates.ask_again(ask.peer),
            (Some(tree), task) => tree.give_back(task),
            (None, _) => {}
        }
    }

    fn blame(&mut self, ask: InFlight, lie: Lie) {
        let peer = ask.peer;
        self.give_back(ask);
        for other in self.cancel(|other| other.peer == peer) {
            self.give_back(other);
        }
        self.peers.drop_liar(&peer);
        self.outputs.push_back(Output::Blame { peer, lie });
    }

    fn answered(&mut self, now: Micros, ask: InFlight, result: Result<Verified, Lie>) {
        let verified = match result {
            Ok(verified) => verified,
            Err(lie) => return self.blame(ask, lie),
        };
        match verified {
            Verified::Busy { .. } => {
                self.peers.rest(&ask.peer, now);
                self.give_back(ask);
            }
            Verified::Refused | Verified::Have { .. } => self.failed(now, ask),
            Verified::Claims(claims) => {
                self.peers.succeeded(&ask.peer);
                claims.into_iter().for_each(|claim| self.claimed(now, ask.peer, claim));
            }
            Verified::Untrusted => {
                self.peers.succeeded(&ask.peer);
                self.heard_untrusted = true;
            }
            Verified::Missing if matches!(ask.task, Task::Claims) => self.peers.succeeded(&ask.peer),
            verified => self.answered_of_tree(now, ask, verified),
        }
    }

    /// Whoever says that a path has this root can be asked for its tree, at whatever time the claim comes.
    fn claimed(&mut self, now: Micros, peer: PeerId, claim: Admitted) {
        let root = claim.facts().root.clone();
        self.peers.found(peer, Key::Root(root.clone()));
        match &mut self.tree {
            Some(tree) if *tree.root() == root => tree.candidate.claimed_by(peer, claim),
            _ => self.candidates.add(now, peer, claim),
        }
    }

    fn answered_of_tree(&mut self, now: Micros, ask: InFlight, verified: Verified) {
        self.peers.succeeded(&ask.peer);
        let Some(tree) = &mut self.tree else { return };
        match tree.take(now, ask.peer, ask.task.clone(), verified) {
            Ok(taken) => {
                if taken.is_busy {
                    self.peers.rest(&ask.peer, now);
                }
                if let Some((request, task)) = taken.follow_up {
                    self.ask(now, ask.peer, request, task);
                }
                if let Some(closure) = taken.closure {
                    self.outputs.push_back(Output::KeepClosure(closure.clone()));
                    self.outputs.push_back(Output::Look(closure));
                    self.cancel(|other| matches!(other.task, Task::Closure));
                }
                self.outputs.extend(taken.spans.into_iter().map(Output::Keep));
            }
            Err(Fault::OfRoot(rejection)) => self.reject(rejection),
            Err(Fault::OfPeer(lie)) => self.blame(ask, lie),
        }
    }

    fn finish(&mut self, outcome: Outcome) {
        self.cancel(|_| true);
        self.done = true;
        self.outputs.push_back(Output::Done(outcome));
    }

    /// The peers that have been heard of.
    pub fn peers(&self) -> BTreeSet<PeerId> {
        self.peers.all()
    }
}
