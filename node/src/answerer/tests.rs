use firn_castore::Root;
use firn_engine::Nobody;
use firn_exchange::{Known, Request, check, fellows};
use firn_store::{MemoryStore, Paths, conformance};
use firn_trust::Policy;

use super::*;
use crate::node::engine_config;

/// Answers by this role, out of a store that shares one tree.
async fn answerer(role: Role, compress: Compress) -> (RoleAnswerer, Root) {
    let store = Arc::new(MemoryStore::new());
    let root = conformance::keep_sample(&*store, 1);
    store.commit_root(&root, true, None).unwrap();
    let (policy, config) = (Policy::new(Vec::new()), engine_config(None).unwrap());
    let engine = Engine::open(store, policy, Arc::new(Nobody), Arc::new(Nobody), config).await.unwrap();
    let place = Arc::new(OnceLock::new());
    assert!(place.set(engine).is_ok());
    (RoleAnswerer::new(role, compress, place, Arc::default()), root)
}

fn peer(number: u8, address: &str) -> Peer {
    Peer { id: PeerId::from([number; 32]), address: Some(address.parse().unwrap()), drain: None }
}

fn reply(answerer: &RoleAnswerer, from: Peer, request: &Request) -> Bytes {
    let mut body = answerer.answer(from, request.encode(true));
    let mut whole = Vec::new();
    while let Some(piece) = body.next().unwrap() {
        whole.extend_from_slice(&piece);
    }
    whole.into()
}

fn closure(root: &Root) -> Request {
    Request::Closure { root: root.clone(), known: Known::default() }
}

fn have(root: &Root) -> Request {
    Request::Have { root: Some(root.clone()), blobs: Vec::new() }
}

#[tokio::test]
async fn askers_of_one_tree_are_told_of_each_other() {
    let (answerer, root) = answerer(Role::Seed, Compress::Auto).await;
    let (first, second) = (peer(1, "10.0.0.1:1"), peer(2, "10.0.0.2:2"));
    let told = |from: Peer, request: &Request| fellows(&reply(&answerer, from, request));
    assert!(told(first, &closure(&root)).is_empty());
    let of_first = [firn_exchange::Fellow { peer: first.id, addresses: vec![first.address.unwrap()] }];
    assert_eq!(told(second, &have(&root)), of_first);
    assert_eq!(told(first, &have(&root)).len(), 1);
    assert!(told(peer(3, "8.8.8.8:1"), &closure(&root)).is_empty(), "it could not dial them");
    // Of what is not here nobody is remembered, or anybody could be made to be told of anything.
    let other = conformance::keep_sample(&MemoryStore::new(), 2);
    for from in [first, second] {
        assert!(told(from, &have(&other)).is_empty() && told(from, &closure(&other)).is_empty());
    }
}

#[tokio::test]
async fn whom_the_role_gives_nothing_is_told_of_nobody_and_nobody_of_it() {
    let (answerer, root) = answerer(Role::Lan, Compress::Auto).await;
    let told = |from: Peer| fellows(&reply(&answerer, from, &closure(&root)));
    assert!(told(peer(1, "8.8.8.8:1")).is_empty() && told(peer(2, "10.0.0.2:1")).is_empty());
    assert!(told(peer(3, "8.8.4.4:1")).is_empty());
    assert_eq!(told(peer(4, "10.0.0.4:1")).len(), 1, "of the neighbour alone");
}

#[tokio::test]
async fn a_slow_connection_is_given_less_to_carry() {
    let (answerer, _) = answerer(Role::Seed, Compress::Auto).await;
    let store = answerer.engine.get().unwrap().store().clone();
    let text: String = (0..2000).map(|number| format!("{number} bottles\n")).collect();
    let blob = conformance::add(&*store, text.as_bytes());
    let top = conformance::directory([("text", firn_castore::Node::File { blob, executable: false })]);
    store.keep_directories(std::slice::from_ref(&top)).unwrap();
    answerer.engine.get().unwrap().commit_root(top.node().into(), true, None).await.unwrap();
    let request = Request::Batch(vec![blob]);
    let length = |drain: Option<u64>, address: &str| {
        let reply = reply(&answerer, Peer { drain, ..peer(1, address) }, &request);
        check(&request, reply.clone(), &Policy::new(Vec::new())).unwrap();
        reply.len()
    };
    let plain = length(Some(1 << 30), "8.8.8.8:1");
    assert!(plain > text.len());
    assert!(length(Some(1 << 20), "10.0.0.1:1") < plain / 2);
    for address in ["8.8.8.8:1", "10.0.0.1:1"] {
        assert!(length(None, address) < plain / 2, "nothing is known of {address}");
    }
}
