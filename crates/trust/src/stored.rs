//! A path as the store keeps it.

use bytes::Bytes;
use firn_castore::Root;
use firn_nix::{StorePath, StorePathHash};
use firn_proto::store as proto;
use prost::Message;

use crate::{Claim, ClaimError};

/// The evidence on which a path was believed when it was stored. [`Policy::readmit`](crate::Policy::readmit) judges it
/// again; what it names is good for finding and listing alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredPath {
    pub(crate) claim: Claim,
    pub(crate) nar_matched: bool,
    pub(crate) added_here: bool,
    pub(crate) shared: bool,
}

/// Why bytes are no stored path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoredPathError {
    /// The bytes are no protobuf.
    #[error("the stored path is not protobuf: {0}")]
    Protobuf(#[from] prost::DecodeError),
    /// The message is no claim.
    #[error("the stored path: {0}")]
    Claim(#[from] ClaimError),
}

impl StoredPath {
    /// As `firn.store.v1.StoredPath`.
    pub fn to_bytes(&self) -> Bytes {
        let (path_info, attestations) = self.claim.to_parts();
        let message = proto::StoredPath {
            path_info: Some(path_info),
            attestations,
            nar_matched: self.nar_matched,
            added_here: self.added_here,
            shared: self.shared,
        };
        message.encode_to_vec().into()
    }

    /// Reads what [`StoredPath::to_bytes`] writes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, StoredPathError> {
        let message = proto::StoredPath::decode(bytes)?;
        let info = message.path_info.ok_or(ClaimError::Absent("path info"))?;
        Ok(Self {
            claim: Claim::from_parts(info, message.attestations)?,
            nar_matched: message.nar_matched,
            added_here: message.added_here,
            shared: message.shared,
        })
    }

    /// The path.
    pub fn path(&self) -> &StorePath {
        &self.claim.facts.path
    }

    /// The path's hash, under which it is found.
    pub fn path_hash(&self) -> StorePathHash {
        *self.path().hash()
    }

    /// What must be in the store before this may be.
    pub fn root(&self) -> &Root {
        &self.claim.facts.root
    }

    /// Whether peers may have it.
    pub fn shared(&self) -> bool {
        self.shared
    }
}
