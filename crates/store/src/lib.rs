//! The local store: what this machine holds, verified on its way in and again on its way out.
//!
//! A store is three small sync traits: [`Blobs`], [`Directories`] and [`Paths`]; whoever has all three is a [`Store`].
//! [`DiskStore`] keeps things in a directory, [`MemoryStore`] in memory, and [`conformance`] says what both must do.
//! Around them stand [`closure`], [`missing_blobs`], [`add_tree`], [`write_tree`] and [`verify_all`], which know no
//! implementation.
//!
//! Content may lie in a store without being reachable. It becomes visible through [`Paths::commit`], which comes last,
//! makes durable all that came before, and refuses if anything beneath its root is missing. After a crash all
//! of that is there; of what was kept and not committed, a killed process leaves what it has told of.
//!
//! Deliberately absent: async, remote content, judgement about trust (a [`StoredPath`](firn_trust::StoredPath) is
//! evidence and is judged again by whoever reads it), deletion.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]
#![deny(clippy::print_stdout, clippy::print_stderr)] // They panic where nobody can be told.

mod add;
mod buffers;
pub mod conformance;
mod disk;
mod error;
mod evict;
mod mark;
mod memory;
mod nar;
mod render;
mod room;
mod stats;
mod traits;
mod tree;
mod verify;
mod write;

pub use add::{AddError, AddOptions, AddProgress, AddedTree, add_tree};
pub use buffers::Buffers;
pub use disk::{
    Access, Disk, DiskFile, DiskStore, FORMAT_VERSION, OpenError, RealDisk, Rebuilt, create_private_dir,
    make_private,
};
pub use error::{Damage, Item, StoreError};
pub use evict::{Eviction, plan_eviction};
pub use memory::MemoryStore;
pub use nar::hash_nar;
pub use render::{NAR_CHUNK_BYTES, NarChunk, NarChunks, RenderError, write_nar_to};
pub use room::{
    Collected, Hold, KnownTree, Listing, Pins, REASON_BYTES_MAX, Reason, ReasonError, Room, UnixSeconds,
    Usage, Visible,
};
pub use stats::{Stats, stats};
pub use traits::{Blobs, Directories, Incoming, Intake, Paths, Record, Store};
pub use tree::{MissingBlob, closure, closure_or_refuse, missing_blobs, missing_spans};
pub use verify::{Finding, Holder, Verified, verify_all, verify_some, verify_tree};
pub use write::{WriteError, write_tree};

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks, also where another thread has panicked: what the locks of this crate guard is whole after each statement.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
