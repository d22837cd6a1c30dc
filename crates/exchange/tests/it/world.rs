//! A store with a shared and a private path.

use std::sync::Arc;

use bytes::Bytes;
use firn_bao::Span;
use firn_castore::{BlobRef, Closure, ClosureBuilder, Directory, Node, PathComponent};
use firn_exchange::{Known, Lie, Request, Shared, SharedView, Verified, answer, check};
use firn_nix::{NarFacts, NarLayout, Sha256Writer, SigningKey, StorePath, write_nar};
use firn_store::{Blobs, Directories, MemoryStore, StoreError, conformance};
use firn_trust::{Claim, PathFacts, Policy, TrustedPath};

pub(crate) struct World {
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) shared: Arc<Shared>,
    /// Attested by [`key`] and shared.
    pub(crate) public: Held,
    /// In the same store, and shared with nobody.
    pub(crate) private: Held,
}

pub(crate) struct Held {
    pub(crate) path: TrustedPath,
    pub(crate) closure: Arc<Closure>,
}

pub(crate) fn key() -> SigningKey {
    SigningKey::generate("cache-1".parse().unwrap(), [7; 32])
}

pub(crate) fn policy() -> Policy {
    Policy::new(vec![key().public()])
}

pub(crate) fn name(text: &str) -> PathComponent {
    text.try_into().unwrap()
}

pub(crate) fn contents(size: usize, seed: usize) -> Vec<u8> {
    (0..size).map(|i| ((i / 7 + seed * 31) % 251) as u8).collect()
}

pub(crate) fn file(contents: &[u8]) -> Node {
    Node::File { blob: BlobRef::of(contents), executable: false }
}

pub(crate) fn closure_of(top: Node, directories: &[Directory]) -> Arc<Closure> {
    let mut builder = ClosureBuilder::new(top.into()).unwrap();
    for directory in directories {
        builder.insert(directory.clone()).unwrap();
    }
    Arc::new(builder.finish().unwrap())
}

/// The path of this name with this tree, all of which the store has.
pub(crate) fn facts(store: &MemoryStore, base_name: &str, closure: &Arc<Closure>) -> PathFacts {
    let layout = NarLayout::new(closure.clone()).unwrap();
    let mut hash = Sha256Writer::new();
    write_nar(&layout, &mut hash, |blob, out| -> Result<(), StoreError> {
        let whole = store.read_span(&blob, Span::whole(blob.size))?.unwrap();
        out.write_all(whole.bytes()).unwrap();
        Ok(())
    })
    .unwrap();
    let (nar_hash, nar_size) = hash.finish();
    let path: StorePath = base_name.parse().unwrap();
    let reference = "10000000000000000000000000000000-other".parse().unwrap();
    PathFacts {
        root: closure.root().clone(),
        nar: NarFacts { nar_hash, nar_size, references: [reference, path.clone()].into() },
        deriver: Some("10000000000000000000000000000000-app.drv".parse().unwrap()),
        ca: None,
        path,
    }
}

impl World {
    pub(crate) fn new() -> Self {
        let store = Arc::new(MemoryStore::new());
        let add = |contents: Vec<u8>| conformance::add(&*store, &contents);
        let node = |blob| Node::File { blob, executable: false };
        let common = add(contents(5_000, 1));
        let leaf = Directory::build([(name("leaf"), node(add(b"leaf".to_vec())))]).unwrap();
        let below =
            Directory::build([(name("deep"), leaf.node()), (name("small"), node(add(contents(20_000, 2))))])
                .unwrap();
        let top = Directory::build([
            (name("common"), node(common)),
            (name("empty"), node(add(Vec::new()))),
            (name("large"), node(add(contents(100_000, 3)))),
            (name("link"), Node::Symlink { target: "sub/small".try_into().unwrap() }),
            (name("run"), Node::File { blob: add(b"#!/bin/sh".to_vec()), executable: true }),
            (name("sub"), below.node()),
        ])
        .unwrap();
        let directories = [top, below, leaf];
        store.keep_directories(&directories).unwrap();
        let public = closure_of(directories[0].node(), &directories);

        let secrets = [
            (name("common"), node(common)),
            (name("secret"), node(add(b"secret".to_vec()))),
            (name("large"), node(add(contents(90_000, 4)))),
        ];
        let secrets = [Directory::build(secrets).unwrap()];
        store.keep_directories(&secrets).unwrap();
        let private = closure_of(secrets[0].node(), &secrets);

        let public = Held {
            path: TrustedPath::added_here(
                facts(&store, "0c5b8vw40dy178xlpddw65q9gf1h2186-app-1.0", &public),
                Vec::new(),
                &[key()],
            ),
            closure: public,
        };
        let private = Held {
            path: TrustedPath::added_here(
                facts(&store, "00000000000000000000000000000001-private", &private),
                Vec::new(),
                &[key()],
            ),
            closure: private,
        };
        let shared = Arc::new(Shared::default());
        shared.add_path(&public.path, &public.closure);
        Self { store, shared, public, private }
    }

    pub(crate) fn view(&self) -> SharedView {
        SharedView::new(self.store.clone(), self.shared.clone())
    }

    /// What an honest holder of this world replies.
    pub(crate) fn reply(&self, request: &Request) -> Bytes {
        answer(&self.view(), request.encode(false)).collect().unwrap()
    }

    pub(crate) fn ask(&self, request: &Request) -> Result<Verified, Lie> {
        check(request, self.reply(request), &policy())
    }

    pub(crate) fn claim(&self) -> &Claim {
        self.public.path.claim()
    }
}

impl Held {
    pub(crate) fn blobs(&self) -> Vec<BlobRef> {
        self.closure.blobs()
    }

    /// One request of each kind, about all that this is.
    pub(crate) fn requests(&self) -> Vec<Request> {
        let blobs = self.blobs();
        let large = *blobs.iter().max_by_key(|blob| blob.size).unwrap();
        vec![
            Request::Path(*self.path.facts().path.hash()),
            Request::Closure { root: self.closure.root().clone(), known: Known::default() },
            Request::Batch(blobs.iter().copied().filter(|blob| *blob != large).collect()),
            Request::Ranges { blob: large, span: Span::from_groups(1..4).unwrap() },
            Request::Have { root: Some(self.closure.root().clone()), blobs },
        ]
    }
}
