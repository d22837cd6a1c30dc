//! The text that an attestation signs, and signatures that another program made.

use firn_trust::{Attestation, attestation_text};
use proptest::prelude::*;

use crate::said::{altered, any_facts, facts, key, trusted};

/// Written by hand, after the form that TRUST.md gives.
const TEXT: &str = "firn-root-1;/nix/store/0c5b8vw40dy178xlpddw65q9gf1h2186-app-1.0;\
    CiQSILpjwIF19tLEOVda2cORAWkq4fmYC8SsJe8wYKVhbgdwGAY=;\
    sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73;1234;\
    /nix/store/00000000000000000000000000000001-b,/nix/store/10000000000000000000000000000000-a;\
    /nix/store/10000000000000000000000000000000-app-1.0.drv;\
    fixed:r:sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73";
const BARE_TEXT: &str = "firn-root-1;/nix/store/0c5b8vw40dy178xlpddw65q9gf1h2186-app-1.0;\
    CiQSILpjwIF19tLEOVda2cORAWkq4fmYC8SsJe8wYKVhbgdwGAY=;\
    sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73;1234;;;";

/// OpenSSL's signatures of the two texts, by the key whose secret is 32 bytes of 7.
const PUBLIC_KEY: &str = "cache-1:6kpsY+KcUgq+9VB7Ey7F+ZVHdq6+vnuSQh7qaRRG0iw=";
const SIGNATURE: &str =
    "cache-1:oyAs6qdRboCRgGNNaF+1Mds6OsA5T1gDxc36Hnt7KPo8G/RTPosLRKRPLdgYoJuO8JqGip5xRXETra2iVIG0CQ==";
const BARE_SIGNATURE: &str =
    "cache-1:joPpnUPLgYuDr5j6b1nlPZaoGxb06BUue0Bo+LHXxVFb52hHQQFI8F6Y79rqCA0q1o7hD9oJBD7pQyNtmW2RDA==";

#[test]
fn the_text_and_its_signature_are_as_made_by_hand() {
    let mut facts = facts();
    assert_eq!(attestation_text(&facts), TEXT);
    assert_eq!(trusted().public().to_string(), PUBLIC_KEY);
    assert_eq!(Attestation::sign(&facts, &trusted()).signature().to_string(), SIGNATURE);
    let public = PUBLIC_KEY.parse().unwrap();
    let attestation = Attestation::from(SIGNATURE.parse::<firn_nix::Signature>().unwrap());
    assert_eq!(attestation.verify(&facts, &public), Ok(()));

    facts.nar.references.clear();
    facts.deriver = None;
    facts.ca = None;
    assert_eq!(attestation_text(&facts), BARE_TEXT);
    assert_eq!(Attestation::sign(&facts, &trusted()).signature().to_string(), BARE_SIGNATURE);
    assert!(attestation.verify(&facts, &public).is_err());
}

#[test]
fn it_does_not_pass_for_nixs_fingerprint() {
    let facts = facts();
    let fingerprint = trusted().sign(facts.fingerprint().as_bytes());
    assert!(Attestation::from(fingerprint).verify(&facts, &trusted().public()).is_err());
    let attestation = Attestation::sign(&facts, &trusted());
    let text = facts.fingerprint();
    assert!(trusted().public().verify(text.as_bytes(), attestation.signature()).is_err());
}

#[test]
fn it_covers_every_field() {
    let attestation = Attestation::sign(&facts(), &trusted());
    for (field, altered) in altered(&facts()) {
        assert!(attestation.verify(&altered, &trusted().public()).is_err(), "{field}");
    }
}

proptest! {
    #[test]
    fn signed_and_verified(facts in any_facts()) {
        let attestation = Attestation::sign(&facts, &trusted());
        prop_assert_eq!(attestation.verify(&facts, &trusted().public()), Ok(()));
        prop_assert!(attestation.verify(&facts, &key("cache-1", 8).public()).is_err());
        prop_assert!(attestation.verify(&facts, &key("cache-2", 7).public()).is_err());
    }

    #[test]
    fn different_facts_have_different_texts(one in any_facts(), other in any_facts()) {
        prop_assert_eq!(one == other, attestation_text(&one) == attestation_text(&other));
        for (field, altered) in altered(&one) {
            if altered != one {
                prop_assert_ne!(attestation_text(&altered), attestation_text(&one), "{}", field);
            }
        }
    }
}
