//! What the machine must do when peers fail, come late or are slow. Whole worlds are in `simnet`.

use firn_bao::{Groups, Span};
use firn_castore::{BlobRef, ClosureBuilder, Directory, Node, PathComponent};
use firn_nix::{NarFacts, NarHash, SigningKey, StorePath};
use firn_store::MissingBlob;
use firn_trust::{Attestation, Claim, PathFacts, Policy};

use super::*;
use crate::{Lie, Presence, RootFault, Verified};

const SECOND: Micros = Micros::from_millis(1_000);

fn peer(byte: u8) -> PeerId {
    [byte; 32].into()
}

/// No batch takes it.
const BLOB_BYTES: u64 = (64 << 10) + 1;

/// A tree of blobs of several spans of work.
fn tree(first: u8, blobs: u8) -> Arc<Closure> {
    tree_of((0..blobs).map(|i| BlobRef { digest: [first + i; 32].into(), size: BLOB_BYTES }))
}

/// A tree of these blobs, in their order.
fn tree_of(blobs: impl Iterator<Item = BlobRef>) -> Arc<Closure> {
    let file = |(i, blob): (usize, BlobRef)| {
        let name = PathComponent::try_from(format!("{i:05}").as_str()).unwrap();
        (name, Node::File { blob, executable: false })
    };
    let directory = Directory::build(blobs.enumerate().map(file)).unwrap();
    let mut builder = ClosureBuilder::new(directory.node().into()).unwrap();
    builder.insert(directory).unwrap();
    Arc::new(builder.finish().unwrap())
}

fn path() -> StorePath {
    "00000000000000000000000000000001-app".parse().unwrap()
}

fn attested(closure: &Closure) -> Admitted {
    let key = SigningKey::generate("cache-1".parse().unwrap(), [7; 32]);
    let nar = NarFacts { nar_hash: NarHash::of(b""), nar_size: 1, references: BTreeSet::new() };
    let facts = PathFacts { path: path(), root: closure.root().clone(), nar, deriver: None, ca: None };
    let attestations = vec![Attestation::sign(&facts, &key)];
    Policy::new(vec![key.public()]).admit(Claim { facts, signatures: Vec::new(), attestations }).unwrap()
}

/// Nothing of this tree's blobs is here.
fn all_of(closure: &Closure) -> Vec<MissingBlob> {
    let whole = |blob: BlobRef| MissingBlob { blob, spans: vec![Span::whole(blob.size)] };
    closure.blobs().into_iter().map(whole).collect()
}

struct Bench {
    fetch: Fetch,
    now: Micros,
    asks: BTreeMap<AskId, (PeerId, Request)>,
}

impl Bench {
    fn new(goal: Goal, limits: Limits) -> Self {
        Self { fetch: Fetch::new(goal, peer(0), limits, 0), now: Micros(0), asks: BTreeMap::new() }
    }

    fn tell(&mut self, input: Input) {
        self.fetch.handle(self.now, input);
    }

    fn later(&mut self, duration: Micros) {
        self.now = self.now.after(duration);
    }

    /// What the machine wants; what is still to be answered is kept apart.
    fn poll(&mut self) -> Vec<Output> {
        let mut outputs = Vec::new();
        while let Some(output) = self.fetch.poll(self.now) {
            match output {
                Output::Ask { peer, id, request } => {
                    self.asks.insert(id, (peer, request));
                }
                Output::Cancel(id) => {
                    self.asks.remove(&id);
                }
                Output::Recall { .. } => {
                    self.tell(Input::Recalled { closure: None, known: Known::default() })
                }
                output => outputs.push(output),
            }
        }
        outputs
    }

    fn asked(&self, whom: PeerId) -> Vec<AskId> {
        self.asks.iter().filter(|(_, (peer, _))| *peer == whom).map(|(id, _)| *id).collect()
    }

    fn answer(&mut self, id: AskId, verified: Verified) {
        self.asks.remove(&id).unwrap();
        self.tell(Input::Answered { id, result: Ok(verified) });
    }

    fn fail(&mut self, id: AskId) {
        self.asks.remove(&id).unwrap();
        self.tell(Input::Failed(id));
    }

    /// The only request to this peer.
    fn only(&self, whom: PeerId) -> AskId {
        let asked = self.asked(whom);
        assert_eq!(asked.len(), 1, "{:?}", self.asks);
        asked[0]
    }

