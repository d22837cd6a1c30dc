//! A store path whose root is believed.

use firn_nix::{Signature, SigningKey};

use crate::claim::{ATTESTATIONS_MAX, DRV, SIGNATURES_MAX};
use crate::{Attestation, Claim, NarMatch, PathFacts, StoredPath};

/// Why a root is believed to belong to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ground {
    /// A trusted key has signed path and root.
    Attested,
    /// A trusted key has signed the NAR hash, and the tree's NAR has it.
    NarMatch,
    /// The user of this machine has added it.
    AddedHere,
}

/// A store path, its root, and the ground on which they are believed to belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedPath {
    claim: Claim,
    ground: Ground,
}

impl TrustedPath {
    pub(crate) fn new(
        facts: PathFacts,
        signatures: Vec<Signature>,
        attestations: Vec<Attestation>,
        ground: Ground,
    ) -> Self {
        Self { claim: Claim { facts, signatures, attestations }, ground }
    }

    /// What the user of this machine adds, signed with the user's keys if there are any: for each, Nix's fingerprint
    /// and the root. `signatures` are those that it already has; of more than a claim may have, some are left out.
    pub fn added_here(mut facts: PathFacts, mut signatures: Vec<Signature>, keys: &[SigningKey]) -> Self {
        // A claim has no form for a deriver that is no derivation: others would read, and verify, another one.
        facts.deriver = facts.deriver.filter(|path| path.name().ends_with(DRV));
        let keys = &keys[..keys.len().min(SIGNATURES_MAX).min(ATTESTATIONS_MAX)];
        let fingerprint = facts.fingerprint();
        let own: Vec<Signature> = keys.iter().map(|key| key.sign(fingerprint.as_bytes())).collect();
        signatures.retain(|signature| !own.contains(signature));
        signatures.truncate(SIGNATURES_MAX - own.len());
        signatures.extend(own);
        let attestations = keys.iter().map(|key| Attestation::sign(&facts, key)).collect();
        Self::new(facts, signatures, attestations, Ground::AddedHere)
    }

    /// Takes over what was signed of the same facts at another time; of more than a claim may have, some is left out.
    pub fn keep_signatures_of(&mut self, other: &TrustedPath) {
        let Claim { facts, signatures, attestations } = &other.claim;
        if *facts != self.claim.facts {
            return;
        }
        for signature in signatures {
            if self.claim.signatures.len() < SIGNATURES_MAX && !self.claim.signatures.contains(signature) {
                self.claim.signatures.push(signature.clone());
            }
        }
        for attestation in attestations {
            if self.claim.attestations.len() < ATTESTATIONS_MAX
                && !self.claim.attestations.contains(attestation)
            {
                self.claim.attestations.push(attestation.clone());
            }
        }
    }

    /// The root's NAR has the signed hash.
    pub fn nar_match(proof: NarMatch) -> Self {
        let (facts, signatures) = proof.into_parts();
        Self::new(facts, signatures, Vec::new(), Ground::NarMatch)
    }

    /// What is believed.
    pub fn facts(&self) -> &PathFacts {
        &self.claim.facts
    }

    /// Over Nix's fingerprint.
    pub fn signatures(&self) -> &[Signature] {
        &self.claim.signatures
    }

    /// Over the firn-root-1 text.
    pub fn attestations(&self) -> &[Attestation] {
        &self.claim.attestations
    }

    /// Why it is believed.
    pub fn ground(&self) -> Ground {
        self.ground
    }

    /// What this node says of the path to others.
    pub fn claim(&self) -> &Claim {
        &self.claim
    }

    /// What the store keeps: the evidence, and whether peers may have it.
    pub fn to_stored(&self, shared: bool) -> StoredPath {
        StoredPath {
            claim: self.claim.clone(),
            nar_matched: self.ground == Ground::NarMatch,
            added_here: self.ground == Ground::AddedHere,
            shared,
        }
    }
}
