//! Watches a run and tells what went wrong. It believes neither the machine nor the types that carry proof.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use firn_bao::Span;
use firn_castore::{BlobDigest, BlobRef, Closure, DirectoryDigest, Root};
use firn_exchange::{
    AskId, BATCH_BLOBS_MAX, BATCH_BYTES_MAX, Lie, Limits, Micros, Outcome, PeerId, REQUEST_BYTES_MAX,
    Rejection, Request, SPAN_GROUPS_MAX,
};
use firn_nix::Signature;
use firn_store::{MemoryStore, Paths};
use firn_trust::{Admitted, Attestation, Ground, PathFacts, TrustedPath};

use crate::scenario::{Aim, Expectation, Role, Scenario};
use crate::tree;
use crate::violation::{Violation, is_documented};
use crate::world::{Truth, World};

/// Keeps count of what the consumer does.
pub(crate) struct Referee {
    aim: Aim,
    expects: Expectation,
    limits: Limits,
    roles: Arc<BTreeMap<PeerId, Role>>,
    in_flight: BTreeMap<AskId, PeerId>,
    in_flight_most: usize,
    blamed: BTreeSet<PeerId>,
    /// The groups of blobs that are not whole yet, as they were kept.
    parts: BTreeMap<BlobRef, BTreeMap<u64, Bytes>>,
    pub(crate) violations: Vec<Violation>,
}

impl Referee {
    pub(crate) fn new(scenario: &Scenario, world: &World) -> Self {
        let roles = world.peers.values().map(|peer| (peer.id, peer.role)).collect();
        Self::of(scenario.aim, scenario.expects, scenario.limits, Arc::new(roles))
    }

    /// One that watches one fetch among these peers.
    pub(crate) fn of(
        aim: Aim,
        expects: Expectation,
        limits: Limits,
        roles: Arc<BTreeMap<PeerId, Role>>,
    ) -> Self {
        Self {
            aim,
            expects,
            limits,
            roles,
            in_flight: BTreeMap::new(),
            in_flight_most: 0,
            blamed: BTreeSet::new(),
            parts: BTreeMap::new(),
            violations: Vec::new(),
        }
    }

    fn object(&mut self, violation: Violation) {
        self.violations.push(violation);
    }

    pub(crate) fn asked(&mut self, id: AskId, peer: PeerId, request: &Request) {
        self.in_flight.insert(id, peer);
        self.in_flight_most = self.in_flight_most.max(self.in_flight.len());
        if self.blamed.contains(&peer) {
            self.object(Violation::AskedAfterBlame(peer));
        }
        if self.in_flight.len() > self.limits.in_flight_max {
            self.object(Violation::TooManyInFlight(self.in_flight.len()));
        }
        let of_peer = self.in_flight.values().filter(|other| **other == peer).count();
        if of_peer > self.limits.in_flight_peer_max {
            self.object(Violation::TooManyOfPeer(peer, of_peer));
        }
        let is_too_large = match request {
            Request::Batch(blobs) => {
                let bytes: u64 = blobs.iter().map(|blob| blob.size).sum();
                blobs.is_empty() || blobs.len() > BATCH_BLOBS_MAX || bytes > BATCH_BYTES_MAX
            }
            Request::Ranges { span, .. } => span.groups().end - span.groups().start > SPAN_GROUPS_MAX,
            Request::Path(_) | Request::Closure { .. } | Request::Have { .. } => false,
        };
        if is_too_large || request.encode(false).len() > REQUEST_BYTES_MAX {
            self.object(Violation::RequestTooLarge);
        }
    }

    pub(crate) fn settled(&mut self, id: AskId) {
        self.in_flight.remove(&id);
    }

    pub(crate) fn most_in_flight(&self) -> usize {
        self.in_flight_most
    }

    pub(crate) fn kept_closure(&mut self, closure: &Closure) {
        for directory in closure.directories() {
            if DirectoryDigest::of(directory.encoded()) != directory.digest() {
                self.object(Violation::FalseDirectory(directory.digest()));
            }
        }
    }

