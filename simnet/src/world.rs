//! The truth of a run, and the peers with what they hold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use firn_castore::{Closure, Root};
use firn_exchange::{Key, PeerId, Reply, Shared, SharedView, answer};
use firn_nix::{ContentAddress, ContentHash, NarFacts, PublicKey, SigningKey, StorePath, StorePathHash};
use firn_proto::exchange as proto;
use firn_trust::{Admitted, Attestation, Claim, PathFacts, Policy, TrustedPath};
use prost::Message;

use crate::dice::Dice;
use crate::liar::{Liar, Next};
use crate::scenario::{Role, Sabotage, Scenario, Vouching};
use crate::tree::Tree;

const EXPECT_NAME: &str = "the name is legal";

/// What is true, whoever says what.
pub(crate) struct Truth {
    /// The key that the consumer trusts.
    pub(crate) publisher: PublicKey,
    /// The tree that was published.
    pub(crate) tree: Tree,
    /// Its path.
    pub(crate) facts: PathFacts,
    /// All that the publisher has attested of the path.
    pub(crate) attested: Vec<PathFacts>,
    /// The roots for which the publisher has made a Nix signature that fits their NAR.
    pub(crate) signed: Vec<PathFacts>,
}

/// Somebody who can be asked.
pub(crate) struct Peer {
    pub(crate) id: PeerId,
    pub(crate) role: Role,
    /// Under which keys it has announced itself.
    pub(crate) keys: BTreeSet<Key>,
    answers: Answers,
}

enum Answers {
    Honest(SharedView),
    Liar(Liar),
}

/// How a reply comes out of a peer.
pub(crate) enum Answer {
    /// Whole, as far as one can tell.
    Reply(Bytes),
    /// More than the asker takes.
    TooMuch,
    /// It was broken off after so many bytes.
    BrokenOff(usize),
    /// Nothing comes after so many bytes, and the stream stays open.
    Stalled(usize),
    /// A byte a second; all of it, or its beginning where nobody waits for more.
    Dribbles(Bytes),
}

/// After so many seconds nobody waits for the next byte any more.
const DRIBBLES_MAX: usize = 3600;

/// All that there is but for the consumer.
pub(crate) struct World {
    pub(crate) truth: Truth,
    pub(crate) policy: Policy,
    pub(crate) peers: BTreeMap<PeerId, Peer>,
    /// In the order of the scenario.
    pub(crate) ids: Vec<PeerId>,
}

impl World {
    /// Makes the world of a scenario.
    pub(crate) fn make(scenario: &Scenario) -> Self {
        let mut maker = Maker::new(scenario);
        let peers: Vec<Peer> = scenario.peers.iter().map(|plan| maker.peer(plan.role)).collect();
        let mut keys = vec![maker.publisher.public()];
        if scenario.sabotage == Some(Sabotage::TrustsAnybody) {
            keys.push(maker.stranger.public());
        }
        Self {
            truth: maker.truth,
            policy: Policy::new(keys),
            ids: peers.iter().map(|peer| peer.id).collect(),
            peers: peers.into_iter().map(|peer| (peer.id, peer)).collect(),
        }
    }
}

struct Maker<'a> {
    scenario: &'a Scenario,
    dice: Dice,
    truth: Truth,
    publisher: SigningKey,
    /// A key that the consumer does not trust.
    stranger: SigningKey,
    damaged: usize,
    other: Option<(TrustedPath, Tree)>,
}

impl<'a> Maker<'a> {
    fn new(scenario: &'a Scenario) -> Self {
        let mut dice = Dice::new(scenario.seed ^ 0x7265_6573);
        let tree = Tree::make(scenario.tree, &mut dice);
        let (publisher, stranger) = (key("publisher-1", &mut dice), key("stranger-1", &mut dice));
        let truth = Truth::of(tree, scenario.vouching, scenario.has_ca, publisher.public(), &mut dice);
        Self { scenario, dice, truth, publisher, stranger, damaged: 0, other: None }
    }

