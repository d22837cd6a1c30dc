//! Whom the user trusts, and what follows from it.

use firn_nix::{KeyName, PublicKey, Signature, SignatureError};

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

/// Why a claim, or a stored path, is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No trusted key speaks for it. That is no lie.
    #[error("no trusted key has signed it")]
    NoTrustedKey,
    /// A trusted key's name stands on a signature that is not its own. That is a lie.
    #[error("the signature in the name of {0} is false")]
    FalseSignature(KeyName),
    /// A trusted key's name stands on an attestation that is not its own. That is a lie.
    #[error("the attestation in the name of {0} is false")]
    FalseAttestation(KeyName),
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

    /// Judges what a peer says. Only what a trusted key has signed stays of its signatures, so that whoever relays the
    /// path later does not relay somebody's false ones.
    pub fn admit(&self, claim: Claim) -> Result<Admitted, Refusal> {
        let evidence = self.weigh(&claim);
        if !evidence.attestations.is_empty() {
            let Evidence { attestations, signatures, .. } = evidence;
            return Ok(Admitted::Attested(TrustedPath::new(
                claim.facts,
                signatures,
                attestations,
                Ground::Attested,
            )));
        }
        match (evidence.lie, evidence.signatures) {
            (Some(lie), _) => Err(lie),
            (None, signatures) if signatures.is_empty() => Err(Refusal::NoTrustedKey),
            (None, signatures) => {
                Ok(Admitted::Signed(SignedNarInfo { facts: claim.facts.covered_by_nix(), signatures }))
            }
        }
    }

    /// Judges again what the store has kept: a path whose only ground was a key that is trusted no longer is gone.
    pub fn readmit(&self, stored: StoredPath) -> Result<TrustedPath, Refusal> {
        let StoredPath { claim, nar_matched, added_here, .. } = stored;
        if added_here {
            let Claim { facts, signatures, attestations } = claim;
            return Ok(TrustedPath::new(facts, signatures, attestations, Ground::AddedHere));
        }
        let Evidence { attestations, signatures, lie } = self.weigh(&claim);
        if !attestations.is_empty() {
            Ok(TrustedPath::new(claim.facts, signatures, attestations, Ground::Attested))
        } else if nar_matched && !signatures.is_empty() {
            Ok(TrustedPath::new(claim.facts, signatures, Vec::new(), Ground::NarMatch))
        } else {
            Err(lie.unwrap_or(Refusal::NoTrustedKey))
        }
    }

    fn weigh(&self, claim: &Claim) -> Evidence {
        let mut evidence = Evidence { attestations: Vec::new(), signatures: Vec::new(), lie: None };
        let fingerprint = claim.facts.fingerprint();
        for signature in &claim.signatures {
            if evidence.signatures.contains(signature) {
                continue;
            }
            match self.verdict(signature, |key| key.verify(fingerprint.as_bytes(), signature)) {
                Verdict::True => evidence.signatures.push(signature.clone()),
                Verdict::False => evidence.lie = Some(Refusal::FalseSignature(signature.key_name().clone())),
                Verdict::Unknown => {}
            }
        }
        for attestation in &claim.attestations {
            if evidence.attestations.contains(attestation) {
                continue;
            }
            let signature = attestation.signature();
            match self.verdict(signature, |key| attestation.verify(&claim.facts, key)) {
                Verdict::True => evidence.attestations.push(attestation.clone()),
                Verdict::False => {
                    evidence.lie = Some(Refusal::FalseAttestation(signature.key_name().clone()))
                }
                Verdict::Unknown => {}
            }
        }
        evidence
    }

    fn verdict(
        &self,
        signature: &Signature,
        verify: impl Fn(&PublicKey) -> Result<(), SignatureError>,
    ) -> Verdict {
        let mut namesakes = self.keys.iter().filter(|key| key.name() == signature.key_name()).peekable();
        if namesakes.peek().is_none() {
            Verdict::Unknown
        } else if namesakes.any(|key| verify(key).is_ok()) {
            Verdict::True
        } else {
            Verdict::False
        }
    }
}

/// What a claim's signatures are worth.
struct Evidence {
    attestations: Vec<Attestation>,
    signatures: Vec<Signature>,
    lie: Option<Refusal>,
}

enum Verdict {
    True,
    False,
    Unknown,
}
