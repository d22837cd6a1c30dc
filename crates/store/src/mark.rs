//! What must stay when the rest is collected.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use firn_castore::{BlobDigest, Directory, DirectoryDigest, Node, Root};
use indexmap::IndexMap;

use crate::{Hold, Item, Store, StoreError, Visible};

/// What is reachable.
#[derive(Debug, Default)]
pub(crate) struct Live {
    pub(crate) blobs: BTreeSet<BlobDigest>,
    pub(crate) directories: BTreeSet<DirectoryDigest>,
}

/// Goes to all that is beneath what is visible, and beneath what is held, each Directory once.
///
/// A Directory of something visible that is missing or damaged ends it with [`StoreError::NotCollected`]: what is beneath
/// it must not be taken for garbage. What is held need not be whole yet.
pub(crate) fn mark(
    visible: impl IntoIterator<Item = Root>,
    held: impl IntoIterator<Item = Root>,
    mut directory: impl FnMut(&DirectoryDigest) -> Result<Option<Directory>, StoreError>,
) -> Result<Live, StoreError> {
    let mut live = Live::default();
    live.insert_all(visible, |digest| match directory(digest) {
        Ok(None) => Err(StoreError::not_collected(StoreError::Missing(Item::Directory(*digest)))),
        Err(error @ StoreError::Damaged { .. }) => Err(StoreError::not_collected(error)),
        found => found,
    })?;
    live.insert_all(held, |digest| or_missing(directory(digest)))?;
    Ok(live)
}

/// What is damaged is as good as missing; any other error is one.
fn or_missing(read: Result<Option<Directory>, StoreError>) -> Result<Option<Directory>, StoreError> {
    match read {
        Err(StoreError::Damaged { .. }) => Ok(None),
        read => read,
    }
}

/// A Directory, if it is here and is what it was.
pub(crate) fn read(store: &dyn Store, digest: &DirectoryDigest) -> Result<Option<Directory>, StoreError> {
    or_missing(store.directory(digest))
}

/// Everything visible, with its root.
pub(crate) fn visible(store: &dyn Store) -> Result<Vec<(Visible, Root)>, StoreError> {
    let paths = store.paths()?.into_iter().map(|path| (Visible::Path(path.path_hash()), path.root().clone()));
    let roots = store.roots()?.into_iter().map(|(root, _)| (Visible::Root(root.clone()), root));
    Ok(paths.chain(roots).collect())
}

impl Live {
    fn insert_all(
        &mut self,
        roots: impl IntoIterator<Item = Root>,
        mut directory: impl FnMut(&DirectoryDigest) -> Result<Option<Directory>, StoreError>,
    ) -> Result<(), StoreError> {
        let mut stack = Vec::new();
        for root in roots {
            self.insert(root.node(), &mut stack);
            while let Some(digest) = stack.pop() {
                if let Some(found) = directory(&digest)? {
                    found.iter().for_each(|(_, node)| self.insert(node, &mut stack));
                }
            }
        }
        Ok(())
    }

    /// Takes a node in, and lays a Directory that is new on the stack.
    fn insert(&mut self, node: &Node, stack: &mut Vec<DirectoryDigest>) {
        match node {
            Node::Symlink { .. } => {}
            Node::File { blob, .. } => {
                self.blobs.insert(blob.digest);
            }
            Node::Directory { digest, .. } => {
                if self.directories.insert(*digest) {
                    stack.push(*digest);
                }
            }
        }
    }
}

/// The living holds, and what was kept or found to be here under them.
///
/// Holds are numbered as they are taken. What is touched remembers the newest number; it is protected as long as a hold
/// lives that is not newer than that.
#[derive(Debug, Default)]
pub(crate) struct Holds {
    taken: u64,
    living: BTreeMap<u64, Weak<Token>>,
    touched: IndexMap<Item, u64>,
    count: Living,
}

/// Tells whether any hold lives, without a lock: mostly none does, and then nothing needs to be touched.
///
/// Whoever is protected knows of a hold that was taken before, so it sees that one at least.
#[derive(Debug, Clone, Default)]
pub(crate) struct Living(Arc<AtomicUsize>);

impl Living {
    pub(crate) fn any(&self) -> bool {
        self.0.load(Ordering::SeqCst) > 0
    }
}

/// A hold that lives.
#[derive(Debug)]
struct Token(Living);

