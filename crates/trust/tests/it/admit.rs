//! Which claims a policy lets in, and what of them.

use std::slice::from_ref;

use firn_castore::Node;
use firn_nix::{ContentAddress, ContentHash, PublicKey};
use firn_trust::{
    Admitted, Attestation, Claim, Ground, PathFacts, Policy, Refusal, SignedNarInfo, TrustedPath,
};
use proptest::prelude::*;

use crate::said::{altered, any_claim, claim, facts, forged, key, path, policy, trusted};

fn attested(claim: Claim) -> TrustedPath {
    match policy().admit(claim) {
        Ok(Admitted::Attested(path)) => path,
        other => panic!("{other:?}"),
    }
}

fn signed(claim: Claim) -> SignedNarInfo {
    match policy().admit(claim) {
        Ok(Admitted::Signed(signed)) => signed,
        other => panic!("{other:?}"),
    }
}

fn refused(claim: Claim) -> Refusal {
    policy().admit(claim).unwrap_err()
}

#[test]
fn an_attested_path_is_believed_with_all_that_is_said() {
    let path = attested(claim(facts(), &[], &[trusted()]));
    assert_eq!(path.facts(), &facts());
    assert_eq!(path.ground(), Ground::Attested);
    assert!(path.signatures().is_empty());
    assert_eq!(path.attestations(), [Attestation::sign(&facts(), &trusted())]);
}

#[test]
fn a_signed_path_waits_for_its_nar_and_keeps_only_what_is_covered() {
    let signed = signed(claim(facts(), &[trusted()], &[]));
    let covered = PathFacts { deriver: None, ca: None, ..facts() };
    assert_eq!(signed.facts(), &covered);
    assert_eq!(signed.signatures(), [trusted().sign(facts().fingerprint().as_bytes())]);
}

#[test]
fn a_content_address_stays_if_it_makes_this_very_path() {
    let keep = |ca: ContentAddress, name: &str, references: &[&str], names_itself: bool| {
        let mut facts = facts();
        facts.nar.references = references.iter().map(|reference| path(reference)).collect();
        facts.path = ca.store_path(name, &facts.nar.references).unwrap();
        facts.ca = Some(ca);
        if names_itself {
            facts.nar.references.insert(facts.path.clone());
        }
        signed(claim(facts, &[trusted()], &[])).facts().ca
    };
    let nar = ContentAddress::Nar(ContentHash::Sha256([5; 32]));
    let flat = ContentAddress::Flat(ContentHash::Sha256([5; 32]));
    let text = ContentAddress::Text([5; 32]);
    let other = "00000000000000000000000000000001-b";
    assert_eq!(keep(nar, "a", &[], false), Some(nar));
    assert_eq!(keep(nar, "a", &[other], false), Some(nar));
    assert_eq!(keep(flat, "a", &[], false), Some(flat));
    assert_eq!(keep(text, "a", &[other], false), Some(text));
    // Who names itself has another path than who does not.
    assert_eq!(keep(nar, "a", &[other], true), None);
}

#[test]
fn a_content_address_of_a_path_that_names_itself_stays() {
    // Reckoned by hand from `source:self:sha256:0505..05:/nix/store:a`.
    let nar = ContentAddress::Nar(ContentHash::Sha256([5; 32]));
    let mut facts = facts();
    facts.ca = Some(nar);
    facts.path = path("vv20sb5vf736bgmi7plg18k95xhrq35m-a");
    facts.nar.references = [facts.path.clone()].into();
    assert_eq!(signed(claim(facts, &[trusted()], &[])).facts().ca, Some(nar));
}

#[test]
fn keys_that_nobody_trusts_open_nothing() {
    let stranger = key("stranger", 1);
    assert_eq!(refused(claim(facts(), &[], &[])), Refusal::NoTrustedKey);
    let by_stranger = claim(facts(), from_ref(&stranger), from_ref(&stranger));
    assert_eq!(refused(by_stranger.clone()), Refusal::NoTrustedKey);
    let nobody = Policy::default().admit(claim(facts(), &[trusted()], &[trusted()]));
    assert!(matches!(nobody, Err(Refusal::NoTrustedKey)));
    let mut false_one = by_stranger;
    false_one.signatures.push(forged(&stranger));
    false_one.attestations.push(forged(&stranger).into());
    assert_eq!(refused(false_one), Refusal::NoTrustedKey);
}

#[test]
fn what_is_false_under_a_trusted_name_speaks_for_nothing() {
    let mut claimed = claim(facts(), &[], &[]);
    claimed.signatures.push(forged(&trusted()));
    claimed.attestations.push(forged(&trusted()).into());
    assert_eq!(refused(claimed), Refusal::NoTrustedKey);
    // Another key of this name, as after a key was replaced.
    let earlier = key("cache-1", 8);
    let by_earlier = claim(facts(), from_ref(&earlier), from_ref(&earlier));
    assert_eq!(refused(by_earlier), Refusal::NoTrustedKey);
}

