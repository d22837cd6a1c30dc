//! From the file system into a store, in one pass over the data.
//!
//! ```text
//! walk (side by side) ─► entries in the order of a NAR ─► known? then that was all
//!                              │ cut into jobs of about as many bytes
//!                              ▼
//!              read, hash, keep (side by side) ─► NAR hash (in order)
//!                                              └► Directories (in order) ─► closure
//! ```
//!
//! No thread is there for one of these things alone: whoever has finished something goes on with what is most wanted.

mod beneath;
mod build;
mod crew;
mod entries;
mod error;
mod jobs;
mod known;
mod nar;
mod pass;
mod read;
#[cfg(test)]
mod tests;
mod walk;

use std::{num::NonZeroUsize, ops::ControlFlow, path::Path, sync::Arc};

use firn_castore::Closure;
use firn_nix::NarHash;
use firn_trust::RenderedNar;

pub use error::AddError;

use self::{build::Built, entries::Entries};
use crate::{Blobs, Directories, Intake, KnownTree, UnixSeconds};

/// How a tree is added.
#[derive(Clone, Copy)]
pub struct AddOptions<'a> {
    /// Whether the files' contents stay where they are, instead of being copied.
    pub in_place: bool,
    /// Whether all is read though the tree seems to be known.
    pub rehash: bool,
    /// How many threads may work, the calling one included.
    pub jobs: NonZeroUsize,
    /// What time it is. A tree of which something is younger than two seconds, or from the future, is added but not
    /// remembered; so at the time 0 none is.
    pub now: UnixSeconds,
    /// Is told how far it is, in order, from whichever thread, at least once a piece. It should be quick. With
    /// [`ControlFlow::Break`] no more is read, and it ends with [`AddError::Stopped`].
    pub progress: Option<&'a (dyn Fn(AddProgress) -> ControlFlow<()> + Sync)>,
}

impl Default for AddOptions<'_> {
    /// One that copies, on the calling thread, and does not remember the tree.
    fn default() -> Self {
        let jobs = NonZeroUsize::MIN;
        Self { in_place: false, rehash: false, jobs, now: UnixSeconds(0), progress: None }
    }
}

impl AddOptions<'_> {
    /// Tells how far it is, and whether it goes on.
    fn tell(&self, entries: &Entries, done_bytes: u64) -> Result<(), AddError> {
        let Some(progress) = self.progress else { return Ok(()) };
        match progress(AddProgress { done_bytes, total_bytes: entries.file_bytes }) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(AddError::Stopped(entries.path(0))),
        }
    }
}

/// How far a tree is added, in bytes of its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddProgress {
    /// How many have been read, hashed and kept.
    pub done_bytes: u64,
    /// How many there are.
    pub total_bytes: u64,
}

/// A tree that is in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddedTree {
    /// All its Directories, and its root.
    pub closure: Arc<Closure>,
    /// The hash of its NAR.
    pub nar_hash: NarHash,
    /// The length of its NAR in bytes.
    pub nar_size: u64,
    /// Its NAR as proof of a signature. None where nothing but the listing has been read.
    pub nar: Option<RenderedNar>,
    /// Whether it was here already, and nothing but its listing has been read.
    pub was_known: bool,
}

/// Keeps the tree at `path`, as `nix-store --add` sees it: symlinks are not followed, not even a topmost one, and of a
/// file's mode only the owner's executable bit counts. Where something else comes in place of a directory or a file
/// meanwhile, the tree is refused.
///
/// A tree that was added before and has not changed since, by its times and inodes, is not read again; it is then as the
/// store has it, be that copied or in place. Nothing is visible or durable before the caller commits a path or a root,
/// and the caller holds a [`Hold`](crate::Hold) until then. If several things are wrong with the tree, that is reported
/// which comes first in the order of a NAR.
pub fn add_tree<S>(store: &S, path: &Path, options: &AddOptions<'_>) -> Result<AddedTree, AddError>
where
    S: Blobs + Intake + Directories + ?Sized,
{
    let absolute = options.in_place.then(|| std::path::absolute(path)).transpose();
    let absolute = absolute.map_err(|source| AddError::Io { path: path.to_path_buf(), source })?;
    let path = absolute.as_deref().unwrap_or(path);
    let jobs = options.jobs.get();
    let entries = Entries::new(walk::walk(path, jobs)?, options.in_place);
    options.tell(&entries, 0)?;
    if !options.rehash
        && let Some(tree) = known::find(store, &entries, options)?
    {
        return Ok(tree);
    }
    let Built { closure, nar } = pass::pass(store, &entries, options)?;
    let (nar_hash, nar_size) = (nar.nar_hash(), nar.nar_size());
    if entries.is_settled(options.now) {
        let tree = KnownTree { root: closure.root().clone(), nar_hash, nar_size };
        store.note_tree(&entries.listing, &tree)?;
    }
    Ok(AddedTree { closure: Arc::new(closure), nar_hash, nar_size, nar: Some(nar), was_known: false })
}
