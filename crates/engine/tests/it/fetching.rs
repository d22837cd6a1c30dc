//! Paths, closures and trees come here, and stay.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use firn_bao::Span;
use firn_castore::Root;
use firn_engine::{EngineError, Resolved};
use firn_exchange::{Fellow, Limits, Micros, Rejection, Request};
use firn_store::{Blobs, Directories, DiskStore, MemoryStore, Paths, Visible, conformance};
use firn_trust::Ground;

use crate::fakes::net::{
    Net, dies_after, honest, is_for_closure, is_for_contents, open_gate, silent_on, waits_with_contents,
};
use crate::fakes::tree::{file, noise, tree, varied};
use crate::fakes::{Signed, add, facts, key, node, open, open_with, peer, publish, signed};
use crate::store::WatchedStore;

#[tokio::test]
async fn a_fetched_path_is_whole_and_still_there_after_a_restart() {
    for (how, ground) in [(Signed::Attested, Ground::Attested), (Signed::ByNix, Ground::NarMatch)] {
        let net = Net::default();
        let (_, seeder) = peer(&net, 1, honest()).await;
        let tree = varied(1);
        let hash = publish(&seeder, "there", &tree, how).await;
        let store = Arc::new(MemoryStore::new());
        let engine = open(&net, store.clone()).await;
        let mut changes = engine.changes();
        let fetched = engine.get_path(hash, &|_| {}).await.unwrap();
        assert_eq!(fetched.path.unwrap().ground(), ground);
        assert_eq!(fetched.closure.root(), &tree.root());
        assert!(tree.is_in(&*store));
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        let [(_, entry)] = &engine.peers()[..] else { panic!("one peer") };
        assert!(entry.lies.is_empty() && entry.failed == 0);
        assert_eq!(entry.bytes, tree.closure.blobs().iter().map(|blob| blob.size).sum::<u64>());

        // A second time nobody is asked, and neither after a restart.
        let asked = net.asked().len();
        engine.get_path(hash, &|_| {}).await.unwrap();
        let restarted = open(&net, store).await;
        let resolved = restarted.resolve(hash, Duration::ZERO).await.unwrap().unwrap();
        assert!(matches!(resolved, Resolved::Proven(path) if path.ground() == ground));
        restarted.get_path(hash, &|_| {}).await.unwrap();
        assert_eq!((restarted.paths().len(), restarted.paths_refused()), (1, 0));
        assert_eq!(net.asked().len(), asked);
    }
}

#[tokio::test]
async fn a_fetched_path_is_given_on() {
    let net = Net::default();
    let (first, seeder) = peer(&net, 1, honest()).await;
    let tree = varied(1);
    let hash = publish(&seeder, "there", &tree, Signed::ByNix).await;
    let (_, relay) = peer(&net, 2, honest()).await;
    relay.get_path(hash, &|_| {}).await.unwrap();
    net.leave(&first);
    let engine = node(&net).await;
    engine.get_path(hash, &|_| {}).await.unwrap();
    assert!(tree.is_in(&**engine.store()));
}

#[tokio::test]
async fn progress_is_told_to_its_end() {
    let net = Net::default();
    let (id, seeder) = peer(&net, 1, honest()).await;
    let tree = varied(1);
    let hash = publish(&seeder, "there", &tree, Signed::Attested).await;
    let engine = node(&net).await;
    let last = std::sync::Mutex::new(None);
    engine.get_path(hash, &|progress| *last.lock().unwrap() = Some(progress.clone())).await.unwrap();
    let last = last.into_inner().unwrap().unwrap();
    let bytes = tree.closure.blobs().iter().map(|blob| blob.size).sum::<u64>();
    assert_eq!((last.bytes_done, last.bytes_total, last.blobs_total), (bytes, bytes, 5));
    assert_eq!(last.givers, [(id, bytes)]);
}

#[tokio::test]
async fn a_closure_comes_with_all_its_references() {
    let net = Net::default();
    let (_, seeder) = peer(&net, 1, honest()).await;
    let (data, library, app) = (varied(1), varied(10), varied(20));
    let data_facts = facts("data", &data, &[]);
    let library_facts = facts("library", &library, &[&data_facts.path]);
    let app_path = facts("app", &app, &[]).path;
    // It refers to itself, too, as most programs do.
    let app_facts = facts("app", &app, &[&data_facts.path, &library_facts.path, &app_path]);
    for (tree, facts) in [(&data, data_facts), (&library, library_facts), (&app, app_facts)] {
        add(&seeder, tree, signed(facts, Signed::ByNix)).await;
    }
    let engine = node(&net).await;
    let all = engine.get_closure(*app_path.hash(), &|_, _| {}).await.unwrap();
    let names: BTreeSet<String> =
        all.iter().map(|fetched| fetched.path.as_ref().unwrap().facts().path.name().to_owned()).collect();
    assert_eq!(all.len(), 3);
    assert_eq!(names, BTreeSet::from(["app", "data", "library"].map(String::from)));
    assert!([data, library, app].iter().all(|tree| tree.is_in(&**engine.store())));
}

