//! NARs that the disk has no room for.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use firn_engine::{Engine, EngineError, NarName};
use firn_exchange::{Rejection, Request};
use firn_nix::{NarHash, StorePathHash};
use firn_store::Blobs;
use firn_trust::NarMismatch;
use futures::{StreamExt, TryStreamExt};

use crate::fakes::net::{Manner, Net, dies_after, honest, is_for_contents, open_gate};
use crate::fakes::tree::{Tree, file, noise, tree};
use crate::fakes::{Signed, add, facts, open, peer, publish, signed, with_root};
use crate::store::WatchedStore;

const BUDGET: Duration = Duration::from_secs(5);
const WITHIN: Duration = Duration::from_secs(20);

/// A tree of several windows: small files, large ones, and one that stands in it twice.
fn large(seed: u64) -> Tree {
    let twice = noise(seed + 1, 3_000_000);
    let mut files = vec![
        ("a/first", twice.clone()),
        ("b", noise(seed, 21_000_001)),
        ("c/empty", Vec::new()),
        ("d/again", twice),
        ("e/last", noise(seed + 2, 9_000_000)),
    ];
    let names: Vec<String> = (0..300).map(|number| format!("c/{number}")).collect();
    files.extend(names.iter().zip(0..).map(|(name, number)| (name.as_str(), noise(number, 900))));
    tree(&files)
}

/// A node whose disk has room for so much.
async fn node_with_room(net: &Net, free: u64) -> (Engine, Arc<WatchedStore>) {
    let store = Arc::new(WatchedStore::default());
    *store.free.lock().unwrap() = Some(free);
    (open(net, store.clone()).await, store)
}

/// A peer that has published a tree and answers in this manner, and a node whose disk has room for so much.
async fn beside_a_peer(
    tree: &Tree,
    how: Signed,
    manner: Manner,
    free: u64,
) -> (Net, StorePathHash, Engine, Arc<WatchedStore>) {
    let net = Net::default();
    let (_, seeder) = peer(&net, 1, manner).await;
    let hash = publish(&seeder, "there", tree, how).await;
    let (engine, store) = node_with_room(&net, free).await;
    (net, hash, engine, store)
}

