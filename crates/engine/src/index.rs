//! The paths that are believed and here, by all the names under which they are asked for.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use firn_castore::Root;
use firn_exchange::Shared;
use firn_nix::{NarHash, StorePathHash};
use firn_store::{Store, StoreError, closure};
use firn_trust::{Admitted, Policy, TrustedPath};

/// The most admitted paths that are remembered without being here.
const ADMITTED_MAX: usize = 65_536;

/// What of the store is visible, and what peers may see of it.
pub(crate) struct Index {
    names: RwLock<Names>,
    pub(crate) shared: Arc<Shared>,
}

#[derive(Default)]
struct Names {
    here: BTreeMap<StorePathHash, Arc<TrustedPath>>,
    by_root: BTreeMap<Root, StorePathHash>,
    by_nar_hash: BTreeMap<NarHash, StorePathHash>,
    /// Trees without a path, and whether peers may have them.
    trees: BTreeMap<Root, bool>,
    /// In the store, but on no ground that still holds.
    refused: u64,
    /// Let in by the policy, and not here. Each with its turn, the oldest goes first.
    admitted: BTreeMap<StorePathHash, (u64, Admitted)>,
    turns: BTreeMap<u64, StorePathHash>,
    next_turn: u64,
}

impl Index {
    /// Judges all that the store has. Blocks.
    pub(crate) fn load(store: &dyn Store, policy: &Policy) -> Result<Self, StoreError> {
        let index = Self { names: RwLock::default(), shared: Arc::default() };
        for stored in store.paths()? {
            let (path_hash, shared) = (stored.path_hash(), stored.shared());
            match policy.readmit(stored) {
                Ok(path) => index.add(store, path, shared)?,
                Err(reason) => {
                    tracing::info!(path = %path_hash, %reason, "a stored path is out of view");
                    index.write().refused += 1;
                }
            }
        }
        for (root, shared) in store.roots()? {
            if shared && let Some(closure) = closure(store, &root)? {
                index.shared.add_root(&closure);
            }
            index.add_tree(root, shared);
        }
        Ok(index)
    }

    /// Adds what has been committed. Blocks.
    pub(crate) fn add(&self, store: &dyn Store, path: TrustedPath, shared: bool) -> Result<(), StoreError> {
        if shared && let Some(closure) = closure(store, &path.facts().root)? {
            self.shared.add_path(&path, &closure);
        }
        let mut names = self.write();
        let facts = path.facts();
        let hash = *facts.path.hash();
        names.by_root.insert(facts.root.clone(), hash);
        names.by_nar_hash.insert(facts.nar.nar_hash, hash);
        names.here.insert(hash, Arc::new(path));
        names.forget(&hash);
        Ok(())
    }

    /// Adds a tree without a path, that has been committed.
    pub(crate) fn add_tree(&self, root: Root, shared: bool) {
        self.write().trees.insert(root, shared);
    }

    pub(crate) fn tree_is_shared(&self, root: &Root) -> bool {
        self.read().trees.get(root).copied().unwrap_or(false)
    }

    /// Whether this tree is here by itself, or as a path.
    pub(crate) fn is_visible(&self, root: &Root) -> bool {
        let names = self.read();
        names.trees.contains_key(root) || names.by_root.contains_key(root)
    }

    pub(crate) fn path(&self, hash: &StorePathHash) -> Option<Arc<TrustedPath>> {
        self.read().here.get(hash).cloned()
    }

    pub(crate) fn by_root(&self, root: &Root) -> Option<Arc<TrustedPath>> {
        let names = self.read();
        names.here.get(names.by_root.get(root)?).cloned()
    }

    pub(crate) fn by_nar_hash(&self, nar_hash: &NarHash) -> Option<Arc<TrustedPath>> {
        let names = self.read();
        names.here.get(names.by_nar_hash.get(nar_hash)?).cloned()
    }

    pub(crate) fn paths(&self) -> Vec<Arc<TrustedPath>> {
        self.read().here.values().cloned().collect()
    }

    pub(crate) fn refused_count(&self) -> u64 {
        self.read().refused
    }

    /// Remembers what the policy has let in.
    pub(crate) fn admit(&self, admitted: Admitted) {
        let mut names = self.write();
        let hash = *admitted.facts().path.hash();
        names.forget(&hash);
        if names.admitted.len() >= ADMITTED_MAX
            && let Some((_, oldest)) = names.turns.pop_first()
        {
            names.admitted.remove(&oldest);
        }
        let turn = names.next_turn;
        names.next_turn += 1;
        names.turns.insert(turn, hash);
        names.admitted.insert(hash, (turn, admitted));
    }

    pub(crate) fn admitted(&self, hash: &StorePathHash) -> Option<Admitted> {
        self.read().admitted.get(hash).map(|(_, admitted)| admitted.clone())
    }

    fn read(&self) -> RwLockReadGuard<'_, Names> {
        self.names.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Names> {
        self.names.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Names {
    fn forget(&mut self, hash: &StorePathHash) {
        if let Some((turn, _)) = self.admitted.remove(hash) {
            self.turns.remove(&turn);
        }
    }
}
