//! Tests of stores from outside.
#![allow(clippy::unwrap_used, clippy::panic)]

mod crash;
mod damage;
mod disk;
mod many;
mod tree;

use std::path::Path;

use bytes::Bytes;
use firn_bao::{HashedBlob, HashedPiece, PIECE_BYTES, Span, VerifiedSpan};
use firn_castore::BlobRef;
use firn_store::{DiskStore, Finding, MemoryStore, Store, conformance, verify_all};

pub(crate) use firn_store::conformance::keep_sample as keep;

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

/// Copies a blob of more than one piece in, as from a file.
pub(crate) fn copy_in(store: &dyn Store, bytes: &Bytes) -> BlobRef {
    let incoming = store.begin_blob(bytes.len() as u64).unwrap();
    let step = PIECE_BYTES as usize;
    for (index, start) in (0..bytes.len()).step_by(step).enumerate() {
        let piece = bytes.slice(start..bytes.len().min(start + step));
        incoming.write(&HashedPiece::of(index as u64, piece)).unwrap();
    }
    incoming.finish().unwrap()
}

/// One span of a blob, as it comes from a peer.
pub(crate) fn span_of(bytes: &Bytes, span: Span) -> VerifiedSpan {
    let hashed = HashedBlob::of(bytes);
    let size = hashed.blob().size;
    let range = span.bytes(size);
    let part = bytes.slice(range.start as usize..range.end as usize);
    let parents = hashed.outboard().parents_of(size, span).unwrap();
    VerifiedSpan::check(hashed.blob(), span, parents, part).unwrap()
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
