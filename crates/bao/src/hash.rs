//! BLAKE3's two operations on a hash tree, as chaining values.

use blake3::Hasher;
use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};

/// The value of a subtree of whole chunks that begins at `start_chunk`.
pub(crate) fn subtree(start_chunk: u64, bytes: &[u8], is_root: bool) -> ChainingValue {
    if is_root {
        return *blake3::hash(bytes).as_bytes();
    }
    let mut hasher = Hasher::new();
    hasher.set_input_offset(start_chunk * 1024);
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
