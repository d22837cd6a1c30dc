//! Trees that have been added before.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use firn_castore::{BlobRef, Directory, DirectoryDigest, Node, Root};

use super::{
    AddError, AddOptions, AddedTree,
    crew::{self, Next, Work},
    entries::Entries,
};
use crate::{
    Blobs, Directories, Intake, KnownTree, StoreError,
    tree::{Collected, collect},
};

/// How many Directories a thread looks at in one go.
const BATCH: usize = 16;

/// The tree that a walk has come to before, if all of it is still here.
pub(super) fn find<S>(
    store: &S,
    entries: &Entries,
    options: &AddOptions<'_>,
) -> Result<Option<AddedTree>, AddError>
where
    S: Blobs + Intake + Directories + ?Sized,
{
    let known = store.known_tree(&entries.listing)?;
    let Some(KnownTree { root, nar_hash, nar_size }) = known else { return Ok(None) };
    let searching = Searching { store, go_on: &|| options.tell(entries, 0) };
    let Some(mut directories) = searching.whole(&root, options.jobs.get())? else { return Ok(None) };
    let closure = collect(&root, |digest| Ok::<_, StoreError>(directories.remove(digest)))?;
    // Where the Directories make no tree, adding it anew makes one.
    let Collected::Whole(closure) = closure else { return Ok(None) };
    Ok(Some(AddedTree { closure: Arc::new(closure), nar_hash, nar_size, nar: None, was_known: true }))
}

type Found = BTreeMap<DirectoryDigest, Directory>;

fn is_here(store: &(impl Blobs + ?Sized), blob: &BlobRef) -> Result<bool, StoreError> {
    Ok(store.has_blob(&blob.digest)? == Some(blob.size))
}

struct Searching<'a, S: ?Sized> {
    store: &'a S,
    /// Is asked before each task.
    go_on: &'a (dyn Fn() -> Result<(), AddError> + Sync),
}

#[derive(Default)]
struct Search {
    found: Found,
    wanted: Vec<DirectoryDigest>,
    /// Every one that was ever wanted.
    named: BTreeSet<DirectoryDigest>,
    /// How many threads are looking.
    looking: usize,
    /// Why it is given up: an error, or just that something is not here.
    end: Option<Option<AddError>>,
}

impl Search {
    fn want(&mut self, digest: DirectoryDigest) {
        if self.named.insert(digest) {
            self.wanted.push(digest);
        }
    }
}

impl<S: Blobs + Directories + ?Sized> Searching<'_, S> {
    /// All Directories beneath a root, if they are here and all blobs too.
    fn whole(&self, root: &Root, threads: usize) -> Result<Option<Found>, AddError> {
        let mut search = Search::default();
        match root.node() {
            Node::Directory { digest, .. } => search.want(*digest),
            Node::File { blob, .. } if !is_here(self.store, blob)? => return Ok(None),
            Node::File { .. } | Node::Symlink { .. } => {}
        }
        let search = crew::work(self, search, threads);
        match search.end {
            None => Ok(Some(search.found)),
            Some(None) => Ok(None),
            Some(Some(error)) => Err(error),
        }
    }

    /// A Directory, if it is here and all blobs that it names are.
    fn look(&self, digest: &DirectoryDigest) -> Result<Option<Directory>, StoreError> {
        let directory = match self.store.directory(digest) {
            // Adding the tree anew mends it.
            Err(StoreError::Damaged { .. }) => None,
            directory => directory?,
        };
        let Some(directory) = directory else { return Ok(None) };
        for (_, node) in &directory {
            if let Node::File { blob, .. } = node
                && !is_here(self.store, blob)?
            {
                return Ok(None);
            }
        }
        Ok(Some(directory))
    }
}

impl<S: Blobs + Directories + ?Sized> Work for Searching<'_, S> {
    type State = Search;
    type Task = Vec<DirectoryDigest>;
    type Outcome = Result<Option<Vec<Directory>>, AddError>;

    fn next(&self, state: &mut Search) -> Next<Self::Task> {
        if state.end.is_some() {
            return Next::End;
        }
        if state.wanted.is_empty() {
            return if state.looking == 0 { Next::End } else { Next::Wait };
        }
        // Some are left for the other threads.
        let count = BATCH.min(state.wanted.len().div_ceil(2));
        state.looking += 1;
        Next::Do(state.wanted.split_off(state.wanted.len() - count))
    }

    fn run(&self, task: Self::Task) -> Self::Outcome {
        (self.go_on)()?;
        let mut directories = Vec::with_capacity(task.len());
        for digest in &task {
            let Some(directory) = self.look(digest)? else { return Ok(None) };
            directories.push(directory);
        }
        Ok(Some(directories))
    }

    fn finish(&self, state: &mut Search, outcome: Self::Outcome) {
        state.looking -= 1;
        match outcome {
            Err(error) => state.end = Some(Some(error)),
            Ok(None) if state.end.is_none() => state.end = Some(None),
            Ok(None) => {}
            Ok(Some(directories)) => {
                for directory in directories {
                    for (_, node) in &directory {
                        if let Node::Directory { digest, .. } = node {
                            state.want(*digest);
                        }
                    }
                    state.found.insert(directory.digest(), directory);
                }
            }
        }
    }

    fn is_much(&self, state: &Search) -> bool {
        state.wanted.len() >= BATCH
    }
}
