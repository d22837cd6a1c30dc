//! Whom the user trusts, and what follows from it.

use firn_nix::{PublicKey, Signature};

use crate::attestation::attestation_text;
use crate::claim::{ATTESTATIONS_MAX, SIGNATURES_MAX};
use crate::{Attestation, Claim, Ground, PathFacts, StoredPath, TrustedPath};

/// The keys that the user trusts.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    keys: Vec<PublicKey>,
}

/// A claim that the policy has let in.
#[derive(Debug, Clone)]
pub enum Admitted {
    /// The root is attested: everything below it is believable as it arrives.
    Attested(TrustedPath),
    /// The narinfo is signed; whether the root belongs to it, its NAR must show.
    Signed(SignedNarInfo),
}

impl Admitted {
    /// What is claimed.
    pub fn facts(&self) -> &PathFacts {
        match self {
            Admitted::Attested(path) => path.facts(),
            Admitted::Signed(signed) => signed.facts(),
        }
    }

    /// Nix's signatures by trusted keys.
    pub fn signatures(&self) -> &[Signature] {
        match self {
            Admitted::Attested(path) => path.signatures(),
            Admitted::Signed(signed) => signed.signatures(),
        }
    }
}

/// Why a claim, or a stored path, is not believed. It is no lie: the peer may relay what others have said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No trusted key speaks for it. A signature in a trusted key's name that this key did not make speaks for nothing.
    #[error("no trusted key has signed it")]
    NoTrustedKey,
}

/// A narinfo with a signature by a trusted key, beside a root that nothing ties to it yet.
///
/// What no signature covers has been dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedNarInfo {
    facts: PathFacts,
    signatures: Vec<Signature>,
}

impl SignedNarInfo {
    /// The facts, of which the signatures prove all but the root.
    pub fn facts(&self) -> &PathFacts {
        &self.facts
    }

    /// The signatures by trusted keys; at least one.
    pub fn signatures(&self) -> &[Signature] {
        &self.signatures
    }
}

impl Policy {
    /// Trusts these keys.
    pub fn new(keys: Vec<PublicKey>) -> Self {
        Self { keys }
    }

    /// The trusted keys.
    pub fn keys(&self) -> &[PublicKey] {
        &self.keys
    }

    /// Judges what a peer says. One true signature by a trusted key is enough. Only what a trusted key has signed stays
    /// of its signatures, so that this node relays no others.
    pub fn admit(&self, claim: Claim) -> Result<Admitted, Refusal> {
        let Claim { facts, signatures, attestations } = self.sift(claim, |verdict| verdict == Verdict::True);
        if !attestations.is_empty() {
            let path = TrustedPath::new(facts, signatures, attestations, Ground::Attested);
            Ok(Admitted::Attested(path))
        } else if !signatures.is_empty() {
            Ok(Admitted::Signed(SignedNarInfo { facts: facts.covered_by_nix(), signatures }))
        } else {
            Err(Refusal::NoTrustedKey)
        }
    }

    /// Judges again what the store has kept: a path whose only ground was a key that is trusted no longer is gone.
    ///
    /// A path that was added here also keeps the signatures by keys that are not known: other nodes may trust them.
    pub fn readmit(&self, stored: StoredPath) -> Result<TrustedPath, Refusal> {
        let StoredPath { claim, nar_matched, added_here, .. } = stored;
        if added_here {
            let Claim { facts, signatures, attestations } =
                self.sift(claim, |verdict| verdict != Verdict::False);
            return Ok(TrustedPath::new(facts, signatures, attestations, Ground::AddedHere));
        }
        let Claim { facts, signatures, attestations } = self.sift(claim, |verdict| verdict == Verdict::True);
        if !attestations.is_empty() {
            Ok(TrustedPath::new(facts, signatures, attestations, Ground::Attested))
        } else if nar_matched && !signatures.is_empty() {
            Ok(TrustedPath::new(facts, signatures, Vec::new(), Ground::NarMatch))
        } else {
            Err(Refusal::NoTrustedKey)
        }
    }

    /// The claim with only those of its signatures and attestations that stay, each once, and no more than a claim may
    /// have.
    fn sift(&self, claim: Claim, stays: impl Fn(Verdict) -> bool) -> Claim {
        let Claim { facts, signatures, attestations } = claim;
        let of_those = |signatures: Vec<Signature>, text: String, max: usize| {
            let mut kept: Vec<Signature> = Vec::new();
            for signature in signatures {
                if !kept.contains(&signature) && stays(self.verdict(&signature, &text)) {
                    kept.push(signature);
                }
            }
            kept.truncate(max);
            kept
        };
        let attestations: Vec<Signature> =
            attestations.iter().map(|attestation| attestation.signature().clone()).collect();
        let signatures = of_those(signatures, facts.fingerprint(), SIGNATURES_MAX);
        let attestations = of_those(attestations, attestation_text(&facts), ATTESTATIONS_MAX);
        Claim { signatures, attestations: attestations.into_iter().map(Attestation::from).collect(), facts }
    }

    fn verdict(&self, signature: &Signature, text: &str) -> Verdict {
        let mut namesakes = self.keys.iter().filter(|key| key.name() == signature.key_name()).peekable();
        if namesakes.peek().is_none() {
            Verdict::Unknown
        } else if namesakes.any(|key| key.verify(text.as_bytes(), signature).is_ok()) {
            Verdict::True
        } else {
            Verdict::False
        }
    }
}

/// What a signature is worth.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// A trusted key has made it.
    True,
    /// It names a trusted key that has not made it.
    False,
    /// It names no trusted key.
    Unknown,
}
