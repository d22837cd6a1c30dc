//! What the store keeps, and whether it is believed again.

use std::sync::Arc;

use bytes::Bytes;
use firn_castore::{ClosureBuilder, Node, Root};
use firn_nix::{NarFacts, NarHash, SigningKey};
use firn_trust::{
    Admitted, ClaimError, Ground, NarHasher, PathFacts, Policy, Refusal, SIGNATURES_MAX, StoredPath,
    StoredPathError, TrustedPath,
};
use proptest::prelude::*;
use proptest::sample::Index;

use crate::said::{any_facts, claim, facts, forged, key, path, policy, trusted};

fn attested() -> TrustedPath {
    match policy().admit(claim(facts(), &[trusted()], &[trusted()])) {
        Ok(Admitted::Attested(path)) => path,
        other => panic!("{other:?}"),
    }
}

/// A path that is a symlink, whose NAR has no blobs.
fn matched() -> TrustedPath {
    let root = Root::from(Node::Symlink { target: "to".try_into().unwrap() });
    let text = |text: &str| {
        let zeros = vec![0; text.len().next_multiple_of(8) - text.len()];
        [&(text.len() as u64).to_le_bytes()[..], text.as_bytes(), &zeros].concat()
    };
    let nar = ["nix-archive-1", "(", "type", "symlink", "target", "to", ")"].map(text).concat();
    let nar = NarFacts { nar_hash: NarHash::of(&nar), nar_size: nar.len() as u64, references: [].into() };
    let facts = PathFacts { root: root.clone(), nar, ..facts() };
    let Ok(Admitted::Signed(signed)) = policy().admit(claim(facts, &[trusted()], &[])) else { panic!() };
    let closure = Arc::new(ClosureBuilder::new(root).unwrap().finish().unwrap());
    let mut hasher = NarHasher::new(signed, closure).unwrap();
    assert_eq!(hasher.wanted(), None);
    TrustedPath::nar_match(hasher.finish().unwrap())
}

fn over_bytes(path: &TrustedPath, shared: bool) -> StoredPath {
    let stored = path.to_stored(shared);
    let read = StoredPath::from_bytes(&stored.to_bytes()).unwrap();
    assert_eq!(read, stored);
    read
}

#[test]
fn it_tells_what_it_is_about() {
    let stored = over_bytes(&attested(), true);
    assert_eq!(stored.path(), &facts().path);
    assert_eq!(&stored.path_hash(), facts().path.hash());
    assert_eq!(stored.root(), &facts().root);
    assert!(stored.shared() && !over_bytes(&attested(), false).shared());
}

#[test]
fn an_attested_path_is_gone_with_its_key() {
    let stored = over_bytes(&attested(), true);
    assert_eq!(policy().readmit(stored.clone()).as_ref(), Ok(&attested()));
    assert_eq!(Policy::default().readmit(stored.clone()), Err(Refusal::NoTrustedKey));
    // And back with it, also beside others.
    let more = Policy::new(vec![key("other", 1).public(), trusted().public()]);
    assert_eq!(more.readmit(stored), Ok(attested()));
}

#[test]
fn what_was_signed_of_the_same_facts_can_be_taken_over() {
    let earlier = attested();
    let mut added = TrustedPath::added_here(facts(), Vec::new(), &[key("own", 1)]);
    added.keep_signatures_of(&earlier);
    added.keep_signatures_of(&earlier);
    assert_eq!(added.ground(), Ground::AddedHere);
    assert_eq!((added.signatures().len(), added.attestations().len()), (2, 2));
    assert_eq!(policy().admit(added.claim().clone()).unwrap().facts(), &facts());

    let other = PathFacts { root: Node::Symlink { target: "x".try_into().unwrap() }.into(), ..facts() };
    let mut other = TrustedPath::added_here(other, Vec::new(), &[]);
    other.keep_signatures_of(&earlier);
    assert!(other.signatures().is_empty() && other.attestations().is_empty());

    let many = |first: usize| {
        let keys: Vec<SigningKey> = (first..first + 30).map(|n| key(&format!("key-{n}"), n as u8)).collect();
        TrustedPath::added_here(facts(), Vec::new(), &keys)
    };
    let mut first = many(1);
    (2..8).for_each(|times| first.keep_signatures_of(&many(30 * times)));
    over_bytes(&first, true);
    assert!(first.signatures().len() <= SIGNATURES_MAX && first.signatures().len() > 30);
}

#[test]
fn a_nix_signature_alone_is_no_ground_for_what_was_attested() {
    // The attesting key is gone, the signer is trusted: the NAR was never compared.
    let attester = key("attester", 1);
    let both = Policy::new(vec![attester.public(), trusted().public()]);
    let Ok(Admitted::Attested(path)) = both.admit(claim(facts(), &[trusted()], &[attester])) else {
        panic!()
    };
    let stored = over_bytes(&path, true);
    assert!(both.readmit(stored.clone()).is_ok());
    assert_eq!(policy().readmit(stored), Err(Refusal::NoTrustedKey));
}

#[test]
fn a_matched_path_is_gone_with_the_key_that_signed_the_nar() {
    let stored = over_bytes(&matched(), true);
    let read = policy().readmit(stored.clone()).unwrap();
    assert_eq!(read, matched());
    assert_eq!(read.ground(), Ground::NarMatch);
    assert_eq!(Policy::default().readmit(stored.clone()), Err(Refusal::NoTrustedKey));
    // Another key under the same name.
    let namesake = Policy::new(vec![key("cache-1", 8).public()]);
    assert_eq!(namesake.readmit(stored), Err(Refusal::NoTrustedKey));
}

