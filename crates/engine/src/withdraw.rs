//! What is no longer whole goes out of view.

use std::collections::BTreeSet;
use std::sync::{Arc, MutexGuard, PoisonError};

use firn_castore::{DirectoryDigest, Node, Root};
use firn_nix::StorePath;
use firn_store::{Item, Reason, Store, StoreError, Visible};

use crate::inner::Inner;
use crate::{Engine, EngineError};

/// Something that was visible, and of which a part is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Withdrawn {
    /// What.
    pub what: Visible,
    /// The path's name, where it is one.
    pub path: Option<StorePath>,
    /// Its tree.
    pub root: Root,
    /// What of it is lost; the first that was found.
    pub lost: Item,
}

impl Engine {
    /// Withdraws all that is visible and of which the store has lost something since this was asked last.
    ///
    /// It is out of view at once, for Nix and for peers, and it is removed from the store: it is fetched anew when it is
    /// asked for. What was pinned stays pinned, except for what was adopted: that depends on its files alone.
    pub async fn withdraw_lost(&self) -> Result<Vec<Withdrawn>, EngineError> {
        self.0.withdraw(None).await
    }
}

impl Inner {
    /// As [`Engine::withdraw_lost`], with something that has just been found to be lost.
    pub(crate) async fn withdraw(
        self: &Arc<Self>,
        found: Option<Item>,
    ) -> Result<Vec<Withdrawn>, EngineError> {
        self.lost_items().extend(found);
        let _turn = self.withdrawing.lock().await;
        let inner = self.clone();
        Ok(self.crew.pool.run(move || inner.withdraw_now()).await??)
    }

    fn lost_items(&self) -> MutexGuard<'_, BTreeSet<Item>> {
        self.lost_items.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn withdraw_now(&self) -> Result<Vec<Withdrawn>, StoreError> {
        let store = self.store();
        let lost = {
            let mut items = self.lost_items();
            items.extend(store.take_lost().into_iter().map(Item::Blob));
            items.clone()
        };
        let mut search = Search { store, absent: BTreeSet::new(), whole: BTreeSet::new() };
        for item in &lost {
            if is_absent(store, item)? {
                search.absent.insert(item.clone());
            }
        }
        let mut withdrawn = Vec::new();
        if !search.absent.is_empty() {
            for (what, path, root) in self.index.visible() {
                if let Some(lost) = search.first_lost(&root)? {
                    let path = path.map(|path| path.facts().path.clone());
                    withdrawn.push(Withdrawn { what, path, root, lost });
                }
            }
        }
        self.take_away(&mut withdrawn)?;
        // Not before all is done: after an error it is tried again.
        self.lost_items().retain(|item| !lost.contains(item));
        Ok(withdrawn)
    }

    /// Removes what is still not whole.
    fn take_away(&self, withdrawn: &mut Vec<Withdrawn>) -> Result<(), StoreError> {
        if withdrawn.is_empty() {
            return Ok(());
        }
        let (pins, _alone) = (self.store().pins()?, self.alone());
        // It may have been fetched anew while it was looked for.
        let mut still = Vec::new();
        for item in withdrawn.drain(..) {
            if is_absent(self.store(), &item.lost)? {
                still.push(item);
            }
        }
        for Withdrawn { what, path, root, lost } in &still {
            tracing::warn!(?path, %lost, "withdrawn");
            let is_private = self.index.private.contains(what);
            self.take_out(what)?;
            if is_private {
                // Should it come again, it is as private as it was.
                self.index.private.insert(what.clone());
                self.index.private.insert(Visible::Root(root.clone()));
            }
            if let Some(reason) = pins.get(what).filter(|reason| **reason != Reason::adopted()) {
                self.store().pin(what, reason)?;
            }
        }
        self.changed();
        *withdrawn = still;
        Ok(())
    }
}

/// Whether something is not here, or of no use; then it is made absent for good.
fn is_absent(store: &dyn Store, item: &Item) -> Result<bool, StoreError> {
    match item {
        Item::Blob(digest) => Ok(store.has_blob(digest)?.is_none()),
        Item::Directory(digest) => match store.directory(digest) {
            Err(StoreError::Damaged { .. }) => store.quarantine(item).map(|()| true),
            read => Ok(read?.is_none()),
        },
        Item::Path(_) | Item::Root(_) => Ok(false),
    }
}

/// Looks for what is absent beneath roots, at each Directory once.
struct Search<'a> {
    store: &'a dyn Store,
    absent: BTreeSet<Item>,
    /// Directories beneath which nothing is absent.
    whole: BTreeSet<DirectoryDigest>,
}

impl Search<'_> {
    fn first_lost(&mut self, root: &Root) -> Result<Option<Item>, StoreError> {
        let mut seen = BTreeSet::new();
        let mut stack = vec![root.node().clone()];
        while let Some(node) = stack.pop() {
            let item = match &node {
                Node::Symlink { .. } => continue,
                Node::File { blob, .. } => Item::Blob(blob.digest),
                Node::Directory { digest, .. } => Item::Directory(*digest),
            };
            if self.absent.contains(&item) {
                return Ok(Some(item));
            }
            let Node::Directory { digest, .. } = node else { continue };
            if self.whole.contains(&digest) || !seen.insert(digest) {
                continue;
            }
            match self.store.directory(&digest) {
                Ok(Some(directory)) => stack.extend(directory.iter().map(|(_, node)| node.clone())),
                Ok(None) => return Ok(Some(item)),
                Err(StoreError::Damaged { .. }) => {
                    self.store.quarantine(&item)?;
                    self.absent.insert(item.clone());
                    return Ok(Some(item));
                }
                Err(error) => return Err(error),
            }
        }
        self.whole.append(&mut seen);
        Ok(None)
    }
}
