//! NARs as streams.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use firn_engine::{Engine, EngineError, Nar, NarName};
use firn_nix::NarHash;
use futures::{StreamExt, TryStreamExt};
use tokio::sync::watch;

use crate::fakes::net::{
    Net, dies_after, honest, is_for_claims, is_for_closure, open_gate, waits_with_contents,
};
use crate::fakes::tree::{Tree, file, noise, tree, varied};
use crate::fakes::{DEADLINE, Signed, node, open, peer, publish};
use crate::store::WatchedStore;

const BUDGET: Duration = Duration::from_secs(5);

fn of_hash(tree: &Tree) -> NarName {
    NarName::Hash(NarHash::of(&tree.nar))
}

async fn read(nar: Nar, range: std::ops::Range<u64>) -> Result<Vec<u8>, EngineError> {
    let chunks: Vec<Bytes> = nar.open().await?.read(range).try_collect().await?;
    Ok(chunks.concat())
}

async fn nar(engine: &Engine, name: &NarName) -> Nar {
    engine.nar(name.clone(), None, Duration::ZERO).await.unwrap().unwrap()
}

#[tokio::test]
async fn any_part_of_a_nar_is_that_part_of_it() {
    let net = Net::default();
    let engine = node(&net).await;
    for (name, tree) in [
        ("varied", varied(1)),
        ("one", file(noise(3, 100_000))),
        ("void", file(Vec::new())),
        ("empty", tree(&[])),
    ] {
        publish(&engine, name, &tree, Signed::Not).await;
        let size = tree.nar.len() as u64;
        for by in [of_hash(&tree), NarName::Root(tree.root())] {
            let whole = nar(&engine, &by).await;
            assert!(whole.is_proven());
            assert_eq!(whole.size(), size);
            assert!(read(whole, 0..size).await.unwrap() == tree.nar, "{name}");
            for range in [0..1, size - 1..size, 1..size, 0..0, size / 3..size / 2, 95..size.min(20_001)] {
                let part = read(nar(&engine, &by).await, range.clone()).await.unwrap();
                assert!(part == tree.nar[range.start as usize..range.end as usize], "{name} {range:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_reader_gets_what_has_come_before_the_rest_has() {
    let net = Net::default();
    let (gate, opened) = watch::channel(false);
    let (_, seeder) = peer(&net, 1, waits_with_contents(opened)).await;
    let tree = varied(1);
    let hash = publish(&seeder, "there", &tree, Signed::Attested).await;
    let engine = node(&net).await;
    let name = NarName::Root(tree.root());
    let nar = engine.nar(name, Some(hash), BUDGET).await.unwrap().unwrap();
    let mut stream = nar.open().await.unwrap().read(0..tree.nar.len() as u64);
    // Up to the first file, a NAR is made of Directories alone.
    let mut got = tokio::time::timeout(DEADLINE, stream.next()).await.unwrap().unwrap().unwrap().to_vec();
    assert!(!got.is_empty() && tree.nar.starts_with(&got));
    gate.send(true).unwrap();
    while let Some(chunk) = stream.try_next().await.unwrap() {
        got.extend_from_slice(&chunk);
    }
    assert!(got == tree.nar);
    // When the reader has all, the path is not long in coming.
    let mut changes = engine.changes();
    drop(stream);
    engine.get_path(hash, &|_| {}).await.unwrap();
    assert!(tokio::time::timeout(DEADLINE, changes.wait_for(|count| *count > 0)).await.unwrap().is_ok());
    assert_eq!(net.count(is_for_claims), 1);
}

#[tokio::test]
async fn who_gets_a_path_and_who_reads_its_nar_are_on_one_flight() {
    let net = Net::default();
    let (gate, opened) = watch::channel(false);
    let (_, seeder) = peer(&net, 1, waits_with_contents(opened)).await;
    let tree = varied(1);
    let hash = publish(&seeder, "there", &tree, Signed::Attested).await;
    let engine = node(&net).await;
    let getter = engine.clone();
    let got = tokio::spawn(async move { getter.get_path(hash, &|_| {}).await });
    let nar = engine.nar(NarName::Root(tree.root()), Some(hash), BUDGET).await.unwrap().unwrap();
    let stream = nar.open().await.unwrap().read(0..tree.nar.len() as u64);
    gate.send(true).unwrap();
    let chunks: Vec<Bytes> = stream.try_collect().await.unwrap();
    assert!(chunks.concat() == tree.nar);
    assert_eq!(got.await.unwrap().unwrap().closure.root(), &tree.root());
    assert_eq!(net.count(is_for_closure), 1);
}

#[tokio::test]
async fn a_stream_that_cannot_go_on_ends_with_an_error() {
    let net = Net::default();
    let (gate, opened) = watch::channel(false);
    let (_, seeder) = peer(&net, 1, dies_after(2, opened)).await;
    let tree = varied(1);
    let hash = publish(&seeder, "there", &tree, Signed::Attested).await;
    let engine = node(&net).await;
    let name = NarName::Root(tree.root());
    let nar = engine.nar(name, Some(hash), BUDGET).await.unwrap().unwrap();
    let mut stream = nar.open().await.unwrap().read(0..tree.nar.len() as u64);
    let mut got = tokio::time::timeout(DEADLINE, stream.next()).await.unwrap().unwrap().unwrap().to_vec();
    gate.send(true).unwrap();
    let error = loop {
        match stream.next().await.unwrap() {
            Ok(chunk) => got.extend_from_slice(&chunk),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, EngineError::Rejected(_)), "{error}");
    assert!(stream.next().await.is_none());
    assert!(got.len() < tree.nar.len() && tree.nar.starts_with(&got));
}

#[tokio::test(start_paused = true)]
async fn nothing_of_a_nar_that_is_not_proven_leaves_before_its_hash_has() {
    let net = Net::default();
    let (_, seeder) = peer(&net, 1, dies_after(2, open_gate())).await;
    let tree = varied(1);
    let hash = publish(&seeder, "there", &tree, Signed::ByNix).await;
    let engine = node(&net).await;
    let unproven = engine.nar(of_hash(&tree), Some(hash), BUDGET).await.unwrap().unwrap();
    assert!(!unproven.is_proven());
    assert!(unproven.open().await.is_err());

    let (_, other) = peer(&net, 2, honest()).await;
    publish(&other, "there", &tree, Signed::ByNix).await;
    let size = tree.nar.len() as u64;
    let unproven = engine.nar(of_hash(&tree), Some(hash), BUDGET).await.unwrap().unwrap();
    assert!(read(unproven, 0..size).await.unwrap() == tree.nar);
    assert!(nar(&engine, &of_hash(&tree)).await.is_proven());
}

#[tokio::test]
async fn what_was_not_admitted_is_absent_and_never_fetched() {
    let net = Net::default();
    let (_, seeder) = peer(&net, 1, honest()).await;
    let (tree, other) = (varied(1), varied(10));
    let hash = publish(&seeder, "there", &tree, Signed::ByNix).await;
    let engine = node(&net).await;
    let absent = async |name, path| engine.nar(name, path, BUDGET).await.unwrap().is_none();
    assert!(absent(NarName::Root(tree.root()), None).await);
    assert!(absent(of_hash(&tree), None).await);
    assert!(net.asked().is_empty());
    // Under a path, only what the path is believed to be; its root no signature covers.
    assert!(absent(NarName::Root(tree.root()), Some(hash)).await);
    assert!(absent(NarName::Root(other.root()), Some(hash)).await);
    assert!(absent(of_hash(&other), Some(hash)).await);
    assert_eq!(net.asked().len(), net.count(is_for_claims));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_all_of_a_nar_finds_it_committed() {
    let net = Net::default();
    let (_, seeder) = peer(&net, 1, honest()).await;
    for seed in 0..50 {
        let tree = tree(&[("file", noise(seed, 100))]);
        let hash = publish(&seeder, &format!("there-{seed}"), &tree, Signed::Attested).await;
        let engine = node(&net).await;
        let size = tree.nar.len() as u64;
        let nar = engine.nar(NarName::Root(tree.root()), Some(hash), BUDGET).await.unwrap().unwrap();
        let mut stream = nar.open().await.unwrap().read(0..size);
        let mut taken = 0;
        // Who knows the length does not ask for more than that.
        while taken < size {
            taken += stream.try_next().await.unwrap().unwrap().len() as u64;
        }
        drop(stream);
        assert_eq!((engine.paths().len(), engine.keys().len()), (1, 2));
        // Once when the first of it could be given to others, once when all was committed.
        assert_eq!(*engine.changes().borrow(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_small_files_come_in_few_pieces_and_large_ones_uncut() {
    let net = Net::default();
    let engine = node(&net).await;
    let names: Vec<String> = (0..2_000).map(|number| format!("{}/{number}", number % 7)).collect();
    let files = names.iter().zip(0..).map(|(name, seed)| (name.as_str(), noise(seed, 1_000)));
    let large = ("large", noise(1, 5_000_001));
    let tree = tree(&files.chain([large]).collect::<Vec<_>>());
    publish(&engine, "here", &tree, Signed::Not).await;
    let stream = nar(&engine, &of_hash(&tree)).await.open().await.unwrap().read(0..tree.nar.len() as u64);
    let pieces: Vec<Bytes> = stream.try_collect().await.unwrap();
    assert!(pieces.concat() == tree.nar);
    assert!(pieces.len() < 40, "{} pieces", pieces.len());
}

#[tokio::test]
async fn a_slow_reader_holds_reading_back() {
    let net = Net::default();
    let store = Arc::new(WatchedStore::default());
    let engine = open(&net, store.clone()).await;
    let tree = file(noise(1, 16 << 20));
    publish(&engine, "here", &tree, Signed::Not).await;
    store.bytes_read.store(0, Ordering::SeqCst);
    let mut stream = nar(&engine, &of_hash(&tree)).await.open().await.unwrap().read(0..tree.nar.len() as u64);
    let mut taken = 0;
    while let Some(chunk) = stream.try_next().await.unwrap() {
        taken += chunk.len() as u64;
        assert!(chunk.len() <= 2 << 20);
        assert!(store.bytes_read() <= taken + (2 << 20), "{} ahead of {taken}", store.bytes_read());
    }
    assert_eq!(taken, tree.nar.len() as u64);
}