    /// A fetch of a tree that one peer has, whose blobs have been asked for as far as the limits go.
    fn at_blobs(closure: &Arc<Closure>, limits: Limits) -> Self {
        let mut bench = Self::new(Goal::Tree(closure.root().clone()), limits);
        bench.poll();
        let key = Key::Root(closure.root().clone());
        bench.tell(Input::Found { key: key.clone(), peer: peer(1) });
        bench.tell(Input::FindEnded(key));
        bench.poll();
        bench.answer(bench.only(peer(1)), Verified::Closure(closure.clone()));
        bench.poll();
        bench.tell(Input::Missing(all_of(closure)));
        bench.poll();
        bench
    }

    /// A fetch of the path, which these peers claim to have these roots.
    fn at_claims(claims: &[(u8, &Closure)]) -> Self {
        let mut bench = Self::new(Goal::Path(*path().hash()), Limits::default());
        bench.poll();
        for (byte, _) in claims {
            bench.tell(Input::Found { key: Key::Path(*path().hash()), peer: peer(*byte) });
        }
        bench.poll();
        for (byte, closure) in claims {
            bench.answer(bench.only(peer(*byte)), Verified::Claims(vec![attested(closure)]));
        }
        bench
    }
}

#[test]
fn no_alarm_is_set_to_a_time_that_has_passed() {
    let mut bench = Bench::at_claims(&[(1, &tree(0, 1))]);
    let other = tree(9, 1);
    bench.tell(Input::Found { key: Key::Path(*path().hash()), peer: peer(2) });
    bench.poll();
    bench.answer(bench.asked(peer(2))[0], Verified::Claims(vec![attested(&other)]));
    // One root is being tried, another one waits, and its claimant has been asked long ago.
    for _ in 0..9 {
        bench.later(SECOND);
        bench.poll();
        assert!(bench.fetch.deadline().is_some_and(|at| at > bench.now));
    }
}

#[test]
fn a_root_that_brings_nothing_yields_at_once_though_nothing_is_asked_of_anyone() {
    let (slow, next) = (tree(0, 1), tree(9, 1));
    let mut bench = Bench::at_claims(&[(1, &slow), (2, &next)]);
    bench.poll();
    let ask = bench.only(peer(1));
    bench.later(Micros::from_millis(9_900));
    bench.fail(ask);
    bench.poll();
    bench.later(Micros::from_millis(100));
    let outputs = bench.poll();
    let [Output::Find(Key::Root(found))] = &outputs[..] else { panic!("{outputs:?}") };
    assert_eq!(found, next.root());
    assert!(
        matches!(&bench.asks[&bench.only(peer(2))], (_, Request::Closure { root, .. }) if root == next.root())
    );
}

#[test]
fn who_claims_the_root_at_hand_late_is_asked_for_it_too() {
    let closure = tree(0, 1);
    let mut bench = Bench::at_claims(&[(1, &closure)]);
    bench.poll();
    bench.tell(Input::Found { key: Key::Path(*path().hash()), peer: peer(2) });
    bench.poll();
    bench.answer(bench.only(peer(2)), Verified::Claims(vec![attested(&closure)]));
    bench.tell(Input::Answered { id: bench.only(peer(1)), result: Err(Lie::TooMuch) });
    let outputs = bench.poll();
    assert!(matches!(&outputs[..], [Output::Blame { .. }]), "{outputs:?}");
    assert!(matches!(bench.asks[&bench.only(peer(2))], (_, Request::Closure { .. })));
}

#[test]
fn a_root_that_nobody_could_deliver_is_tried_again_when_another_peer_claims_it() {
    let closure = tree(0, 1);
    let mut bench = Bench::at_claims(&[(1, &closure)]);
    bench.poll();
    bench.tell(Input::FindEnded(Key::Root(closure.root().clone())));
    bench.answer(bench.only(peer(1)), Verified::Missing);
    let outputs = bench.poll();
    assert!(
        matches!(&outputs[..], [Output::Reject { reason: Rejection::Undeliverable, .. }]),
        "the look-up for the path goes on: {outputs:?}"
    );
    bench.tell(Input::Found { key: Key::Path(*path().hash()), peer: peer(2) });
    bench.poll();
    bench.answer(bench.only(peer(2)), Verified::Claims(vec![attested(&closure)]));
    bench.poll();
    bench.answer(bench.only(peer(1)), Verified::Missing);
    bench.poll();
    assert!(matches!(bench.asks[&bench.only(peer(2))], (_, Request::Closure { .. })));
}