impl Token {
    fn new(count: Living) -> Self {
        count.0.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Holds {
    /// How many there are, for whoever has not locked this.
    pub(crate) fn living(&self) -> Living {
        self.count.clone()
    }

    /// Takes a hold.
    pub(crate) fn take(&mut self) -> Hold {
        self.prune();
        let token = Arc::new(Token::new(self.count.clone()));
        self.taken += 1;
        self.living.insert(self.taken, Arc::downgrade(&token));
        Hold(token)
    }

    /// Takes a hold that protects a tree from the beginning.
    pub(crate) fn take_tree(&mut self, root: &Root) -> Hold {
        let hold = self.take();
        self.touch(Item::Root(root.clone()));
        hold
    }

    /// Something was kept, or found to be here. A root stands for all beneath it.
    pub(crate) fn touch(&mut self, item: Item) {
        if self.oldest().is_some() {
            self.touched.insert(item, self.taken);
        }
    }

    /// Forgets what no living hold protects. What is left afterwards is protected.
    pub(crate) fn prune(&mut self) {
        self.living.retain(|_, token| token.strong_count() > 0);
        match self.oldest() {
            Some(oldest) => self.touched.retain(|_, taken| *taken >= oldest),
            None => self.touched.clear(),
        }
    }

    /// Whether this must stay; to be asked after [`Holds::prune`].
    pub(crate) fn protects(&self, item: &Item) -> bool {
        self.touched.contains_key(item)
    }

    /// The trees that must stay with all beneath them.
    pub(crate) fn roots(&self) -> impl Iterator<Item = &Root> {
        self.touched.keys().filter_map(|item| match item {
            Item::Root(root) => Some(root),
            Item::Blob(_) | Item::Directory(_) | Item::Path(_) => None,
        })
    }

    fn oldest(&self) -> Option<u64> {
        self.living.iter().find(|(_, token)| token.strong_count() > 0).map(|(taken, _)| *taken)
    }
}

#[cfg(test)]
mod tests {
    use std::{io, path::PathBuf};

    use firn_castore::BlobRef;

    use super::*;
    use crate::Damage;

    fn file(contents: &[u8]) -> Node {
        Node::File { blob: BlobRef::of(contents), executable: false }
    }

    fn directory(entries: &[(&str, Node)]) -> Directory {
        Directory::build(entries.iter().map(|(name, node)| ((*name).try_into().unwrap(), node.clone())))
            .unwrap()
    }

    #[test]
    fn a_missing_directory_ends_it_beneath_what_is_visible_alone() {
        let lost = directory(&[("x", file(b"lost"))]);
        let seen = directory(&[("y", file(b"seen"))]);
        let top = directory(&[("a", lost.node()), ("b", seen.node()), ("c", file(b"top"))]);
        for is_damaged in [false, true] {
            let read = |digest: &DirectoryDigest| {
                let known = [&seen, &top].into_iter().find(|directory| directory.digest() == *digest);
                match known {
                    None if is_damaged => {
                        let item = Item::Directory(*digest);
                        Err(StoreError::damaged(item, PathBuf::from("pack"), Damage::Checksum))
                    }
                    known => Ok(known.cloned()),
                }
            };
            let refused = mark([top.node().into()], [], read).unwrap_err();
            assert!(matches!(&refused, StoreError::NotCollected { .. }));
            assert!(refused.to_string().contains(&lost.digest().to_string()), "{refused}");
            let live = mark([seen.node().into()], [top.node().into()], read).unwrap();
            assert_eq!(live.directories, [&lost, &seen, &top].map(Directory::digest).into());
            assert_eq!(live.blobs, [BlobDigest::of(b"seen"), BlobDigest::of(b"top")].into());
        }
        let error = || StoreError::Io { path: PathBuf::from("pack"), source: io::Error::other("broken") };
        assert!(mark([], [top.node().into()], |_| Err(error())).is_err());
    }

    #[test]
    fn each_hold_protects_what_came_after_it() {
        let item = |text: &[u8]| Item::Blob(BlobDigest::of(text));
        let mut holds = Holds::default();
        let is_held = |holds: &mut Holds, text: &[u8]| {
            holds.prune();
            holds.protects(&item(text))
        };
        holds.touch(item(b"before"));
        assert!(!is_held(&mut holds, b"before"));
        let first = holds.take();
        holds.touch(item(b"first"));
        let second = holds.take();
        holds.touch(item(b"second"));
        assert!(is_held(&mut holds, b"first") && is_held(&mut holds, b"second"));
        drop(first.clone());
        assert!(is_held(&mut holds, b"first"));
        drop(first);
        assert!(!is_held(&mut holds, b"first") && is_held(&mut holds, b"second"));
        assert!(holds.living().any());
        drop(second);
        assert!(!is_held(&mut holds, b"second") && !holds.living().any());
    }
}
