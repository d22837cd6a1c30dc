//! What a name in a Directory, or a whole tree, stands for.

use std::{fmt, str::FromStr};

use bytes::Bytes;
use data_encoding::BASE64URL_NOPAD;
use firn_proto::castore as proto;
use prost::Message;

use crate::{BlobRef, DigestError, DirectoryDigest, NameError, PathComponent, SymlinkTarget};

/// A file, a directory or a symlink, without its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Node {
    /// A directory.
    Directory {
        /// Names its [`Directory`](crate::Directory).
        digest: DirectoryDigest,
        /// How many entries there are beneath it, as its parent claims.
        size: u64,
    },
    /// A regular file.
    File {
        /// Its contents.
        blob: BlobRef,
        /// The owner's executable bit.
        executable: bool,
    },
    /// A symlink; complete in itself.
    Symlink {
        /// Where it points.
        target: SymlinkTarget,
    },
}

/// Bytes or text that name no root.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RootError {
    /// The text does not begin with `firn:`.
    #[error("a root begins with \"firn:\"")]
    Prefix,
    /// What follows is not unpadded base64url.
    #[error("a root is \"firn:\" and unpadded base64url: {0}")]
    Base64(#[from] data_encoding::DecodeError),
    /// The bytes are no protobuf.
    #[error("the entry is not protobuf: {0}")]
    Protobuf(#[from] prost::DecodeError),
    /// The bytes are not the one encoding of what they say.
    #[error("the entry is not in its canonical encoding")]
    NotCanonical,
    /// None of the three kinds.
    #[error("the entry is neither directory, file nor symlink")]
    NoKind,
    /// A root has no name.
    #[error("the entry of a root has no name, this one has \"{}\"", .0.escape_ascii())]
    Named(Bytes),
    /// A digest of the wrong length.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// The name, or the target of a symlink, is illegal.
    #[error("illegal name or symlink target: {0}")]
    Name(#[from] NameError),
}

impl Node {
    /// How many entries this node adds to the directory that holds it: itself and all beneath; `None` on overflow.
    pub(crate) fn entries(&self) -> Option<u64> {
        match self {
            Node::Directory { size, .. } => size.checked_add(1),
            Node::File { .. } | Node::Symlink { .. } => Some(1),
        }
    }

    /// The protobuf Entry with this name.
    pub fn to_named_entry(&self, name: &PathComponent) -> proto::Entry {
        self.to_entry(name.as_bytes().clone())
    }

    /// Takes apart a protobuf Entry that must have a name.
    pub fn from_named_entry(entry: proto::Entry) -> Result<(PathComponent, Node), RootError> {
        let (name, node) = Self::from_entry(entry)?;
        Ok((PathComponent::try_from(name)?, node))
    }

    fn to_entry(&self, name: Bytes) -> proto::Entry {
        use proto::entry::Entry;
        let entry = match self {
            Node::Directory { digest, size } => Entry::Directory(proto::DirectoryEntry {
                name,
                digest: Bytes::copy_from_slice(digest.as_bytes()),
                size: *size,
            }),
            Node::File { blob, executable } => Entry::File(proto::FileEntry {
                name,
                digest: Bytes::copy_from_slice(blob.digest.as_bytes()),
                size: blob.size,
                executable: *executable,
            }),
            Node::Symlink { target } => {
                Entry::Symlink(proto::SymlinkEntry { name, target: target.as_bytes().clone() })
            }
        };
        proto::Entry { entry: Some(entry) }
    }

    fn from_entry(entry: proto::Entry) -> Result<(Bytes, Node), RootError> {
        use proto::entry::Entry;
        match entry.entry.ok_or(RootError::NoKind)? {
            Entry::Directory(d) => {
                Ok((d.name, Node::Directory { digest: d.digest[..].try_into()?, size: d.size }))
            }
            Entry::File(f) => {
                let blob = BlobRef { digest: f.digest[..].try_into()?, size: f.size };
                Ok((f.name, Node::File { blob, executable: f.executable }))
            }
            Entry::Symlink(s) => Ok((s.name, Node::Symlink { target: s.target.try_into()? })),
        }
    }
}

/// A whole tree, named by what it contains: a [`Node`] without a name.
///
/// Its text form is `firn:` and the unpadded base64url of its canonical Entry. A bare digest would lose the kind, the
/// size and the executable bit.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Root(Node);

impl Root {
    /// The tree's topmost node.
    pub fn node(&self) -> &Node {
        &self.0
    }

    /// The canonical nameless Entry.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.to_entry(Bytes::new()).encode_to_vec()
    }

    /// Reads the canonical nameless Entry.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RootError> {
        let (name, node) = Node::from_entry(proto::Entry::decode(bytes)?)?;
        if !name.is_empty() {
            return Err(RootError::Named(name));
        }
        let root = Root(node);
        if root.to_bytes() == bytes { Ok(root) } else { Err(RootError::NotCanonical) }
    }

    /// Unpadded base64url of the canonical Entry: the text form without its prefix, as it stands in URLs.
    pub fn to_base64url(&self) -> String {
        BASE64URL_NOPAD.encode(&self.to_bytes())
    }

    /// Reads what [`Root::to_base64url`] writes.
    pub fn from_base64url(text: &str) -> Result<Self, RootError> {
        Self::from_bytes(&BASE64URL_NOPAD.decode(text.as_bytes())?)
    }
}

impl From<Node> for Root {
    fn from(node: Node) -> Self {
        Self(node)
    }
}

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "firn:{}", self.to_base64url())
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Root({:?})", self.0)
    }
}

impl FromStr for Root {
    type Err = RootError;

    fn from_str(text: &str) -> Result<Self, RootError> {
        Self::from_base64url(text.strip_prefix("firn:").ok_or(RootError::Prefix)?)
    }
}
