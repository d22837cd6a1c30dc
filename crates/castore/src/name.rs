//! Names of directory entries and targets of symlinks.

use std::fmt;

use bytes::Bytes;

/// The longest name of an entry, in bytes.
pub const NAME_BYTES_MAX: usize = 255;
/// The longest target of a symlink, in bytes.
pub const TARGET_BYTES_MAX: usize = 4095;

/// A name or a target that castore forbids.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing at all.
    #[error("it is empty")]
    Empty,
    /// Longer than [`NAME_BYTES_MAX`] or [`TARGET_BYTES_MAX`].
    #[error("it has {len} bytes, more than {max}")]
    TooLong {
        /// How many there are.
        len: usize,
        /// How many there may be.
        max: usize,
    },
    /// `.` or `..`.
    #[error("\"{0}\" is not a name")]
    Dots(&'static str),
    /// A slash or a NUL.
    #[error("it contains the byte {0:#04x}")]
    Forbidden(u8),
}

/// A legal name of a directory entry: 1–255 bytes, no `/`, no NUL, not `.` or `..`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathComponent(Bytes);

impl TryFrom<Bytes> for PathComponent {
    type Error = NameError;

    fn try_from(name: Bytes) -> Result<Self, NameError> {
        length(&name, NAME_BYTES_MAX)?;
        match &name[..] {
            b"." => return Err(NameError::Dots(".")),
            b".." => return Err(NameError::Dots("..")),
            _ => {}
        }
        match name.iter().find(|byte| matches!(byte, b'/' | 0)) {
            Some(byte) => Err(NameError::Forbidden(*byte)),
            None => Ok(Self(name)),
        }
    }
}

/// A legal symlink target: 1–4095 bytes, no NUL.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SymlinkTarget(Bytes);

impl TryFrom<Bytes> for SymlinkTarget {
    type Error = NameError;

    fn try_from(target: Bytes) -> Result<Self, NameError> {
        length(&target, TARGET_BYTES_MAX)?;
        if target.contains(&0) { Err(NameError::Forbidden(0)) } else { Ok(Self(target)) }
    }
}

fn length(bytes: &Bytes, max: usize) -> Result<(), NameError> {
    match bytes.len() {
        0 => Err(NameError::Empty),
        len if len > max => Err(NameError::TooLong { len, max }),
        _ => Ok(()),
    }
}

macro_rules! checked_bytes {
    ($name:ident) => {
        impl $name {
            /// The bytes, which need not be UTF-8.
            pub fn as_bytes(&self) -> &Bytes {
                &self.0
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = NameError;

            fn try_from(bytes: &[u8]) -> Result<Self, NameError> {
                Self::try_from(Bytes::copy_from_slice(bytes))
            }
        }

        impl TryFrom<&str> for $name {
            type Error = NameError;

            fn try_from(text: &str) -> Result<Self, NameError> {
                Self::try_from(text.as_bytes())
            }
        }

        /// Bytes outside printable ASCII are escaped.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0.escape_ascii())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "\"{}\"", self.0.escape_ascii())
            }
        }
    };
}

checked_bytes!(PathComponent);
checked_bytes!(SymlinkTarget);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for legal in [&b"a"[..], b"...", b".hidden", b"\xff\xfe", b"a b", &[b'x'; 255]] {
            assert!(PathComponent::try_from(legal).is_ok(), "{legal:?}");
        }
        assert_eq!(PathComponent::try_from(""), Err(NameError::Empty));
        assert_eq!(PathComponent::try_from("."), Err(NameError::Dots(".")));
        assert_eq!(PathComponent::try_from(".."), Err(NameError::Dots("..")));
        assert_eq!(PathComponent::try_from("a/b"), Err(NameError::Forbidden(b'/')));
        assert_eq!(PathComponent::try_from("a\0"), Err(NameError::Forbidden(0)));
        assert_eq!(PathComponent::try_from(&[b'x'; 256][..]), Err(NameError::TooLong { len: 256, max: 255 }));
    }

    #[test]
    fn targets() {
        assert!(SymlinkTarget::try_from("../a/b").is_ok());
        assert!(SymlinkTarget::try_from(&[b'x'; 4095][..]).is_ok());
        assert_eq!(SymlinkTarget::try_from(""), Err(NameError::Empty));
        assert_eq!(SymlinkTarget::try_from("a\0b"), Err(NameError::Forbidden(0)));
        assert_eq!(
            SymlinkTarget::try_from(&[b'x'; 4096][..]),
            Err(NameError::TooLong { len: 4096, max: 4095 })
        );
    }
}
