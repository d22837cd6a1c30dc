//! Random nodes and Directories.

use firn_castore::{BlobRef, Node, PathComponent, SymlinkTarget};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

pub(crate) fn names() -> impl Strategy<Value = PathComponent> {
    let byte = any::<u8>().prop_filter("neither NUL nor slash", |byte| !matches!(byte, 0 | b'/'));
    vec(byte, 1..20).prop_filter_map("not dots", |name| PathComponent::try_from(&name[..]).ok())
}

pub(crate) fn nodes() -> impl Strategy<Value = Node> {
    let target = vec(1u8.., 1..40).prop_map(|target| SymlinkTarget::try_from(&target[..]).unwrap());
    let digest = any::<[u8; 32]>();
    prop_oneof![
        (digest, 0..u64::MAX >> 8).prop_map(|(digest, size)| Node::Directory { digest: digest.into(), size }),
        (digest, any::<u64>(), any::<bool>()).prop_map(|(digest, size, executable)| Node::File {
            blob: BlobRef { digest: digest.into(), size },
            executable
        }),
        target.prop_map(|target| Node::Symlink { target }),
    ]
}

pub(crate) fn entries() -> impl Strategy<Value = Vec<(PathComponent, Node)>> {
    btree_map(names(), nodes(), 0..12).prop_map(|entries| entries.into_iter().collect())
}
