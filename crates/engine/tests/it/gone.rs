//! Peers that named a path and have gone, or do not give it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use firn_castore::Root;
use firn_engine::{AskError, Engine, EngineError, NarName, Resolved};
use firn_nix::StorePathHash;
use futures::{FutureExt, TryStreamExt};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::fakes::net::{
    Manner, Net, busy_with, comes_and_goes, honest, is_for_claims, is_for_closure, is_for_contents, silent_on,
};
use crate::fakes::tree::{Tree, file, noise, tree, varied};
use crate::fakes::{Signed, add, facts, node, peer, publish, signed};

const BUDGET: Duration = Duration::from_millis(300);
const WITHIN: Duration = Duration::from_secs(20);

/// The root that the path is said to have, if it is said to be there.
async fn root(engine: &Engine, hash: StorePathHash) -> Option<Root> {
    engine.resolve(hash, BUDGET).await.unwrap().map(|resolved| resolved.facts().root.clone())
}

/// The NAR of this path, as a gateway reads it.
async fn nar(engine: &Engine, hash: StorePathHash, tree: &Tree) -> Result<Vec<u8>, EngineError> {
    let nar =
        engine.nar(NarName::Root(tree.root()), Some(hash), BUDGET).await?.ok_or(EngineError::NotFound)?;
    let chunks: Vec<Bytes> = nar.read_begun(0..tree.nar.len() as u64, WITHIN).await?.try_collect().await?;
    Ok(chunks.concat())
}

/// Gives the first contents that it is asked for, and is gone then until it is back.
fn leaves_after_the_first_contents(is_back: watch::Receiver<bool>) -> Manner {
    let has_given = AtomicBool::new(false);
    Arc::new(move |request, reply| {
        let is_gone = match is_for_contents(request) {
            true => has_given.swap(true, Ordering::SeqCst),
            false => has_given.load(Ordering::SeqCst),
        };
        let reply = match is_gone && !*is_back.borrow() {
            true => Err(AskError::Unreachable("it has gone".into())),
            false => Ok(reply),
        };
        async { reply }.boxed()
    })
}

#[tokio::test(start_paused = true)]
async fn what_only_a_peer_that_has_gone_had_is_absent_at_once() {
    let (net, (away, is_away)) = (Net::default(), watch::channel(false));
    let (_, seeder) = peer(&net, 1, comes_and_goes(is_away)).await;
    let engine = node(&net).await;
    let trees: Vec<Tree> = (0..30).map(|seed| file(noise(seed, 10))).collect();
    let mut hashes = Vec::new();
    for (number, tree) in trees.iter().enumerate() {
        let hash = publish(&seeder, &format!("there-{number}"), tree, Signed::Attested).await;
        assert_eq!(root(&engine, hash).await, Some(tree.root()));
        hashes.push(hash);
    }
    away.send_replace(true);
    let (begun, asked) = (Instant::now(), net.asked().len());
    for _ in 0..3 {
        for (hash, tree) in hashes.iter().zip(&trees) {
            let error = nar(&engine, *hash, tree).await.unwrap_err();
            assert!(matches!(error, EngineError::Rejected(_) | EngineError::NotFound), "{error}");
            assert_eq!(root(&engine, *hash).await, None);
        }
    }
    assert_eq!(begun.elapsed(), Duration::ZERO);
    let questions = net.asked().len() - asked;
    // One for the NAR and one for the narinfo each time, and now and then one that is repeated to who owes an answer.
    assert!(questions <= 3 * 3 * trees.len(), "{questions} questions");

    // What was absent is looked for anew.
    away.send_replace(false);
    for (hash, tree) in hashes.iter().zip(&trees) {
        assert_eq!(root(&engine, *hash).await, Some(tree.root()));
        assert!(nar(&engine, *hash, tree).await.unwrap() == tree.nar);
    }
}