#[test]
fn one_true_signature_is_enough_and_what_is_false_beside_it_goes_no_further() {
    let earlier = key("cache-1", 8);
    for true_comes_first in [true, false] {
        let keys = match true_comes_first {
            true => [trusted(), earlier.clone()],
            false => [earlier.clone(), trusted()],
        };
        let honest = claim(facts(), &[trusted()], &[]);
        assert_eq!(signed(claim(facts(), &keys, &[])).signatures(), honest.signatures);
        // Beside a false attestation the true signature is the only ground.
        let by_both = claim(facts(), &keys, from_ref(&earlier));
        assert_eq!(signed(by_both).signatures(), honest.signatures);
        let mut claimed = claim(facts(), &keys, &keys);
        claimed.attestations.push(forged(&trusted()).into());
        assert_eq!(attested(claimed).claim(), &claim(facts(), &[trusted()], &[trusted()]));
    }
}

#[test]
fn an_attestation_and_a_signature_do_not_pass_for_each_other() {
    let facts = facts();
    let attestation = Attestation::sign(&facts, &trusted()).signature().clone();
    let signature = trusted().sign(facts.fingerprint().as_bytes());
    let mut claimed = claim(facts, &[], &[]);
    claimed.signatures.push(attestation);
    claimed.attestations.push(signature.into());
    assert_eq!(refused(claimed), Refusal::NoTrustedKey);
}

#[test]
fn what_was_not_verified_is_not_passed_on() {
    let stranger = key("stranger", 1);
    let mut claimed = claim(facts(), &[stranger.clone(), trusted()], &[stranger.clone(), trusted()]);
    claimed.signatures.push(forged(&stranger));
    claimed.attestations.push(forged(&stranger).into());
    // An attested root is believed whatever stands beside it, but that does not go further.
    claimed.signatures.push(forged(&trusted()));
    let path = attested(claimed);
    assert_eq!(path.claim(), &claim(facts(), &[trusted()], &[trusted()]));
    let mut claimed = claim(facts(), &[stranger.clone(), trusted()], from_ref(&stranger));
    claimed.signatures.push(forged(&stranger));
    assert_eq!(signed(claimed).signatures(), claim(facts(), &[trusted()], &[]).signatures);
}

#[test]
fn what_is_said_many_times_is_passed_on_once() {
    let claimed = claim(facts(), &vec![trusted(); 20], &vec![trusted(); 20]);
    assert_eq!(attested(claimed).claim(), &claim(facts(), &[trusted()], &[trusted()]));
}

#[test]
fn no_altered_field_under_an_attestation_is_believed() {
    for (field, altered) in altered(&facts()) {
        let claimed = Claim { facts: altered, ..claim(facts(), &[], &[trusted()]) };
        assert_eq!(refused(claimed), Refusal::NoTrustedKey, "{field}");
    }
}

#[test]
fn no_altered_field_under_a_nix_signature_is_believed() {
    let covered = PathFacts { deriver: None, ca: None, ..facts() };
    for (field, altered) in altered(&facts()) {
        let claimed = Claim { facts: altered.clone(), ..claim(facts(), &[trusted()], &[]) };
        match policy().admit(claimed) {
            Err(refusal) => assert_eq!(refusal, Refusal::NoTrustedKey, "{field}"),
            // The root is what the NAR has to show.
            Ok(Admitted::Signed(signed)) => {
                assert_eq!(signed.facts(), &PathFacts { root: altered.root, ..covered.clone() }, "{field}");
            }
            Ok(Admitted::Attested(_)) => panic!("{field}"),
        }
    }
}

#[test]
fn two_keys_of_one_name() {
    let policy = Policy::new(vec![key("cache-1", 8).public(), trusted().public()]);
    assert!(matches!(policy.admit(claim(facts(), &[], &[trusted()])), Ok(Admitted::Attested(_))));
    assert!(matches!(policy.admit(claim(facts(), &[], &[key("cache-1", 8)])), Ok(Admitted::Attested(_))));
    let third = policy.admit(claim(facts(), &[], &[key("cache-1", 9)]));
    assert!(matches!(third, Err(Refusal::NoTrustedKey)));
}

#[test]
fn two_attested_roots_of_one_path_are_both_believed() {
    let other = PathFacts { root: Node::Symlink { target: "x".try_into().unwrap() }.into(), ..facts() };
    assert_eq!(attested(claim(other.clone(), &[], &[trusted()])).facts(), &other);
    assert_eq!(attested(claim(facts(), &[], &[trusted()])).facts(), &facts());
}

proptest! {
    /// Nobody can make up a signature; whoever has a trusted one is let in.
    #[test]
    fn only_a_trusted_key_opens(claim_of in any_claim(), extra: bool) {
        let keys: Vec<PublicKey> = vec![trusted().public()];
        prop_assert!(Policy::new(keys.clone()).admit(claim_of.clone()).is_err());
        let mut opened = claim_of;
        opened.attestations.push(Attestation::sign(&opened.facts, &trusted()));
        if extra {
            opened.signatures.push(trusted().sign(opened.facts.fingerprint().as_bytes()));
        }
        let admitted = Policy::new(keys).admit(opened.clone());
        let Ok(Admitted::Attested(path)) = admitted else { panic!() };
        prop_assert_eq!(path.facts(), &opened.facts);
        prop_assert_eq!(path.signatures().len(), usize::from(extra));
        prop_assert_eq!(path.attestations().len(), 1);
    }
}
