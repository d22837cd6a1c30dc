//! What must be in the store, as far as it has promised.

use std::collections::{BTreeMap, BTreeSet};

use firn_bao::Span;
use firn_castore::{BlobRef, DirectoryDigest, Node};
use firn_store::{Item, Reason, UnixSeconds, Visible};

use super::{holdings::Holdings, pool::Tree};

/// A value that the running process must see, and others that the next may see in its place.
#[derive(Debug, Clone)]
pub(super) struct Known<T> {
    now: T,
    others: Vec<T>,
}

impl<T: PartialEq> Known<T> {
    pub(super) fn now(&self) -> &T {
        &self.now
    }

    pub(super) fn may_be(&self, value: &T) -> bool {
        self.now == *value || self.others.contains(value)
    }

    /// It is this and nothing else, durably.
    fn is(&mut self, value: T) {
        self.now = value;
        self.others.clear();
    }

    /// It was to become this, but that has failed.
    fn was_to_be(&mut self, value: T) {
        self.others.push(value);
    }

    /// It is this, but not durably.
    fn is_for_now(&mut self, value: T) {
        if self.now != value {
            let before = std::mem::replace(&mut self.now, value);
            self.others.push(before);
        }
    }

    fn is_durable(&mut self) {
        self.others.clear();
    }
}

/// Who looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum View {
    /// The process that knows.
    Same,
    /// It too, but calls have failed: whether what they were for was done is not known before the next process looks.
    Doubtful,
    /// The next process.
    New,
}

/// By name; what was never heard of is `None` for sure.
#[derive(Debug, Clone)]
pub(super) struct Records<T>(BTreeMap<Visible, Known<Option<T>>>);

impl<T: PartialEq + Clone> Records<T> {
    fn known(&mut self, what: &Visible) -> &mut Known<Option<T>> {
        self.0.entry(what.clone()).or_insert(Known { now: None, others: Vec::new() })
    }

    pub(super) fn now(&self) -> impl Iterator<Item = (&Visible, &T)> {
        self.0.iter().filter_map(|(what, known)| Some((what, known.now().as_ref()?)))
    }

    /// What is found in place of what must be there. What was found is taken for true.
    pub(super) fn see(&mut self, mut found: BTreeMap<Visible, T>, view: View) -> Result<(), Visible> {
        for (what, known) in &mut self.0 {
            let there = found.remove(what);
            let is_right = match view {
                View::Same => *known.now() == there,
                View::Doubtful | View::New => known.may_be(&there),
            };
            if !is_right {
                return Err(what.clone());
            }
            match view {
                View::Same => {}
                View::Doubtful => known.is_for_now(there),
                View::New => known.is(there),
            }
        }
        found.into_keys().next().map_or(Ok(()), Err)
    }
}

/// A record of something visible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    /// By number.
    pub(super) tree: usize,
    pub(super) shared: bool,
}

/// All that is known of a store.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) visible: Records<Record>,
    pub(super) pins: Records<Reason>,
    pub(super) uses: Records<UnixSeconds>,
    /// What the running process has at least.
    pub(super) here: Holdings,
    /// What of this the next process has at least, if this one is killed.
    outlasting: Holdings,
    /// What was kept or found since a hold was taken that lives.
    held: Option<Holdings>,
    /// What was put aside or found damaged, and was not made durable anew: it may be absent.
    pub(super) absent: BTreeSet<Item>,
    /// What of this was kept anew, so that it is here until the process ends, and then too after the next commit.
    kept_anew: BTreeSet<Item>,
    /// What is absent for sure.
    gone: BTreeSet<Item>,
}

impl Model {
    pub(super) fn new() -> Self {
        Self {
            visible: Records(BTreeMap::new()),
            pins: Records(BTreeMap::new()),
            uses: Records(BTreeMap::new()),
            here: Holdings::default(),
            outlasting: Holdings::default(),
            held: None,
            absent: BTreeSet::new(),
            kept_anew: BTreeSet::new(),
            gone: BTreeSet::new(),
        }
    }