    fn peer(&mut self, role: Role) -> Peer {
        let id = PeerId::from(self.dice.array());
        let (store, shared): (_, Shared) = match role {
            Role::Ignorant => Default::default(),
            Role::Holder => (self.truth.tree.store.clone(), self.share_truth()),
            Role::Tainted => (self.truth.tree.store.clone(), self.share_beside_garbage(true)),
            Role::Outdated => (self.truth.tree.store.clone(), self.share_beside_garbage(false)),
            Role::Damaged => (self.damaged_store(), self.share_truth()),
            Role::Relayer => self.relayer(),
            Role::Other => self.other(),
            Role::Liar(_) => (self.truth.tree.store.clone(), self.share_truth()),
        };
        let path = *self.truth.facts.path.hash();
        let mut keys: BTreeSet<Key> = shared.keys().into_iter().collect();
        if role == Role::Ignorant {
            // What it had once is gone, and the record of it is not.
            keys.extend([Key::Path(path), Key::Root(self.truth.tree.root().clone())]);
        }
        let view = SharedView::new(store, Arc::new(shared));
        let answers = match role {
            Role::Liar(kind) => Answers::Liar(Liar::new(kind, view, self.dice.number())),
            _ => Answers::Honest(view),
        };
        Peer { id, role, keys, answers }
    }

    fn share_truth(&self) -> Shared {
        let path = vouched(&self.truth.facts, self.scenario.vouching, &self.publisher);
        share(&path, &self.truth.tree)
    }

    /// What is signed as it should be, or is not, beside what others have signed: a key that the publisher has replaced
    /// under its name, the publisher itself but of other facts, and a stranger.
    fn share_beside_garbage(&self, is_signed: bool) -> Shared {
        let (facts, earlier) = (&self.truth.facts, namesake(&self.publisher));
        let mut path = beside_garbage(facts, &earlier, &self.stranger);
        if is_signed {
            path.keep_signatures_of(&vouched(facts, self.scenario.vouching, &self.publisher));
        }
        share(&path, &self.truth.tree)
    }

    fn damaged_store(&mut self) -> Arc<firn_store::MemoryStore> {
        let blobs: Vec<_> =
            self.truth.tree.closure.blobs().into_iter().filter(|blob| blob.size > 0).collect();
        let store = self.truth.tree.copy();
        if let Some(blob) = blobs.get(self.damaged) {
            store.damage_blob(&blob.digest);
        }
        self.damaged += 1;
        store
    }

    /// It admitted this record itself, by a key that it trusts.
    fn relayer(&mut self) -> (Arc<firn_store::MemoryStore>, Shared) {
        let tree = self.truth.tree.altered();
        let tree = tree.unwrap_or_else(|| Tree::make(crate::tree::TreePlan::Small, &mut self.dice));
        let facts = PathFacts { root: tree.root().clone(), ..self.truth.facts.clone() };
        let claim = Claim {
            signatures: vec![self.publisher.sign(facts.fingerprint().as_bytes())],
            attestations: vec![Attestation::sign(&facts, &self.stranger)],
            facts,
        };
        let its_policy = Policy::new(vec![self.publisher.public(), self.stranger.public()]);
        match its_policy.admit(claim) {
            Ok(Admitted::Attested(path)) => (tree.store.clone(), share(&path, &tree)),
            _ => unreachable!("it trusts the key that attests it"),
        }
    }

    fn other(&mut self) -> (Arc<firn_store::MemoryStore>, Shared) {
        if self.other.is_none() {
            let tree = Tree::make(crate::tree::TreePlan::Small, &mut self.dice);
            let facts = with_nar(self.truth.facts.clone(), &tree);
            self.truth.attested.push(facts.clone());
            self.truth.signed.push(facts.clone());
            let path = TrustedPath::added_here(facts, Vec::new(), std::slice::from_ref(&self.publisher));
            self.other = Some((path, tree));
        }
        let (path, tree) = self.other.as_ref().expect("it has just been made");
        (tree.store.clone(), share(path, tree))
    }
}

/// Another key of this one's name.
pub(crate) fn namesake(key: &SigningKey) -> SigningKey {
    let mut seed = *key.public().as_bytes();
    seed[0] ^= 1;
    SigningKey::generate(key.name().clone(), seed)
}

/// The path with signatures of which none is by its publisher's key and holds. What its user's Nix has got from elsewhere
/// an honest node tells as it stands.
pub(crate) fn beside_garbage(facts: &PathFacts, earlier: &SigningKey, stranger: &SigningKey) -> TrustedPath {
    let stale = PathFacts {
        nar: NarFacts { nar_size: facts.nar.nar_size + 1, ..facts.nar.clone() },
        ..facts.clone()
    };
    let signatures = vec![
        earlier.sign(stale.fingerprint().as_bytes()),
        stranger.sign(b"something else"),
        Attestation::sign(facts, earlier).signature().clone(),
    ];
    TrustedPath::added_here(facts.clone(), signatures, &[earlier.clone(), stranger.clone()])
}

pub(crate) fn key(name: &str, dice: &mut Dice) -> SigningKey {
    SigningKey::generate(name.parse().expect(EXPECT_NAME), dice.array())
}

