//! Paths that are named after what they contain.

use std::{collections::BTreeSet, fmt, str::FromStr};

use bytes::Bytes;
use data_encoding::HEXLOWER;
use firn_proto::pathinfo::nar_info::{Ca, ca};
use sha2::{Digest, Sha256};

use crate::{
    HashError, NarHash, STORE_DIR, StorePath, StorePathError,
    hash::{decode_digest, digest_of},
    nixbase32,
};

/// Text or a message that is no content address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContentAddressError {
    /// Neither `text:` nor `fixed:`.
    #[error("a content address begins with \"text:\" or \"fixed:\"")]
    Method,
    /// A hash function that Nix does not have.
    #[error("the hash is neither md5, sha1, sha256 nor sha512")]
    Algorithm,
    /// A number that is none of the kinds.
    #[error("there is no content address of kind {0}")]
    Kind(i32),
    /// A malformed hash.
    #[error(transparent)]
    Hash(#[from] HashError),
}

/// A digest of one of Nix's hash functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ContentHash {
    /// MD5.
    Md5([u8; 16]),
    /// SHA-1.
    Sha1([u8; 20]),
    /// SHA-256.
    Sha256([u8; 32]),
    /// SHA-512.
    Sha512([u8; 64]),
}

impl ContentHash {
    fn algorithm(&self) -> &'static str {
        match self {
            Self::Md5(_) => "md5",
            Self::Sha1(_) => "sha1",
            Self::Sha256(_) => "sha256",
            Self::Sha512(_) => "sha512",
        }
    }

    fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Md5(bytes) => bytes,
            Self::Sha1(bytes) => bytes,
            Self::Sha256(bytes) => bytes,
            Self::Sha512(bytes) => bytes,
        }
    }
}

/// `<algorithm>:<Nix's base 32>`.
impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm(), nixbase32::encode(self.as_bytes()))
    }
}

impl FromStr for ContentHash {
    type Err = ContentAddressError;

    fn from_str(text: &str) -> Result<Self, ContentAddressError> {
        let (algorithm, digest) = text.split_once(':').ok_or(ContentAddressError::Algorithm)?;
        Ok(match algorithm {
            "md5" => Self::Md5(decode_digest(digest)?),
            "sha1" => Self::Sha1(decode_digest(digest)?),
            "sha256" => Self::Sha256(decode_digest(digest)?),
            "sha512" => Self::Sha512(decode_digest(digest)?),
            _ => return Err(ContentAddressError::Algorithm),
        })
    }
}

/// What a content-addressed path is named after.
///
/// Its text is `fixed:r:<hash>`, `fixed:<hash>` or `text:<hash>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ContentAddress {
    /// The hash of the NAR, with the path's own hash blanked out where the contents name it.
    Nar(ContentHash),
    /// The hash of the one file that it is.
    Flat(ContentHash),
    /// The SHA-256 of the one file that it is; the references count, too.
    Text([u8; 32]),
}

impl ContentAddress {
    /// The path that this address, this name and these references make, none of them the path itself.
    ///
    /// `None` where Nix makes no path of them: an illegal name, or references where the kind allows none.
    /// Source: `makeFixedOutputPath`, `makeTextPath` in Nix.
    pub fn store_path(&self, name: &str, references: &BTreeSet<StorePath>) -> Option<StorePath> {
        let references: Vec<&StorePath> = references.iter().collect();
        self.make_path(name, &references, false)
    }

    /// Recomputes a path, which may be among its own references; `None` where another one comes out.
    ///
    /// Who gets a path has proof that path, address and references belong together.
    pub fn recompute(&self, path: &StorePath, references: &BTreeSet<StorePath>) -> Option<StorePath> {
        let others: Vec<&StorePath> = references.iter().filter(|of| *of != path).collect();
        let names_itself = others.len() < references.len();
        self.make_path(path.name(), &others, names_itself).filter(|made| made == path)
    }

    fn make_path(&self, name: &str, references: &[&StorePath], names_itself: bool) -> Option<StorePath> {
        let no_references = references.is_empty() && !names_itself;
        let path = match self {
            Self::Nar(ContentHash::Sha256(digest)) => {
                make_store_path(&path_type("source", references, names_itself), digest, name)
            }
            Self::Text(digest) if !names_itself => {
                make_store_path(&path_type("text", references, false), digest, name)
            }
            Self::Nar(hash) if no_references => make_fixed_path("r:", hash, name),
            Self::Flat(hash) if no_references => make_fixed_path("", hash, name),
            Self::Nar(_) | Self::Flat(_) | Self::Text(_) => return None,
        };
        path.ok()
    }

