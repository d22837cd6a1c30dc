//! Claims as messages, and messages that are none.

use bytes::Bytes;
use data_encoding::HEXLOWER;
use firn_castore::{DigestError, NameError, RootError};
use firn_nix::{StorePath, StorePathError, StorePathHash};
use firn_proto::castore::entry::Entry as Kind;
use firn_proto::{castore, exchange, pathinfo, store};
use firn_trust::{
    ATTESTATIONS_MAX, Claim, ClaimError, PathFacts, REFERENCES_MAX, SIGNATURES_MAX, StoredPath, TooMany,
    TrustedPath,
};
use proptest::prelude::*;
use proptest::sample::Index;
use prost::Message;

use crate::said::{any_claim, claim, facts, trusted};

fn honest() -> exchange::Claim {
    claim(facts(), &[trusted()], &[trusted()]).to_proto()
}

fn refused(change: impl FnOnce(&mut pathinfo::PathInfo)) -> ClaimError {
    let mut claim = honest();
    change(claim.path_info.as_mut().unwrap());
    Claim::from_proto(claim).unwrap_err()
}

fn refused_narinfo(change: impl FnOnce(&mut pathinfo::NarInfo)) -> ClaimError {
    refused(|info| change(info.narinfo.as_mut().unwrap()))
}

fn directory(info: &mut pathinfo::PathInfo) -> &mut castore::DirectoryEntry {
    match info.entry.as_mut().unwrap().entry.as_mut().unwrap() {
        Kind::Directory(entry) => entry,
        other => panic!("{other:?}"),
    }
}

/// `PathInfo` byte by byte. The hash of the path is `0c5b8vw4..` in Nix's base 32, and so on.
#[test]
fn the_path_info_is_as_made_by_hand() {
    let mut facts = facts();
    facts.deriver = Some(crate::said::path("10000000000000000000000000000000-app-1.0.drv"));
    let claim = claim(facts, &[], &[]).to_proto();
    let text = |text: &str| HEXLOWER.encode(text.as_bytes());
    let sha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let a = "0000000000000000000000000000000000000008";
    let b = "0100000000000000000000000000000000000000";
    let parts = [
        // entry{directory{name: 40 bytes, digest, size: 6}}
        "0a50 0a4e 0a28".to_owned(),
        text("0c5b8vw40dy178xlpddw65q9gf1h2186-app-1.0"),
        "1220 ba63c08175f6d2c439575ad9c39101692ae1f9980bc4ac25ef3060a5616e0770 1806".to_owned(),
        // references
        format!("1214 {b} 1214 {a}"),
        // narinfo{nar_size: 1234, nar_sha256}
        format!("1ab201 08d209 1220 {sha256}"),
        // reference_names
        format!(
            "2222 {} 2222 {}",
            text("00000000000000000000000000000001-b"),
            text("10000000000000000000000000000000-a")
        ),
        // deriver{name without .drv, digest}
        format!("2a1f 0a07 {} 1214 {a}", text("app-1.0")),
        // ca{type: 0, digest}
        format!("3222 1220 {sha256}"),
    ];
    let expected = parts.concat().replace(' ', "");
    assert_eq!(HEXLOWER.encode(&claim.path_info.unwrap().encode_to_vec()), expected);
}

#[test]
fn what_must_be_there() {
    let nothing = exchange::Claim::default();
    assert_eq!(Claim::from_proto(nothing), Err(ClaimError::Absent("path info")));
    assert_eq!(refused(|info| info.narinfo = None), ClaimError::Absent("narinfo"));
    assert_eq!(refused(|info| info.entry = None), ClaimError::Absent("entry"));
    let no_kind = refused(|info| info.entry = Some(castore::Entry { entry: None }));
    assert_eq!(no_kind, ClaimError::Root(RootError::NoKind));
}

#[test]
fn too_many() {
    let many = |what, max| ClaimError::TooMany(TooMany { what, count: max + 1, max });
    let references = refused(|info| info.references = vec![Bytes::new(); REFERENCES_MAX + 1]);
    assert_eq!(references, many("references", REFERENCES_MAX));
    let signatures = refused_narinfo(|n| n.signatures = vec![n.signatures[0].clone(); SIGNATURES_MAX + 1]);
    assert_eq!(signatures, many("signatures", SIGNATURES_MAX));
    let mut claim = honest();
    claim.attestations = vec![claim.attestations[0].clone(); ATTESTATIONS_MAX + 1];
    assert_eq!(Claim::from_proto(claim), Err(many("attestations", ATTESTATIONS_MAX)));
}

/// Facts with so many references.
fn referring(count: usize) -> PathFacts {
    let mut facts = facts();
    facts.nar.references = (0..count)
        .map(|n| StorePath::new(StorePathHash::from([7; 20]), &format!("r-{n}")).unwrap())
        .collect();
    facts
}

#[test]
fn what_fits_is_taken_by_others_and_what_does_not_fit_stays_here() {
    let claim_of = |count| TrustedPath::added_here(referring(count), Vec::new(), &[trusted()]);
    let most = claim_of(REFERENCES_MAX);
    assert_eq!(most.claim().fits(), Ok(()));
    assert_eq!(Claim::from_proto(most.claim().to_proto()).as_ref(), Ok(most.claim()));

    let more = claim_of(REFERENCES_MAX + 1);
    let what = "references";
    let too_many = TooMany { what, count: REFERENCES_MAX + 1, max: REFERENCES_MAX };
    assert_eq!(more.claim().fits(), Err(too_many));
    assert_eq!(Claim::from_proto(more.claim().to_proto()), Err(too_many.into()));
    let stored = more.to_stored(false);
    assert_eq!(StoredPath::from_bytes(&stored.to_bytes()), Ok(stored));
}