    /// Gathers what is kept; a blob is judged by its digest alone once all of it is here.
    pub(crate) fn kept(&mut self, truth: &Truth, blob: BlobRef, span: Span, bytes: &Bytes) {
        let range = span.bytes(blob.size);
        if bytes.len() as u64 != range.end - range.start {
            return self.object(Violation::FalseBytes(blob));
        }
        let whole = firn_store::Blobs::read_span(&*truth.tree.store, &blob, span);
        if let Ok(Some(true_span)) = whole {
            if true_span.bytes() != bytes {
                self.object(Violation::FalseBytes(blob));
            }
            return;
        }
        let parts = self.parts.entry(blob).or_default();
        let group_bytes = firn_bao::GROUP_BYTES as usize;
        for (at, group) in span.groups().enumerate() {
            let start = (at * group_bytes).min(bytes.len());
            parts.insert(group, bytes.slice(start..bytes.len().min(start + group_bytes)));
        }
        if parts.len() as u64 == Span::whole(blob.size).groups().end {
            let all: Vec<u8> = parts.values().flatten().copied().collect();
            self.parts.remove(&blob);
            if BlobDigest::of(&all) != blob.digest {
                self.object(Violation::FalseBytes(blob));
            }
        }
    }

    pub(crate) fn blamed(&mut self, peer: PeerId, lie: &Lie) {
        self.blamed.insert(peer);
        match self.roles.get(&peer) {
            Some(Role::Liar(kind)) if is_documented(*kind, lie) => {}
            Some(Role::Liar(kind)) => self.object(Violation::BlamedForAnother(*kind, lie.clone())),
            _ => self.object(Violation::HonestBlamed(peer, lie.clone())),
        }
    }

    pub(crate) fn rejected(&mut self, truth: &Truth, root: &Root, reason: &Rejection) {
        if matches!(reason, Rejection::Undeliverable) {
            return;
        }
        if truth.may_have_root(root) {
            self.object(Violation::TrueRootRejected(reason.clone()));
        } else if self.aim == Aim::Tree {
            self.object(Violation::RejectedForAnother(reason.clone()));
        }
    }

    pub(crate) fn spins(&mut self, at: Micros) {
        self.object(Violation::Spins(at));
    }

    pub(crate) fn endless(&mut self) {
        self.object(Violation::Endless);
    }

    /// Judges what the fetch lets out, and commits it as the engine does.
    pub(crate) fn done(&mut self, now: Micros, truth: &Truth, store: &MemoryStore, outcome: &Outcome) {
        if self.limits.deadline.is_some_and(|deadline| now > deadline) {
            self.object(Violation::TooLate);
        }
        let is_success = match (self.aim, outcome) {
            (Aim::Path, Outcome::Path(path, closure)) => {
                self.let_out_path(truth, store, path, closure);
                true
            }
            (Aim::Tree, Outcome::Tree(closure)) => {
                self.let_out_tree(truth, store, closure);
                true
            }
            (Aim::Claims, Outcome::Claims(claims)) => {
                claims.iter().for_each(|claim| self.let_out_claim(truth, claim));
                !claims.is_empty()
            }
            (_, Outcome::NotFound | Outcome::Untrusted | Outcome::Rejected(_) | Outcome::TimedOut) => false,
            _ => {
                self.object(Violation::Unsuccessful("an outcome that nobody wanted".into()));
                false
            }
        };
        if self.expects == Expectation::Success && !is_success {
            self.object(Violation::Unsuccessful(describe(outcome)));
        }
    }

    fn let_out_path(
        &mut self,
        truth: &Truth,
        store: &MemoryStore,
        path: &TrustedPath,
        closure: &Arc<Closure>,
    ) {
        let facts = path.facts();
        if closure.root() != &facts.root || !truth.may_have(closure) {
            return self.object(Violation::FalseRoot(closure.root().clone()));
        }
        let is_true = match path.ground() {
            Ground::Attested => truth.has_attested(facts),
            Ground::NarMatch => is_signed(truth, facts),
            Ground::AddedHere => false,
        };
        if !is_true {
            self.object(Violation::FalseFacts(Box::new(facts.clone())));
        }
        self.let_out_signatures(truth, facts, path.signatures(), path.attestations());
        match tree::nar(store, closure) {
            Ok(nar) if nar == (facts.nar.nar_hash, facts.nar.nar_size) => {}
            Ok(_) => self.object(Violation::FalseRoot(closure.root().clone())),
            Err(error) => self.object(Violation::NotWhole(error)),
        }
        if let Err(error) = store.commit(path.to_stored(true), None) {
            self.object(Violation::NotWhole(error));
        }
    }

