//! Tests of stores from outside.
#![allow(clippy::unwrap_used, clippy::panic)]

mod crash;
mod damage;
mod disk;
mod tree;

use std::{cell::RefCell, path::Path};

use firn_store::{DiskStore, MemoryStore, Store, conformance};

#[test]
fn a_memory_store_conforms() {
    conformance::run(|| Box::new(MemoryStore::new()));
}

#[test]
fn a_disk_store_conforms() {
    let dirs = RefCell::new(Vec::new());
    conformance::run(|| {
        let dir = tempfile::tempdir().unwrap();
        let store = DiskStore::open(&dir.path().join("store")).unwrap();
        dirs.borrow_mut().push(dir);
        Box::new(store)
    });
}

/// Keeps a sample tree.
pub(crate) fn keep(store: &dyn Store, seed: u64) -> firn_castore::Root {
    let (root, directories, blobs) = conformance::sample(seed);
    store.keep_directories(&directories).unwrap();
    for bytes in &blobs {
        store.add_blob(&mut &bytes[..]).unwrap();
    }
    root
}

/// Keeps a sample tree and makes it visible.
pub(crate) fn commit(store: &dyn Store, seed: u64) -> firn_castore::Root {
    let root = keep(store, seed);
    store.commit(conformance::stored_path(&format!("sample-{seed}"), &root, true)).unwrap();
    root
}

/// Copies a directory as it is at this moment.
pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
