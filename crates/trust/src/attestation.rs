//! The signature that ties a store path to a root.

use data_encoding::BASE64;
use firn_nix::{PublicKey, Signature, SignatureError, SigningKey, StorePath};

use crate::PathFacts;

/// A signature over the [text](attestation_text) of a path. Nothing is proven before it has been verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attestation(Signature);

impl Attestation {
    /// Says with this key that these facts are true.
    pub fn sign(facts: &PathFacts, key: &SigningKey) -> Self {
        Self(key.sign(attestation_text(facts).as_bytes()))
    }

    /// Whether this key has said that these facts are true.
    pub fn verify(&self, facts: &PathFacts, key: &PublicKey) -> Result<(), SignatureError> {
        key.verify(attestation_text(facts).as_bytes(), &self.0)
    }

    /// The signature itself.
    pub fn signature(&self) -> &Signature {
        &self.0
    }
}

impl From<Signature> for Attestation {
    fn from(signature: Signature) -> Self {
        Self(signature)
    }
}

/// What an attestation signs, rebuilt from typed values.
///
/// ```text
/// firn-root-1;<store path>;<root>;sha256:<nixbase32>;<nar size>;<references>;<deriver>;<ca>
/// ```
///
/// Store paths are absolute; the root is the padded base64 of its canonical Entry; references are sorted, unique and
/// joined by commas; deriver and ca are empty where there is none.
pub fn attestation_text(facts: &PathFacts) -> String {
    let references: Vec<String> = facts.nar.references.iter().map(StorePath::to_absolute).collect();
    [
        "firn-root-1".to_owned(),
        facts.path.to_absolute(),
        BASE64.encode(&facts.root.to_bytes()),
        facts.nar.nar_hash.to_string(),
        facts.nar.nar_size.to_string(),
        references.join(","),
        facts.deriver.as_ref().map(StorePath::to_absolute).unwrap_or_default(),
        facts.ca.as_ref().map(ToString::to_string).unwrap_or_default(),
    ]
    .join(";")
}
