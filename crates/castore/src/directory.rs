//! One level of a tree.

use std::{
    collections::{BTreeMap, btree_map},
    ops::Bound,
};

use bytes::Bytes;
use firn_proto::castore as proto;
use prost::{
    Message,
    encoding::{WireType, check_wire_type, decode_key},
};

use crate::{BlobRef, DigestError, DirectoryDigest, NameError, Node, PathComponent};

/// The longest encoding of a Directory, in bytes.
pub const DIRECTORY_BYTES_MAX: usize = 64 << 20;

/// Why bytes, or a set of entries, are no Directory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DirectoryError {
    /// Not the bytes that were asked for.
    #[error("the bytes hash to {got}, not to {want}")]
    Digest {
        /// What was asked for.
        want: DirectoryDigest,
        /// What came.
        got: DirectoryDigest,
    },
    /// The bytes are no protobuf.
    #[error("the Directory is not protobuf: {0}")]
    Protobuf(#[from] prost::DecodeError),
    /// Out of order, with unknown or repeated fields, or with over-long varints.
    #[error("the Directory is not in its canonical encoding")]
    NotCanonical,
    /// An illegal name or symlink target.
    #[error("illegal name or symlink target in a Directory: {0}")]
    Name(#[from] NameError),
    /// Two entries of one name.
    #[error("the name {0} stands twice in a Directory")]
    Duplicate(PathComponent),
    /// A digest of the wrong length.
    #[error(transparent)]
    ChildDigest(#[from] DigestError),
    /// The entries beneath are more than can be counted.
    #[error("the sizes of a Directory's entries overflow")]
    SizeOverflow,
    /// Longer than [`DIRECTORY_BYTES_MAX`].
    #[error("a Directory of {0} bytes is too long")]
    TooLong(usize),
}

/// One level of a tree: names and what they stand for, in canonical order, with its canonical encoding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    nodes: BTreeMap<PathComponent, Node>,
    encoded: Bytes,
    digest: DirectoryDigest,
    size: u64,
}

impl Directory {
    /// Makes a Directory out of entries in any order.
    pub fn build(entries: impl IntoIterator<Item = (PathComponent, Node)>) -> Result<Self, DirectoryError> {
        let mut nodes = BTreeMap::new();
        for (name, node) in entries {
            insert(&mut nodes, name, node)?;
        }
        let encoded = Bytes::from(to_proto(&nodes).encode_to_vec());
        let digest = DirectoryDigest::of(&encoded);
        Self::counted(nodes, encoded, digest)
    }

    /// Reads the bytes of the Directory that is named `want`; anything but its canonical encoding is refused.
    pub fn decode(encoded: Bytes, want: &DirectoryDigest) -> Result<Self, DirectoryError> {
        if encoded.len() > DIRECTORY_BYTES_MAX {
            return Err(DirectoryError::TooLong(encoded.len()));
        }
        let got = DirectoryDigest::of(&encoded);
        if got != *want {
            return Err(DirectoryError::Digest { want: *want, got });
        }
        let mut nodes = BTreeMap::new();
        let mut rest = encoded.clone();
        while !rest.is_empty() {
            let (name, node) = take_entry(&mut rest)?;
            insert(&mut nodes, name, node)?;
        }
        if to_proto(&nodes).encode_to_vec() != encoded {
            return Err(DirectoryError::NotCanonical);
        }
        Self::counted(nodes, encoded, got)
    }

    fn counted(
        nodes: BTreeMap<PathComponent, Node>,
        encoded: Bytes,
        digest: DirectoryDigest,
    ) -> Result<Self, DirectoryError> {
        if encoded.len() > DIRECTORY_BYTES_MAX {
            return Err(DirectoryError::TooLong(encoded.len()));
        }
        let size = nodes
            .values()
            .try_fold(0u64, |sum, node| sum.checked_add(node.entries()?))
            .ok_or(DirectoryError::SizeOverflow)?;
        Ok(Self { nodes, encoded, digest, size })
    }

    /// Its name: the BLAKE3 of [`Directory::encoded`].
    pub fn digest(&self) -> DirectoryDigest {
        self.digest
    }

    /// The canonical encoding.
    pub fn encoded(&self) -> &Bytes {
        &self.encoded
    }

    /// How many entries there are beneath it, as far as the claims of its child directories are true.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The node that stands for this Directory.
    pub fn node(&self) -> Node {
        Node::Directory { digest: self.digest, size: self.size }
    }

    /// The entries, sorted by name, which is also the order of a NAR.
    pub fn iter(&self) -> btree_map::Iter<'_, PathComponent, Node> {
        self.nodes.iter()
    }

    /// The entries behind this name in order, or all: where an iteration goes on that could not keep its iterator.
    pub fn after(&self, name: Option<&PathComponent>) -> btree_map::Range<'_, PathComponent, Node> {
        self.nodes.range((name.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded))
    }

    /// The node of this name.
    pub fn get(&self, name: &PathComponent) -> Option<&Node> {
        self.nodes.get(name)
    }

    /// How many entries it has itself.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether it has no entry.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }
}

impl<'a> IntoIterator for &'a Directory {
    type Item = (&'a PathComponent, &'a Node);
    type IntoIter = btree_map::Iter<'a, PathComponent, Node>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Takes the first entry off the bytes. One at a time: a message of nothing but empty entries, which take two bytes each,
/// would be taken apart into many times its length before the first of them is found out.
fn take_entry(rest: &mut Bytes) -> Result<(PathComponent, Node), DirectoryError> {
    let (list, wire_type) = decode_key(rest)?;
    if !(1..=3).contains(&list) {
        return Err(DirectoryError::NotCanonical);
    }
    check_wire_type(WireType::LengthDelimited, wire_type)?;
    let (name, node) = match list {
        1 => {
            let entry = proto::DirectoryEntry::decode_length_delimited(rest)?;
            (entry.name, Node::Directory { digest: entry.digest[..].try_into()?, size: entry.size })
        }
        2 => {
            let entry = proto::FileEntry::decode_length_delimited(rest)?;
            let blob = BlobRef { digest: entry.digest[..].try_into()?, size: entry.size };
            (entry.name, Node::File { blob, executable: entry.executable })
        }
        _ => {
            let entry = proto::SymlinkEntry::decode_length_delimited(rest)?;
            (entry.name, Node::Symlink { target: entry.target.try_into()? })
        }
    };
    Ok((name.try_into()?, node))
}

fn insert(
    nodes: &mut BTreeMap<PathComponent, Node>,
    name: PathComponent,
    node: Node,
) -> Result<(), DirectoryError> {
    match nodes.entry(name) {
        btree_map::Entry::Occupied(entry) => Err(DirectoryError::Duplicate(entry.key().clone())),
        btree_map::Entry::Vacant(entry) => {
            entry.insert(node);
            Ok(())
        }
    }
}

fn to_proto(nodes: &BTreeMap<PathComponent, Node>) -> proto::Directory {
    use proto::entry::Entry;
    let mut message = proto::Directory::default();
    for (name, node) in nodes {
        match node.to_named_entry(name).entry {
            Some(Entry::Directory(entry)) => message.directories.push(entry),
            Some(Entry::File(entry)) => message.files.push(entry),
            Some(Entry::Symlink(entry)) => message.symlinks.push(entry),
            None => {}
        }
    }
    message
}
