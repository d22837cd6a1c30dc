//! SHA-256 as Nix writes it.

use std::{fmt, io, str::FromStr};

use data_encoding::{BASE64, HEXLOWER_PERMISSIVE};
use sha2::{Digest, Sha256};

use crate::nixbase32::{self, NixBase32Error};

/// Text or bytes that are no hash.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    /// Neither `<algorithm>:<digest>` nor `<algorithm>-<base64>`, or not the algorithm that it must be.
    #[error("a hash begins with its algorithm, \"{want}:\" here")]
    Algorithm {
        /// What it must begin with.
        want: &'static str,
    },
    /// The digest has neither the length of hex, nor of Nix's base 32, nor of base64.
    #[error("{0} characters are no digest in hex, Nix's base 32 or base64")]
    TextLength(usize),
    /// The digest has the wrong number of bytes.
    #[error("the digest has {len} bytes, not {want}")]
    Length {
        /// How many there are.
        len: usize,
        /// How many there must be.
        want: usize,
    },
    /// No hex or base64.
    #[error("the digest is neither hex nor base64: {0}")]
    Text(#[from] data_encoding::DecodeError),
    /// No Nix base 32.
    #[error("the digest is not Nix's base 32: {0}")]
    NixBase32(#[from] NixBase32Error),
}

/// Reads a digest of `N` bytes in any of Nix's three alphabets; its length tells which one it is.
pub(crate) fn decode_digest<const N: usize>(text: &str) -> Result<[u8; N], HashError> {
    let len = text.len();
    if len == nixbase32::encoded_len(N) {
        return Ok(nixbase32::decode(text)?);
    }
    let bytes = if len == 2 * N {
        HEXLOWER_PERMISSIVE.decode(text.as_bytes())?
    } else if len == BASE64.encode_len(N) {
        BASE64.decode(text.as_bytes())?
    } else {
        return Err(HashError::TextLength(len));
    };
    digest_of(&bytes)
}

pub(crate) fn digest_of<const N: usize>(bytes: &[u8]) -> Result<[u8; N], HashError> {
    bytes.try_into().map_err(|_| HashError::Length { len: bytes.len(), want: N })
}

fn decode_sha256(text: &str) -> Result<[u8; 32], HashError> {
    if let Some(digest) = text.strip_prefix("sha256:") {
        return decode_digest(digest);
    }
    let base64 = text.strip_prefix("sha256-").ok_or(HashError::Algorithm { want: "sha256" })?;
    digest_of(&BASE64.decode(base64.as_bytes())?)
}

macro_rules! sha256 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// Its text is `sha256:` and Nix's base 32. Hex, base64 and the form `sha256-<base64>` are read too.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            /// The SHA-256 of these bytes.
            pub fn of(bytes: &[u8]) -> Self {
                Self(Sha256::digest(bytes).into())
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

        impl TryFrom<&[u8]> for $name {
            type Error = HashError;

            fn try_from(bytes: &[u8]) -> Result<Self, HashError> {
                digest_of(bytes).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "sha256:{}", nixbase32::encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = HashError;

            fn from_str(text: &str) -> Result<Self, HashError> {
                decode_sha256(text).map(Self)
            }
        }
    };
}

sha256! {
    /// The SHA-256 of a NAR, which Nix signs.
    NarHash
}

sha256! {
    /// The SHA-256 of a NAR as a binary cache transfers it, compressed perhaps.
    FileHash
}

/// Hashes and counts what is written to it; the processor's SHA instructions are used where it has them.
#[derive(Debug, Clone, Default)]
pub struct Sha256Writer {
    hasher: Sha256,
    bytes: u64,
}

impl Sha256Writer {
    /// One that has seen nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    /// The hash, and the number of bytes, of all that was written.
    pub fn finish(self) -> (NarHash, u64) {
        (NarHash(self.hasher.finalize().into()), self.bytes)
    }
}

impl io::Write for Sha256Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn four_texts_of_one_hash() {
        let of_nothing = NarHash::of(b"");
        assert_eq!(of_nothing.to_string(), "sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73");
        for text in [
            "sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73",
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "sha256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
            "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
        ] {
            assert_eq!(text.parse(), Ok(of_nothing), "{text}");
        }
    }

    #[test]
    fn what_is_refused() {
        let error = |text: &str| text.parse::<NarHash>().unwrap_err();
        assert_eq!(error("sha1:00"), HashError::Algorithm { want: "sha256" });
        assert_eq!(error("sha256:00"), HashError::TextLength(2));
        assert_eq!(error("sha256-"), HashError::Length { len: 0, want: 32 });
        assert!(matches!(error(&format!("sha256:{}", "g".repeat(64))), HashError::Text(_)));
        assert!(matches!(error(&format!("sha256:{}", "e".repeat(52))), HashError::NixBase32(_)));
    }

    #[test]
    fn writing_in_pieces_is_the_same() {
        let mut writer = Sha256Writer::new();
        writer.write_all(b"one").unwrap();
        writer.write_all(b" two").unwrap();
        assert_eq!(writer.finish(), (NarHash::of(b"one two"), 7));
    }

    proptest! {
        #[test]
        fn parse_of_display_is_the_same(bytes: [u8; 32]) {
            let hash = NarHash::from(bytes);
            prop_assert_eq!(hash.to_string().parse(), Ok(hash));
        }

        #[test]
        fn any_text_is_read_without_panic(text in "(sha256[:-])?.*") {
            let _ = text.parse::<NarHash>();
        }
    }
}
