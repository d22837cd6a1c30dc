//! What peers may see.

use std::sync::Arc;

use firn_engine::EngineError;
use firn_exchange::{Key, Rejection};
use firn_store::{Item, MemoryStore, Paths, Pins, Reason, Room, Store, Visible};

use crate::fakes::net::{Net, honest};
use crate::fakes::tree::{Tree, varied};
use crate::fakes::{Signed, facts, node, open, peer, signed};

/// Signed by a key that all trust, so that nothing but its privacy keeps it here.
async fn add_private(engine: &firn_engine::Engine, tree: &Tree) -> firn_nix::StorePathHash {
    let facts = facts("private", tree, &[]);
    let hash = *facts.path.hash();
    tree.keep(&**engine.store());
    engine.commit(signed(facts, Signed::Attested), false, None).await.unwrap();
    hash
}

#[tokio::test(start_paused = true)]
async fn a_private_path_is_missing_to_every_peer() {
    let net = Net::default();
    let (_, owner) = peer(&net, 1, honest()).await;
    let tree = varied(1);
    let hash = add_private(&owner, &tree).await;
    assert!(owner.keys().is_empty());
    assert_eq!(owner.paths().len(), 1);
    let engine = node(&net).await;
    let error = engine.get_path(hash, &|_| {}).await.unwrap_err();
    assert!(matches!(error, EngineError::NotFound), "{error}");
    let error = engine.get_root(tree.root(), &|_| {}).await.unwrap_err();
    assert!(matches!(error, EngineError::Rejected(Rejection::Undeliverable)), "{error}");
    assert!(engine.peers().iter().all(|(_, entry)| entry.bytes == 0 && entry.asked > 0));
}

#[tokio::test]
async fn sharing_is_remembered_across_restarts() {
    let net = Net::default();
    let store = Arc::new(MemoryStore::new());
    let engine = open(&net, store.clone()).await;
    let (private, shared, rooted) = (varied(1), varied(10), varied(20));
    add_private(&engine, &private).await;
    let shared_hash = crate::fakes::publish(&engine, "shared", &shared, Signed::Attested).await;
    rooted.keep(&**engine.store());
    engine.commit_root(rooted.root(), true, None).await.unwrap();
    let mut keys = engine.keys();
    drop(engine);
    let mut again = open(&net, store).await.keys();
    let mut wanted = vec![Key::Path(shared_hash), Key::Root(shared.root()), Key::Root(rooted.root())];
    for keys in [&mut keys, &mut again, &mut wanted] {
        keys.sort();
    }
    assert_eq!((keys, again), (wanted.clone(), wanted));
}

#[tokio::test]
async fn what_peers_bring_does_not_share_what_is_private() {
    let net = Net::default();
    let (_, owner) = peer(&net, 1, honest()).await;
    let tree = varied(1);
    add_private(&owner, &tree).await;
    let shared = varied(10);
    crate::fakes::publish(&owner, "shared", &shared, Signed::Attested).await;
    let engine = node(&net).await;
    engine.get_root(shared.root(), &|_| {}).await.unwrap();
    assert!(engine.get_root(tree.root(), &|_| {}).await.is_err());
}

#[tokio::test]
async fn getting_what_is_here_shares_nothing() {
    let net = Net::default();
    let store = Arc::new(MemoryStore::new());
    let engine = open(&net, store.clone()).await;
    let (private, loose) = (varied(1), varied(10));
    add_private(&engine, &private).await;
    engine.get_root(private.root(), &|_| {}).await.unwrap();
    assert!(store.roots().unwrap().is_empty(), "it is visible as a path already");

    loose.keep(&*store);
    engine.get_root(loose.root(), &|_| {}).await.unwrap();
    assert_eq!(store.roots().unwrap(), [(loose.root(), false)]);
    assert!(engine.keys().is_empty());

    engine.commit_root(loose.root(), true, None).await.unwrap();
    engine.commit_root(loose.root(), false, None).await.unwrap();
    assert_eq!(store.roots().unwrap(), [(loose.root(), true)], "what was given away stays given away");
}

/// Makes a part of a tree absent, as damage that was found does.
fn lose_a_part(store: &dyn Store, tree: &Tree) {
    let closure = firn_store::closure(store, &tree.root()).unwrap().unwrap();
    let lost = closure.blobs().into_iter().max_by_key(|blob| blob.size).unwrap();
    store.quarantine(&Item::Blob(lost.digest)).unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_was_private_and_is_fetched_again_stays_private() {
    let net = Net::default();
    let (_, other) = peer(&net, 1, honest()).await;
    let tree = varied(1);
    crate::fakes::publish(&other, "private", &tree, Signed::Attested).await;
    let is_private = |engine: &firn_engine::Engine| {
        let store = engine.store();
        let shared = store.paths().unwrap().iter().any(|path| path.shared());
        engine.keys().is_empty() && !shared && store.roots().unwrap().iter().all(|(_, shared)| !shared)
    };
    // By its path, by its root, and by its path when an earlier process has withdrawn it.
    for how in ["path", "root", "restarted"] {
        let store = Arc::new(MemoryStore::new());
        let mut engine = open(&net, store.clone()).await;
        let hash = add_private(&engine, &tree).await;
        engine.pin(&Visible::Path(hash), &Reason::added()).await.unwrap();
        lose_a_part(&*store, &tree);
        if how == "restarted" {
            store.remove(&Visible::Path(hash)).unwrap();
            store.pin(&Visible::Path(hash), &Reason::added()).unwrap();
            engine = open(&net, store.clone()).await;
        }
        match how {
            "root" => drop(engine.get_root(tree.root(), &|_| {}).await.unwrap()),
            _ => drop(engine.get_path(hash, &|_| {}).await.unwrap()),
        }
        assert!(tree.is_in(&*store), "{how}");
        assert!(is_private(&engine), "{how}");
        assert!(is_private(&open(&net, store).await), "{how}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_shared_and_is_fetched_again_stays_shared() {
    let net = Net::default();
    let (_, other) = peer(&net, 1, honest()).await;
    let tree = varied(1);
    crate::fakes::publish(&other, "shared", &tree, Signed::Attested).await;
    let store = Arc::new(MemoryStore::new());
    let engine = open(&net, store.clone()).await;
    let hash = crate::fakes::publish(&engine, "shared", &tree, Signed::Attested).await;
    engine.pin(&Visible::Path(hash), &Reason::added()).await.unwrap();
    lose_a_part(&*store, &tree);
    engine.get_path(hash, &|_| {}).await.unwrap();
    assert_eq!(engine.keys(), [Key::Path(hash), Key::Root(tree.root())]);
}
