//! Names of what Nix stores.

use std::{cmp::Ordering, fmt, str::FromStr};

use crate::nixbase32::{self, NixBase32Error};

/// The only store directory there is: a signature covers absolute paths, so another one is another world.
pub const STORE_DIR: &str = "/nix/store";
/// The longest name of a store path, in bytes, without its hash.
pub const STORE_PATH_NAME_BYTES_MAX: usize = 211;

/// Text that is no store path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StorePathError {
    /// An absolute path elsewhere.
    #[error("only store paths in {STORE_DIR} are supported")]
    OtherStoreDir,
    /// The first 32 characters are not the hash, or no dash follows.
    #[error("a store path begins with 32 characters of hash and a dash")]
    NoHash,
    /// The hash is not Nix's base 32.
    #[error("the hash of the store path is not Nix's base 32: {0}")]
    Hash(#[from] NixBase32Error),
    /// The hash is not 20 bytes long.
    #[error("the hash of a store path has 20 bytes, not {0}")]
    HashLength(usize),
    /// No name follows the hash.
    #[error("the store path has no name")]
    NoName,
    /// A name that is longer than [`STORE_PATH_NAME_BYTES_MAX`].
    #[error("the name of the store path has {0} bytes, more than {STORE_PATH_NAME_BYTES_MAX}")]
    NameTooLong(usize),
    /// `.` or `..`, alone or before a dash. Later versions of Nix refuse them, too.
    #[error("the name of the store path begins with a component of dots")]
    Dots,
    /// A byte other than letters, digits and `+-._?=`.
    #[error("the name of the store path contains '{}'", .0.escape_ascii())]
    Forbidden(u8),
}

/// The hash in a store path, 20 bytes: what a binary cache is asked for.
///
/// Its text is Nix's base 32, and it is ordered as its text is, so that sets of paths have Nix's order.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct StorePathHash([u8; 20]);

impl StorePathHash {
    /// The 20 bytes.
    pub fn as_bytes(&self) -> &[u8; 20] {
        &self.0
    }
}

impl Ord for StorePathHash {
    fn cmp(&self, other: &Self) -> Ordering {
        // The text is the number that the bytes are in little endian, written from its most significant digit on.
        self.0.iter().rev().cmp(other.0.iter().rev())
    }
}

impl PartialOrd for StorePathHash {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl From<[u8; 20]> for StorePathHash {
    fn from(bytes: [u8; 20]) -> Self {
        Self(bytes)
    }
}

impl TryFrom<&[u8]> for StorePathHash {
    type Error = StorePathError;

    fn try_from(bytes: &[u8]) -> Result<Self, StorePathError> {
        bytes.try_into().map(Self).map_err(|_| StorePathError::HashLength(bytes.len()))
    }
}

impl fmt::Display for StorePathHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&nixbase32::encode(&self.0))
    }
}

impl fmt::Debug for StorePathHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StorePathHash({self})")
    }
}

impl FromStr for StorePathHash {
    type Err = StorePathError;

    fn from_str(text: &str) -> Result<Self, StorePathError> {
        Ok(Self(nixbase32::decode(text)?))
    }
}

/// A path directly beneath [`STORE_DIR`]: a hash and a legal name.
///
/// Its text is the base name, `<hash>-<name>`, and it is ordered as its text is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StorePath {
    hash: StorePathHash,
    name: String,
}

impl StorePath {
    /// Puts a path together; an illegal name is refused.
    pub fn new(hash: StorePathHash, name: &str) -> Result<Self, StorePathError> {
        check_name(name)?;
        Ok(Self { hash, name: name.to_owned() })
    }

    /// Reads `/nix/store/<hash>-<name>`.
    pub fn from_absolute(path: &str) -> Result<Self, StorePathError> {
        let base = path.strip_prefix(STORE_DIR).and_then(|rest| rest.strip_prefix('/'));
        base.ok_or(StorePathError::OtherStoreDir)?.parse()
    }

    /// `/nix/store/<hash>-<name>`.
    pub fn to_absolute(&self) -> String {
        format!("{STORE_DIR}/{self}")
    }

    /// The hash.
    pub fn hash(&self) -> &StorePathHash {
        &self.hash
    }

    /// The name, without the hash.
    pub fn name(&self) -> &str {
        &self.name
    }
}

