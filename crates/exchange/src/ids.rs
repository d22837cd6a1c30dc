//! Who is asked, and what is looked for.

use std::{fmt, str::FromStr};

use data_encoding::HEXLOWER;
use firn_castore::Root;
use firn_nix::StorePathHash;

/// A peer: the 32 bytes of its Ed25519 public key, in lowercase hex as text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId([u8; 32]);

/// Text that names no peer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a peer: 64 lowercase hex digits are")]
pub struct PeerIdError(pub Box<str>);

impl PeerId {
    /// The 32 bytes of the public key.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<[u8; 32]> for PeerId {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl FromStr for PeerId {
    type Err = PeerIdError;

    fn from_str(text: &str) -> Result<Self, PeerIdError> {
        let bytes = HEXLOWER.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| PeerIdError(text.into()))
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerId({})", HEXLOWER.encode(&self.0[..5]))
    }
}

/// What peers are found for: who has a root, who can vouch for a store path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// Holders of this tree.
    Root(Root),
    /// Those who can say which root this store path has.
    Path(StorePathHash),
}

impl Key {
    /// The 32 bytes under which it stands in the DHT.
    ///
    /// BLAKE3's key derivation with the context `firn dht root 1` over the canonical Entry, or `firn dht path 1` over
    /// `/nix/store` and the 20 bytes of the hash.
    pub fn dht_key(&self) -> [u8; 32] {
        match self {
            Key::Root(root) => blake3::derive_key("firn dht root 1", &root.to_bytes()),
            Key::Path(hash) => {
                let material = [firn_nix::STORE_DIR.as_bytes(), hash.as_bytes()].concat();
                blake3::derive_key("firn dht path 1", &material)
            }
        }
    }
}
