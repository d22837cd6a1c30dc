//! Peers that are silent, die or lie.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use firn_castore::BlobRef;
use firn_exchange::Request::Batch;
use firn_store::MemoryStore;
use http_body_util::BodyExt;
use tokio::sync::watch;
use tokio::time::Instant;
use tower::ServiceExt;

use crate::fakes::net::{
    Net, busy_with, comes_and_goes, dies_after, honest, is_for_claims, is_for_closure, is_for_contents,
    open_gate, silent_on, spoils_contents,
};
use crate::fakes::tree::{file, noise, tree, varied};
use crate::fakes::{Signed, add, facts, node, open, peer, publish, signed, with_root};
use crate::http::{BUDGET, gateway, get, nar_url, router};

#[tokio::test(start_paused = true)]
async fn a_miss_takes_the_budget_at_most() {
    let net = Net::default();
    let engine = node(&net).await;
    let url = "/00000000000000000000000000000000.narinfo";
    let begun = Instant::now();
    assert_eq!(get(&router(&engine), url).await.status, StatusCode::NOT_FOUND);
    assert_eq!(begun.elapsed(), Duration::ZERO, "nobody is there to be waited for");

    let (_, seeder) = peer(&net, 1, silent_on(is_for_claims)).await;
    let hash = publish(&seeder, "there", &varied(1), Signed::Attested).await;
    for url in [format!("/{hash}.narinfo"), format!("/nar/{}.nar?path={hash}", "0".repeat(52))] {
        let engine = node(&net).await;
        let begun = Instant::now();
        assert_eq!(get(&router(&engine), &url).await.status, StatusCode::NOT_FOUND);
        assert_eq!(begun.elapsed(), BUDGET);
        assert_eq!(get(&router(&engine), &url).await.status, StatusCode::NOT_FOUND);
        assert_eq!(begun.elapsed(), BUDGET, "who is silent is not waited for again");
    }
}