#[tokio::test]
async fn a_closure_without_one_of_its_references_names_it() {
    let net = Net::default();
    let (_, seeder) = peer(&net, 1, honest()).await;
    let missing = facts("missing", &file(b"none".to_vec()), &[]).path;
    let app = varied(1);
    let app_facts = facts("app", &app, &[&missing]);
    let hash = *app_facts.path.hash();
    add(&seeder, &app, signed(app_facts, Signed::Attested)).await;
    let error = node(&net).await.get_closure(hash, &|_, _| {}).await.unwrap_err();
    let EngineError::Reference { path, source } = error else { panic!("{error}") };
    assert_eq!(path, missing);
    assert!(matches!(*source, EngineError::NotFound));
}

#[tokio::test]
async fn a_root_needs_no_signature() {
    let net = Net::default();
    let (_, seeder) = peer(&net, 1, honest()).await;
    let store = Arc::new(MemoryStore::new());
    let engine = open(&net, store.clone()).await;
    for tree in [varied(1), file(noise(5, 200_000)), file(Vec::new())] {
        tree.keep(&**seeder.store());
        seeder.commit_root(tree.root(), true, None).await.unwrap();
        // An empty blob is everywhere.
        let is_local = tree.is_in(&*store);
        let fetched = engine.get_root(tree.root(), &|_| {}).await.unwrap();
        assert!(fetched.path.is_none());
        assert_eq!(fetched.closure.root(), &tree.root());
        assert!(tree.is_in(&*store));
        assert!(store.roots().unwrap().contains(&(tree.root(), !is_local)));
    }
}

