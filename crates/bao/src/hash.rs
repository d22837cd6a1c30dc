//! BLAKE3's two operations on a hash tree, as chaining values.

use blake3::Hasher;
use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};

/// The value of a whole tree.
pub(crate) fn root(bytes: &[u8]) -> ChainingValue {
    *blake3::hash(bytes).as_bytes()
}

/// The value of a group that begins at `offset` and is not the whole tree.
pub(crate) fn group(offset: u64, bytes: &[u8]) -> ChainingValue {
    if bytes.is_empty() {
        // Such a group is in no tree, and BLAKE3 panics on it.
        return root(bytes);
    }
    let mut hasher = Hasher::new();
    hasher.set_input_offset(offset);
    hasher.update(bytes);
    hasher.finalize_non_root()
}

/// The value of a parent.
pub(crate) fn parent(left: &ChainingValue, right: &ChainingValue, is_root: bool) -> ChainingValue {
    if is_root {
        *merge_subtrees_root(left, right, Mode::Hash).as_bytes()
    } else {
        merge_subtrees_non_root(left, right, Mode::Hash)
    }
}