#[test]
fn a_root_at_fault_stays_rejected() {
    let closure = tree(0, 1);
    let mut bench = Bench::at_claims(&[(1, &closure)]);
    bench.poll();
    let fault = RootFault::BlobTooLong(closure.blobs()[0]);
    bench.answer(bench.only(peer(1)), Verified::BadRoot(fault));
    bench.poll();
    bench.tell(Input::Found { key: Key::Path(*path().hash()), peer: peer(2) });
    bench.tell(Input::FindEnded(Key::Path(*path().hash())));
    bench.poll();
    bench.answer(bench.only(peer(2)), Verified::Claims(vec![attested(&closure)]));
    let outputs = bench.poll();
    assert!(matches!(&outputs[..], [Output::Done(Outcome::Rejected(Rejection::Fault(_)))]), "{outputs:?}");
}

#[test]
fn what_one_broken_connection_costs_is_one_failure() {
    let limits = Limits { failures_max: 2, in_flight_peer_max: 4, ..Limits::default() };
    let mut bench = Bench::at_claims(&[]);
    bench.fetch.peers = Peers::new(0, limits);
    let (key, whom) = (Key::Path(*path().hash()), peer(1));
    bench.fetch.peers.found(whom, key.clone());
    let peers = &mut bench.fetch.peers;
    (0..4).for_each(|_| {
        peers.asked(&whom, 1, Micros(0));
    });
    (0..4).for_each(|_| peers.failed(&whom, Micros(0), SECOND));
    assert!(peers.any_left(&key, |_| true));
    // The second one in a row is one too many.
    peers.failed(&whom, SECOND, SECOND.after(SECOND));
    assert!(!peers.any_left(&key, |_| true));
}

#[test]
fn a_refusal_makes_no_room_for_more_than_one() {
    let mut bench = Bench::at_blobs(&tree(0, 8), Limits::default());
    let count = bench.asked(peer(1)).len();
    bench.answer(bench.asked(peer(1))[0], Verified::Refused);
    bench.poll();
    assert_eq!(bench.asked(peer(1)).len(), count - 1);
    bench.later(SECOND);
    bench.poll();
    let contents = bench.asks.values().filter(|(_, request)| !matches!(request, Request::Have { .. }));
    assert_eq!(contents.count(), count);
}

#[test]
fn what_the_store_lacks_of_one_root_is_never_taken_for_another_ones() {
    let (first, second) = (tree(0, 1), tree(9, 1));
    let mut bench = Bench::at_claims(&[(1, &first), (2, &second)]);
    bench.poll();
    bench.answer(bench.only(peer(1)), Verified::Closure(first.clone()));
    bench.poll();
    // The store takes its time; the other root does not come in between.
    bench.later(Micros::from_millis(60_000));
    assert!(bench.poll().is_empty());
    bench.tell(Input::Missing(all_of(&first)));
    bench.poll();
    let wanted = first.blobs()[0];
    let of_first = |request: &Request| matches!(request, Request::Ranges { blob, .. } if *blob == wanted);
    assert!(bench.asks.values().any(|(_, request)| of_first(request)));
}

#[test]
fn a_path_that_only_strangers_vouch_for_is_untrusted_and_not_absent() {
    for (says, is_untrusted) in [(Verified::Untrusted, true), (Verified::Claims(Vec::new()), false)] {
        let mut bench = Bench::new(Goal::Path(*path().hash()), Limits::default());
        bench.poll();
        let key = Key::Path(*path().hash());
        for byte in [1, 2] {
            bench.tell(Input::Found { key: key.clone(), peer: peer(byte) });
        }
        bench.tell(Input::FindEnded(key));
        bench.poll();
        bench.answer(bench.only(peer(1)), says);
        bench.answer(bench.only(peer(2)), Verified::Missing);
        let outputs = bench.poll();
        let [Output::Done(outcome)] = &outputs[..] else { panic!("{outputs:?}") };
        assert_eq!(matches!(outcome, Outcome::Untrusted), is_untrusted, "{outcome:?}");
        assert_eq!(matches!(outcome, Outcome::NotFound), !is_untrusted, "{outcome:?}");
    }
}

#[test]
fn a_fellow_is_asked_for_what_a_reader_needs_next_and_for_what_another_one_would_be_asked_for_next() {
    let closure = tree_of((0..4_000_u64).map(|i| BlobRef::of(&i.to_le_bytes())));
    let mut bench = Bench::at_blobs(&closure, Limits::default());
    let fellow = peer(2);
    bench.tell(Input::Found { key: Key::Root(closure.root().clone()), peer: fellow });
    bench.poll();
    let tree = Some(Presence::Partial(Groups::default()));
    bench.answer(bench.only(fellow), Verified::Have { tree, blobs: Vec::new() });
    bench.poll();
    let Request::Have { blobs: asked, .. } = &bench.asks[&bench.only(fellow)].1 else { panic!() };
    let place = |blob: &BlobRef| closure.blobs().iter().position(|other| other == blob).unwrap();
    let mut places: Vec<usize> = asked.iter().map(place).collect();
    places.sort_unstable();
    let (next, own) = places.split_at(256);
    assert!(next.windows(2).all(|two| two[1] == two[0] + 1), "{next:?}");
    let holders = holders::Holders::new(peer(0));
    let is_own = |place: &usize| holders.rank(&[fellow], &closure.blobs()[*place], 0) == 0;
    assert!(own.len() > 64 && own.iter().all(is_own), "{own:?}");
}