async fn read(
    engine: &Engine,
    hash: StorePathHash,
    tree: &Tree,
    range: Range<u64>,
) -> Result<Vec<u8>, EngineError> {
    let name = NarName::Hash(NarHash::of(&tree.nar));
    let nar = engine.nar(name, Some(hash), BUDGET).await?.ok_or(EngineError::NotFound)?;
    let pieces: Vec<Bytes> = nar.read_begun(range, WITHIN).await?.try_collect().await?;
    Ok(pieces.concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_disk_has_no_room_for_is_passed_on_and_not_kept() {
    let tree = large(1);
    let size = tree.nar.len() as u64;
    let (_net, hash, engine, store) = beside_a_peer(&tree, Signed::Attested, honest(), 30 << 20).await;
    for range in [0..size, 0..1, size - 1..size, 5_000_001..17_000_003, 100..100] {
        let part = read(&engine, hash, &tree, range.clone()).await.unwrap();
        assert!(part == tree.nar[range.start as usize..range.end as usize], "{range:?}");
    }
    assert!(engine.paths().is_empty());
    assert!(tree.closure.blobs().iter().all(|blob| store.inner.groups(blob).unwrap().is_empty()));
    // Whoever wants it here learns why it is not.
    let error = engine.get_path(hash, &|_| {}).await.unwrap_err();
    assert!(
        matches!(error, EngineError::NoRoom { bytes, free } if bytes > 33_000_000 && free == 30 << 20),
        "{error}"
    );

    *store.free.lock().unwrap() = Some(2 * size);
    engine.get_path(hash, &|_| {}).await.unwrap();
    assert!(tree.is_in(&store.inner));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_proven_is_passed_on_as_a_whole_or_not_at_all() {
    let tree = large(1);
    let size = tree.nar.len() as u64;
    let (_net, hash, engine, store) = beside_a_peer(&tree, Signed::ByNix, honest(), 0).await;
    store.is_full.store(true, Ordering::SeqCst);
    assert!(read(&engine, hash, &tree, 0..size).await.unwrap() == tree.nar);
    let error = read(&engine, hash, &tree, 0..size - 1).await.unwrap_err();
    assert!(matches!(error, EngineError::Rejected(Rejection::Nar(NarMismatch::OutOfOrder))), "{error}");
    assert!(engine.paths().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_nar_that_is_not_the_signed_one_is_never_given() {
    let net = Net::default();
    let (true_tree, false_tree) = (large(1), large(2));
    let size = true_tree.nar.len();
    assert_eq!(size, false_tree.nar.len());
    let true_facts = facts("there", &true_tree, &[]);
    let hash = *true_facts.path.hash();
    let (_, liar) = peer(&net, 1, honest()).await;
    let false_facts = with_root(&true_facts, false_tree.root());
    add(&liar, &false_tree, signed(false_facts, Signed::ByNix)).await;
    let (engine, _) = node_with_room(&net, 1 << 20).await;
    let name = NarName::Hash(true_facts.nar.nar_hash);
    let nar = engine.nar(name, Some(hash), BUDGET).await.unwrap().unwrap();
    let mut stream = nar.read_begun(0..size as u64, WITHIN).await.unwrap();
    let mut got = Vec::new();
    let error = loop {
        match stream.next().await.unwrap() {
            Ok(bytes) => got.extend_from_slice(&bytes),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, EngineError::Rejected(Rejection::Nar(NarMismatch::Hash { .. }))), "{error}");
    assert!(got.len() < size && false_tree.nar.starts_with(&got), "{} of {size}", got.len());

    // The root is not tried again while another one can be had.
    let (_, seeder) = peer(&net, 2, honest()).await;
    add(&seeder, &true_tree, signed(true_facts, Signed::ByNix)).await;
    assert!(read(&engine, hash, &true_tree, 0..size as u64).await.unwrap() == true_tree.nar);
}

/// Clients that take nothing.
#[tokio::test(flavor = "multi_thread")]
async fn readers_that_stand_still_keep_nobody_waiting() {
    let tree = file(noise(1, 20 << 20));
    let size = tree.nar.len() as u64;
    let (_net, hash, engine, _) = beside_a_peer(&tree, Signed::ByNix, honest(), 1 << 20).await;
    let mut still = Vec::new();
    for _ in 0..10 {
        let nar = engine.nar(NarName::Hash(NarHash::of(&tree.nar)), Some(hash), BUDGET).await.unwrap();
        let mut stream = nar.unwrap().read_begun(0..size, WITHIN).await.unwrap();
        assert!(!stream.try_next().await.unwrap().unwrap().is_empty());
        still.push(stream);
    }
    assert!(read(&engine, hash, &tree, 0..size).await.unwrap() == tree.nar);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_up_meanwhile_breaks_no_nar() {
    let tree = large(1);
    let (_net, hash, engine, store) = beside_a_peer(&tree, Signed::Attested, honest(), u64::MAX).await;
    let name = NarName::Root(tree.root());
    let nar = engine.nar(name, Some(hash), BUDGET).await.unwrap().unwrap();
    let mut stream = nar.read_begun(0..tree.nar.len() as u64, WITHIN).await.unwrap();
    let mut got = stream.try_next().await.unwrap().unwrap().to_vec();
    store.is_full.store(true, Ordering::SeqCst);
    while let Some(bytes) = stream.try_next().await.unwrap() {
        got.extend_from_slice(&bytes);
    }
    assert!(got == tree.nar);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_here_of_it_is_not_asked_for() {
    let tree = large(1);
    let size = tree.nar.len() as u64;
    let (net, hash, engine, store) = beside_a_peer(&tree, Signed::Attested, honest(), 1 << 20).await;
    let here = tree.closure.blobs().into_iter().max_by_key(|blob| blob.size).unwrap();
    tree.keep_all_but(&store.inner, &noise(3, 9_000_000));
    assert!(read(&engine, hash, &tree, 0..size).await.unwrap() == tree.nar);
    let asked = net.asked();
    assert!(asked.iter().all(|(_, request)| match request {
        Request::Ranges { blob, .. } => *blob != here,
        request => !is_for_contents(request),
    }));
    assert!(net.count(is_for_contents) > 0);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_gives_is_absent() {
    let tree = large(1);
    let (_net, hash, engine, _) =
        beside_a_peer(&tree, Signed::Attested, dies_after(0, open_gate()), 1 << 20).await;
    let error = read(&engine, hash, &tree, 0..1_000).await.unwrap_err();
    assert!(matches!(error, EngineError::Rejected(Rejection::Undeliverable)), "{error}");
    let begun = tokio::time::Instant::now();
    assert!(matches!(read(&engine, hash, &tree, 0..1_000).await, Err(EngineError::NotFound)));
    assert_eq!(begun.elapsed(), Duration::ZERO);
}