#[tokio::test]
async fn a_symlink_root_is_complete_in_itself() {
    let net = Net::default();
    let target = b"target".as_slice().try_into().unwrap();
    let root = Root::from(firn_castore::Node::Symlink { target });
    node(&net).await.get_root(root, &|_| {}).await.unwrap();
    assert!(net.asked().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_nobody_has_is_not_found() {
    let net = Net::default();
    let engine = node(&net).await;
    let tree = varied(1);
    let error = engine.get_path([9; 20].into(), &|_| {}).await.unwrap_err();
    assert!(matches!(error, EngineError::NotFound), "{error}");
    let error = engine.get_root(tree.root(), &|_| {}).await.unwrap_err();
    assert!(matches!(error, EngineError::Rejected(Rejection::Undeliverable)), "{error}");
    let (_, seeder) = peer(&net, 1, honest()).await;
    let hash = publish(&seeder, "there", &tree, Signed::ByStranger).await;
    let error = engine.get_path(hash, &|_| {}).await.unwrap_err();
    assert!(matches!(error, EngineError::Untrusted), "{error}");
    let trusted = publish(&seeder, "trusted", &tree, Signed::Attested).await;
    engine.get_path(trusted, &|_| {}).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_dies_halfway_goes_on_elsewhere_and_keeps_what_it_has() {
    let net = Net::default();
    let (dying, first) = peer(&net, 1, dies_after(2, open_gate())).await;
    let tree = varied(1);
    let hash = publish(&first, "there", &tree, Signed::Attested).await;
    let engine = node(&net).await;
    let error = engine.get_path(hash, &|_| {}).await.unwrap_err();
    assert!(matches!(error, EngineError::Rejected(Rejection::Undeliverable)), "{error}");
    assert!(engine.paths().is_empty());
    let (_, bytes) = gifts(&engine)[0];
    assert!(bytes > 0);

    net.leave(&dying);
    let (second, other) = peer(&net, 2, honest()).await;
    publish(&other, "there", &tree, Signed::Attested).await;
    engine.get_path(hash, &|_| {}).await.unwrap();
    assert!(tree.is_in(&**engine.store()));
    let total: u64 = tree.closure.blobs().iter().map(|blob| blob.size).sum();
    let gifts = gifts(&engine);
    assert_eq!(gifts[0], (dying, bytes));
    assert!(gifts[1].0 == second && gifts[1].1 >= total - bytes);
    assert!(engine.peers().iter().all(|(_, entry)| entry.lies.is_empty()));
}

fn gifts(engine: &firn_engine::Engine) -> Vec<(firn_exchange::PeerId, u64)> {
    engine.peers().into_iter().map(|(peer, entry)| (peer, entry.bytes)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_deadline_ends_what_hangs() {
    let net = Net::default();
    let (_, seeder) = peer(&net, 1, silent_on(is_for_contents)).await;
    let hash = publish(&seeder, "there", &varied(1), Signed::Attested).await;
    let limits = Limits { deadline: Some(Micros::from_millis(5_000)), ..Limits::default() };
    let engine = open_with(&net, Arc::new(MemoryStore::new()), vec![key().public()], limits).await;
    let begun = tokio::time::Instant::now();
    let error = engine.get_path(hash, &|_| {}).await.unwrap_err();
    assert!(matches!(error, EngineError::TimedOut), "{error}");
    assert_eq!(begun.elapsed(), Duration::from_secs(5));
    net.until_under_way(|count| *count == 0).await;
}

#[tokio::test]
async fn all_who_want_one_thing_share_its_flight() {
    let net = Net::default();
    let (_, seeder) = peer(&net, 1, honest()).await;
    let hash = publish(&seeder, "there", &varied(1), Signed::ByNix).await;
    let engine = node(&net).await;
    let ignore = |_: &firn_engine::Progress| {};
    let wishes = (0..16).map(|_| engine.get_path(hash, &ignore));
    for fetched in futures::future::join_all(wishes).await {
        fetched.unwrap();
    }
    assert_eq!(net.count(is_for_closure), 1);
    let seen: Vec<_> = net.asked().into_iter().map(|(_, request)| request.encode(false)).collect();
    assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), seen.len(), "something was asked for twice");
}

#[tokio::test]
async fn a_flight_lasts_as_long_as_somebody_wants_it() {
    let net = Net::default();
    let (gate, opened) = tokio::sync::watch::channel(false);
    let (_, seeder) = peer(&net, 1, waits_with_contents(opened)).await;
    let hash = publish(&seeder, "there", &varied(1), Signed::Attested).await;
    let engine = node(&net).await;
    let wish = |engine: firn_engine::Engine| {
        tokio::spawn(async move { engine.get_path(hash, &|_| {}).await.map(|_| ()) })
    };
    let (first, second) = (wish(engine.clone()), wish(engine.clone()));
    net.until_under_way(|count| *count > 0).await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    second.abort();
    assert!(second.await.unwrap_err().is_cancelled());
    // Nobody is left: all requests are given up, though they were never answered.
    net.until_under_way(|count| *count == 0).await;
    assert!(engine.paths().is_empty());

    let (first, second) = (wish(engine.clone()), wish(engine.clone()));
    net.until_under_way(|count| *count > 0).await;
    first.abort();
    gate.send(true).unwrap();
    second.await.unwrap().unwrap();
    assert_eq!(engine.paths().len(), 1);
}

#[tokio::test]
async fn a_full_disk_ends_a_fetch_and_nothing_else() {
    let net = Net::default();
    let (_, seeder) = peer(&net, 1, honest()).await;
    let (tree, small) = (varied(1), tree(&[("file", noise(9, 10))]));
    let hash = publish(&seeder, "there", &tree, Signed::Attested).await;
    let store = Arc::new(WatchedStore::default());
    let engine = open(&net, store.clone()).await;
    let here = publish(&engine, "here", &small, Signed::Not).await;
    store.is_full.store(true, Ordering::SeqCst);
    let error = engine.get_path(hash, &|_| {}).await.unwrap_err();
    assert!(matches!(error, EngineError::Store(_)), "{error}");
    assert!(error.to_string().starts_with("blobs: "), "{error}");
    assert!(engine.resolve(here, Duration::ZERO).await.unwrap().is_some());
    assert!(engine.peers().iter().all(|(_, entry)| entry.lies.is_empty()));

    store.is_full.store(false, Ordering::SeqCst);
    engine.get_path(hash, &|_| {}).await.unwrap();
    assert!(tree.is_in(&*store));
}

#[tokio::test]
async fn a_panic_on_the_pool_is_an_error() {
    let engine = node(&Net::default()).await;
    let failed = engine.run_blocking(|| panic!("on purpose")).await;
    assert!(matches!(failed, Err(EngineError::Ending)));
    assert_eq!(engine.run_blocking(|| 7).await.unwrap(), 7);
}

#[tokio::test]
async fn what_came_before_a_fetch_broke_off_is_not_asked_for_again() {
    let scratch = tempfile::tempdir().unwrap();
    let contents = Bytes::from(noise(1, 8 << 20));
    let span = |start, end| Span::from_groups(start..end).unwrap();
    let here = [span(0, 3), span(100, 300)];
    {
        // What an earlier process has kept.
        let store = DiskStore::open(scratch.path()).unwrap();
        for part in here {
            store.keep_spans(&[conformance::span_of(&contents, part)]).unwrap();
        }
    }
    let net = Net::default();
    let (_, seeder) = peer(&net, 1, honest()).await;
    let tree = file(contents.into());
    let hash = publish(&seeder, "there", &tree, Signed::Attested).await;
    let store = Arc::new(DiskStore::open(scratch.path()).unwrap());
    let engine = open(&net, store.clone()).await;
    engine.get_path(hash, &|_| {}).await.unwrap();
    assert!(tree.is_in(&*store));
    let asked = net.asked().into_iter().filter_map(|(_, request)| match request {
        Request::Ranges { span, .. } => Some(span.groups()),
        _ => None,
    });
    let asked: BTreeSet<u64> = asked.flatten().collect();
    let missing: BTreeSet<u64> = (3..100).chain(300..512).collect();
    assert_eq!(asked, missing);
}

#[tokio::test]
async fn what_another_version_has_already_is_offered_and_not_sent_again() {
    let net = Net::default();
    let (_, seeder) = peer(&net, 1, honest()).await;
    let common = ("share/doc/common", noise(7, 100));
    let versions = [1, 2, 3].map(|seed| tree(&[common.clone(), ("bin/program", noise(seed, 500))]));
    let mut hashes = Vec::new();
    for (version, tree) in versions.iter().enumerate() {
        hashes.push(publish(&seeder, &format!("app-{version}.0"), tree, Signed::Attested).await);
    }
    let engine = node(&net).await;
    for (at, (hash, tree)) in hashes.iter().zip(&versions).enumerate() {
        if at == 2 {
            // What is out of view is offered no more.
            for earlier in &hashes[..2] {
                assert!(engine.remove(&Visible::Path(*earlier)).await.unwrap());
            }
        }
        let fetched = engine.get_path(*hash, &|_| {}).await.unwrap();
        assert_eq!(fetched.closure.root(), tree.closure.root());
        assert!(tree.is_in(&**engine.store()));
    }
    let offered = |(_, request): (_, Request)| match request {
        Request::Closure { known, .. } => Some(!known.is_empty()),
        _ => None,
    };
    let offers: Vec<bool> = net.asked().into_iter().filter_map(offered).collect();
    assert_eq!(offers, [false, true, false]);
}

#[tokio::test]
async fn directories_of_an_earlier_fetch_are_not_asked_for_again() {
    let net = Net::default();
    let (_, seeder) = peer(&net, 1, honest()).await;
    let tree = varied(3);
    let hash = publish(&seeder, "there", &tree, Signed::Attested).await;
    let store = Arc::new(MemoryStore::new());
    let directories: Vec<_> = tree.closure.directories().cloned().collect();
    store.keep_directories(&directories).unwrap();
    let engine = open(&net, store.clone()).await;
    engine.get_path(hash, &|_| {}).await.unwrap();
    assert!(tree.is_in(&*store));
    assert_eq!(net.count(is_for_closure), 0);
}

#[tokio::test]
async fn who_asks_for_what_is_being_fetched_is_asked_for_it() {
    let net = Net::default();
    let (gate, closed) = tokio::sync::watch::channel(false);
    let (_, seeder) = peer(&net, 1, waits_with_contents(closed)).await;
    let tree = varied(1);
    add(&seeder, &tree, signed(facts("there", &tree, &[]), Signed::Attested)).await;
    // Nobody who comes later is found.
    net.let_lookups_go_on();
    let engine = node(&net).await;
    let getting = tokio::spawn({
        let (engine, root) = (engine.clone(), tree.root());
        async move { engine.get_root(root, &|_| {}).await }
    });
    net.until_under_way(|requests| *requests > 0 && net.count(is_for_contents) > 0).await;
    let (id, fellow) = peer(&net, 2, honest()).await;
    add(&fellow, &tree, signed(facts("there", &tree, &[]), Signed::Attested)).await;
    let asker = || Fellow { peer: id, addresses: Vec::new() };
    engine.asked_for(&varied(2).root(), asker);
    assert_eq!(net.count_to(&id), 0, "it has asked for something else");
    engine.asked_for(&tree.root(), asker);
    getting.await.unwrap().unwrap();
    assert!(tree.is_in(&**engine.store()) && net.count_to(&id) > 0);
    drop(gate);
}