    fn let_out_tree(&mut self, truth: &Truth, store: &MemoryStore, closure: &Arc<Closure>) {
        if closure.root() != truth.tree.root() {
            return self.object(Violation::OtherTree(closure.root().clone()));
        }
        match tree::nar(store, closure) {
            Ok(nar) if nar == (truth.facts.nar.nar_hash, truth.facts.nar.nar_size) => {}
            Ok(_) => self.object(Violation::OtherTree(closure.root().clone())),
            Err(error) => self.object(Violation::NotWhole(error)),
        }
        if let Err(error) = store.commit_root(closure.root(), true, None) {
            self.object(Violation::NotWhole(error));
        }
    }

    fn let_out_claim(&mut self, truth: &Truth, claim: &Admitted) {
        let facts = claim.facts();
        let is_true = match claim {
            Admitted::Attested(path) => truth.has_attested(path.facts()),
            // The root is a claim still.
            Admitted::Signed(_) => truth.signed.iter().any(|signed| {
                is_signed_as(&PathFacts { root: signed.root.clone(), ..facts.clone() }, signed)
            }),
        };
        if !is_true {
            self.object(Violation::FalseFacts(Box::new(facts.clone())));
        }
        let attestations = match claim {
            Admitted::Attested(path) => path.attestations(),
            Admitted::Signed(_) => &[],
        };
        self.let_out_signatures(truth, facts, claim.signatures(), attestations);
    }

    /// What is let out is told to others: nothing that does not hold may be among it.
    fn let_out_signatures(
        &mut self,
        truth: &Truth,
        facts: &PathFacts,
        signatures: &[Signature],
        attestations: &[Attestation],
    ) {
        let text = facts.fingerprint();
        let holds = |signature: &&Signature| truth.publisher.verify(text.as_bytes(), signature).is_ok();
        let attests = |attestation: &&Attestation| attestation.verify(facts, &truth.publisher).is_ok();
        let signatures = signatures.iter().filter(|signature| !holds(signature));
        let attestations = attestations.iter().filter(|attestation| !attests(attestation));
        let false_ones: Vec<_> = signatures.chain(attestations.map(Attestation::signature)).collect();
        for signature in false_ones {
            self.object(Violation::Unverified(signature.clone()));
        }
    }
}

fn is_signed(truth: &Truth, facts: &PathFacts) -> bool {
    truth.signed.iter().any(|signed| is_signed_as(facts, signed))
}

/// Of what no Nix signature covers, only a content address may be left, if it makes the path.
fn is_signed_as(facts: &PathFacts, signed: &PathFacts) -> bool {
    let ca_holds = facts
        .ca
        .is_none_or(|ca| Some(ca) == signed.ca || ca.recompute(&facts.path, &facts.nar.references).is_some());
    facts.path == signed.path
        && facts.root == signed.root
        && facts.nar == signed.nar
        && facts.deriver.is_none()
        && ca_holds
}

/// An outcome in a few words.
pub(crate) fn describe(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Claims(claims) => format!("{} claims are believed", claims.len()),
        Outcome::Path(path, closure) => {
            format!("{} is {} by {:?}", path.facts().path, closure.root(), path.ground())
        }
        Outcome::Tree(closure) => format!("the tree {} is here", closure.root()),
        Outcome::NotFound => "not found".into(),
        Outcome::Untrusted => "no trusted key speaks for it".into(),
        Outcome::Rejected(reason) => format!("rejected: {reason}"),
        Outcome::TimedOut => "the deadline has passed".into(),
    }
}

#[cfg(test)]
mod tests {
    use firn_castore::ClosureError;
    use firn_exchange::{Fetch, Goal, Input, Key, Output, RootFault};
    use firn_nix::StorePathHash;
    use firn_trust::NarMismatch;

    use super::*;
    use crate::liar::LieKind;
    use crate::scenario::Vouching;

    fn world(aim: Aim) -> (Referee, World) {
        let scenario = Scenario::duel(Role::Liar(LieKind::Garbage), aim, Vouching::Signed);
        let world = World::make(&scenario);
        (Referee::new(&scenario, &world), world)
    }