fn check_name(name: &str) -> Result<(), StorePathError> {
    let legal = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-._?=".contains(byte);
    match name.as_bytes() {
        [] => Err(StorePathError::NoName),
        bytes if bytes.len() > STORE_PATH_NAME_BYTES_MAX => Err(StorePathError::NameTooLong(bytes.len())),
        [b'.'] | [b'.', b'-', ..] | [b'.', b'.'] | [b'.', b'.', b'-', ..] => Err(StorePathError::Dots),
        bytes => match bytes.iter().find(|byte| !legal(byte)) {
            Some(byte) => Err(StorePathError::Forbidden(*byte)),
            None => Ok(()),
        },
    }
}

impl fmt::Display for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.hash, self.name)
    }
}

impl fmt::Debug for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StorePath({self})")
    }
}

impl FromStr for StorePath {
    type Err = StorePathError;

    fn from_str(text: &str) -> Result<Self, StorePathError> {
        if text.starts_with('/') {
            return Err(StorePathError::NoHash);
        }
        let (hash, rest) = text.split_at_checked(32).ok_or(StorePathError::NoHash)?;
        Self::new(hash.parse()?, rest.strip_prefix('-').ok_or(StorePathError::NoHash)?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HASH: &str = "0c5b8vw40dy178xlpddw65q9gf1h2186";

    #[test]
    fn both_forms() {
        let path = StorePath::from_absolute(&format!("{STORE_DIR}/{HASH}-hello-2.12.1")).unwrap();
        assert_eq!(path.name(), "hello-2.12.1");
        assert_eq!(path.hash().to_string(), HASH);
        assert_eq!(path.to_string(), format!("{HASH}-hello-2.12.1"));
        assert_eq!(path.to_absolute(), format!("{STORE_DIR}/{HASH}-hello-2.12.1"));
    }

    #[test]
    fn what_is_refused() {
        use StorePathError::*;
        let absolute = |text: String| StorePath::from_absolute(&text).unwrap_err();
        assert_eq!(absolute(format!("/gnu/store/{HASH}-a")), OtherStoreDir);
        assert_eq!(absolute(format!("/nix/storeroom/{HASH}-a")), OtherStoreDir);
        assert_eq!(absolute(format!("/nix/store//{HASH}-a")), NoHash);
        assert_eq!(absolute(format!("/nix/store/{HASH}-a/bin")), Forbidden(b'/'));
        let base = |text: String| text.parse::<StorePath>().unwrap_err();
        assert_eq!(base(format!("/nix/store/{HASH}-a")), NoHash);
        assert_eq!(base(HASH[1..].to_owned()), NoHash);
        assert_eq!(base(format!("{HASH}_a")), NoHash);
        assert_eq!(base(format!("{HASH}-")), NoName);
        for dots in [".", "..", ".-a", "..-a"] {
            assert_eq!(base(format!("{HASH}-{dots}")), Dots);
        }
        assert_eq!(base(format!("{HASH}-a b")), Forbidden(b' '));
        assert_eq!(base(format!("{HASH}-{}", "a".repeat(212))), NameTooLong(212));
        for legal in [&"a".repeat(211), ".a", "...", "-", "=?+_-."] {
            assert!(format!("{HASH}-{legal}").parse::<StorePath>().is_ok(), "{legal}");
        }
        assert!(matches!(base(format!("e{}-a", &HASH[1..])), Hash(NixBase32Error::Digit(b'e'))));
    }

    proptest! {
        #[test]
        fn parse_of_display_is_the_same(hash: [u8; 20], name in "[0-9a-zA-Z+_?=-][0-9a-zA-Z+._?=-]{0,210}") {
            let path = StorePath::new(hash.into(), &name).unwrap();
            prop_assert_eq!(path.to_string().parse(), Ok(path.clone()));
            prop_assert_eq!(StorePath::from_absolute(&path.to_absolute()), Ok(path));
        }

        #[test]
        fn the_order_is_that_of_the_text(a: [u8; 20], b: [u8; 20], x in "[a-z-]{1,2}", y in "[a-z-]{1,2}") {
            let (a, b) = (StorePath::new(a.into(), &x).unwrap(), StorePath::new(b.into(), &y).unwrap());
            prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
        }

        #[test]
        fn any_text_is_read_without_panic(text in "[0-9a-df-np-sv-z]{32}-.*|.*") {
            if let Ok(path) = text.parse::<StorePath>() {
                prop_assert_eq!(path.to_string(), text);
            }
        }
    }
}