#[test]
fn what_trickles_in_is_asked_of_another_one_once_nothing_has_come_for_two_seconds() {
    let blob = BlobRef { digest: [1; 32].into(), size: 20_000 };
    let closure = tree_of([blob].into_iter());
    let mut bench = Bench::at_blobs(&closure, Limits::default());
    let owed = |bench: &Bench, whom: PeerId| {
        let asks = |(_, (peer, request)): &(&AskId, &(PeerId, Request))| {
            *peer == whom && *request == Request::Batch(vec![blob])
        };
        bench.asks.iter().find(asks).map(|(id, _)| *id)
    };
    let slow = owed(&bench, peer(1)).unwrap();
    bench.tell(Input::Found { key: Key::Root(closure.root().clone()), peer: peer(2) });
    bench.poll();
    let has_all = Verified::Have { tree: Some(Presence::Whole), blobs: Vec::new() };
    bench.answer(bench.only(peer(2)), has_all);
    for half in 1..=4 {
        bench.poll();
        assert_eq!(owed(&bench, peer(2)), None, "after {half} halves of a second");
        bench.later(Micros::from_millis(500));
        bench.tell(Input::Received { id: slow, bytes: half });
    }
    bench.poll();
    assert!(owed(&bench, peer(2)).is_some());
}

#[test]
fn who_says_byte_by_byte_what_it_has_is_given_up_after_ten_seconds() {
    let closure = tree(0, 1);
    let mut bench = Bench::at_blobs(&closure, Limits::default());
    bench.tell(Input::Found { key: Key::Root(closure.root().clone()), peer: peer(2) });
    bench.poll();
    let have = bench.only(peer(2));
    for bytes in 1..=10 {
        assert!(bench.asks.contains_key(&have), "before second {bytes}");
        bench.later(SECOND);
        bench.tell(Input::Received { id: have, bytes });
        bench.poll();
    }
    assert!(!bench.asks.contains_key(&have));
}

#[test]
fn who_cannot_be_reached_is_given_up_until_it_is_found_again() {
    let closure = tree(0, 1);
    let key = Key::Root(closure.root().clone());
    let mut bench = Bench::new(Goal::Tree(closure.root().clone()), Limits::default());
    bench.poll();
    for byte in [1, 2] {
        bench.tell(Input::Found { key: key.clone(), peer: peer(byte) });
    }
    bench.poll();
    let (id, (gone, _)) = bench.asks.pop_first().unwrap();
    bench.tell(Input::Unreachable(id));
    bench.poll();
    assert_eq!(bench.asked(gone), [], "the other one is asked, at once");
    let (id, (other, _)) = bench.asks.pop_first().unwrap();
    assert_ne!(other, gone);
    bench.tell(Input::Found { key: key.clone(), peer: gone });
    bench.later(SECOND);
    bench.poll();
    assert_eq!(bench.asked(gone).len(), 1, "it has come back");
    bench.tell(Input::FindEnded(key));
    bench.tell(Input::Unreachable(bench.only(gone)));
    bench.tell(Input::Unreachable(id));
    let outputs = bench.poll();
    assert!(
        matches!(&outputs[..], [Output::Reject { reason: Rejection::Undeliverable, .. }, Output::Done(_)]),
        "nothing is waited for: {outputs:?}"
    );
}

#[test]
fn a_slow_peer_is_asked_for_claims_and_not_waited_for() {
    let key = Key::Path(*path().hash());
    for slow_answers in [false, true] {
        let mut bench = Bench::new(Goal::Claims(*path().hash()), Limits::default());
        bench.poll();
        for byte in [1, 2] {
            bench.tell(Input::Found { key: key.clone(), peer: peer(byte) });
        }
        bench.tell(Input::Slow(peer(1)));
        bench.tell(Input::FindEnded(key.clone()));
        bench.poll();
        let (slow, other) = (bench.only(peer(1)), bench.only(peer(2)));
        if slow_answers {
            bench.answer(slow, Verified::Claims(vec![attested(&tree(0, 1))]));
            assert!(matches!(&bench.poll()[..], [Output::Done(Outcome::Claims(_))]));
        } else {
            assert!(bench.poll().is_empty(), "the other one is waited for");
            bench.answer(other, Verified::Missing);
            assert!(matches!(&bench.poll()[..], [Output::Done(Outcome::NotFound)]));
            assert!(bench.asks.is_empty());
        }
    }
}

