//! Which paths are in view here.

use std::sync::Arc;
use std::time::Duration;

use firn_exchange::Limits;
use firn_store::MemoryStore;

use crate::fakes::net::{Net, honest};
use crate::fakes::tree::varied;
use crate::fakes::{Signed, key, open, open_with, peer, publish, stranger};

#[tokio::test]
async fn a_path_goes_out_of_view_with_the_key_that_vouched_for_it() {
    let net = Net::default();
    let (id, seeder) = peer(&net, 1, honest()).await;
    let store = Arc::new(MemoryStore::new());
    let engine = open(&net, store.clone()).await;
    let mut hashes = Vec::new();
    for (seed, name, how) in [(1, "attested", Signed::Attested), (10, "signed", Signed::ByNix)] {
        let hash = publish(&seeder, name, &varied(seed), how).await;
        engine.get_path(hash, &|_| {}).await.unwrap();
        hashes.push(hash);
    }
    let added = publish(&engine, "added-here", &varied(20), Signed::Not).await;
    assert_eq!((engine.paths().len(), engine.paths_refused()), (3, 0));
    drop(engine);
    net.leave(&id);

    // What the user has added stays: it needs no key.
    let without = open_with(&net, store.clone(), vec![stranger().public()], Limits::default()).await;
    assert_eq!((without.paths().len(), without.paths_refused()), (1, 2));
    assert!(without.resolve(added, Duration::ZERO).await.unwrap().is_some());
    for hash in &hashes {
        assert!(without.resolve(*hash, Duration::ZERO).await.unwrap().is_none());
        assert!(without.get_path(*hash, &|_| {}).await.is_err());
    }
    assert_eq!(without.keys().len(), 2, "its path and its root");
    drop(without);

    let again = open_with(&net, store, vec![key().public()], Limits::default()).await;
    assert_eq!((again.paths().len(), again.paths_refused()), (3, 0));
}