#[test]
fn roots() {
    let digest = refused(|info| directory(info).digest.truncate(31));
    assert_eq!(digest, ClaimError::Root(RootError::Digest(DigestError(31))));
    let name = refused(|info| directory(info).name = Bytes::new());
    assert_eq!(name, ClaimError::Root(RootError::Name(NameError::Empty)));
    let slash = refused(|info| directory(info).name = "a/b".into());
    assert_eq!(slash, ClaimError::Root(RootError::Name(NameError::Forbidden(b'/'))));
}

#[test]
fn store_paths() {
    let error = |field, source| ClaimError::StorePath { field, source };
    let no_hash = refused(|info| directory(info).name = "app-1.0".into());
    assert_eq!(no_hash, error("path", StorePathError::NoHash));
    let not_utf_8 = |info: &mut pathinfo::PathInfo| {
        directory(info).name = (&b"0c5b8vw40dy178xlpddw65q9gf1h2186-app\xff"[..]).into();
    };
    assert!(matches!(refused(not_utf_8), ClaimError::StorePath { field: "path", .. }));
    let absolute =
        refused_narinfo(|n| n.reference_names[0] = "/nix/store/00000000000000000000000000000001-b".into());
    assert_eq!(absolute, error("reference", StorePathError::NoHash));
}

#[test]
fn references_and_their_names() {
    assert_eq!(refused_narinfo(|n| drop(n.reference_names.pop())), ClaimError::ReferenceNames);
    assert_eq!(refused(|info| drop(info.references.pop())), ClaimError::ReferenceNames);
    assert_eq!(refused(|info| info.references.swap(0, 1)), ClaimError::ReferenceNames);
    assert_eq!(refused(|info| info.references[0].truncate(19)), ClaimError::ReferenceNames);
}

#[test]
fn bytes_of_a_wrong_length() {
    let error = |field, length| ClaimError::Length { field, length };
    assert_eq!(refused_narinfo(|n| n.nar_sha256.truncate(31)), error("nar_sha256", 31));
    assert_eq!(refused_narinfo(|n| n.nar_sha256.clear()), error("nar_sha256", 0));
}

/// What is read of an honest claim in which something was changed.
fn read(change: impl FnOnce(&mut exchange::Claim)) -> Claim {
    let mut claim = honest();
    change(&mut claim);
    Claim::from_proto(claim).unwrap()
}

fn read_narinfo(change: impl FnOnce(&mut pathinfo::NarInfo)) -> Claim {
    read(|claim| change(claim.path_info.as_mut().unwrap().narinfo.as_mut().unwrap()))
}

#[test]
fn what_is_no_signature_is_passed_over_and_the_others_count() {
    let expected = claim(facts(), &[trusted()], &[trusted()]);
    for (name, length) in [("", 64), ("a:b", 64), ("a\n", 64), ("a", 63), ("a", 65), ("a", 0)] {
        let data = Bytes::from(vec![1; length]);
        let read = read(|claim| {
            let narinfo = claim.path_info.as_mut().unwrap().narinfo.as_mut().unwrap();
            let none = pathinfo::nar_info::Signature { name: name.into(), data: data.clone() };
            narinfo.signatures.insert(0, none);
            let none = store::Attestation { key_name: name.into(), signature: data };
            claim.attestations.push(none);
        });
        assert_eq!(read, expected, "{name:?} {length}");
    }
}

#[test]
fn a_deriver_or_a_content_address_of_an_unknown_form_is_passed_over() {
    let without = |change: fn(&mut PathFacts)| {
        let mut facts = facts();
        change(&mut facts);
        facts
    };
    let no_deriver = without(|facts| facts.deriver = None);
    assert_eq!(read_narinfo(|n| n.deriver.as_mut().unwrap().name = "a b".into()).facts, no_deriver);
    assert_eq!(read_narinfo(|n| n.deriver.as_mut().unwrap().digest.truncate(19)).facts, no_deriver);
    let no_ca = without(|facts| facts.ca = None);
    assert_eq!(read_narinfo(|n| n.ca.as_mut().unwrap().r#type = 9).facts, no_ca);
    assert_eq!(read_narinfo(|n| n.ca.as_mut().unwrap().digest.truncate(20)).facts, no_ca);
}

#[test]
fn the_order_and_the_number_of_references_are_no_part_of_what_is_said() {
    let mut shuffled = honest();
    let info = shuffled.path_info.as_mut().unwrap();
    info.references.reverse();
    info.references.push(info.references[0].clone());
    let names = &mut info.narinfo.as_mut().unwrap().reference_names;
    names.reverse();
    names.push(names[0].clone());
    assert_eq!(Claim::from_proto(shuffled), Claim::from_proto(honest()));
}

proptest! {
    #[test]
    fn over_messages_and_bytes(claim in any_claim()) {
        let message = claim.to_proto();
        let bytes = message.encode_to_vec();
        prop_assert_eq!(exchange::Claim::decode(&bytes[..]).unwrap(), message.clone());
        prop_assert_eq!(Claim::from_proto(message), Ok(claim));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
        if let Ok(message) = exchange::Claim::decode(&bytes[..]) {
            let _ = Claim::from_proto(message);
        }
    }

    /// What is understood of an altered message is well-formed: it can be said again.
    #[test]
    fn altered_bytes_never_panic(claim in any_claim(), at in any::<Index>(), byte: u8) {
        let mut bytes = claim.to_proto().encode_to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(message) = exchange::Claim::decode(&bytes[..])
            && let Ok(claim) = Claim::from_proto(message)
        {
            prop_assert_eq!(Claim::from_proto(claim.to_proto()), Ok(claim));
        }
    }
}