    /// What is beneath all that is visible, and not absent.
    pub(super) fn reachable(&self, trees: &[Tree]) -> Holdings {
        let absent: BTreeSet<&Item> = self.absent.difference(&self.kept_anew).collect();
        let mut reachable = Holdings::default();
        for (_, record) in self.visible.now() {
            let tree = &trees[record.tree];
            let mut stack = vec![tree.root.node()];
            while let Some(node) = stack.pop() {
                match node {
                    Node::File { blob, .. } if !absent.contains(&Item::Blob(blob.digest)) => {
                        reachable.add_span(*blob, Span::whole(blob.size));
                    }
                    Node::Directory { digest, .. } if !absent.contains(&Item::Directory(*digest)) => {
                        if reachable.directories.insert(*digest) {
                            stack.extend(tree.directories[digest].iter().map(|(_, node)| node));
                        }
                    }
                    Node::File { .. } | Node::Directory { .. } | Node::Symlink { .. } => {}
                }
            }
        }
        reachable
    }

    /// Whether it is known of each thing whether it is here.
    pub(super) fn is_certain(&self) -> bool {
        self.absent.iter().all(|item| self.gone.contains(item) || self.kept_anew.contains(item))
    }

    pub(super) fn kept_span(&mut self, blob: BlobRef, span: Span) {
        self.outlasting.add_span(blob, span);
        self.has_span(blob, span);
    }

    /// A blob is to be adopted, in place of what is here of it unless that is all. Where it lies is known only to this
    /// process until it is committed.
    pub(super) fn is_to_adopt(&mut self, blob: &BlobRef) {
        if !self.outlasting.has_blob(blob) {
            self.outlasting.groups.remove(blob);
        }
    }

    pub(super) fn has_adopted(&mut self, blob: BlobRef) {
        self.has_span(blob, Span::whole(blob.size));
    }

    fn has_span(&mut self, blob: BlobRef, span: Span) {
        for here in std::iter::once(&mut self.here).chain(&mut self.held) {
            here.add_span(blob, span);
        }
        if self.here.has_blob(&blob) {
            self.is_back(Item::Blob(blob.digest));
        }
    }

    fn is_back(&mut self, item: Item) {
        self.gone.remove(&item);
        if self.absent.contains(&item) {
            self.kept_anew.insert(item);
        }
    }

    /// Something was to be kept, and that has failed: perhaps after it was done.
    pub(super) fn may_be_back(&mut self, item: &Item) {
        self.gone.remove(item);
    }

    pub(super) fn kept_directory(&mut self, digest: DirectoryDigest) {
        for here in [&mut self.here, &mut self.outlasting].into_iter().chain(&mut self.held) {
            here.directories.insert(digest);
        }
        self.is_back(Item::Directory(digest));
    }

    /// Something was put aside or found damaged. `surely`: it is absent now, and not only perhaps.
    pub(super) fn lost(&mut self, item: Item, surely: bool) {
        self.here.remove(&item);
        self.outlasting.remove(&item);
        self.kept_anew.remove(&item);
        if surely {
            self.gone.insert(item.clone());
        }
        self.held.iter_mut().for_each(|held| held.remove(&item));
        self.absent.insert(item);
    }

    /// Whether a tree cannot be whole.
    pub(super) fn is_broken(&self, tree: &Tree) -> bool {
        self.gone.iter().any(|item| match item {
            Item::Blob(digest) => tree.blobs.iter().any(|blob| blob.digest == *digest),
            Item::Directory(digest) => tree.directories.contains_key(digest),
            Item::Path(_) | Item::Root(_) => false,
        })
    }

    pub(super) fn committed(&mut self, what: &Visible, record: Record, pin: Option<&Reason>, tree: &Tree) {
        self.visible.known(what).is(Some(record));
        if let Some(reason) = pin {
            self.pins.known(what).is(Some(reason.clone()));
        }
        let kept_anew = std::mem::take(&mut self.kept_anew);
        self.absent.retain(|item| !kept_anew.contains(item));
        self.here.add_tree(tree);
        self.outlasting.add_tree(tree);
    }

