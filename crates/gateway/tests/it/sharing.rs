//! One fetch for all who want the same, and URLs that outlive the node.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::http::StatusCode;
use firn_store::MemoryStore;
use futures::future::join_all;

use crate::fakes::net::{Net, honest, is_for_claims, is_for_closure};
use crate::fakes::tree::varied;
use crate::fakes::{Signed, node, open, peer, publish};
use crate::http::{get, nar_url, router};

#[tokio::test]
async fn many_requests_for_one_path_are_one_fetch() {
    for how in [Signed::Attested, Signed::ByNix] {
        let net = Net::default();
        let (_, seeder) = peer(&net, 1, honest()).await;
        let tree = varied(1);
        let hash = publish(&seeder, "there", &tree, how).await;
        let router = router(&node(&net).await);
        let urls = join_all((0..16).map(|_| nar_url(&router, hash))).await;
        assert_eq!((net.count(is_for_claims), net.asked().len()), (1, 1));
        for answer in join_all(urls.iter().map(|url| get(&router, url))).await {
            assert_eq!(answer.status, StatusCode::OK);
            assert!(answer.body == tree.nar);
        }
        assert_eq!(net.count(is_for_closure), 1);
        let contents: Vec<_> =
            net.asked().into_iter().filter(|(_, request)| !is_for_claims(request)).collect();
        let once: BTreeSet<_> = contents.iter().map(|(_, request)| request.encode(false)).collect();
        assert_eq!(once.len(), contents.len(), "something was asked for twice");
    }
}

#[tokio::test]
async fn a_url_outlives_the_node_that_gave_it() {
    for how in [Signed::Attested, Signed::ByNix] {
        let net = Net::default();
        let (id, seeder) = peer(&net, 1, honest()).await;
        let tree = varied(1);
        let hash = publish(&seeder, "there", &tree, how).await;
        let store = Arc::new(MemoryStore::new());
        let url = nar_url(&router(&open(&net, store.clone()).await), hash).await;

        // The node has forgotten all: by the URL alone it finds out again what the path is, and fetches it.
        let restarted = router(&open(&net, store.clone()).await);
        let answer = get(&restarted, &url).await;
        assert!(answer.status == StatusCode::OK && answer.body == tree.nar);

        // Nobody else is there any more, and it has forgotten again what it believed, but it has the tree.
        net.leave(&id);
        let again = router(&open(&net, store).await);
        let answer = get(&again, &url).await;
        assert!(answer.status == StatusCode::OK && answer.body == tree.nar);
        let (without_path, _) = url.split_once('?').unwrap();
        assert_eq!(get(&again, without_path).await.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn a_url_with_the_path_of_something_else_is_missing() {
    let net = Net::default();
    let (_, seeder) = peer(&net, 1, honest()).await;
    let (tree, other) = (varied(1), varied(10));
    let hash = publish(&seeder, "there", &tree, Signed::Attested).await;
    let other_hash = publish(&seeder, "other", &other, Signed::ByNix).await;
    let router = router(&node(&net).await);
    let root = tree.root().to_base64url();
    let nar_hash = firn_nix::NarHash::of(&other.nar);
    let base32 = firn_nix::nixbase32::encode(nar_hash.as_bytes());
    for url in [
        format!("/nar/snix-castore/{root}?path={other_hash}"),
        format!("/nar/sha256-{base32}.nar?path={hash}"),
        // True, but nothing that is signed says so.
        format!("/nar/snix-castore/{}?path={other_hash}", other.root().to_base64url()),
    ] {
        assert_eq!(get(&router, &url).await.status, StatusCode::NOT_FOUND, "{url}");
    }
    assert_eq!(net.count(is_for_claims), net.asked().len());
}