#[tokio::test(start_paused = true)]
async fn the_budget_is_asked_for_each_time() {
    let net = Net::default();
    net.let_lookups_go_on();
    let (budget, now) = watch::channel(Duration::ZERO);
    let mut gateway = gateway(&node(&net).await);
    gateway.config.budget = Arc::new(move || *now.borrow());
    let router = gateway.router();
    for wanted in [Duration::ZERO, Duration::from_secs(5), Duration::from_millis(300), Duration::ZERO] {
        budget.send_replace(wanted);
        let begun = Instant::now();
        let answer = get(&router, "/00000000000000000000000000000000.narinfo").await;
        assert_eq!((answer.status, begun.elapsed()), (StatusCode::NOT_FOUND, wanted));
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_opened_is_missing() {
    let cases: [fn(&firn_exchange::Request) -> bool; 3] =
        [is_for_closure, is_for_contents, |request| is_for_closure(request) || is_for_contents(request)];
    for (is_of_kind, is_busy) in cases.into_iter().flat_map(|kind| [(kind, false), (kind, true)]) {
        for tree in [varied(1), file(noise(1, 10))] {
            let net = Net::default();
            let manner = if is_busy { busy_with(is_of_kind) } else { silent_on(is_of_kind) };
            let (id, seeder) = peer(&net, 1, manner).await;
            let hash = publish(&seeder, "there", &tree, Signed::Attested).await;
            let router = router(&node(&net).await);
            let url = nar_url(&router, hash).await;
            let has_all = tree.closure.directories().next().is_none() && !is_of_kind(&Batch(Vec::new()));
            let expected = if has_all { StatusCode::OK } else { StatusCode::NOT_FOUND };
            assert_eq!(get(&router, &url).await.status, expected);
            net.leave(&id);
            assert_eq!(get(&router, &url).await.status, expected);
            assert_eq!(get(&router, &format!("/{hash}.narinfo")).await.status, expected);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_peer_that_has_gone_named_is_missing_at_once() {
    let (net, (away, is_away)) = (Net::default(), watch::channel(false));
    let (_, seeder) = peer(&net, 1, comes_and_goes(is_away)).await;
    let router = router(&node(&net).await);
    for (name, tree, how) in [
        ("attested", varied(1), Signed::Attested),
        ("attested-file", file(noise(2, 10)), Signed::Attested),
        ("signed", varied(3), Signed::ByNix),
        ("signed-file", file(noise(4, 10)), Signed::ByNix),
    ] {
        let hash = publish(&seeder, name, &tree, how).await;
        let url = nar_url(&router, hash).await;
        away.send_replace(true);
        let begun = Instant::now();
        for url in [&url, &format!("/{hash}.narinfo"), &url] {
            assert_eq!(get(&router, url).await.status, StatusCode::NOT_FOUND);
        }
        assert_eq!(begun.elapsed(), Duration::ZERO);
        away.send_replace(false);
        assert_eq!(nar_url(&router, hash).await, url);
        assert!(get(&router, &url).await.body == tree.nar);
    }
}

#[tokio::test]
async fn a_nar_without_contents_is_not_waited_for() {
    let net = Net::default();
    let (_, seeder) = peer(&net, 1, honest()).await;
    let router = router(&node(&net).await);
    for (name, tree) in
        [("links", tree(&[])), ("void", file(Vec::new())), ("voids", tree(&[("a", Vec::new())]))]
    {
        let hash = publish(&seeder, name, &tree, Signed::Attested).await;
        let url = nar_url(&router, hash).await;
        assert!(get(&router, &url).await.body == tree.nar, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_unproven_nar_that_does_not_come_whole_is_missing() {
    let net = Net::default();
    let (_, seeder) = peer(&net, 1, dies_after(2, open_gate())).await;
    let hash = publish(&seeder, "there", &varied(1), Signed::ByNix).await;
    let router = router(&node(&net).await);
    let url = nar_url(&router, hash).await;
    assert_eq!(get(&router, &url).await.status, StatusCode::NOT_FOUND);
}

/// Reads a body to its end, whole or not.
async fn read(router: &axum::Router, url: &str, on_first: impl FnOnce()) -> (Vec<u8>, bool) {
    let response = router
        .clone()
        .oneshot(Request::get(url).header("host", "localhost").body(Body::empty()).unwrap())
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let (mut body, mut bytes, mut on_first) = (response.into_body(), Vec::new(), Some(on_first));
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return (bytes, false) };
        bytes.extend_from_slice(&frame.into_data().unwrap());
        if let Some(on_first) = on_first.take() {
            on_first();
        }
    }
    (bytes, true)
}

#[tokio::test]
async fn a_nar_whose_only_giver_dies_is_broken_off() {
    let net = Net::default();
    let (gate, opened) = watch::channel(false);
    let (_, seeder) = peer(&net, 1, dies_after(2, opened)).await;
    let tree = varied(1);
    let hash = publish(&seeder, "there", &tree, Signed::Attested).await;
    let router = router(&node(&net).await);
    let url = nar_url(&router, hash).await;
    let (bytes, is_whole) = read(&router, &url, || gate.send(true).unwrap()).await;
    assert!(!is_whole);
    assert!(bytes.len() < tree.nar.len() && tree.nar.starts_with(&bytes));

    // Whoever has it, once they are there, gives the rest.
    let (_, other) = peer(&net, 2, honest()).await;
    publish(&other, "there", &tree, Signed::Attested).await;
    assert!(get(&router, &url).await.body == tree.nar);
}

#[tokio::test]
async fn what_is_not_whole_any_longer_is_missing() {
    let net = Net::default();
    let store = Arc::new(MemoryStore::new());
    let engine = open(&net, store.clone()).await;
    let contents = noise(1, 3 << 20);
    let blob = BlobRef::of(&contents);
    let tree = tree(&[("a", noise(2, 1 << 20)), ("b", contents)]);
    let hash = publish(&engine, "here", &tree, Signed::Not).await;
    let router = router(&engine);
    let url = nar_url(&router, hash).await;
    assert!(store.damage_blob(&blob.digest));
    for url in [url, format!("/{hash}.narinfo")] {
        assert_eq!(get(&router, &url).await.status, StatusCode::NOT_FOUND, "{url}");
    }
}

#[tokio::test]
async fn a_nar_that_is_damaged_while_it_is_sent_is_broken_off() {
    let net = Net::default();
    let store = Arc::new(MemoryStore::new());
    let engine = open(&net, store.clone()).await;
    let contents = noise(1, 100_000);
    let blob = BlobRef::of(&contents);
    let tree = tree(&[("a", noise(2, 8 << 20)), ("b", contents)]);
    let hash = publish(&engine, "here", &tree, Signed::Not).await;
    let router = router(&engine);
    let url = nar_url(&router, hash).await;
    let (bytes, is_whole) = read(&router, &url, || assert!(store.damage_blob(&blob.digest))).await;
    assert!(!is_whole && !bytes.is_empty() && tree.nar.starts_with(&bytes));
    assert_eq!(get(&router, &format!("/{hash}.narinfo")).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn of_a_liar_and_an_honest_peer_the_truth_comes_out() {
    for how in [Signed::Attested, Signed::ByNix] {
        let net = Net::default();
        let (liar, false_friend) = peer(&net, 1, spoils_contents()).await;
        let (_, seeder) = peer(&net, 2, honest()).await;
        let tree = varied(1);
        let hash = publish(&false_friend, "there", &tree, how).await;
        publish(&seeder, "there", &tree, how).await;
        let engine = node(&net).await;
        let router = router(&engine);
        let url = nar_url(&router, hash).await;
        assert!(get(&router, &url).await.body == tree.nar);
        let liars: Vec<_> = engine.peers().into_iter().filter(|(_, entry)| !entry.lies.is_empty()).collect();
        assert!(matches!(&liars[..], [(id, _)] if *id == liar), "{liars:?}");
    }
}

#[tokio::test]
async fn a_false_root_under_a_true_signature_never_leaves() {
    let net = Net::default();
    let (true_tree, false_tree) = (tree(&[("file", noise(1, 9000))]), tree(&[("file", noise(2, 9000))]));
    let true_facts = facts("there", &true_tree, &[]);
    let false_facts = with_root(&true_facts, false_tree.root());
    for number in [1, 2] {
        let (_, liar) = peer(&net, number, honest()).await;
        add(&liar, &false_tree, signed(false_facts.clone(), Signed::ByNix)).await;
    }
    let engine = node(&net).await;
    let router = router(&engine);
    let hash = *true_facts.path.hash();
    let url = nar_url(&router, hash).await;
    assert_eq!(get(&router, &url).await.status, StatusCode::NOT_FOUND);
    assert_eq!(engine.rejected_roots().len(), 1);

    let (_, seeder) = peer(&net, 3, honest()).await;
    add(&seeder, &true_tree, signed(true_facts, Signed::ByNix)).await;
    // The URL is the same, and names no root.
    assert_eq!(nar_url(&router, hash).await, url);
    assert!(get(&router, &url).await.body == true_tree.nar);
    let false_url = format!("/nar/snix-castore/{}?path={hash}", false_tree.root().to_base64url());
    assert_eq!(get(&router, &false_url).await.status, StatusCode::NOT_FOUND);
}
