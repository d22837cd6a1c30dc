//! Tests of stores from outside.
#![allow(clippy::unwrap_used, clippy::panic)]

mod crash;
mod damage;
mod disk;
mod many;
mod tree;

use std::path::Path;

use firn_store::{DiskStore, Finding, MemoryStore, Store, conformance, verify_all};

pub(crate) use firn_store::conformance::{copy_in, keep_sample as keep, span_of};

#[test]
fn a_memory_store_conforms() {
    let scratch = tempfile::tempdir().unwrap();
    conformance::run(scratch.path(), |_| Box::new(MemoryStore::new()));
}

#[test]
fn a_disk_store_conforms() {
    let scratch = tempfile::tempdir().unwrap();
    conformance::run(scratch.path(), |path| Box::new(DiskStore::open(path).unwrap()));
}

/// Keeps a sample tree and makes it visible.
pub(crate) fn commit(store: &dyn Store, seed: u64) -> firn_castore::Root {
    let root = keep(store, seed);
    store.commit(conformance::stored_path(&format!("sample-{seed}"), &root, true), None).unwrap();
    root
}

/// A directory in memory, where there is such a thing: what is not about the disk itself need not wait for one.
pub(crate) fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

/// What is damaged of all that is visible.
pub(crate) fn findings(store: &dyn Store) -> Vec<Finding> {
    let mut findings = Vec::new();
    let verified = verify_all(store, &mut |finding| findings.push(finding));
    assert_eq!(verified.findings, findings.len() as u64);
    findings
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
