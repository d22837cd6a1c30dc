//! Keys, facts and claims, made by hand and at random.

use std::collections::BTreeSet;

use firn_castore::{BlobRef, Node, Root, SymlinkTarget};
use firn_nix::{ContentAddress, ContentHash, NarFacts, NarHash, Signature, SigningKey, StorePath};
use firn_trust::{Attestation, Claim, PathFacts, Policy};
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

pub(crate) fn key(name: &str, seed: u8) -> SigningKey {
    SigningKey::generate(name.parse().unwrap(), [seed; 32])
}

/// The key that the user trusts.
pub(crate) fn trusted() -> SigningKey {
    key("cache-1", 7)
}

pub(crate) fn policy() -> Policy {
    Policy::new(vec![trusted().public()])
}

pub(crate) fn path(text: &str) -> StorePath {
    text.parse().unwrap()
}

/// All fields set.
pub(crate) fn facts() -> PathFacts {
    PathFacts {
        path: path("0c5b8vw40dy178xlpddw65q9gf1h2186-app-1.0"),
        root: "firn:CiQSILpjwIF19tLEOVda2cORAWkq4fmYC8SsJe8wYKVhbgdwGAY".parse().unwrap(),
        nar: NarFacts {
            nar_hash: NarHash::of(b""),
            nar_size: 1234,
            references: [
                path("10000000000000000000000000000000-a"),
                path("00000000000000000000000000000001-b"),
            ]
            .into(),
        },
        deriver: Some(path("10000000000000000000000000000000-app-1.0.drv")),
        ca: Some(ContentAddress::Nar(ContentHash::Sha256(*NarHash::of(b"").as_bytes()))),
    }
}

/// These facts with Nix signatures and attestations by these keys.
pub(crate) fn claim(facts: PathFacts, nix: &[SigningKey], attesting: &[SigningKey]) -> Claim {
    let signatures = nix.iter().map(|key| key.sign(facts.fingerprint().as_bytes())).collect();
    let attestations = attesting.iter().map(|key| Attestation::sign(&facts, key)).collect();
    Claim { facts, signatures, attestations }
}

/// A signature in the name of this key that it did not make.
pub(crate) fn forged(key: &SigningKey) -> Signature {
    Signature::new(key.name().clone(), [3; 64])
}

/// The facts with one field changed, and which.
pub(crate) fn altered(facts: &PathFacts) -> Vec<(&'static str, PathFacts)> {
    let with = |field, change: fn(&mut PathFacts)| {
        let mut facts = facts.clone();
        change(&mut facts);
        (field, facts)
    };
    vec![
        with("hash of the path", |f| f.path = path("1c5b8vw40dy178xlpddw65q9gf1h2186-app-1.0")),
        with("name of the path", |f| f.path = path("0c5b8vw40dy178xlpddw65q9gf1h2186-app-1.1")),
        with("digest of the root", |f| f.root = Node::Directory { digest: [1; 32].into(), size: 6 }.into()),
        with("kind of the root", |f| f.root = Node::Symlink { target: "x".try_into().unwrap() }.into()),
        with("NAR hash", |f| f.nar.nar_hash = NarHash::of(b"other")),
        with("NAR size", |f| f.nar.nar_size += 1),
        with("a reference gone", |f| drop(f.nar.references.pop_first())),
        with("a reference more", |f| {
            f.nar.references.insert(path("20000000000000000000000000000000-c"));
        }),
        with("a reference changed", |f| {
            f.nar.references.pop_first();
            f.nar.references.insert(path("00000000000000000000000000000001-c"));
        }),
        with("deriver gone", |f| f.deriver = None),
        with("deriver changed", |f| f.deriver = Some(path("10000000000000000000000000000000-app-2.drv"))),
        with("content address gone", |f| f.ca = None),
        with("content address changed", |f| f.ca = Some(ContentAddress::Flat(ContentHash::Sha256([2; 32])))),
    ]
}

pub(crate) fn any_path(suffix: &'static str) -> impl Strategy<Value = StorePath> {
    (any::<[u8; 20]>(), "[0-9a-zA-Z+_?=-][0-9a-zA-Z+._?=-]{0,20}")
        .prop_map(move |(hash, name)| StorePath::new(hash.into(), &(name + suffix)).unwrap())
}

fn any_root() -> impl Strategy<Value = Root> {
    let digest = any::<[u8; 32]>();
    prop_oneof![
        (digest, any::<u64>()).prop_map(|(digest, size)| Node::Directory { digest: digest.into(), size }),
        (digest, any::<u64>(), any::<bool>()).prop_map(|(digest, size, executable)| Node::File {
            blob: BlobRef { digest: digest.into(), size },
            executable
        }),
        vec(1u8.., 1..30)
            .prop_map(|target| Node::Symlink { target: SymlinkTarget::try_from(&target[..]).unwrap() }),
    ]
    .prop_map(Root::from)
}

fn any_address() -> impl Strategy<Value = ContentAddress> {
    let hash = prop_oneof![
        any::<[u8; 16]>().prop_map(ContentHash::Md5),
        any::<[u8; 20]>().prop_map(ContentHash::Sha1),
        any::<[u8; 32]>().prop_map(ContentHash::Sha256),
    ];
    prop_oneof![
        hash.clone().prop_map(ContentAddress::Nar),
        hash.prop_map(ContentAddress::Flat),
        any::<[u8; 32]>().prop_map(ContentAddress::Text),
    ]
}

pub(crate) fn any_facts() -> impl Strategy<Value = PathFacts> {
    let references = btree_set(any_path(""), 0..5);
    let deriver = proptest::option::of(any_path(".drv"));
    let nar = (any::<[u8; 32]>(), any::<u64>(), references).prop_map(
        |(hash, nar_size, references): (_, _, BTreeSet<_>)| NarFacts {
            nar_hash: hash.into(),
            nar_size,
            references,
        },
    );
    (any_path(""), any_root(), nar, deriver, proptest::option::of(any_address()))
        .prop_map(|(path, root, nar, deriver, ca)| PathFacts { path, root, nar, deriver, ca })
}

fn any_signature() -> impl Strategy<Value = Signature> {
    let half = any::<[u8; 32]>();
    ("[a-z0-9.-]{1,12}", half, half).prop_map(|(name, r, s)| {
        Signature::new(name.parse().unwrap(), std::array::from_fn(|i| if i < 32 { r[i] } else { s[i - 32] }))
    })
}

pub(crate) fn any_claim() -> impl Strategy<Value = Claim> {
    (any_facts(), vec(any_signature(), 0..4), vec(any_signature(), 0..4)).prop_map(
        |(facts, signatures, attestations)| Claim {
            facts,
            signatures,
            attestations: attestations.into_iter().map(Attestation::from).collect(),
        },
    )
}
