//! What goes, and what stays.

use std::sync::Arc;
use std::time::Duration;

use firn_castore::Root;
use firn_engine::{Engine, NarName};
use firn_exchange::Key;
use firn_nix::{NarHash, StorePathHash};
use firn_store::{MemoryStore, Paths, Reason, Room, UnixSeconds, Visible};
use futures::TryStreamExt;

use crate::fakes::net::{Net, honest};
use crate::fakes::tree::{Tree, noise, tree, varied};
use crate::fakes::{Signed, facts, node, open, peer, publish, signed};

fn is_found(engine: &Engine, root: &Root) -> Option<StorePathHash> {
    engine.path_of_root(root).map(|path| *path.facts().path.hash())
}

async fn nar_is_found(engine: &Engine, tree: &Tree) -> bool {
    let name = NarName::Hash(NarHash::of(&tree.nar));
    engine.nar(name, None, Duration::ZERO).await.unwrap().is_some()
}

#[tokio::test]
async fn of_two_paths_with_one_tree_the_other_is_still_found() {
    let net = Net::default();
    let store = Arc::new(MemoryStore::new());
    let engine = open(&net, store.clone()).await;
    let tree = varied(1);
    let first = publish(&engine, "first", &tree, Signed::Attested).await;
    let second = publish(&engine, "second", &tree, Signed::Attested).await;
    for (gone, left) in [(first, Some(second)), (second, None)] {
        assert!(is_found(&engine, &tree.root()).is_some() && nar_is_found(&engine, &tree).await);
        let mut changes = engine.changes();
        changes.mark_unchanged();
        assert!(engine.remove(&Visible::Path(gone)).await.unwrap());
        assert!(changes.has_changed().unwrap());
        assert!(!engine.remove(&Visible::Path(gone)).await.unwrap());
        assert!(engine.path(&gone).is_none() && store.path(&gone).unwrap().is_none());
        assert_eq!(is_found(&engine, &tree.root()), left);
        assert_eq!(nar_is_found(&engine, &tree).await, left.is_some());
        let keys = left.map(|left| vec![Key::Path(left), Key::Root(tree.root())]);
        assert_eq!(engine.keys(), keys.unwrap_or_default());
    }
    assert!(open(&net, store).await.paths().is_empty());
}

#[tokio::test(start_paused = true)]
async fn peers_get_what_overlaps_as_long_as_something_has_it() {
    let net = Net::default();
    let (_, owner) = peer(&net, 1, honest()).await;
    let common = ("common", noise(1, 30_000));
    let one = tree(&[common.clone(), ("one", noise(2, 30_000))]);
    let two = tree(&[common, ("two", noise(3, 30_000))]);
    let gone = publish(&owner, "one", &one, Signed::Attested).await;
    let left = publish(&owner, "two", &two, Signed::Attested).await;
    one.keep(&**owner.store());
    owner.commit_root(one.root(), true, None).await.unwrap();

    assert!(owner.remove(&Visible::Path(gone)).await.unwrap());
    node(&net).await.get_root(one.root(), &|_| {}).await.unwrap();
    assert!(node(&net).await.get_path(gone, &|_| {}).await.is_err());
    assert!(owner.remove(&Visible::Root(one.root())).await.unwrap());
    let engine = node(&net).await;
    assert!(engine.get_root(one.root(), &|_| {}).await.is_err());
    engine.get_path(left, &|_| {}).await.unwrap();
    assert!(two.is_in(&**engine.store()));
    assert_eq!(owner.keys(), [Key::Path(left), Key::Root(two.root())]);
}

#[tokio::test]
async fn another_tree_of_the_same_path_takes_the_place_of_the_first() {
    let net = Net::default();
    let engine = node(&net).await;
    let (old, new) = (varied(1), varied(10));
    let hash = publish(&engine, "path", &old, Signed::Attested).await;
    publish(&engine, "path", &new, Signed::Attested).await;
    assert_eq!(engine.keys(), [Key::Path(hash), Key::Root(new.root())]);
    assert_eq!(is_found(&engine, &old.root()), None);
    assert!(!nar_is_found(&engine, &old).await && nar_is_found(&engine, &new).await);
}

