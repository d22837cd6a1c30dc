//! An honest reply with something altered: a lie, or nothing but what is true.

use std::sync::LazyLock;

use bytes::Bytes;
use firn_castore::Node;
use firn_exchange::{BatchAnswer, Lie, Request, Verified, check};
use firn_trust::Admitted;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::world::{World, key, policy};

static WORLD: LazyLock<World> = LazyLock::new(World::new);
static HONEST: LazyLock<Vec<(Request, Bytes)>> = LazyLock::new(|| {
    let mut requests = WORLD.public.requests();
    requests.extend(WORLD.private.requests());
    requests.into_iter().map(|request| (request.clone(), WORLD.reply(&request))).collect()
});

/// Nothing false was let through as proven.
fn assert_harmless(request: &Request, result: Result<Verified, Lie>) {
    match result {
        Err(_) => {}
        Ok(
            Verified::Missing
            | Verified::Busy { .. }
            | Verified::Refused
            | Verified::Have { .. }
            | Verified::Overlap
            | Verified::Untrusted,
        ) => {}
        Ok(Verified::Claims(claims)) => {
            let honest = WORLD.public.path.facts();
            for claim in claims {
                match claim {
                    Admitted::Attested(path) => assert_eq!(path.facts(), honest),
                    Admitted::Signed(signed) => {
                        let facts = signed.facts();
                        assert_eq!((&facts.path, &facts.nar), (&honest.path, &honest.nar));
                        assert_eq!((&facts.deriver, &facts.ca), (&None, &None));
                    }
                }
            }
        }
        Ok(Verified::Closure(closure)) => assert_eq!(closure.blobs(), WORLD.public.blobs()),
        Ok(Verified::Batch(answers)) => {
            let Request::Batch(blobs) = request else { panic!("{request:?}") };
            assert_eq!(answers.len(), blobs.len());
            for (wanted, (blob, answer)) in blobs.iter().zip(answers) {
                assert_eq!(*wanted, blob);
                match answer {
                    BatchAnswer::Here(span) => {
                        assert_eq!(firn_castore::BlobRef::of(span.bytes()), blob);
                        assert_eq!(span.blob(), blob);
                    }
                    BatchAnswer::Missing | BatchAnswer::Busy | BatchAnswer::TooLarge => {}
                    BatchAnswer::OtherSize(fault) => panic!("an honest root was blamed: {fault}"),
                }
            }
        }
        Ok(Verified::Span(proven)) => {
            let Request::Ranges { blob, span } = request else { panic!("{request:?}") };
            assert_eq!((proven.blob(), proven.span()), (*blob, *span));
            assert_eq!(proven.to_proof(), HONEST.iter().find(|(of, _)| of == request).unwrap().1.slice(1..));
        }
        Ok(Verified::OtherSize(other)) => {
            let Request::Ranges { blob, .. } = request else { panic!("{request:?}") };
            assert_eq!(other.digest, blob.digest);
            assert_ne!(other.size, blob.size);
        }
        Ok(Verified::BadRoot(fault)) => panic!("an honest root was blamed: {fault}"),
    }
}

fn checked(request: &Request, reply: impl Into<Bytes>) -> Result<Verified, Lie> {
    check(request, reply.into(), &policy())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn by_one_byte(which in any::<Index>(), at in any::<Index>(), byte: u8) {
        let (request, reply) = which.get(&HONEST);
        let mut reply = reply.to_vec();
        let at = at.index(reply.len());
        reply[at] = byte;
        assert_harmless(request, checked(request, reply));
    }

    #[test]
    fn by_one_byte_near_the_front(which in any::<Index>(), at in 0usize..200, byte: u8) {
        let (request, reply) = which.get(&HONEST);
        let mut reply = reply.to_vec();
        let at = at % reply.len();
        reply[at] = byte;
        assert_harmless(request, checked(request, reply));
    }

    #[test]
    fn by_bytes_put_in_or_taken_out(
        which in any::<Index>(), at in any::<Index>(), out in 0usize..40, put in prop::collection::vec(any::<u8>(), 0..40)
    ) {
        let (request, reply) = which.get(&HONEST);
        let mut reply = reply.to_vec();
        let at = at.index(reply.len());
        let end = (at + out).min(reply.len());
        reply.splice(at..end, put);
        assert_harmless(request, checked(request, reply));
    }

    #[test]
    fn into_noise(which in any::<Index>(), noise in prop::collection::vec(any::<u8>(), 0..400), ok: bool) {
        let (request, _) = which.get(&HONEST);
        // With an honest header in front the noise reaches the body.
        let reply = if ok { [&[0][..], &noise].concat() } else { noise };
        assert_harmless(request, checked(request, reply));
    }

    #[test]
    fn into_the_reply_to_something_else(which in any::<Index>(), other in any::<Index>()) {
        let ((request, _), (_, reply)) = (which.get(&HONEST), other.get(&HONEST));
        assert_harmless(request, checked(request, reply.clone()));
    }

    #[test]
    fn by_what_follows(which in any::<Index>(), more in prop::collection::vec(any::<u8>(), 1..40)) {
        let (request, reply) = which.get(&HONEST);
        prop_assert!(checked(request, [&reply[..], &more].concat()).is_err());
    }
}

#[test]
fn cut_off_anywhere_it_is_a_lie() {
    for (request, reply) in HONEST.iter() {
        let step = (reply.len() / 2_000).max(1);
        for cut in (0..reply.len()).step_by(step) {
            let result = checked(request, reply.slice(..cut));
            match (request, cut, &result) {
                // Who has no claim says so by giving none.
                (Request::Path(_), 1, Ok(Verified::Claims(claims))) => assert!(claims.is_empty()),
                _ => assert!(result.is_err(), "{request:?} cut at {cut}: {result:?}"),
            }
        }
    }
}

#[test]
fn any_byte_of_an_attested_claim() {
    let (request, reply) = &HONEST[0];
    for at in 0..reply.len() {
        for flip in [1, 0x80, 0xff] {
            let mut altered = reply.to_vec();
            altered[at] ^= flip;
            assert_harmless(request, checked(request, altered));
        }
    }
}

#[test]
fn longer_than_any_honest_one() {
    for (request, _) in HONEST.iter() {
        let longest = request.reply_bytes_max();
        let reply = checked(request, vec![0; longest + 1]);
        assert!(matches!(reply, Err(Lie::TooMuch)), "{request:?}: {reply:?}");
    }
}

#[test]
fn a_false_root_under_true_nix_signatures_is_let_in_as_unproven_alone() {
    let mut claim = WORLD.claim().clone();
    claim.facts.root = Node::Symlink { target: "elsewhere".try_into().unwrap() }.into();
    let reply = crate::replies::items(&[claim.to_proto()]);
    let request = &HONEST[0].0;
    // The attestation does not hold for it, and is passed over.
    let Ok(Verified::Claims(claims)) = checked(request, reply) else { panic!() };
    let [Admitted::Signed(signed)] = &claims[..] else { panic!("{claims:?}") };
    assert_eq!(signed.facts().root, claim.facts.root);
    assert_eq!(signed.facts().deriver, None);
    assert_eq!(signed.signatures()[0].key_name(), key().name());
}