#[tokio::test(start_paused = true)]
async fn a_path_that_waits_for_its_nar_is_absent_at_once_as_well() {
    let (net, (away, is_away)) = (Net::default(), watch::channel(false));
    let (_, seeder) = peer(&net, 1, comes_and_goes(is_away)).await;
    let tree = varied(1);
    let hash = publish(&seeder, "there", &tree, Signed::ByNix).await;
    let engine = node(&net).await;
    let resolved = engine.resolve(hash, BUDGET).await.unwrap().unwrap();
    assert!(matches!(&resolved, Resolved::Signed(_)));
    let name = NarName::Hash(resolved.facts().nar.nar_hash);
    let opened = async || {
        let nar = engine.nar(name.clone(), Some(hash), BUDGET).await.unwrap();
        nar.ok_or(EngineError::NotFound)?.read_begun(0..1, WITHIN).await.map(|_| ())
    };
    away.send_replace(true);
    let begun = Instant::now();
    assert!(opened().await.is_err());
    assert_eq!(root(&engine, hash).await, None);
    assert!(opened().await.is_err());
    assert_eq!(begun.elapsed(), Duration::ZERO);
    away.send_replace(false);
    assert_eq!(root(&engine, hash).await, Some(tree.root()));
    opened().await.unwrap();
}

/// Another version that a trusted key has signed is found once the first one could not be had from a peer of this manner.
async fn another_version_is_found(manner: Manner, is_away: Option<watch::Sender<bool>>, at_most: Duration) {
    let net = Net::default();
    let (_, first) = peer(&net, 1, manner).await;
    let (old, new) = (varied(1), varied(10));
    let hash = publish(&first, "there", &old, Signed::Attested).await;
    let engine = node(&net).await;
    assert_eq!(root(&engine, hash).await, Some(old.root()));
    if let Some(away) = is_away {
        away.send_replace(true);
    }
    let (_, second) = peer(&net, 2, honest()).await;
    add(&second, &new, signed(facts("there", &new, &[]), Signed::Attested)).await;
    let begun = Instant::now();
    assert!(nar(&engine, hash, &old).await.is_err());
    assert_eq!(root(&engine, hash).await, Some(new.root()));
    assert!(begun.elapsed() <= at_most, "{:?}", begun.elapsed());
    assert!(nar(&engine, hash, &new).await.unwrap() == new.nar);
}

#[tokio::test(start_paused = true)]
async fn another_version_is_found_where_the_first_ones_peer_has_gone() {
    let (away, is_away) = watch::channel(false);
    another_version_is_found(comes_and_goes(is_away), Some(away), Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn another_version_is_found_where_the_first_ones_peer_gives_nothing() {
    let is_of_tree = |request: &firn_exchange::Request| is_for_closure(request) || is_for_contents(request);
    let at_most = WITHIN + BUDGET;
    another_version_is_found(busy_with(is_of_tree), None, at_most).await;
    another_version_is_found(busy_with(is_for_contents), None, at_most).await;
    another_version_is_found(silent_on(is_of_tree), None, at_most).await;
    another_version_is_found(silent_on(is_for_contents), None, at_most).await;
}

#[tokio::test(start_paused = true)]
async fn a_nar_goes_on_from_where_it_broke_once_its_peer_is_back() {
    let (net, (back, is_back)) = (Net::default(), watch::channel(false));
    let (_, seeder) = peer(&net, 1, leaves_after_the_first_contents(is_back)).await;
    let tree = tree(&[("a", noise(1, 3 << 20)), ("b", noise(2, 3 << 20))]);
    let hash = publish(&seeder, "there", &tree, Signed::Attested).await;
    let engine = node(&net).await;
    let name = NarName::Root(tree.root());
    let opened = engine.nar(name, Some(hash), BUDGET).await.unwrap().unwrap();
    let stream = opened.read_begun(0..tree.nar.len() as u64, WITHIN).await.unwrap();
    let broken = stream.try_collect::<Vec<Bytes>>().await;
    assert!(matches!(broken, Err(EngineError::Rejected(_))));
    let begun = Instant::now();
    assert!(nar(&engine, hash, &tree).await.is_err());
    assert_eq!(root(&engine, hash).await, None);
    assert_eq!(begun.elapsed(), Duration::ZERO);

    back.send_replace(true);
    let (closures, claims) = (net.count(is_for_closure), net.count(is_for_claims));
    assert_eq!(root(&engine, hash).await, Some(tree.root()));
    assert!(nar(&engine, hash, &tree).await.unwrap() == tree.nar);
    assert_eq!((net.count(is_for_closure), net.count(is_for_claims)), (closures, claims + 1));
}
