//! A network of engines in one process, and trees for them to hold. The gateway's tests use it too.
#![allow(dead_code)] // Not every test binary uses all of it.

pub(crate) mod net;
pub(crate) mod tree;

use std::sync::Arc;
use std::time::Duration;

use firn_castore::Root;
use firn_engine::{Engine, EngineConfig};
use firn_exchange::{Limits, PeerId};
use firn_nix::{NarFacts, NarHash, PublicKey, SigningKey, StorePath, StorePathHash};
use firn_store::{MemoryStore, Store};
use firn_trust::{PathFacts, Policy, TrustedPath};

use self::net::{Manner, Net};
use self::tree::Tree;

/// Long enough for anything that does not hang.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Whose word counts.
pub(crate) fn key() -> SigningKey {
    SigningKey::generate("cache-1".parse().unwrap(), [1; 32])
}

/// Whose word does not.
pub(crate) fn stranger() -> SigningKey {
    SigningKey::generate("stranger-1".parse().unwrap(), [2; 32])
}

/// How a path is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signed {
    /// By the trusted key, its root too.
    Attested,
    /// By the trusted key, as Nix does.
    ByNix,
    /// By a key that nobody trusts.
    ByStranger,
    /// Not at all.
    Not,
}

/// A path of this name with these contents.
pub(crate) fn facts(name: &str, tree: &Tree, references: &[&StorePath]) -> PathFacts {
    let mut hash = [0; 20];
    hash.copy_from_slice(&NarHash::of(name.as_bytes()).as_bytes()[..20]);
    PathFacts {
        path: StorePath::new(StorePathHash::from(hash), name).unwrap(),
        root: tree.root(),
        nar: NarFacts {
            nar_hash: NarHash::of(&tree.nar),
            nar_size: tree.nar.len() as u64,
            references: references.iter().copied().cloned().collect(),
        },
        deriver: None,
        ca: None,
    }
}

/// The same path with another root: what a liar says.
pub(crate) fn with_root(facts: &PathFacts, root: Root) -> PathFacts {
    PathFacts { root, ..facts.clone() }
}

pub(crate) fn signed(facts: PathFacts, signed: Signed) -> TrustedPath {
    let by = |key: &SigningKey| vec![key.sign(facts.fingerprint().as_bytes())];
    match signed {
        Signed::Attested => TrustedPath::added_here(facts, Vec::new(), &[key()]),
        Signed::ByNix => {
            let signatures = by(&key());
            TrustedPath::added_here(facts, signatures, &[])
        }
        Signed::ByStranger => TrustedPath::added_here(facts, Vec::new(), &[stranger()]),
        Signed::Not => TrustedPath::added_here(facts, Vec::new(), &[]),
    }
}

/// A node over this store that trusts these keys.
pub(crate) async fn open_with(
    net: &Net,
    store: Arc<dyn Store>,
    keys: Vec<PublicKey>,
    limits: Limits,
) -> Engine {
    let config = EngineConfig { limits, seed: 7, me: [9; 32].into() };
    let (ask, find) = (Arc::new(net.clone()), Arc::new(net.clone()));
    Engine::open(store, Policy::new(keys), ask, find, config).await.unwrap()
}

/// A node over this store that trusts [`key`] and gives a peer up at its first failure.
pub(crate) async fn open(net: &Net, store: Arc<dyn Store>) -> Engine {
    open_with(net, store, vec![key().public()], Limits { failures_max: 1, ..Limits::default() }).await
}

/// A node with an empty store.
pub(crate) async fn node(net: &Net) -> Engine {
    open(net, Arc::new(MemoryStore::new())).await
}

/// A peer that answers in this manner.
pub(crate) async fn peer(net: &Net, number: u8, manner: Manner) -> (PeerId, Engine) {
    let (id, engine) = (PeerId::from([number; 32]), node(net).await);
    net.join(id, &engine, manner);
    (id, engine)
}

/// Adds a path to a node, shared.
pub(crate) async fn add(engine: &Engine, tree: &Tree, path: TrustedPath) {
    tree.keep(&**engine.store());
    engine.commit(path, true, None).await.unwrap();
}

/// A tree as a shared path of a node; gives the path's hash.
pub(crate) async fn publish(engine: &Engine, name: &str, tree: &Tree, how: Signed) -> StorePathHash {
    let facts = facts(name, tree, &[]);
    let hash = *facts.path.hash();
    add(engine, tree, signed(facts, how)).await;
    hash
}
