//! What somebody says of a store path, with the signatures that are meant to make it believable.

use std::collections::BTreeSet;

use bytes::Bytes;
use firn_castore::{Node, Root, RootError};
use firn_nix::{
    ContentAddress, KeyName, NarFacts, NarHash, Signature, StorePath, StorePathError, StorePathHash,
};
use firn_proto::{exchange, pathinfo, store};

use crate::{Attestation, PathFacts};

/// The most references of one path.
pub const REFERENCES_MAX: usize = 16_384;
/// The most Nix signatures of one claim.
pub const SIGNATURES_MAX: usize = 32;
/// The most attestations of one claim.
pub const ATTESTATIONS_MAX: usize = 32;

/// A well-formed claim that nobody has judged yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// What is said.
    pub facts: PathFacts,
    /// Over Nix's fingerprint.
    pub signatures: Vec<Signature>,
    /// Over the firn-root-1 text.
    pub attestations: Vec<Attestation>,
}

/// More than a claim may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{count} {what}, more than the {max} that a claim may have")]
pub struct TooMany {
    /// Of what.
    pub what: &'static str,
    /// How many there are.
    pub count: usize,
    /// How many there may be.
    pub max: usize,
}

/// Why a message is no claim.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// A field that must be there is not.
    #[error("the claim has no {0}")]
    Absent(&'static str),
    /// More than a claim may have.
    #[error("the claim has {0}")]
    TooMany(#[from] TooMany),
    /// The entry names no root.
    #[error("the claim's entry: {0}")]
    Root(#[from] RootError),
    /// An illegal store path.
    #[error("the claim's {field}: {source}")]
    StorePath {
        /// Where it stands.
        field: &'static str,
        /// What is wrong with it.
        source: StorePathError,
    },
    /// References and their names do not belong together.
    #[error("the references and their names differ")]
    ReferenceNames,
    /// Bytes of the wrong length.
    #[error("the claim's {field} has {length} bytes")]
    Length {
        /// Where they stand.
        field: &'static str,
        /// How many there are.
        length: usize,
    },
}

impl Claim {
    /// Takes apart what came over the wire, if it is no more than a claim may have.
    ///
    /// What stands beside the facts and cannot be read is passed over: a signature that is none, a deriver, a content
    /// address.
    pub fn from_proto(claim: exchange::Claim) -> Result<Self, ClaimError> {
        let info = claim.path_info.ok_or(ClaimError::Absent("path info"))?;
        let signatures = info.narinfo.as_ref().map_or(0, |narinfo| narinfo.signatures.len());
        fits(info.references.len(), signatures, claim.attestations.len())?;
        Self::from_parts(info, claim.attestations)
    }

    /// Whether it is no more than a claim may have: what is more no peer takes.
    pub fn fits(&self) -> Result<(), TooMany> {
        fits(self.facts.nar.references.len(), self.signatures.len(), self.attestations.len())
    }

    /// As it goes over the wire.
    pub fn to_proto(&self) -> exchange::Claim {
        let (path_info, attestations) = self.to_parts();
        exchange::Claim { path_info: Some(path_info), attestations }
    }

    pub(crate) fn from_parts(
        info: pathinfo::PathInfo,
        attestations: Vec<store::Attestation>,
    ) -> Result<Self, ClaimError> {
        let narinfo = info.narinfo.ok_or(ClaimError::Absent("narinfo"))?;
        let (name, node) = Node::from_named_entry(info.entry.ok_or(ClaimError::Absent("entry"))?)?;
        let facts = PathFacts {
            path: base_name("path", &String::from_utf8_lossy(name.as_bytes()))?,
            root: Root::from(node),
            nar: NarFacts {
                nar_hash: NarHash::from(array::<32>("nar_sha256", &narinfo.nar_sha256)?),
                nar_size: narinfo.nar_size,
                references: references(&info.references, &narinfo.reference_names)?,
            },
            deriver: narinfo.deriver.and_then(deriver),
            ca: narinfo.ca.as_ref().and_then(|ca| ContentAddress::from_proto(ca).ok()),
        };
        let signatures = narinfo.signatures.iter().filter_map(|s| signature(&s.name, &s.data)).collect();
        let attestations = attestations
            .iter()
            .filter_map(|a| Some(Attestation::from(signature(&a.key_name, &a.signature)?)))
            .collect();
        Ok(Self { facts, signatures, attestations })
    }

    pub(crate) fn to_parts(&self) -> (pathinfo::PathInfo, Vec<store::Attestation>) {
        let facts = &self.facts;
        let base_name = facts.path.to_string();
        let name = base_name.as_str().try_into().expect("a store path's base name is a legal name");
        let narinfo = pathinfo::NarInfo {
            nar_size: facts.nar.nar_size,
            nar_sha256: Bytes::copy_from_slice(facts.nar.nar_hash.as_bytes()),
            signatures: self.signatures.iter().map(signature_to_proto).collect(),
            reference_names: facts.nar.references.iter().map(ToString::to_string).collect(),
            deriver: facts.deriver.as_ref().map(deriver_to_proto),
            ca: facts.ca.as_ref().map(ContentAddress::to_proto),
        };
        let info = pathinfo::PathInfo {
            entry: Some(facts.root.node().to_named_entry(&name)),
            references: facts
                .nar
                .references
                .iter()
                .map(|path| Bytes::copy_from_slice(path.hash().as_bytes()))
                .collect(),
            narinfo: Some(narinfo),
        };
        let attestations = self.attestations.iter().map(|a| attestation_to_proto(a.signature())).collect();
        (info, attestations)
    }
}

fn fits(references: usize, signatures: usize, attestations: usize) -> Result<(), TooMany> {
    let limit = |what, count, max| if count > max { Err(TooMany { what, count, max }) } else { Ok(()) };
    limit("references", references, REFERENCES_MAX)?;
    limit("signatures", signatures, SIGNATURES_MAX)?;
    limit("attestations", attestations, ATTESTATIONS_MAX)
}

fn array<const N: usize>(field: &'static str, bytes: &[u8]) -> Result<[u8; N], ClaimError> {
    bytes.try_into().map_err(|_| ClaimError::Length { field, length: bytes.len() })
}

fn base_name(field: &'static str, text: &str) -> Result<StorePath, ClaimError> {
    text.parse().map_err(|source| ClaimError::StorePath { field, source })
}

fn references(hashes: &[Bytes], names: &[String]) -> Result<BTreeSet<StorePath>, ClaimError> {
    if hashes.len() != names.len() {
        return Err(ClaimError::ReferenceNames);
    }
    let pairs = hashes.iter().zip(names);
    let paths = pairs.map(|(hash, name)| {
        let path = base_name("reference", name)?;
        if path.hash().as_bytes()[..] == hash[..] { Ok(path) } else { Err(ClaimError::ReferenceNames) }
    });
    paths.collect()
}

/// How the name of each derivation ends. A claim names a deriver without it.
pub(crate) const DRV: &str = ".drv";

fn deriver(deriver: pathinfo::StorePath) -> Option<StorePath> {
    let hash: [u8; 20] = deriver.digest[..].try_into().ok()?;
    StorePath::new(StorePathHash::from(hash), &format!("{}{DRV}", deriver.name)).ok()
}

fn deriver_to_proto(path: &StorePath) -> pathinfo::StorePath {
    pathinfo::StorePath {
        name: path.name().strip_suffix(DRV).unwrap_or(path.name()).to_owned(),
        digest: Bytes::copy_from_slice(path.hash().as_bytes()),
    }
}

fn signature(name: &str, data: &[u8]) -> Option<Signature> {
    let key_name: KeyName = name.parse().ok()?;
    Some(Signature::new(key_name, data.try_into().ok()?))
}

fn signature_to_proto(signature: &Signature) -> pathinfo::nar_info::Signature {
    pathinfo::nar_info::Signature {
        name: signature.key_name().to_string(),
        data: Bytes::copy_from_slice(signature.as_bytes()),
    }
}

fn attestation_to_proto(signature: &Signature) -> store::Attestation {
    store::Attestation {
        key_name: signature.key_name().to_string(),
        signature: Bytes::copy_from_slice(signature.as_bytes()),
    }
}
