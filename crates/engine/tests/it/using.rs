//! What counts as used, and how often the store hears of it.

use std::sync::Arc;
use std::time::Duration;

use firn_engine::NarName;
use firn_store::Visible;
use futures::TryStreamExt;

use crate::fakes::net::{Net, honest};
use crate::fakes::tree::varied;
use crate::fakes::{Signed, node, open, peer, publish};
use crate::store::WatchedStore;

#[tokio::test(start_paused = true)]
async fn a_use_is_noted_once_an_hour() {
    let net = Net::default();
    let store = Arc::new(WatchedStore::default());
    let engine = open(&net, store.clone()).await;
    let tree = varied(1);
    let hash = publish(&engine, "here", &tree, Signed::Attested).await;
    let used = [Visible::Path(hash)];
    assert!(store.take_used().is_empty());
    assert!(engine.resolve(hash, Duration::ZERO).await.unwrap().is_some());
    assert_eq!(store.take_used(), used);
    for minutes in [0, 30, 29] {
        tokio::time::advance(Duration::from_secs(minutes * 60)).await;
        engine.resolve(hash, Duration::ZERO).await.unwrap();
        engine.get_path(hash, &|_| {}).await.unwrap();
    }
    assert!(store.take_used().is_empty());
    tokio::time::advance(Duration::from_secs(60)).await;
    let nar = engine.nar(NarName::Root(tree.root()), None, Duration::ZERO).await.unwrap().unwrap();
    let _: Vec<_> = nar.open().await.unwrap().read(0..100).try_collect().await.unwrap();
    assert_eq!(store.take_used(), used);
}

#[tokio::test]
async fn what_peers_read_counts_as_used_and_so_does_what_has_just_come() {
    let net = Net::default();
    let (id, _) = peer(&net, 1, honest()).await;
    let store = Arc::new(WatchedStore::default());
    let owner = open(&net, store.clone()).await;
    net.join(id, &owner, honest());
    let (tree, loose) = (varied(1), varied(10));
    let hash = publish(&owner, "here", &tree, Signed::Attested).await;
    loose.keep(&*store);
    owner.commit_root(loose.root(), true, None).await.unwrap();
    assert!(store.take_used().is_empty());
    let engine = node(&net).await;
    engine.get_path(hash, &|_| {}).await.unwrap();
    assert_eq!(store.take_used(), [Visible::Path(hash)]);
    engine.get_root(loose.root(), &|_| {}).await.unwrap();
    assert_eq!(store.take_used(), [Visible::Root(loose.root())]);
    let uses = engine.store().uses().unwrap();
    assert_eq!(uses.into_keys().collect::<Vec<_>>(), [Visible::Path(hash), Visible::Root(loose.root())]);
}