    /// The message of this address.
    pub fn to_proto(&self) -> Ca {
        use ContentHash::{Md5, Sha1, Sha256, Sha512};
        let (kind, digest): (_, &[u8]) = match self {
            Self::Nar(Sha256(digest)) => (ca::Hash::NarSha256, digest),
            Self::Nar(Sha1(digest)) => (ca::Hash::NarSha1, digest),
            Self::Nar(Sha512(digest)) => (ca::Hash::NarSha512, digest),
            Self::Nar(Md5(digest)) => (ca::Hash::NarMd5, digest),
            Self::Text(digest) => (ca::Hash::TextSha256, digest),
            Self::Flat(Sha1(digest)) => (ca::Hash::FlatSha1, digest),
            Self::Flat(Md5(digest)) => (ca::Hash::FlatMd5, digest),
            Self::Flat(Sha256(digest)) => (ca::Hash::FlatSha256, digest),
            Self::Flat(Sha512(digest)) => (ca::Hash::FlatSha512, digest),
        };
        Ca { r#type: kind.into(), digest: Bytes::copy_from_slice(digest) }
    }

    /// Reads a message; an unknown kind or a digest of a wrong length is refused.
    pub fn from_proto(message: &Ca) -> Result<Self, ContentAddressError> {
        use ContentHash::{Md5, Sha1, Sha256, Sha512};
        let kind =
            ca::Hash::try_from(message.r#type).map_err(|_| ContentAddressError::Kind(message.r#type))?;
        let digest = &message.digest[..];
        Ok(match kind {
            ca::Hash::NarSha256 => Self::Nar(Sha256(digest_of(digest)?)),
            ca::Hash::NarSha1 => Self::Nar(Sha1(digest_of(digest)?)),
            ca::Hash::NarSha512 => Self::Nar(Sha512(digest_of(digest)?)),
            ca::Hash::NarMd5 => Self::Nar(Md5(digest_of(digest)?)),
            ca::Hash::TextSha256 => Self::Text(digest_of(digest)?),
            ca::Hash::FlatSha1 => Self::Flat(Sha1(digest_of(digest)?)),
            ca::Hash::FlatMd5 => Self::Flat(Md5(digest_of(digest)?)),
            ca::Hash::FlatSha256 => Self::Flat(Sha256(digest_of(digest)?)),
            ca::Hash::FlatSha512 => Self::Flat(Sha512(digest_of(digest)?)),
        })
    }
}

/// The path that `nix-store --add` gives a tree of this name and NAR hash.
pub fn source_store_path(name: &str, nar_hash: &NarHash) -> Result<StorePath, StorePathError> {
    make_store_path("source", nar_hash.as_bytes(), name)
}

/// Source: `makeType` in Nix.
fn path_type(kind: &str, references: &[&StorePath], names_itself: bool) -> String {
    let mut text = kind.to_owned();
    for reference in references {
        text.push(':');
        text.push_str(&reference.to_absolute());
    }
    if names_itself {
        text.push_str(":self");
    }
    text
}

fn make_fixed_path(method: &str, hash: &ContentHash, name: &str) -> Result<StorePath, StorePathError> {
    let (algorithm, hex) = (hash.algorithm(), HEXLOWER.encode(hash.as_bytes()));
    let inner = Sha256::digest(format!("fixed:out:{method}{algorithm}:{hex}:"));
    make_store_path("output:out", &inner.into(), name)
}

/// Source: `makeStorePath` and `compressHash` in Nix: a SHA-256, folded to 20 bytes.
fn make_store_path(kind: &str, digest: &[u8; 32], name: &str) -> Result<StorePath, StorePathError> {
    let text = format!("{kind}:sha256:{}:{STORE_DIR}:{name}", HEXLOWER.encode(digest));
    let mut folded = [0; 20];
    for (place, byte) in Sha256::digest(text).iter().enumerate() {
        folded[place % 20] ^= byte;
    }
    StorePath::new(folded.into(), name)
}

impl fmt::Display for ContentAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nar(hash) => write!(f, "fixed:r:{hash}"),
            Self::Flat(hash) => write!(f, "fixed:{hash}"),
            Self::Text(digest) => write!(f, "text:{}", ContentHash::Sha256(*digest)),
        }
    }
}

