//! The two kinds of BLAKE3 digest, kept apart by type.

use std::fmt;

use data_encoding::HEXLOWER;

/// Bytes that are not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a BLAKE3 digest has 32 bytes, not {0}")]
pub struct DigestError(pub usize);

macro_rules! digest {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            /// The digest of these bytes.
            pub fn of(bytes: &[u8]) -> Self {
                Self(*blake3::hash(bytes).as_bytes())
            }

            /// The 32 bytes.
            pub fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl From<[u8; 32]> for $name {
            fn from(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }
        }

        impl From<blake3::Hash> for $name {
            fn from(hash: blake3::Hash) -> Self {
                Self(*hash.as_bytes())
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = DigestError;

            fn try_from(bytes: &[u8]) -> Result<Self, DigestError> {
                bytes.try_into().map(Self).map_err(|_| DigestError(bytes.len()))
            }
        }

        /// Lowercase hex.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&HEXLOWER.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), HEXLOWER.encode(&self.0[..6]))
            }
        }
    };
}

digest! {
    /// Names a blob: the BLAKE3 of a file's contents.
    BlobDigest
}

digest! {
    /// Names a [`Directory`](crate::Directory): the BLAKE3 of its canonical encoding.
    DirectoryDigest
}

impl From<DirectoryDigest> for BlobDigest {
    /// A Directory's encoding is a valid blob for any BLAKE3 transport.
    fn from(digest: DirectoryDigest) -> Self {
        Self(digest.0)
    }
}

/// A blob's digest, and the length in bytes that somebody claims for it.
///
/// The length is proven together with the blob's last chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlobRef {
    /// What the contents hash to.
    pub digest: BlobDigest,
    /// Length in bytes.
    pub size: u64,
}

impl BlobRef {
    /// The name and length of these contents.
    pub fn of(bytes: &[u8]) -> Self {
        Self { digest: BlobDigest::of(bytes), size: bytes.len() as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_lengths_are_refused() {
        assert_eq!(BlobDigest::try_from(&[0u8; 31][..]), Err(DigestError(31)));
        assert_eq!(DirectoryDigest::try_from(&[0u8; 33][..]), Err(DigestError(33)));
        assert!(BlobDigest::try_from(&[7u8; 32][..]).is_ok());
    }
}