/// The path as its publisher has signed it.
pub(crate) fn vouched(facts: &PathFacts, vouching: Vouching, publisher: &SigningKey) -> TrustedPath {
    let signature = publisher.sign(facts.fingerprint().as_bytes());
    let (signatures, keys) = match vouching {
        Vouching::Attested => (Vec::new(), std::slice::from_ref(publisher)),
        Vouching::Signed => (vec![signature], &[][..]),
    };
    TrustedPath::added_here(facts.clone(), signatures, keys)
}

fn share(path: &TrustedPath, tree: &Tree) -> Shared {
    let shared = Shared::default();
    shared.add_path(path, &tree.closure);
    shared
}

fn with_nar(facts: PathFacts, tree: &Tree) -> PathFacts {
    let (nar_hash, nar_size) = tree.nar();
    PathFacts {
        root: tree.root().clone(),
        nar: NarFacts { nar_hash, nar_size, ..facts.nar },
        ca: None,
        ..facts
    }
}

fn facts(tree: &Tree, has_ca: bool, dice: &mut Dice) -> PathFacts {
    let any_path = |name: &str, dice: &mut Dice| {
        StorePath::new(StorePathHash::from(dice.array()), name).expect(EXPECT_NAME)
    };
    let (nar_hash, nar_size) = tree.nar();
    let references: BTreeSet<_> = (0..dice.between(0..3)).map(|_| any_path("reference", dice)).collect();
    let ca = has_ca.then(|| ContentAddress::Nar(ContentHash::Sha256(*nar_hash.as_bytes())));
    let named_after = ca.and_then(|ca| ca.store_path("sim", &references));
    PathFacts {
        path: named_after.unwrap_or_else(|| any_path("sim", dice)),
        root: tree.root().clone(),
        nar: NarFacts { nar_hash, nar_size, references },
        deriver: dice.percent(50).then(|| any_path("sim.drv", dice)),
        ca,
    }
}

impl Peer {
    /// Answers, and cuts off what is longer than the asker takes, as the network does.
    pub(crate) fn answer(&self, request: Bytes, bytes_max: usize) -> Answer {
        match &self.answers {
            Answers::Honest(view) => honest(answer(view, request)),
            Answers::Liar(liar) => lie(liar, request, bytes_max),
        }
    }

    /// What one says who has no time.
    pub(crate) fn busy() -> Answer {
        let header = proto::ReplyHeader { status: proto::Status::Busy.into(), ..Default::default() };
        Answer::Reply(header.encode_length_delimited_to_vec().into())
    }
}

/// All of an honest reply.
pub(crate) fn honest(reply: Reply) -> Answer {
    reply.collect().map_or(Answer::BrokenOff(0), Answer::Reply)
}

/// What comes of a liar's reply.
pub(crate) fn lie(liar: &Liar, request: Bytes, bytes_max: usize) -> Answer {
    let mut reply = liar.answer(request);
    let mut bytes = Vec::new();
    let mut pauses = 0;
    loop {
        match reply.pull() {
            Next::Piece(piece) => bytes.extend_from_slice(&piece),
            Next::End if pauses > 0 => return Answer::Dribbles(bytes.into()),
            Next::End => return Answer::Reply(bytes.into()),
            Next::Stall => return Answer::Stalled(bytes.len()),
            Next::BreakOff => return Answer::BrokenOff(bytes.len()),
            Next::Pause if pauses == DRIBBLES_MAX => return Answer::Dribbles(bytes.into()),
            Next::Pause => pauses += 1,
        }
        if bytes.len() > bytes_max {
            return Answer::TooMuch;
        }
    }
}

impl Truth {
    /// What is true of this tree, whose path its publisher signs.
    pub(crate) fn of(
        tree: Tree,
        vouching: Vouching,
        has_ca: bool,
        publisher: PublicKey,
        dice: &mut Dice,
    ) -> Self {
        let facts = facts(&tree, has_ca, dice);
        let attested = match vouching {
            Vouching::Attested => vec![facts.clone()],
            Vouching::Signed => Vec::new(),
        };
        Self { tree, publisher, signed: vec![facts.clone()], facts, attested }
    }

    /// Whether the publisher has attested this root.
    pub(crate) fn has_attested(&self, facts: &PathFacts) -> bool {
        self.attested.contains(facts)
    }

    /// Whether a closure is one of those that this path may have.
    pub(crate) fn may_have(&self, closure: &Closure) -> bool {
        self.may_have_root(closure.root())
    }

    /// Whether this root is one of those that this path may have.
    pub(crate) fn may_have_root(&self, root: &Root) -> bool {
        self.attested.iter().chain(&self.signed).any(|facts| facts.root == *root)
    }
}
