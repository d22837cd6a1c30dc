//! The paths that are believed and here, by all the names under which they are asked for.

use std::borrow::Cow;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use firn_castore::{Closure, Root};
use firn_exchange::Shared;
use firn_nix::{NarHash, StorePath, StorePathHash};
use firn_store::{Store, StoreError, Visible, closure};
use firn_trust::{Admitted, Policy, TrustedPath};

use crate::private::Private;
use crate::recall::stem;

const HASH_FIRST: [u8; 20] = [0; 20];
const HASH_LAST: [u8; 20] = [0xff; 20];

/// The most admitted paths that are remembered without being here.
const ADMITTED_MAX: usize = 65_536;

/// What of the store is visible, and what peers may see of it.
pub(crate) struct Index {
    names: RwLock<Names>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) private: Private,
}

/// A tree that is on its way, and of which peers may have what has come, unless it is private.
pub(crate) struct Coming {
    shared: Option<Arc<Shared>>,
    closure: Arc<Closure>,
}

impl Coming {
    pub(crate) fn closure(&self) -> &Arc<Closure> {
        &self.closure
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        if let Some(shared) = &self.shared {
            shared.end_coming(&self.closure);
        }
    }
}

#[derive(Default)]
struct Names {
    here: BTreeMap<StorePathHash, Arc<TrustedPath>>,
    /// Several paths may have one tree, or one NAR.
    by_root: BTreeSet<(Root, StorePathHash)>,
    by_nar_hash: BTreeSet<(NarHash, StorePathHash)>,
    /// By their names up to the version.
    by_stem: BTreeMap<String, BTreeSet<StorePathHash>>,
    /// Trees without a path, and whether peers may have them.
    trees: BTreeMap<Root, bool>,
    /// In the store, but on no ground that still holds.
    refused: BTreeSet<StorePathHash>,
    /// Let in by the policy, and not here. Each with its turn, the oldest goes first.
    admitted: BTreeMap<StorePathHash, (u64, Admitted)>,
    turns: BTreeMap<u64, StorePathHash>,
    next_turn: u64,
}

impl Index {
    /// Judges all that the store has; damaged records are left out. Blocks.
    pub(crate) fn load(store: &dyn Store, policy: &Policy) -> Result<Self, StoreError> {
        let index = Self { names: RwLock::default(), shared: Arc::default(), private: Private::default() };
        for stored in store.paths()? {
            let (path_hash, shared, root) = (stored.path_hash(), stored.shared(), stored.root().clone());
            match policy.readmit(stored) {
                Ok(path) => index.add(store, path, shared, None)?,
                Err(reason) => {
                    tracing::debug!(path = %path_hash, %reason, "a stored path is out of view");
                    index.write().refused.insert(path_hash);
                    if !shared {
                        index.private.insert(Visible::Path(path_hash));
                        index.private.insert(Visible::Root(root));
                    }
                }
            }
        }
        for (root, shared) in store.roots()? {
            index.add_tree(store, root, shared, None)?;
        }
        for error in store.damaged_records()? {
            tracing::warn!(%error, "a record is out of view");
        }
        index.load_withdrawn(store)?;
        Ok(index)
    }

    /// Adds what has been committed; its tree is read where it is not `known`. Blocks.
    pub(crate) fn add(
        &self,
        store: &dyn Store,
        path: TrustedPath,
        shared: bool,
        known: Option<&Closure>,
    ) -> Result<(), StoreError> {
        let hash = *path.facts().path.hash();
        if self.path(&hash).is_some_and(|earlier| earlier.facts().root != path.facts().root) {
            self.remove(store, &Visible::Path(hash));
        }
        if shared && let Some(closure) = known_or_readable(known, store, &path.facts().root)? {
            self.shared.add_path(&path, &closure);
        }
        self.private.committed(Visible::Path(hash), shared);
        let mut names = self.write();
        // Its NAR hash may be another one than that of an earlier record.
        names.take(&Visible::Path(hash));
        names.forget(&hash);
        let facts = path.facts();
        names.by_root.insert((facts.root.clone(), hash));
        names.by_nar_hash.insert((facts.nar.nar_hash, hash));
        names.by_stem.entry(stem(facts.path.name()).to_owned()).or_default().insert(hash);
        names.here.insert(hash, Arc::new(path));
        Ok(())
    }