#[tokio::test]
async fn what_is_collected_is_what_nothing_visible_needs() {
    let net = Net::default();
    let engine = node(&net).await;
    let (gone, left) = (varied(1), varied(10));
    let hash = publish(&engine, "gone", &gone, Signed::Not).await;
    publish(&engine, "left", &left, Signed::Not).await;
    engine.remove(&Visible::Path(hash)).await.unwrap();
    let told = engine.collect(None, true).await.unwrap();
    assert!(gone.is_in(&**engine.store()), "a dry run only tells");
    let done = engine.collect(None, false).await.unwrap();
    assert_eq!(done, told);
    // An empty file, and one of five zeros, both trees have.
    assert_eq!((done.evicted.len(), done.collected.blobs), (0, 3));
    assert!(!gone.is_in(&**engine.store()) && left.is_in(&**engine.store()));
}

#[tokio::test]
async fn what_was_used_least_recently_goes_and_what_is_pinned_stays() {
    let net = Net::default();
    let store = Arc::new(MemoryStore::new());
    let engine = open(&net, store.clone()).await;
    let mut all = Vec::new();
    for seed in 0..4 {
        let tree = tree(&[("file", noise(seed, 100_000))]);
        let hash = publish(&engine, &format!("path-{seed}"), &tree, Signed::Attested).await;
        let what = Visible::Path(hash);
        store.used(&what, UnixSeconds(1_000 - seed)).unwrap();
        all.push((tree, hash, what));
    }
    engine.pin(&all[3].2, &"wanted".parse().unwrap()).await.unwrap();
    let told = engine.collect(Some(250_000), true).await.unwrap();
    assert_eq!((engine.paths().len(), told.collected.blobs), (4, 0));
    let mut changes = engine.changes();
    changes.mark_unchanged();
    let done = engine.collect(Some(250_000), false).await.unwrap();
    assert_eq!(done.evicted, told.evicted);
    assert!(done.is_enough && done.bytes_left.unwrap() < 250_000 && done.evicted_bytes > 200_000);
    let names: Vec<_> =
        done.evicted.iter().map(|gone| gone.path.as_ref().unwrap().name().to_owned()).collect();
    assert_eq!(names, ["path-2", "path-1"], "the least recently used first");
    assert_eq!(done.evicted[0].used, Some(UnixSeconds(998)));
    assert_eq!(done.collected.blobs, 2);
    for (seed, (tree, hash, _)) in all.iter().enumerate() {
        let stays = seed == 0 || seed == 3;
        assert_eq!((engine.path(hash).is_some(), tree.is_in(&*store)), (stays, stays), "{seed}");
    }
    assert_eq!(engine.keys().len(), 4);
    assert!(changes.has_changed().unwrap());

    let done = engine.collect(Some(0), false).await.unwrap();
    assert!(!done.is_enough && done.evicted.len() == 1 && engine.path(&all[3].1).is_some());
}

#[tokio::test]
async fn what_is_being_read_is_read_to_its_end_although_it_goes() {
    let net = Net::default();
    let engine = node(&net).await;
    let tree = varied(1);
    let hash = publish(&engine, "here", &tree, Signed::Not).await;
    let name = NarName::Root(tree.root());
    let nar = engine.nar(name, None, Duration::ZERO).await.unwrap().unwrap();
    let stream = nar.open().await.unwrap().read(0..tree.nar.len() as u64);
    engine.remove(&Visible::Path(hash)).await.unwrap();
    engine.collect(None, false).await.unwrap();
    let pieces: Vec<bytes::Bytes> = stream.try_collect().await.unwrap();
    assert!(pieces.concat() == tree.nar);
    engine.collect(None, false).await.unwrap();
    assert!(!tree.is_in(&**engine.store()));
}

#[tokio::test]
async fn pins_come_with_a_commit_or_by_themselves() {
    let net = Net::default();
    let engine = node(&net).await;
    let tree = varied(1);
    let facts = facts("here", &tree, &[]);
    let what = Visible::Path(*facts.path.hash());
    tree.keep(&**engine.store());
    engine.commit(signed(facts, Signed::Not), false, Some(Reason::added())).await.unwrap();
    let other = Visible::Root(tree.root());
    let reason: Reason = "the release".parse().unwrap();
    engine.pin(&other, &reason).await.unwrap();
    let pins = engine.pins().await.unwrap();
    assert_eq!(pins, [(what.clone(), Reason::added()), (other.clone(), reason)].into());
    assert!(engine.unpin(&other).await.unwrap() && !engine.unpin(&other).await.unwrap());
    assert!(engine.remove(&what).await.unwrap());
    assert!(engine.pins().await.unwrap().is_empty());
}