#[test]
fn what_was_added_here_stays() {
    let added = TrustedPath::added_here(facts(), Vec::new(), &[trusted()]);
    assert_eq!(added.ground(), Ground::AddedHere);
    assert_eq!(added.claim(), &claim(facts(), &[trusted()], &[trusted()]));
    let stored = over_bytes(&added, false);
    assert_eq!(Policy::default().readmit(stored.clone()).as_ref(), Ok(&added));
    assert_eq!(policy().readmit(stored).as_ref(), Ok(&added));
    // Under another key of this name its signatures are false: they are not told, and stay in the store.
    let namesake = Policy::new(vec![key("cache-1", 8).public()]);
    let stored = over_bytes(&added, false);
    assert_eq!(namesake.readmit(stored.clone()).unwrap().claim(), &claim(facts(), &[], &[]));
    assert_eq!(policy().readmit(stored), Ok(added));
    let unsigned = TrustedPath::added_here(facts(), Vec::new(), &[]);
    assert_eq!(Policy::default().readmit(over_bytes(&unsigned, false)), Ok(unsigned));
}

#[test]
fn what_is_added_here_keeps_the_signatures_that_it_has() {
    let by_nix = key("cache.nixos.org-1", 1).sign(facts().fingerprint().as_bytes());
    let mine = trusted().sign(facts().fingerprint().as_bytes());
    let added = TrustedPath::added_here(facts(), vec![by_nix.clone(), mine.clone()], &[trusted()]);
    assert_eq!(added.signatures(), [by_nix, mine]);
    assert_eq!(added.attestations().len(), 1);
}

#[test]
fn what_is_added_here_can_be_read_back_and_passed_on_whatever_nixs_database_says() {
    // More signatures than a claim may have: one's own are among those that stay.
    let many = (0..=SIGNATURES_MAX).map(|i| forged(&key(&format!("key-{i}"), 1))).collect();
    let added = TrustedPath::added_here(facts(), many, &[trusted()]);
    let stored = over_bytes(&added, true);
    assert_eq!(policy().readmit(stored), Ok(added.clone()));
    assert!(matches!(policy().admit(added.claim().clone()), Ok(Admitted::Attested(_))));
    assert!(added.signatures().contains(&trusted().sign(facts().fingerprint().as_bytes())));

    // A deriver that is no derivation has no place in a claim, and an attestation over it would not hold elsewhere.
    let odd = PathFacts { deriver: Some(path("10000000000000000000000000000000-app")), ..facts() };
    let added = TrustedPath::added_here(odd, Vec::new(), &[trusted()]);
    assert_eq!(added.facts().deriver, None);
    let stored = over_bytes(&added, true);
    assert_eq!(policy().readmit(stored), Ok(added.clone()));
    let claim = firn_trust::Claim::from_proto(added.claim().to_proto()).unwrap();
    assert!(matches!(policy().admit(claim), Ok(Admitted::Attested(_))));
}

#[test]
fn bytes_that_are_no_stored_path() {
    assert_eq!(StoredPath::from_bytes(b""), Err(StoredPathError::Claim(ClaimError::Absent("path info"))));
    assert!(matches!(StoredPath::from_bytes(b"\xff"), Err(StoredPathError::Protobuf(_))));
    let bytes = attested().to_stored(true).to_bytes();
    assert!(StoredPath::from_bytes(&bytes[..bytes.len() / 2]).is_err());
}

/// Field 1 and 2 as in a claim, then nar_matched = 3, added_here = 4, shared = 5.
#[test]
fn the_flags_are_as_made_by_hand() {
    let flags = |path: &TrustedPath, shared| {
        let bytes = path.to_stored(shared).to_bytes();
        let evidence = path.to_stored(false).to_bytes();
        let unflagged = attested().to_stored(false).to_bytes();
        assert!(path.ground() != Ground::Attested || evidence == unflagged);
        bytes.slice(bytes.len().saturating_sub(4)..)
    };
    assert_eq!(flags(&attested(), true)[2..], [0x28, 1]);
    assert_eq!(flags(&matched(), true), Bytes::from_static(&[0x18, 1, 0x28, 1]));
    assert_eq!(flags(&matched(), false)[2..], [0x18, 1]);
    let added = TrustedPath::added_here(facts(), Vec::new(), &[]);
    assert_eq!(flags(&added, true), Bytes::from_static(&[0x20, 1, 0x28, 1]));
    assert_eq!(flags(&added, false)[2..], [0x20, 1]);
}

proptest! {
    #[test]
    fn any_added_path_over_bytes(facts in any_facts(), sign: bool, shared: bool) {
        let keys: Vec<SigningKey> = sign.then(trusted).into_iter().collect();
        let added = TrustedPath::added_here(facts, Vec::new(), &keys);
        let stored = over_bytes(&added, shared);
        prop_assert_eq!(stored.shared(), shared);
        prop_assert_eq!(Policy::default().readmit(stored), Ok(added));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
        let _ = StoredPath::from_bytes(&bytes);
    }

    #[test]
    fn altered_bytes_never_panic_and_are_never_attested(at in any::<Index>(), byte: u8) {
        let mut bytes = attested().to_stored(false).to_bytes().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(stored) = StoredPath::from_bytes(&bytes)
            && let Ok(path) = policy().readmit(stored)
            && path.ground() == Ground::Attested
        {
            prop_assert_eq!(path.facts(), &facts());
        }
    }
}