    /// Adds a tree without a path, that has been committed; it is read where it is not `known`. Blocks.
    pub(crate) fn add_tree(
        &self,
        store: &dyn Store,
        root: Root,
        shared: bool,
        known: Option<&Closure>,
    ) -> Result<(), StoreError> {
        if shared && let Some(closure) = known_or_readable(known, store, &root)? {
            self.shared.add_root(&closure);
        }
        self.private.committed(Visible::Root(root.clone()), shared);
        self.write().trees.insert(root, shared);
        Ok(())
    }

    /// Takes something out of view, here and for peers; whether it was in view. Blocks.
    ///
    /// It must be in the store still: what peers may see of it is counted by its closure.
    pub(crate) fn remove(&self, store: &dyn Store, what: &Visible) -> bool {
        self.private.remove(what);
        let Some(root) = self.write().take(what) else { return false };
        if self.shared.has(what) {
            match readable(store, &root) {
                Ok(Some(closure)) => self.shared.remove(what, &closure),
                Ok(None) | Err(_) => self.share_anew(store),
            }
        }
        true
    }

    /// Counts anew what peers may see. What cannot be read of it they do not see.
    fn share_anew(&self, store: &dyn Store) {
        let shared = Shared::default();
        for (what, path, root) in self.visible() {
            if self.shared.has(&what)
                && let Ok(Some(closure)) = readable(store, &root)
            {
                match path {
                    Some(path) => shared.add_path(&path, &closure),
                    None => shared.add_root(&closure),
                }
            }
        }
        self.shared.replace(shared);
    }

    /// All that is in view: its name, its path if it is one, its root.
    pub(crate) fn visible(&self) -> Vec<(Visible, Option<Arc<TrustedPath>>, Root)> {
        let names = self.read();
        let paths = names
            .here
            .iter()
            .map(|(hash, path)| (Visible::Path(*hash), Some(path.clone()), path.facts().root.clone()));
        let trees = names.trees.keys().map(|root| (Visible::Root(root.clone()), None, root.clone()));
        paths.chain(trees).collect()
    }

    /// The path's name, where it is one that is in view.
    pub(crate) fn name(&self, what: &Visible) -> Option<StorePath> {
        match what {
            Visible::Path(hash) => self.path(hash).map(|path| path.facts().path.clone()),
            Visible::Root(_) => None,
        }
    }

    pub(crate) fn tree_is_shared(&self, root: &Root) -> bool {
        self.read().trees.get(root).copied().unwrap_or(false)
    }

    pub(crate) fn is_in_view(&self, what: &Visible) -> bool {
        match what {
            Visible::Path(hash) => self.read().here.contains_key(hash),
            Visible::Root(root) => self.read().trees.contains_key(root),
        }
    }

    /// All that is in view with this root.
    pub(crate) fn names_of(&self, root: &Root) -> Vec<Visible> {
        let names = self.read();
        let tree = names.trees.contains_key(root).then(|| Visible::Root(root.clone()));
        names.paths_of(root).map(Visible::Path).chain(tree).collect()
    }

    /// Whether this tree is here by itself, or as a path.
    pub(crate) fn is_visible(&self, root: &Root) -> bool {
        self.read().trees.contains_key(root) || self.by_root(root).is_some()
    }

    pub(crate) fn path(&self, hash: &StorePathHash) -> Option<Arc<TrustedPath>> {
        self.read().here.get(hash).cloned()
    }

    pub(crate) fn by_root(&self, root: &Root) -> Option<Arc<TrustedPath>> {
        let names = self.read();
        names.paths_of(root).find_map(|hash| names.here.get(&hash).cloned())
    }

    pub(crate) fn by_nar_hash(&self, nar_hash: &NarHash) -> Option<Arc<TrustedPath>> {
        let names = self.read();
        let first = (*nar_hash, StorePathHash::from(HASH_FIRST));
        let last = (*nar_hash, StorePathHash::from(HASH_LAST));
        names.by_nar_hash.range(first..=last).find_map(|(_, hash)| names.here.get(hash).cloned())
    }

    /// Roots of other versions of this path that peers may have, so many at most.
    pub(crate) fn roots_alike(&self, path: &StorePath, count_max: usize) -> Vec<Root> {
        let names = self.read();
        let alike = names.by_stem.get(stem(path.name())).into_iter().flatten();
        let shared = alike.filter(|hash| self.shared.has(&Visible::Path(**hash)));
        let roots = shared.filter_map(|hash| Some(names.here.get(hash)?.facts().root.clone()));
        roots.take(count_max).collect()
    }

