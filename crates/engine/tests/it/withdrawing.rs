//! What is no longer whole goes out of view, and can be had from peers again.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use firn_bao::{HashedBlob, Span};
use firn_castore::BlobRef;
use firn_engine::{Engine, EngineError, NarName, OpenNar};
use firn_nix::StorePathHash;
use firn_store::{Blobs, DiskStore, Item, MemoryStore, Reason, Store, Visible};
use futures::{StreamExt, TryStreamExt};

use crate::fakes::net::{Net, honest, is_for_contents};
use crate::fakes::tree::{Tree, noise, tree, varied};
use crate::fakes::{DEADLINE, Signed, facts, node, open, peer, publish, signed};

async fn open_nar(engine: &Engine, tree: &Tree) -> OpenNar {
    let name = NarName::Root(tree.root());
    engine.nar(name, None, Duration::ZERO).await.unwrap().unwrap().open().await.unwrap()
}

async fn read_whole(engine: &Engine, tree: &Tree) -> Vec<u8> {
    let stream = open_nar(engine, tree).await.read(0..tree.nar.len() as u64);
    stream.try_collect::<Vec<_>>().await.unwrap().concat()
}

/// What comes of a NAR, and the error that ends it.
async fn read_to_error(nar: OpenNar, tree: &Tree) -> (Vec<u8>, EngineError) {
    let mut stream = nar.read(0..tree.nar.len() as u64);
    let mut got = Vec::new();
    loop {
        match tokio::time::timeout(DEADLINE, stream.next()).await.unwrap().unwrap() {
            Ok(bytes) => got.extend_from_slice(&bytes),
            Err(error) => {
                assert!(stream.next().await.is_none());
                return (got, error);
            }
        }
    }
}

/// Whether both this machine and its peers see the path no longer.
fn is_out_of_view(engine: &Engine, hash: StorePathHash) -> bool {
    engine.path(&hash).is_none() && engine.keys().is_empty() && engine.store().path(&hash).unwrap().is_none()
}