#[test]
fn a_path_whose_claimants_cannot_be_reached_is_looked_for_as_long_as_it_may() {
    let key = Key::Path(*path().hash());
    for seconds in [0, 3] {
        let claims_patience = Micros(SECOND.0 * seconds);
        let limits = Limits { claims_patience, ..Limits::default() };
        let mut bench = Bench::new(Goal::Path(*path().hash()), limits);
        bench.poll();
        bench.tell(Input::Found { key: key.clone(), peer: peer(1) });
        bench.tell(Input::FindEnded(key.clone()));
        bench.poll();
        let id = bench.only(peer(1));
        bench.asks.clear();
        bench.tell(Input::Unreachable(id));
        let is_over = |outputs: &[Output]| matches!(outputs, [.., Output::Done(Outcome::NotFound)]);
        assert_eq!(is_over(&bench.poll()), seconds == 0);
        bench.later(claims_patience);
        assert!(seconds == 0 || is_over(&bench.poll()));
    }
}

#[test]
fn directories_that_trickle_in_are_given_up_and_asked_of_one_peer_once_at_a_time() {
    let closure = tree(0, 1);
    let key = Key::Root(closure.root().clone());
    let mut bench = Bench::new(Goal::Tree(closure.root().clone()), Limits::default());
    bench.poll();
    let liars = 1..=80;
    for liar in liars.clone() {
        bench.tell(Input::Found { key: key.clone(), peer: peer(liar) });
    }
    bench.tell(Input::FindEnded(key));
    let mut given_up = BTreeSet::new();
    for tenth in 1..=400 {
        let before: Vec<AskId> = bench.asks.keys().copied().collect();
        bench.poll();
        given_up.extend(before.into_iter().filter(|id| !bench.asks.contains_key(id)));
        for liar in liars.clone() {
            assert!(bench.asked(peer(liar)).len() <= 1);
        }
        for id in bench.asks.keys().copied().collect::<Vec<_>>() {
            bench.fetch.handle(bench.now, Input::Received { id, bytes: 64 * tenth });
        }
        bench.later(Micros::from_millis(100));
    }
    assert!(
        given_up.len() >= 15,
        "{} given up in 40 s, of which each has 20 s and what it sends",
        given_up.len()
    );
}

#[test]
fn who_is_always_busy_does_not_keep_a_fetch_alive() {
    let closure = tree(0, 1);
    let mut bench = Bench::new(Goal::Tree(closure.root().clone()), Limits::default());
    let ended = (0..200).find(|_| {
        for output in bench.poll() {
            match output {
                // It is found each time.
                Output::Find(key) => {
                    bench.tell(Input::Found { key: key.clone(), peer: peer(1) });
                    bench.tell(Input::FindEnded(key));
                }
                Output::Done(_) => return true,
                _ => {}
            }
        }
        for id in bench.asked(peer(1)) {
            bench.answer(id, Verified::Busy { after: Some(Micros(u64::MAX)) });
        }
        bench.later(SECOND);
        false
    });
    assert!(ended.is_some_and(|second| (60..120).contains(&second)), "{ended:?}");
}

#[test]
fn while_one_is_busy_others_are_looked_for_again() {
    let closure = tree(0, 1);
    let found = |goal: Goal, key: Key| {
        let mut bench = Bench::new(goal, Limits::default());
        bench.poll();
        bench.tell(Input::Found { key: key.clone(), peer: peer(1) });
        bench.tell(Input::FindEnded(key));
        bench.poll();
        bench
    };
    let root = closure.root().clone();
    for mut bench in [
        found(Goal::Path(*path().hash()), Key::Path(*path().hash())),
        found(Goal::Tree(root.clone()), Key::Root(root)),
        Bench::at_blobs(&closure, Limits::default()),
    ] {
        let looks =
            |outputs: Vec<Output>| outputs.into_iter().any(|output| matches!(output, Output::Find(_)));
        let mut looked = false;
        for _ in 0..5 {
            for id in bench.asked(peer(1)) {
                bench.answer(id, Verified::Busy { after: Some(Micros(u64::MAX)) });
            }
            looked |= looks(bench.poll());
            bench.later(SECOND);
        }
        assert!(looked);
    }
}
