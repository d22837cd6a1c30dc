//! The machine with honest answers of a real store, and with peers that are slow, busy or many.

use std::collections::BTreeMap;

use firn_bao::Span;
use firn_castore::{BlobRef, Closure, Node, Root};
use firn_exchange::{
    AskId, BatchAnswer, CLAIMS_MAX, Fetch, Goal, Input, Key, Known, Limits, Micros, Outcome, Output, PeerId,
    Request, Verified,
};
use firn_store::MissingBlob;
use firn_trust::{Admitted, Attestation, Claim};

use crate::world::{World, key, policy};

const MILLI: Micros = Micros::from_millis(1);

fn peer(byte: u8) -> PeerId {
    [byte; 32].into()
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
    fn new(goal: Goal, limits: Limits, seed: u64) -> Self {
        Self { fetch: Fetch::new(goal, peer(0), limits, seed), now: Micros(0), asks: BTreeMap::new() }
    }

    /// A fetch of the public tree of a world, for which these peers have been found.
    fn of_tree(world: &World, peers: &[u8], limits: Limits, seed: u64) -> Self {
        let root = world.public.closure.root().clone();
        let mut bench = Self::new(Goal::Tree(root.clone()), limits, seed);
        bench.poll();
        for byte in peers {
            bench.tell(Input::Found { key: Key::Root(root.clone()), peer: peer(*byte) });
        }
        bench.tell(Input::FindEnded(Key::Root(root)));
        bench
    }

    fn tell(&mut self, input: Input) {
        self.fetch.handle(self.now, input);
    }

    fn poll(&mut self) -> Vec<Output> {
        let mut outputs = Vec::new();
        while let Some(output) = self.fetch.poll(self.now) {
            match output {
                Output::Ask { peer, id, request } => drop(self.asks.insert(id, (peer, request))),
                Output::Cancel(id) => drop(self.asks.remove(&id)),
                // The store has nothing yet.
                Output::Recall { .. } => {
                    self.tell(Input::Recalled { closure: None, known: Known::default() })
                }
                Output::Look(closure) => self.tell(Input::Missing(all_of(&closure))),
                output => outputs.push(output),
            }
        }
        outputs
    }

    /// Sleeps as long as the machine wants to.
    fn sleep(&mut self) {
        let until = self.fetch.deadline().unwrap();
        assert!(until > self.now, "{until:?} is not after {:?}", self.now);
        self.now = until;
    }

    fn take_ask(&mut self) -> Option<(AskId, PeerId, Request)> {
        self.asks.pop_first().map(|(id, (peer, request))| (id, peer, request))
    }

    /// Answers honestly until there is nothing to answer; `lie` may answer for a peer instead.
    fn run(&mut self, world: &World, lie: impl Fn(PeerId, &Request) -> Option<Verified>) -> Option<Outcome> {
        for _ in 0..1_000 {
            if let Some(Output::Done(outcome)) = self.poll().pop() {
                return Some(outcome);
            }
            match self.take_ask() {
                Some((id, peer, request)) => {
                    let result = lie(peer, &request).map_or_else(|| world.ask(&request), Ok);
                    self.tell(Input::Answered { id, result });
                    self.now = Micros(self.now.0 + MILLI.0);
                }
                None if self.fetch.deadline().is_some() => self.sleep(),
                None => {}
            }
        }
        None
    }
}

#[test]
fn honest_answers_bring_the_tree() {
    let world = World::new();
    let mut bench = Bench::of_tree(&world, &[1, 2], Limits::default(), 0);
    let Some(Outcome::Tree(closure)) = bench.run(&world, |_, _| None) else { panic!() };
    assert_eq!(closure, world.public.closure);
}

#[test]
fn honest_answers_bring_the_path() {
    let world = World::new();
    let hash = *world.public.path.facts().path.hash();
    let mut bench = Bench::new(Goal::Path(hash), Limits::default(), 0);
    bench.tell(Input::Found { key: Key::Path(hash), peer: peer(1) });
    let Some(Outcome::Path(path, closure)) = bench.run(&world, |_, _| None) else { panic!() };
    assert_eq!((path.facts(), closure), (world.public.path.facts(), world.public.closure.clone()));
}