impl FromStr for ContentAddress {
    type Err = ContentAddressError;

    fn from_str(text: &str) -> Result<Self, ContentAddressError> {
        if let Some(hash) = text.strip_prefix("text:") {
            return match hash.parse()? {
                ContentHash::Sha256(digest) => Ok(Self::Text(digest)),
                _ => Err(HashError::Algorithm { want: "sha256" }.into()),
            };
        }
        let fixed = text.strip_prefix("fixed:").ok_or(ContentAddressError::Method)?;
        match fixed.strip_prefix("r:") {
            Some(hash) => Ok(Self::Nar(hash.parse()?)),
            None => Ok(Self::Flat(fixed.parse()?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hashes() -> impl Strategy<Value = ContentHash> {
        prop_oneof![
            any::<[u8; 16]>().prop_map(ContentHash::Md5),
            any::<[u8; 20]>().prop_map(ContentHash::Sha1),
            any::<[u8; 32]>().prop_map(ContentHash::Sha256),
            (any::<[u8; 32]>(), any::<[u8; 32]>()).prop_map(|(low, high)| {
                ContentHash::Sha512(std::array::from_fn(|i| if i < 32 { low[i] } else { high[i - 32] }))
            }),
        ]
    }

    fn addresses() -> impl Strategy<Value = ContentAddress> {
        prop_oneof![
            hashes().prop_map(ContentAddress::Nar),
            hashes().prop_map(ContentAddress::Flat),
            any::<[u8; 32]>().prop_map(ContentAddress::Text),
        ]
    }

    #[test]
    fn what_is_refused() {
        let error = |text: &str| text.parse::<ContentAddress>().unwrap_err();
        assert_eq!(error("source:sha256:00"), ContentAddressError::Method);
        assert_eq!(error("fixed:r:blake3:00"), ContentAddressError::Algorithm);
        assert_eq!(error("fixed:r"), ContentAddressError::Algorithm);
        let md5 = "text:md5:00000000000000000000000000000000";
        assert_eq!(error(md5), HashError::Algorithm { want: "sha256" }.into());
        assert_eq!(error("fixed:sha1:00"), HashError::TextLength(2).into());
        let kind = Ca { r#type: 9, digest: Bytes::new() };
        assert_eq!(ContentAddress::from_proto(&kind), Err(ContentAddressError::Kind(9)));
        let short = Ca { r#type: 0, digest: Bytes::from_static(&[0; 31]) };
        assert_eq!(ContentAddress::from_proto(&short), Err(HashError::Length { len: 31, want: 32 }.into()));
    }

    #[test]
    fn references_are_part_of_the_path_where_the_kind_allows_them() {
        let nar = ContentAddress::Nar(ContentHash::Sha256([7; 32]));
        let other = nar.store_path("other", &BTreeSet::new()).unwrap();
        assert_eq!(source_store_path("other", &[7; 32].into()), Ok(other.clone()));
        let with_reference = BTreeSet::from([other.clone()]);
        let path = nar.store_path("a", &with_reference).unwrap();
        assert_ne!(Some(&path), nar.store_path("a", &BTreeSet::new()).as_ref());
        assert_eq!(nar.recompute(&path, &with_reference), Some(path.clone()));
        assert_eq!(nar.recompute(&path, &BTreeSet::new()), None);
        assert_eq!(nar.recompute(&path, &[other, path.clone()].into()), None);
        let flat = ContentAddress::Flat(ContentHash::Sha256([7; 32]));
        assert_eq!(flat.store_path("a", &with_reference), None);
        assert!(flat.store_path("a", &BTreeSet::new()).is_some());
        assert_eq!(flat.store_path("a/b", &BTreeSet::new()), None);
    }

    proptest! {
        #[test]
        fn decode_of_encode_is_the_same(address in addresses()) {
            prop_assert_eq!(address.to_string().parse(), Ok(address));
            prop_assert_eq!(ContentAddress::from_proto(&address.to_proto()), Ok(address));
        }

        #[test]
        fn anything_is_read_without_panic(text in "((text|fixed):)?(r:)?((md5|sha1|sha256|sha512):)?.*",
                                          kind: i32, digest: Vec<u8>) {
            let _ = text.parse::<ContentAddress>();
            let _ = ContentAddress::from_proto(&Ca { r#type: kind % 10, digest: digest.into() });
        }
    }
}
