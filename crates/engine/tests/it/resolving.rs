//! What is believed of a path, and how long that may take.

use std::time::Duration;

use firn_engine::{Engine, Resolved, Via};
use futures::StreamExt;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::fakes::net::{Net, honest, is_for_claims, silent_on, silent_until};
use crate::fakes::tree::varied;
use crate::fakes::{Signed, node, peer, publish};

const BUDGET: Duration = Duration::from_millis(300);

#[tokio::test]
async fn what_is_here_needs_no_peer() {
    let net = Net::default();
    let engine = node(&net).await;
    let hash = publish(&engine, "here", &varied(1), Signed::Not).await;
    let resolved = engine.resolve(hash, Duration::ZERO).await.unwrap().unwrap();
    assert!(matches!(resolved, Resolved::Proven(path) if path.facts().path.hash() == &hash));
}

#[tokio::test]
async fn without_a_budget_nobody_is_asked() {
    let net = Net::default();
    let (_, seeder) = peer(&net, 1, honest()).await;
    let hash = publish(&seeder, "there", &varied(1), Signed::Attested).await;
    let engine = node(&net).await;
    assert!(engine.resolve(hash, Duration::ZERO).await.unwrap().is_none());
    assert!(net.asked().is_empty() && engine.peers().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_attested_path_is_proven_before_anything_of_it_is_here() {
    let net = Net::default();
    let (id, seeder) = peer(&net, 1, honest()).await;
    let tree = varied(1);
    let hash = publish(&seeder, "there", &tree, Signed::Attested).await;
    let engine = node(&net).await;
    let resolved = engine.resolve(hash, BUDGET).await.unwrap().unwrap();
    assert!(matches!(&resolved, Resolved::Proven(path) if path.facts().root == tree.root()));
    assert_eq!(net.asked().len(), net.count(is_for_claims));
    let [(peer, entry)] = &engine.peers()[..] else { panic!("one peer") };
    assert_eq!((*peer, entry.via, entry.asked, entry.bytes), (id, Some(Via::Static), 1, 0));

    // It is remembered: neither the budget nor a peer is needed again.
    assert!(engine.resolve(hash, Duration::ZERO).await.unwrap().is_some());
    assert_eq!(net.asked().len(), 1);
    assert!(engine.paths().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_path_that_nix_has_signed_still_waits_for_its_nar() {
    let net = Net::default();
    let (_, seeder) = peer(&net, 1, honest()).await;
    let tree = varied(1);
    let hash = publish(&seeder, "there", &tree, Signed::ByNix).await;
    let resolved = node(&net).await.resolve(hash, BUDGET).await.unwrap().unwrap();
    let Resolved::Signed(signed) = resolved else { panic!("no signature covers its root") };
    assert_eq!(signed.facts().nar.nar_size, tree.nar.len() as u64);
    assert_eq!(signed.signatures().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_no_trusted_key_has_signed_is_absent_and_no_lie() {
    let net = Net::default();
    let (_, seeder) = peer(&net, 1, honest()).await;
    let tree = varied(1);
    let engine = node(&net).await;
    for (name, how) in [("stranger", Signed::ByStranger), ("unsigned", Signed::Not)] {
        let hash = publish(&seeder, name, &tree, how).await;
        assert!(engine.resolve(hash, BUDGET).await.unwrap().is_none(), "{name}");
    }
    assert!(engine.peers().iter().all(|(_, entry)| entry.lies.is_empty()));
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_costs_the_budget_and_no_more() {
    let net = Net::default();
    let (_, seeder) = peer(&net, 1, silent_on(is_for_claims)).await;
    let hash = publish(&seeder, "there", &varied(1), Signed::Attested).await;
    let engine = node(&net).await;
    let begun = Instant::now();
    assert!(engine.resolve(hash, BUDGET).await.unwrap().is_none());
    assert_eq!(begun.elapsed(), BUDGET);
    net.until_under_way(|count| *count == 0).await;
}

#[tokio::test(start_paused = true)]
async fn an_open_look_up_does_not_hold_up_what_is_known() {
    let net = Net::default();
    net.let_lookups_go_on();
    let (_, silent) = peer(&net, 1, silent_on(is_for_claims)).await;
    let (_, seeder) = peer(&net, 2, honest()).await;
    let tree = varied(1);
    let hash = publish(&silent, "there", &tree, Signed::Attested).await;
    publish(&seeder, "there", &tree, Signed::Attested).await;
    let begun = Instant::now();
    assert!(node(&net).await.resolve(hash, BUDGET).await.unwrap().is_some());
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn nobody_there_is_absent_at_once() {
    let net = Net::default();
    let engine = node(&net).await;
    let begun = Instant::now();
    assert!(engine.resolve([0; 20].into(), BUDGET).await.unwrap().is_none());
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_does_not_outweigh_one_that_has_spoken() {
    for how in [Signed::Attested, Signed::ByNix] {
        let net = Net::default();
        let (_, silent) = peer(&net, 1, silent_on(is_for_claims)).await;
        let (_, seeder) = peer(&net, 2, honest()).await;
        let tree = varied(1);
        let hash = publish(&silent, "there", &tree, how).await;
        publish(&seeder, "there", &tree, how).await;
        let begun = Instant::now();
        assert!(node(&net).await.resolve(hash, BUDGET).await.unwrap().is_some(), "{how:?}");
        assert!(begun.elapsed() < BUDGET);
    }
}

/// How long so many misses take, 25 at a time.
async fn misses(engine: &Engine, count: u16) -> Duration {
    let begun = Instant::now();
    let miss = |number: u16| async move {
        let mut hash = [0; 20];
        hash[..2].copy_from_slice(&number.to_be_bytes());
        assert!(engine.resolve(hash.into(), BUDGET).await.unwrap().is_none());
    };
    futures::stream::iter(0..count).for_each_concurrent(25, miss).await;
    begun.elapsed()
}

#[tokio::test(start_paused = true)]
async fn who_did_not_answer_is_not_waited_for_the_next_time() {
    let net = Net::default();
    let (silent, _) = peer(&net, 1, silent_on(|_| true)).await;
    let (other, _) = peer(&net, 2, honest()).await;
    let engine = node(&net).await;
    assert_eq!(misses(&engine, 2000).await, BUDGET);
    assert_eq!(net.count_to(&other), 2000);
    assert!(net.count_to(&silent) > 25, "it is asked all the same");
    net.until_under_way(|count| *count <= 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_peer_is_waited_for_again_as_soon_as_it_answers() {
    let net = Net::default();
    let (gate, opened) = watch::channel(false);
    let (id, seeder) = peer(&net, 1, silent_until(opened)).await;
    let hash = publish(&seeder, "there", &varied(1), Signed::Attested).await;
    let engine = node(&net).await;
    assert_eq!(misses(&engine, 1).await, BUDGET);
    assert_eq!(misses(&engine, 10).await, Duration::ZERO);
    gate.send_replace(true);
    // Nobody need look for anything meanwhile.
    tokio::time::sleep(Duration::from_secs(40)).await;
    let asked = net.count_to(&id);
    assert!(engine.resolve(hash, BUDGET).await.unwrap().is_some());
    assert_eq!(net.count_to(&id), asked + 1);
}