    /// Ids are the machine's to give.
    fn any_id() -> AskId {
        let hash = StorePathHash::from([1; 20]);
        let mut fetch = Fetch::new(Goal::Path(hash), PeerId::from([0; 32]), Limits::default(), 0);
        fetch.handle(Micros(0), Input::Found { key: Key::Path(hash), peer: [1; 32].into() });
        loop {
            if let Some(Output::Ask { id, .. }) = fetch.poll(Micros(0)) {
                return id;
            }
        }
    }

    #[test]
    fn notices_a_request_to_a_peer_that_has_been_blamed() {
        let (mut referee, world) = world(Aim::Path);
        let request = Request::Path(*world.truth.facts.path.hash());
        referee.asked(any_id(), world.ids[0], &request);
        referee.settled(any_id());
        referee.blamed(world.ids[0], &Lie::Garbage(firn_exchange::FrameError::Length));
        assert!(referee.violations.is_empty());
        referee.asked(any_id(), world.ids[0], &request);
        assert!(matches!(referee.violations[..], [Violation::AskedAfterBlame(_)]));
    }

    #[test]
    fn notices_a_request_that_is_too_large() {
        let (mut referee, world) = world(Aim::Path);
        let blob = world.truth.tree.closure.blobs()[0];
        let too_many = Request::Batch(vec![blob; BATCH_BLOBS_MAX + 1]);
        let span = Span::from_groups(0..SPAN_GROUPS_MAX + 1).unwrap();
        for request in [Request::Batch(vec![]), too_many, Request::Ranges { blob, span }] {
            referee.asked(any_id(), world.ids[1], &request);
        }
        assert_eq!(referee.violations.len(), 3);
        assert!(referee.violations.iter().all(|violation| matches!(violation, Violation::RequestTooLarge)));
    }

    #[test]
    fn notices_a_true_root_that_is_rejected() {
        let (mut referee, World { truth, .. }) = world(Aim::Path);
        let root = truth.tree.root().clone();
        referee.rejected(&truth, &root, &Rejection::Undeliverable);
        assert!(referee.violations.is_empty());
        referee.rejected(&truth, &root, &NarMismatch::OutOfOrder.into());
        assert!(matches!(referee.violations[..], [Violation::TrueRootRejected(_)]));
    }

    #[test]
    fn notices_a_root_that_nobody_has_named_for_a_tree() {
        let (mut referee, World { truth, .. }) = world(Aim::Tree);
        let other = truth.tree.altered().unwrap();
        let fault = RootFault::Closure(ClosureError::TooDeep);
        referee.rejected(&truth, other.root(), &fault.into());
        assert!(matches!(referee.violations[..], [Violation::RejectedForAnother(_)]));
        referee.done(Micros(0), &truth, &other.store, &Outcome::Tree(other.closure.clone()));
        assert!(matches!(referee.violations[1..], [Violation::OtherTree(_)]));
    }

    #[test]
    fn notices_an_outcome_that_comes_after_its_deadline() {
        let (mut referee, World { truth, .. }) = world(Aim::Path);
        referee.limits.deadline = Some(Micros(10));
        referee.expects = Expectation::End;
        referee.done(Micros(10), &truth, &truth.tree.store, &Outcome::TimedOut);
        assert!(referee.violations.is_empty());
        referee.done(Micros(11), &truth, &truth.tree.store, &Outcome::TimedOut);
        assert!(matches!(referee.violations[..], [Violation::TooLate]));
    }

    #[test]
    fn notices_facts_that_no_signature_covers() {
        let (_, World { truth, .. }) = world(Aim::Path);
        let covered = PathFacts { deriver: None, ..truth.facts.clone() };
        assert!(is_signed(&truth, &covered));
        let path = truth.facts.path.clone();
        assert!(!is_signed(&truth, &PathFacts { deriver: Some(path), ..covered.clone() }));
        let ca = "fixed:r:sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73".parse().unwrap();
        assert!(!is_signed(&truth, &PathFacts { ca: Some(ca), ..covered }));
    }

    #[test]
    fn every_lie_that_is_blamed_is_told_apart() {
        let lie = Lie::Incomplete;
        let kinds: Vec<_> = LieKind::ALL.into_iter().filter(|kind| is_documented(*kind, &lie)).collect();
        assert_eq!(kinds, [LieKind::Truncate]);
    }
}
