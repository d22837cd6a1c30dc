//! What somebody says of a store path, with the signatures that are meant to make it believable.

use std::collections::BTreeSet;

use bytes::Bytes;
use firn_castore::{Node, Root, RootError};
use firn_nix::{
    ContentAddress, ContentAddressError, KeyError, KeyName, NarFacts, NarHash, Signature, StorePath,
    StorePathError, StorePathHash,
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

/// Why a message is no claim.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// A field that must be there is not.
    #[error("the claim has no {0}")]
    Absent(&'static str),
    /// More than a claim may have.
    #[error("the claim has {count} {what}, more than {max}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        max: usize,
    },
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
    /// An illegal key name.
    #[error("a signature of the claim: {0}")]
    KeyName(#[from] KeyError),
    /// An illegal content address.
    #[error("the claim's content address: {0}")]
    ContentAddress(#[from] ContentAddressError),
}

impl Claim {
    /// Takes apart what came over the wire or from disk.
    pub fn from_proto(claim: exchange::Claim) -> Result<Self, ClaimError> {
        let info = claim.path_info.ok_or(ClaimError::Absent("path info"))?;
        Self::from_parts(info, claim.attestations)
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
        limit("references", info.references.len(), REFERENCES_MAX)?;
        limit("signatures", narinfo.signatures.len(), SIGNATURES_MAX)?;
        limit("attestations", attestations.len(), ATTESTATIONS_MAX)?;
        let (name, node) = Node::from_named_entry(info.entry.ok_or(ClaimError::Absent("entry"))?)?;
        let facts = PathFacts {
            path: base_name("path", &String::from_utf8_lossy(name.as_bytes()))?,
            root: Root::from(node),
            nar: NarFacts {
                nar_hash: NarHash::from(array::<32>("nar_sha256", &narinfo.nar_sha256)?),
                nar_size: narinfo.nar_size,
                references: references(&info.references, &narinfo.reference_names)?,
            },
            deriver: narinfo.deriver.map(deriver).transpose()?,
            ca: narinfo.ca.as_ref().map(ContentAddress::from_proto).transpose()?,
        };
        let signatures =
            narinfo.signatures.iter().map(|s| signature(&s.name, &s.data)).collect::<Result<_, _>>()?;
        let attestations = attestations
            .iter()
            .map(|a| Ok(Attestation::from(signature(&a.key_name, &a.signature)?)))
            .collect::<Result<_, ClaimError>>()?;
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

fn limit(what: &'static str, count: usize, max: usize) -> Result<(), ClaimError> {
    if count > max { Err(ClaimError::TooMany { what, count, max }) } else { Ok(()) }
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

fn deriver(deriver: pathinfo::StorePath) -> Result<StorePath, ClaimError> {
    let hash = StorePathHash::from(array::<20>("deriver", &deriver.digest)?);
    base_name("deriver", &format!("{hash}-{}{DRV}", deriver.name))
}

fn deriver_to_proto(path: &StorePath) -> pathinfo::StorePath {
    pathinfo::StorePath {
        name: path.name().strip_suffix(DRV).unwrap_or(path.name()).to_owned(),
        digest: Bytes::copy_from_slice(path.hash().as_bytes()),
    }
}

fn signature(name: &str, data: &[u8]) -> Result<Signature, ClaimError> {
    let key_name: KeyName = name.parse()?;
    Ok(Signature::new(key_name, array::<64>("signature", data)?))
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
