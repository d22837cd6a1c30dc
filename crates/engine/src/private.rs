//! What is for this machine alone, also when it comes again.
//!
//! What was shared with nobody and has lost a part is fetched anew, from whoever has it. That others have it too is no
//! reason to give it away: only its owner decides that.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use firn_castore::Root;
use firn_exchange::Goal;
use firn_store::{Reason, Store, StoreError, Visible};
use firn_trust::TrustedPath;

use crate::Engine;
use crate::index::Index;

/// Paths and roots that are private, in view or withdrawn: no more than the store has records and pins.
#[derive(Default)]
pub(crate) struct Private(Mutex<BTreeSet<Visible>>);

impl Private {
    pub(crate) fn insert(&self, what: Visible) {
        self.lock().insert(what);
    }

    pub(crate) fn remove(&self, what: &Visible) {
        self.lock().remove(what);
    }

    /// Something has been committed.
    pub(crate) fn committed(&self, what: Visible, shared: bool) {
        match shared {
            true => self.remove(&what),
            false => self.insert(what),
        }
    }

    pub(crate) fn contains(&self, what: &Visible) -> bool {
        self.lock().contains(what)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<Visible>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine {
    /// What comes of this from now on is for this machine alone, until it is committed as shared.
    pub fn keep_private(&self, what: Visible) {
        self.0.index.private.insert(what);
    }
}

impl Index {
    /// Takes for private what an earlier process has withdrawn: the user has added it, and still wants it. Whether it was
    /// shared is not known any more.
    pub(crate) fn load_withdrawn(&self, store: &dyn Store) -> Result<(), StoreError> {
        for (what, reason) in store.pins()? {
            if reason == Reason::added() && !self.is_in_view(&what) {
                self.private.insert(what);
            }
        }
        Ok(())
    }

    /// Whether others may have what a flight to this goal brings.
    pub(crate) fn may_share(&self, goal: &Goal, path: Option<&TrustedPath>) -> bool {
        match (goal, path) {
            (Goal::Tree(_), Some(path)) => !self.private.contains(&Visible::Path(*path.facts().path.hash())),
            (Goal::Tree(root), None) => self.may_share_root(root),
            (Goal::Path(hash) | Goal::Claims(hash), _) => !self.private.contains(&Visible::Path(*hash)),
        }
    }

    /// A tree is private if all that is in view with this root is; where nothing is, if it was.
    fn may_share_root(&self, root: &Root) -> bool {
        let names = self.names_of(root);
        match names.is_empty() {
            true => !self.private.contains(&Visible::Root(root.clone())),
            false => names.iter().any(|what| !self.private.contains(what)),
        }
    }
}