    /// After a commit. What was used is a hint: where calls have failed it may be lost.
    pub(super) fn uses_are_durable(&mut self) {
        self.uses.0.values_mut().for_each(Known::is_durable);
    }

    pub(super) fn was_to_commit(&mut self, what: &Visible, record: Record, pin: Option<&Reason>) {
        self.visible.known(what).was_to_be(Some(record));
        if let Some(reason) = pin {
            self.pins.known(what).was_to_be(Some(reason.clone()));
        }
    }

    pub(super) fn removed(&mut self, what: &Visible) {
        self.visible.known(what).is(None);
        self.pins.known(what).is(None);
        self.uses.known(what).is(None);
    }

    pub(super) fn was_to_remove(&mut self, what: &Visible) {
        self.visible.known(what).was_to_be(None);
        self.pins.known(what).was_to_be(None);
        self.uses.known(what).was_to_be(None);
    }

    pub(super) fn pinned(&mut self, what: &Visible, reason: Option<&Reason>) {
        self.pins.known(what).is(reason.cloned());
    }

    pub(super) fn was_to_pin(&mut self, what: &Visible, reason: Option<&Reason>) {
        self.pins.known(what).was_to_be(reason.cloned());
    }

    pub(super) fn used(&mut self, what: &Visible, at: UnixSeconds) {
        self.uses.known(what).is_for_now(Some(at));
    }

    pub(super) fn hold(&mut self, holds: bool) {
        self.held = holds.then(Holdings::default);
    }

    pub(super) fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// All that is neither reachable nor held may be gone.
    pub(super) fn collected(&mut self, trees: &[Tree]) {
        self.here = self.reachable(trees);
        // What is beneath a Directory that is absent goes too.
        for (_, record) in self.visible.now() {
            let tree = &trees[record.tree];
            let blobs = tree.blobs.iter().filter(|blob| !self.here.has_blob(blob));
            self.absent.extend(blobs.map(|blob| Item::Blob(blob.digest)));
            let directories =
                tree.directories.keys().filter(|digest| !self.here.directories.contains(*digest));
            self.absent.extend(directories.map(|digest| Item::Directory(*digest)));
        }
        self.kept_anew.retain(|item| match item {
            Item::Blob(digest) => self.here.groups.keys().any(|blob| blob.digest == *digest),
            Item::Directory(digest) => self.here.directories.contains(digest),
            Item::Path(_) | Item::Root(_) => false,
        });
        if let Some(held) = &self.held {
            self.here.add_all(held);
        }
        self.outlasting.retain(&self.here);
    }

    /// Only what is durable is here for sure: a failure has taken the rest.
    pub(super) fn forgot(&mut self, trees: &[Tree]) {
        self.kept_anew.clear();
        self.here = self.reachable(trees);
        self.outlasting = self.here.clone();
        self.held = self.held.as_ref().map(|_| Holdings::default());
    }

    /// The process has ended. `was_killed`: and that is all that has happened.
    pub(super) fn ended(&mut self, was_killed: bool) {
        self.held = None;
        self.kept_anew.clear();
        if !was_killed {
            self.outlasting = Holdings::default();
            // What was put aside may be back where it was.
            self.gone.clear();
        }
        self.here = self.outlasting.clone();
    }

    /// Bits have flipped: anything may have been in them.
    pub(super) fn has_flipped(&mut self) {
        self.outlasting = Holdings::default();
        self.here = Holdings::default();
    }

    /// The next process has opened the store, and it is known what is visible. `failed`: not without a failure. Gives how
    /// many groups and Directories must be here that nothing visible needs.
    pub(super) fn opened(&mut self, trees: &[Tree], failed: bool) -> u64 {
        self.here = self.reachable(trees);
        let reachable = self.here.count();
        if !failed {
            self.here.add_all(&self.outlasting);
        }
        self.outlasting = self.here.clone();
        self.here.count() - reachable
    }
}