#[tokio::test]
async fn what_is_lost_of_a_nar_while_it_is_read_comes_from_a_peer() {
    let net = Net::default();
    let (_, seeder) = peer(&net, 1, honest()).await;
    let store = Arc::new(MemoryStore::new());
    let engine = open(&net, store.clone()).await;
    let contents = noise(1, 3 << 20);
    let blobs = [noise(3, 60_000), contents.clone()].map(|contents| BlobRef::of(&contents));
    let tree = tree(&[("a", noise(2, 100)), ("b", noise(3, 60_000)), ("c", contents), ("d", noise(4, 9))]);
    let hash = publish(&seeder, "path", &tree, Signed::Attested).await;
    publish(&engine, "path", &tree, Signed::Attested).await;
    let reason: Reason = "wanted".parse().unwrap();
    engine.pin(&Visible::Path(hash), &reason).await.unwrap();

    let size = tree.nar.len() as u64;
    for range in [0..size, 100..size - 1, 1_000_000..1_000_001, 90_000..size] {
        let nar = open_nar(&engine, &tree).await;
        assert!(blobs.iter().all(|blob| store.damage_blob(&blob.digest)));
        let read = nar.read(range.clone()).try_collect::<Vec<_>>();
        let read = tokio::time::timeout(DEADLINE, read).await.unwrap().unwrap().concat();
        assert!(read == tree.nar[range.start as usize..range.end as usize], "{range:?}");
        engine.get_path(hash, &|_| {}).await.unwrap();
        assert!(tree.is_in(&*store) && engine.path(&hash).is_some());
        assert_eq!(engine.pins().await.unwrap(), [(Visible::Path(hash), reason.clone())].into());
    }
    assert!(net.count(is_for_contents) > 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_lost_and_nobody_has_ends_the_stream() {
    let store = Arc::new(MemoryStore::new());
    let engine = open(&Net::default(), store.clone()).await;
    let contents = noise(1, 3 << 20);
    let blob = BlobRef::of(&contents);
    let tree = tree(&[("a", noise(2, 100)), ("b", contents)]);
    let hash = publish(&engine, "path", &tree, Signed::Attested).await;
    let reason: Reason = "wanted".parse().unwrap();
    engine.pin(&Visible::Path(hash), &reason).await.unwrap();
    let mut changes = engine.changes();
    changes.mark_unchanged();
    let nar = open_nar(&engine, &tree).await;
    assert!(store.damage_blob(&blob.digest));
    let (got, error) = read_to_error(nar, &tree).await;
    assert!(error.to_string().contains(&format!("no longer whole here: blob {}", blob.digest)), "{error}");
    assert!(tree.nar.starts_with(&got) && got.len() < tree.nar.len());
    assert!(is_out_of_view(&engine, hash) && changes.has_changed().unwrap());
    assert_eq!(engine.pins().await.unwrap(), [(Visible::Path(hash), reason)].into());
}

#[tokio::test]
async fn what_was_lost_is_found_missing_before_anything_is_given_away() {
    for by_reading in [true, false] {
        let net = Net::default();
        let (_, seeder) = peer(&net, 1, honest()).await;
        let engine = node(&net).await;
        let contents = noise(1, 1 << 20);
        let tree = tree(&[("a", noise(2, 100)), ("b", contents.clone())]);
        publish(&seeder, "path", &tree, Signed::Attested).await;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        adopt_file(&engine, &file, &contents, &tree);
        let hash = *facts("path", &tree, &[]).path.hash();
        engine.get_path(hash, &|_| {}).await.unwrap();
        engine.pin(&Visible::Path(hash), &Reason::adopted()).await.unwrap();
        assert_eq!(net.count(is_for_contents), 0, "all of it was here");
        std::fs::remove_file(&file).unwrap();
        if by_reading {
            assert!(read_whole(&engine, &tree).await == tree.nar);
        }
        engine.get_path(hash, &|_| {}).await.unwrap();
        assert!(tree.is_in(&**engine.store()) && engine.path(&hash).is_some());
        assert!(engine.pins().await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn all_that_has_the_lost_blob_is_withdrawn_and_nothing_else() {
    let net = Net::default();
    let store = Arc::new(MemoryStore::new());
    let engine = open(&net, store.clone()).await;
    let contents = noise(1, 50_000);
    let lost = BlobRef::of(&contents);
    let one = tree(&[("deep/er/common", contents.clone())]);
    let two = tree(&[("common", contents.clone()), ("other", noise(2, 100))]);
    let loose = tree(&[("common", contents)]);
    let (whole, mut wanted) = (varied(1), Vec::new());
    for (name, tree) in [("one", &one), ("two", &two)] {
        wanted.push(Visible::Path(publish(&engine, name, tree, Signed::Not).await));
    }
    loose.keep(&*store);
    engine.commit_root(loose.root(), true, None).await.unwrap();
    wanted.push(Visible::Root(loose.root()));
    let left = publish(&engine, "left", &whole, Signed::Not).await;
    assert!(engine.withdraw_lost().await.unwrap().is_empty());

    store.damage_blob(&lost.digest);
    assert!(store.read_span(&lost, Span::whole(lost.size)).is_err());
    let withdrawn = engine.withdraw_lost().await.unwrap();
    assert!(withdrawn.iter().all(|withdrawn| withdrawn.lost == Item::Blob(lost.digest)));
    assert!(
        withdrawn
            .iter()
            .all(|withdrawn| withdrawn.path.is_some() == matches!(withdrawn.what, Visible::Path(_)))
    );
    let mut what: Vec<_> = withdrawn.into_iter().map(|withdrawn| withdrawn.what).collect();
    what.sort();
    wanted.sort();
    assert_eq!(what, wanted);
    assert_eq!(engine.paths().len(), 1);
    assert!(engine.path(&left).is_some() && engine.withdraw_lost().await.unwrap().is_empty());
    assert_eq!(engine.keys().len(), 2);
}

/// Puts a tree into the store, of which this file stays where it is.
fn adopt_file(engine: &Engine, file: &Path, contents: &[u8], tree: &Tree) {
    std::fs::write(file, contents).unwrap();
    tree.keep_all_but(&**engine.store(), contents);
    engine.store().adopt_blob(file, &HashedBlob::of(contents)).unwrap();
}

async fn adopt(engine: &Engine, file: &Path, contents: &[u8], tree: &Tree) -> StorePathHash {
    adopt_file(engine, file, contents, tree);
    let facts = facts("path", tree, &[]);
    let hash = *facts.path.hash();
    engine.commit(signed(facts, Signed::Attested), true, Some(Reason::adopted())).await.unwrap();
    hash
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adopted_file_that_is_cut_off_while_it_is_read() {
    for on_disk in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = match on_disk {
            true => Arc::new(DiskStore::open(&dir.path().join("store")).unwrap()),
            false => Arc::new(MemoryStore::new()),
        };
        let net = Net::default();
        let (_, seeder) = peer(&net, 1, honest()).await;
        let contents = noise(1, 16 << 20);
        let tree = tree(&[("a", noise(2, 100)), ("b", contents.clone())]);
        let engine = open(&net, store.clone()).await;
        let file = dir.path().join("file");
        let hash = adopt(&engine, &file, &contents, &tree).await;
        publish(&seeder, "path", &tree, Signed::Attested).await;

        let mut stream = open_nar(&engine, &tree).await.read(0..tree.nar.len() as u64);
        let mut got = stream.next().await.unwrap().unwrap().to_vec();
        std::fs::File::options().write(true).open(&file).unwrap().set_len(1 << 20).unwrap();
        let rest = tokio::time::timeout(DEADLINE, stream.try_collect::<Vec<_>>()).await.unwrap().unwrap();
        got.extend(rest.concat());
        assert!(got == tree.nar);
        assert!(tree.is_in(&*store) && engine.path(&hash).is_some());
        assert!(engine.pins().await.unwrap().is_empty(), "what is adopted is pinned by its files alone");
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_user_has_added_does_not_come_back_as_what_others_say() {
    let net = Net::default();
    let store = Arc::new(MemoryStore::new());
    let engine = open(&net, store.clone()).await;
    let (_, seeder) = peer(&net, 1, honest()).await;
    let contents = noise(1, 50_000);
    let tree = tree(&[("file", contents.clone())]);
    tree.keep(&**seeder.store());
    seeder.commit_root(tree.root(), true, None).await.unwrap();
    let hash = publish(&engine, "mine", &tree, Signed::Not).await;
    store.damage_blob(&BlobRef::of(&contents).digest);
    let name = NarName::Root(tree.root());
    let nar = engine.nar(name, None, Duration::ZERO).await.unwrap().unwrap();
    assert!(matches!(nar.open().await, Err(EngineError::NotFound)));
    assert!(is_out_of_view(&engine, hash));

    let contents = noise(2, 3 << 20);
    let large = self::tree(&[("file", contents.clone())]);
    let hash = publish(&engine, "mine", &large, Signed::Not).await;
    let nar = open_nar(&engine, &large).await;
    store.damage_blob(&BlobRef::of(&contents).digest);
    let (_, error) = read_to_error(nar, &large).await;
    assert!(matches!(&error, EngineError::Gone { path, .. } if path.hash() == &hash), "{error}");
    assert!(error.to_string().contains("-mine is no longer whole here"), "{error}");
    assert!(is_out_of_view(&engine, hash));
    assert!(node(&net).await.get_path(hash, &|_| {}).await.is_err());
}