#[test]
fn unknown_requests_are_nobodys_answer() {
    let world = World::new();
    let mut other = Bench::of_tree(&world, &[1, 2, 3], Limits::default(), 0);
    let foreign: Vec<AskId> = (0..3)
        .map(|_| {
            other.poll();
            let (id, ..) = other.take_ask().unwrap();
            other.tell(Input::Failed(id));
            id
        })
        .collect();
    let mut bench = Bench::of_tree(&world, &[1], Limits::default(), 0);
    bench.poll();
    assert_eq!(bench.asks.len(), 1);
    let unknown = *foreign.iter().find(|id| !bench.asks.contains_key(id)).unwrap();
    bench.tell(Input::Answered { id: unknown, result: Ok(Verified::Closure(world.private.closure.clone())) });
    bench.tell(Input::Answered { id: unknown, result: Err(firn_exchange::Lie::NotAsked) });
    bench.tell(Input::Failed(unknown));
    assert!(bench.poll().is_empty());
    assert!(matches!(bench.run(&world, |_, _| None), Some(Outcome::Tree(_))));
}

#[test]
fn nothing_comes_after_the_end() {
    let world = World::new();
    let root = world.public.closure.root().clone();
    let mut bench = Bench::of_tree(&world, &[], Limits::default(), 0);
    assert!(matches!(bench.poll().last(), Some(Output::Done(_))));
    bench.tell(Input::Found { key: Key::Root(root), peer: peer(1) });
    bench.tell(Input::Missing(all_of(&world.public.closure)));
    assert!(bench.poll().is_empty() && bench.asks.is_empty());
    assert_eq!(bench.fetch.deadline(), None);
}

#[test]
fn a_fetch_ends_at_its_deadline() {
    let world = World::new();
    let limits = Limits { deadline: Some(Micros::from_millis(300)), ..Limits::default() };
    let mut bench = Bench::of_tree(&world, &[1], limits, 0);
    bench.poll();
    assert_eq!(bench.asks.len(), 1);
    assert_eq!(bench.fetch.deadline(), Some(Micros::from_millis(300)));
    bench.sleep();
    assert!(matches!(&bench.poll()[..], [Output::Done(Outcome::TimedOut)]));
    assert!(bench.asks.is_empty(), "what is asked for is cancelled");
}

#[test]
fn a_peer_that_never_answers_is_given_up() {
    let world = World::new();
    let limits = Limits { failures_max: 3, ..Limits::default() };
    let mut bench = Bench::of_tree(&world, &[1], limits, 0);
    let mut asked = 0;
    let outputs = loop {
        let outputs = bench.poll();
        if !outputs.is_empty() {
            break outputs;
        }
        while let Some((id, ..)) = bench.take_ask() {
            asked += 1;
            bench.tell(Input::Failed(id));
            let _ = bench.poll();
        }
        if bench.fetch.deadline().is_none() {
            break Vec::new();
        }
        bench.sleep();
    };
    assert_eq!(asked, 3);
    assert!(matches!(&outputs[..], [] | [Output::Reject { .. }, ..]), "{outputs:?}");
}

#[test]
fn a_busy_peer_is_left_alone_for_a_while() {
    let world = World::new();
    let mut bench = Bench::of_tree(&world, &[1], Limits::default(), 0);
    bench.poll();
    let (id, _, first) = bench.take_ask().unwrap();
    bench.tell(Input::Answered { id, result: Ok(Verified::Busy { after: None }) });
    assert!(bench.poll().is_empty() && bench.asks.is_empty());
    assert_eq!(bench.fetch.deadline(), Some(Micros::from_millis(250)));
    bench.sleep();
    bench.poll();
    let (_, _, again) = bench.take_ask().unwrap();
    assert_eq!(first, again);
}

