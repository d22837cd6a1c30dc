//! What liars achieve: nothing but being named.

use std::time::SystemTime;

use firn_engine::{EngineError, LIAR_DAYS, Liar};
use firn_exchange::{Lie, Rejection};
use firn_store::UnixSeconds;
use firn_trust::{Ground, NarMismatch};

use crate::fakes::net::{Net, honest, spoils_contents};
use crate::fakes::tree::{noise, tree, varied};
use crate::fakes::{Signed, add, facts, node, peer, publish, signed, with_root};

#[tokio::test]
async fn false_contents_are_blamed_on_whoever_gave_them_and_on_nobody_else() {
    let net = Net::default();
    let (liar, false_friend) = peer(&net, 1, spoils_contents()).await;
    let (friend, seeder) = peer(&net, 2, honest()).await;
    let tree = varied(1);
    let hash = publish(&false_friend, "there", &tree, Signed::Attested).await;
    publish(&seeder, "there", &tree, Signed::Attested).await;
    let engine = node(&net).await;
    engine.get_path(hash, &|_| {}).await.unwrap();
    assert!(tree.is_in(&**engine.store()));
    let [(first, lied), (second, gave)] = &engine.peers()[..] else { panic!("two peers") };
    assert_eq!((*first, *second), (liar, friend));
    assert!(matches!(lied.lies[..], [Lie::Blob { .. }]), "{:?}", lied.lies);
    assert!(gave.lies.is_empty());
    assert_eq!(gave.bytes, tree.closure.blobs().iter().map(|blob| blob.size).sum::<u64>());

    // Another fetch, and the liar is asked nothing.
    let asked = net.count_to(&liar);
    let other = varied(50);
    let hash = publish(&false_friend, "other", &other, Signed::Attested).await;
    publish(&seeder, "other", &other, Signed::Attested).await;
    engine.get_path(hash, &|_| {}).await.unwrap();
    assert_eq!(net.count_to(&liar), asked);
}

#[tokio::test]
async fn a_remembered_liar_is_not_asked_and_a_forgiven_one_is() {
    let net = Net::default();
    let (liar, seeder) = peer(&net, 1, honest()).await;
    let hash = publish(&seeder, "there", &varied(1), Signed::Attested).await;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let lied = |days_ago: u64| {
        let at = UnixSeconds(now - days_ago * 24 * 60 * 60);
        vec![Liar { peer: liar, reason: "a wrong byte".into(), at }]
    };

    let engine = node(&net).await;
    engine.remember_liars(lied(LIAR_DAYS - 1), UnixSeconds(now));
    let error = engine.get_path(hash, &|_| {}).await.unwrap_err();
    assert!(matches!(error, EngineError::Blamed), "{error}");
    assert_eq!(net.count_to(&liar), 0);
    assert_eq!(engine.liars(UnixSeconds(now)), lied(LIAR_DAYS - 1));

    let engine = node(&net).await;
    engine.remember_liars(lied(LIAR_DAYS), UnixSeconds(now));
    engine.get_path(hash, &|_| {}).await.unwrap();
    assert!(net.count_to(&liar) > 0 && engine.liars(UnixSeconds(now)).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_liar_alone_gets_nothing_in() {
    let net = Net::default();
    let (_, false_friend) = peer(&net, 1, spoils_contents()).await;
    let tree = varied(1);
    let hash = publish(&false_friend, "there", &tree, Signed::Attested).await;
    let engine = node(&net).await;
    let error = engine.get_path(hash, &|_| {}).await.unwrap_err();
    assert!(matches!(error, EngineError::Blamed), "{error}");
    assert!(engine.paths().is_empty() && !tree.is_in(&**engine.store()));
}

/// The false root is claimed by more peers, so that it is tried first.
async fn with_a_false_root(false_bytes: usize) -> (firn_engine::Engine, Rejection) {
    let net = Net::default();
    let size = 100_000;
    let (true_tree, false_tree) =
        (tree(&[("file", noise(1, size))]), tree(&[("file", noise(2, false_bytes))]));
    let true_facts = facts("there", &true_tree, &[]);
    let false_facts = with_root(&true_facts, false_tree.root());
    for number in [1, 2] {
        let (_, liar) = peer(&net, number, honest()).await;
        add(&liar, &false_tree, signed(false_facts.clone(), Signed::ByNix)).await;
    }
    let (_, seeder) = peer(&net, 3, honest()).await;
    add(&seeder, &true_tree, signed(true_facts.clone(), Signed::ByNix)).await;
    let engine = node(&net).await;
    let fetched = engine.get_path(*true_facts.path.hash(), &|_| {}).await.unwrap();
    let path = fetched.path.unwrap();
    assert_eq!((path.ground(), &path.facts().root), (Ground::NarMatch, &true_tree.root()));
    // An honest peer may relay a false claim: the claim is dropped, no peer is blamed.
    assert!(engine.peers().iter().all(|(_, entry)| entry.lies.is_empty()));
    assert!(!engine.shared_view_has(&false_tree.root()));
    let [rejected] = &engine.rejected_roots()[..] else { panic!("one root is rejected") };
    assert_eq!((&rejected.root, rejected.claimants.len()), (&false_tree.root(), 2));
    let reason = rejected.reason.clone();
    (engine, reason)
}

#[tokio::test]
async fn a_false_root_under_a_true_signature_fails_by_its_nar() {
    let (_, reason) = with_a_false_root(100_000).await;
    assert!(matches!(reason, Rejection::Nar(NarMismatch::Hash { .. })), "{reason}");
}

#[tokio::test]
async fn a_false_root_of_another_length_is_refused_before_its_contents_come() {
    let (engine, reason) = with_a_false_root(90_000).await;
    assert!(matches!(reason, Rejection::Nar(NarMismatch::Size { .. })), "{reason}");
    let given: u64 = engine.peers().iter().map(|(_, entry)| entry.bytes).sum();
    assert_eq!(given, 100_000);
}

trait Sees {
    fn shared_view_has(&self, root: &firn_castore::Root) -> bool;
}

impl Sees for firn_engine::Engine {
    fn shared_view_has(&self, root: &firn_castore::Root) -> bool {
        self.keys().contains(&firn_exchange::Key::Root(root.clone()))
    }
}
