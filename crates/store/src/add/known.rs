//! Trees that have been added before.

use std::{ops::Range, sync::Arc};

use firn_castore::BlobRef;

use super::{
    AddedTree,
    crew::{self, Next, Work},
};
use crate::{
    Blobs, Directories, Intake, KnownTree, Listing, StoreError,
    tree::{Collected, collect},
};

/// How many blobs are asked for at once.
const BLOBS: usize = 512;

/// The tree that a walk has come to before, if all of it is still here.
pub(super) fn find<S>(store: &S, listing: &Listing, threads: usize) -> Result<Option<AddedTree>, StoreError>
where
    S: Blobs + Intake + Directories + ?Sized,
{
    let Some(KnownTree { root, nar_hash, nar_size }) = store.known_tree(listing)? else { return Ok(None) };
    let closure = match collect(&root, |digest| store.directory(digest)) {
        Ok(Collected::Whole(closure)) => closure,
        // Whatever is missing or damaged, adding the tree anew makes it whole.
        Ok(Collected::Missing(_) | Collected::NoTree(_)) | Err(StoreError::Damaged { .. }) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let blobs = closure.blobs();
    let search = crew::work(&Presence { store, blobs: &blobs }, Search { next: 0, end: Ok(true) }, threads);
    let is_whole = search.end?;
    let tree = AddedTree { closure: Arc::new(closure), nar_hash, nar_size, was_known: true };
    Ok(is_whole.then_some(tree))
}

/// Asks for all blobs until one is missing.
struct Presence<'a, S: ?Sized> {
    store: &'a S,
    blobs: &'a [BlobRef],
}

struct Search {
    next: usize,
    /// Whether none is missing as far as is known.
    end: Result<bool, StoreError>,
}

impl<S: Blobs + ?Sized> Work for Presence<'_, S> {
    type State = Search;
    type Task = Range<usize>;
    type Outcome = Result<bool, StoreError>;

    fn next(&self, state: &mut Search) -> Next<Range<usize>> {
        let begin = state.next;
        if begin == self.blobs.len() || !matches!(state.end, Ok(true)) {
            return Next::End;
        }
        state.next = self.blobs.len().min(begin + BLOBS);
        Next::Do(begin..state.next)
    }

    fn run(&self, task: Range<usize>) -> Result<bool, StoreError> {
        for blob in &self.blobs[task] {
            if self.store.has_blob(&blob.digest)? != Some(blob.size) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn finish(&self, state: &mut Search, outcome: Result<bool, StoreError>) {
        if !matches!(outcome, Ok(true)) {
            state.end = outcome;
        }
    }

    fn is_much(&self, state: &Search) -> bool {
        self.blobs.len() - state.next > BLOBS
    }
}