    /// Shares what comes of a tree, if it may be, as long as the result lives.
    pub(crate) fn coming(self: &Arc<Self>, closure: Arc<Closure>, may_share: bool) -> Coming {
        let shared = may_share.then(|| self.shared.clone());
        if let Some(shared) = &shared {
            shared.begin_coming(&closure);
        }
        Coming { shared, closure }
    }

    pub(crate) fn paths(&self) -> Vec<Arc<TrustedPath>> {
        self.read().here.values().cloned().collect()
    }

    pub(crate) fn refused_count(&self) -> u64 {
        self.read().refused.len() as u64
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

    /// Forgets what the policy has let in of a path that could not be had, with this root where one is given.
    pub(crate) fn disown(&self, hash: &StorePathHash, root: Option<&Root>) {
        let mut names = self.write();
        let admitted = names.admitted.get(hash).map(|(_, admitted)| &admitted.facts().root);
        if admitted.is_some_and(|admitted| root.is_none_or(|root| root == admitted)) {
            names.forget(hash);
        }
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
    /// The paths in view that have this tree.
    fn paths_of(&self, root: &Root) -> impl Iterator<Item = StorePathHash> {
        let first = (root.clone(), StorePathHash::from(HASH_FIRST));
        let last = (root.clone(), StorePathHash::from(HASH_LAST));
        self.by_root.range(first..=last).map(|(_, hash)| *hash)
    }

    /// Takes away all that stands for this; gives its root if it was in view.
    fn take(&mut self, what: &Visible) -> Option<Root> {
        match what {
            Visible::Path(hash) => {
                self.refused.remove(hash);
                let path = self.here.remove(hash)?;
                let facts = path.facts();
                self.by_nar_hash.remove(&(facts.nar.nar_hash, *hash));
                self.by_root.remove(&(facts.root.clone(), *hash));
                if let Entry::Occupied(mut alike) = self.by_stem.entry(stem(facts.path.name()).to_owned()) {
                    alike.get_mut().remove(hash);
                    if alike.get().is_empty() {
                        alike.remove();
                    }
                }
                Some(facts.root.clone())
            }
            Visible::Root(root) => self.trees.remove(root).map(|_| root.clone()),
        }
    }

    fn forget(&mut self, hash: &StorePathHash) {
        if let Some((turn, _)) = self.admitted.remove(hash) {
            self.turns.remove(&turn);
        }
    }
}

fn known_or_readable<'a>(
    known: Option<&'a Closure>,
    store: &dyn Store,
    root: &Root,
) -> Result<Option<Cow<'a, Closure>>, StoreError> {
    match known.filter(|closure| closure.root() == root) {
        Some(closure) => Ok(Some(Cow::Borrowed(closure))),
        None => Ok(readable(store, root)?.map(Cow::Owned)),
    }
}

/// The closure; none where a part of it is damaged.
fn readable(store: &dyn Store, root: &Root) -> Result<Option<Closure>, StoreError> {
    match closure(store, root) {
        Err(error @ StoreError::Damaged { .. }) => {
            tracing::warn!(%root, %error, "a tree cannot be shared");
            Ok(None)
        }
        read => read,
    }
}

#[cfg(test)]
mod tests {
    use firn_castore::{BlobRef, Node};
    use firn_store::{MemoryStore, Paths, conformance};

    use super::*;

    #[test]
    fn a_damaged_record_leaves_the_others_in_view() {
        let store = MemoryStore::new();
        let roots: Vec<Root> = (0..2).map(|seed| conformance::keep_sample(&store, seed)).collect();
        let paths = ["a", "b"].map(|name| conformance::stored_path(name, &roots[0], true));
        for path in &paths {
            store.commit(path.clone(), None).unwrap();
        }
        let file =
            Root::from(Node::File { blob: BlobRef::of(&conformance::sample(0).2[0]), executable: false });
        for root in [&roots[1], &file] {
            store.commit_root(root, true, None).unwrap();
        }
        assert!(store.damage_record(&Visible::Path(paths[0].path_hash())));
        assert!(store.damage_record(&Visible::Root(roots[1].clone())));
        let index = Index::load(&store, &Policy::default()).unwrap();
        assert!(index.path(&paths[0].path_hash()).is_none() && index.path(&paths[1].path_hash()).is_some());
        assert!(!index.is_visible(&roots[1]) && index.is_visible(&file));
    }
}