#[test]
fn one_who_is_busy_with_each_blob_of_a_batch_does_not_keep_it_from_others() {
    let world = World::new();
    // Whichever of the two the seed puts first.
    for seed in (0..8u64).map(|i| i.wrapping_mul(0x2545_f491_4f6c_dd1d)) {
        let limits = Limits { in_flight_max: 1, ..Limits::default() };
        let mut bench = Bench::of_tree(&world, &[1, 2], limits, seed);
        let outcome = bench.run(&world, |who, request| match request {
            Request::Batch(blobs) if who == peer(1) => {
                Some(Verified::Batch(blobs.iter().map(|blob| (*blob, BatchAnswer::Busy)).collect()))
            }
            _ => None,
        });
        assert!(matches!(outcome, Some(Outcome::Tree(_))), "seed {seed}: {outcome:?}");
        assert!(bench.now < Micros::from_millis(1_000), "{:?}", bench.now);
    }
}

#[test]
fn one_who_is_always_busy_with_each_blob_gets_time_to_rest() {
    let world = World::new();
    let limits = Limits { deadline: Some(Micros::from_millis(2_000)), ..Limits::default() };
    let mut bench = Bench::of_tree(&world, &[1], limits, 0);
    let batches = std::cell::Cell::new(0);
    let outcome = bench.run(&world, |_, request| match request {
        Request::Batch(blobs) => {
            batches.set(batches.get() + 1);
            Some(Verified::Batch(blobs.iter().map(|blob| (*blob, BatchAnswer::Busy)).collect()))
        }
        _ => None,
    });
    assert!(matches!(outcome, Some(Outcome::TimedOut)), "{outcome:?}");
    assert!(batches.get() < 20, "asked {} times", batches.get());
}

/// A claim of a false root: what anyone can put beside a true Nix signature.
fn false_claim(claim: &Claim, number: usize) -> Admitted {
    let mut claim = claim.clone();
    let target = format!("false-{number}");
    claim.facts.root = Root::from(Node::Symlink { target: target.as_str().try_into().unwrap() });
    claim.attestations.clear();
    policy().admit(claim).unwrap()
}

/// Eight liars with as many false roots each as there is room for, then one honest peer.
fn among_many_false_roots(world: &World, honest: Admitted) -> Bench {
    let hash = *world.public.path.facts().path.hash();
    let mut bench = Bench::new(Goal::Path(hash), Limits::default(), 0);
    for byte in 1..=9 {
        bench.tell(Input::Found { key: Key::Path(hash), peer: peer(byte) });
    }
    bench.poll();
    let mut last = None;
    while let Some((id, who, _)) = bench.take_ask() {
        let first = usize::from(who.as_bytes()[0]) * CLAIMS_MAX;
        let claims = (first..first + CLAIMS_MAX).map(|i| false_claim(world.claim(), i)).collect();
        match who == peer(9) {
            true => last = Some(id),
            false => bench.tell(Input::Answered { id, result: Ok(Verified::Claims(claims)) }),
        }
    }
    bench.tell(Input::Answered { id: last.unwrap(), result: Ok(Verified::Claims(vec![honest])) });
    bench
}

#[test]
fn many_false_roots_do_not_crowd_out_the_attested_one() {
    let world = World::new();
    let honest = policy().admit(world.claim().clone()).unwrap();
    let mut bench = among_many_false_roots(&world, honest);
    assert!(matches!(bench.run(&world, |_, _| None), Some(Outcome::Path(..))));
}

#[test]
fn many_false_roots_do_not_crowd_out_a_true_one_that_nobody_attests() {
    let world = World::new();
    let mut claim = world.claim().clone();
    claim.attestations.clear();
    let mut bench = among_many_false_roots(&world, policy().admit(claim).unwrap());
    bench.poll();
    bench.sleep();
    bench.poll();
    // The first root that is tried is that of the peer that names only one.
    let Some((_, _, Request::Closure { root, .. })) = bench.take_ask() else { panic!() };
    assert_eq!(root, *world.public.closure.root());
}

#[test]
fn an_attestation_by_a_stranger_changes_nothing() {
    let world = World::new();
    let mut claim = world.claim().clone();
    let stranger = firn_nix::SigningKey::generate("stranger".parse().unwrap(), [9; 32]);
    claim.attestations.push(Attestation::sign(&claim.facts, &stranger));
    let Ok(Admitted::Attested(path)) = policy().admit(claim) else { panic!() };
    assert_eq!(path.attestations(), world.public.path.attestations());
    assert_eq!(path.attestations()[0].signature().key_name(), key().name());
}
