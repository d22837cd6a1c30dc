//! All parents of a blob's hash tree.

use std::io::{self, Read};

use bao_tree::iter::BaoChunk;
use blake3::hazmat::ChainingValue;
use bytes::Bytes;
use firn_castore::{BlobDigest, BlobRef};

use crate::{GROUP_BYTES, PAIR_BYTES, hash, span};

/// The parents of a blob's hash tree in pre-order, 64 bytes each: left and right chaining value.
///
/// Empty for blobs of at most one group. There is no length in front. This is bao-tree's pre-order outboard for 16 KiB
/// chunk groups.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outboard(Bytes);

impl Outboard {
    /// The encoding.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// How long the outboard of a blob of `size` bytes is.
    pub fn byte_length(size: u64) -> u64 {
        span::tree(size).outboard_size()
    }
}

/// Reads to the end and gives the blob's name and its outboard. Memory is flat but for the chaining values of groups
/// (32 bytes each) and the outboard.
pub fn hash_blob(reader: &mut dyn Read) -> io::Result<(BlobRef, Outboard)> {
    let mut groups: Vec<ChainingValue> = Vec::new();
    let mut size = 0u64;
    let mut group = vec![0; GROUP_BYTES as usize];
    let mut first_root = hash::subtree(0, &[], true);
    loop {
        let filled = fill(reader, &mut group)?;
        if filled == 0 {
            break;
        }
        if size == 0 {
            first_root = hash::subtree(0, &group[..filled], true);
        }
        groups.push(hash::subtree(size / 1024, &group[..filled], false));
        size += filled as u64;
        if (filled as u64) < GROUP_BYTES {
            break;
        }
    }
    if groups.len() < 2 {
        let digest = BlobDigest::from(first_root);
        return Ok((BlobRef { digest, size }, Outboard::default()));
    }
    let (digest, outboard) = build(size, groups);
    Ok((BlobRef { digest, size }, outboard))
}

fn fill(reader: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Folds the groups' values into parents, post-order as bao-tree walks, each written to its pre-order place.
fn build(size: u64, groups: Vec<ChainingValue>) -> (BlobDigest, Outboard) {
    let tree = span::tree(size);
    let mut encoded = vec![0; tree.outboard_size() as usize];
    let mut groups = groups.into_iter();
    let mut stack: Vec<ChainingValue> = Vec::new();
    for chunk in tree.post_order_chunks_iter() {
        match chunk {
            BaoChunk::Leaf { .. } => {
                stack.push(groups.next().expect("the tree has a leaf for each group that was read"));
            }
            BaoChunk::Parent { node, is_root, .. } => {
                let right = stack.pop().expect("post-order: both children came before");
                let left = stack.pop().expect("post-order: both children came before");
                let index = tree.pre_order_offset(node).expect("a parent of whole groups has a place");
                let at = index as usize * PAIR_BYTES;
                encoded[at..at + 32].copy_from_slice(&left);
                encoded[at + 32..at + PAIR_BYTES].copy_from_slice(&right);
                stack.push(hash::parent(&left, &right, is_root));
            }
        }
    }
    let root = stack.pop().expect("two groups or more have a parent");
    (BlobDigest::from(root), Outboard(encoded.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bao_tree::io::outboard::PreOrderMemOutboard;

    #[test]
    fn as_blake3_and_bao_tree_have_it() {
        for size in [0, 1, 1024, 16_384, 16_385, 32_768, 49_153, 100_000, 1_000_000] {
            let bytes: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
            let (blob, outboard) = hash_blob(&mut &bytes[..]).unwrap();
            assert_eq!(blob, BlobRef::of(&bytes));
            let theirs = PreOrderMemOutboard::create(&bytes, crate::BLOCK_SIZE);
            assert_eq!(outboard.as_bytes()[..], theirs.data[..], "{size} bytes");
            assert_eq!(outboard.as_bytes().len() as u64, Outboard::byte_length(size as u64));
        }
    }
}
