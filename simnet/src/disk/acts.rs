//! What is done with the store.

use std::collections::BTreeSet;

use firn_nix::{NarFacts, NarHash, StorePath, StorePathHash};
use firn_store::{DiskStore, Item, Paths, Pins, Reason, Room, StoreError, UnixSeconds, Visible};
use firn_trust::{PathFacts, StoredPath, TrustedPath};

use super::{
    model::Record,
    story::{Breach, Story, Violation},
};

const PATHS: u64 = 3;
/// So few things are damaged in a run.
const MENDED_MAX: u64 = 20;

/// A record of one of the paths.
pub(super) fn stored_path(path: u64, root: &firn_castore::Root, shared: bool) -> StoredPath {
    let path = StorePath::new(path_hash(path), "sim").expect("the name is legal");
    let nar = NarFacts { nar_hash: NarHash::of(b"sim"), nar_size: 1, references: BTreeSet::new() };
    let facts = PathFacts { path, root: root.clone(), nar, deriver: None, ca: None };
    TrustedPath::added_here(facts, Vec::new(), &[]).to_stored(shared)
}

pub(super) fn path_hash(path: u64) -> StorePathHash {
    StorePathHash::from([path as u8; 20])
}

impl Story<'_> {
    pub(super) fn store(&self) -> &DiskStore {
        self.store.as_ref().expect("it is open while it is used")
    }

    pub(super) fn any_tree(&mut self) -> usize {
        self.dice.between(0..self.trees.len() as u64) as usize
    }

    /// A name of something that is visible, or may have been.
    fn any_visible(&mut self) -> Visible {
        let visible: Vec<_> = self.model.visible.now().map(|(what, _)| what.clone()).collect();
        if !visible.is_empty() && self.dice.percent(80) {
            return self.dice.pick(&visible);
        }
        match self.dice.percent(50) {
            true => Visible::Path(path_hash(self.dice.between(0..PATHS))),
            false => {
                let tree = self.any_tree();
                Visible::Root(self.trees[tree].root.clone())
            }
        }
    }

    fn any_reason(&mut self) -> Reason {
        self.dice.pick(&["added", "adopted", "because"]).parse().expect("the reason is legal")
    }

    /// Does one thing or another.
    pub(super) fn act(&mut self) -> Result<(), Violation> {
        match self.dice.between(0..100) {
            0..20 => self.keep_some(),
            20..50 => self.commit(),
            50..60 => self.read_some(),
            60..67 => self.remove(),
            67..75 => self.change_pin(),
            75..82 => self.use_something(),
            82..91 => self.collect(),
            91..95 => self.hold(),
            95..97 => self.quarantine(),
            _ => self.look_for_groups(),
        }
    }

    fn commit(&mut self) -> Result<(), Violation> {
        let tree = self.any_tree();
        if self.dice.percent(80) {
            self.keep_tree(tree, 100)?;
            if self.disk.has_ended() {
                return Ok(());
            }
        }
        let root = self.trees[tree].root.clone();
        let record = Record { tree, shared: self.dice.percent(50) };
        let pin = self.dice.percent(40).then(|| self.any_reason());
        let what = match self.dice.percent(60) {
            true => Visible::Path(path_hash(self.dice.between(0..PATHS))),
            false => Visible::Root(root.clone()),
        };
        self.note(format!("commits tree {tree} as {} with {pin:?}", name(&what)));
        self.commit_as(&what, record, pin.as_ref())
    }

    /// It has been found only now that this is damaged; kept anew, it is there.
    fn mend(
        &mut self,
        what: &Visible,
        record: Record,
        pin: Option<&Reason>,
        item: Item,
    ) -> Result<(), Violation> {
        self.note(format!("   {item} is damaged"));
        self.model.lost(item, false);
        self.mended += 1;
        if self.mended > MENDED_MAX {
            return Err(Breach::Refused.of("what is damaged cannot be kept anew"));
        }
        self.keep_tree(record.tree, 100)?;
        self.commit_as(what, record, pin)
    }

    pub(super) fn commit_as(
        &mut self,
        what: &Visible,
        record: Record,
        pin: Option<&Reason>,
    ) -> Result<(), Violation> {
        let (root, shared) = (self.trees[record.tree].root.clone(), record.shared);
        let known = self.dice.percent(50).then(|| self.trees[record.tree].closure());
        let shown = match what {
            Visible::Path(hash) => {
                let path = stored_path(u64::from(hash.as_bytes()[0]), &root, shared);
                firn_store::Record::Path(Box::new(path))
            }
            Visible::Root(_) => firn_store::Record::Tree { root, shared },
        };
        let result = self.store().commit_record(shown, known, pin);
        self.gather_faults();
        let tree = &self.trees[record.tree];
        match result {
            Ok(()) if self.model.is_broken(tree) => Err(Breach::Unproven
                .of(format!("tree {} was committed, but {:?} are absent", record.tree, self.model.absent))),
            Ok(()) => {
                self.report.commits += 1;
                self.model.committed(what, record, pin, tree);
                if !self.has_faults {
                    self.model.uses_are_durable();
                }
                Ok(())
            }
            Err(StoreError::Missing(item)) if self.may_miss(&item) => {
                self.note(format!("   {item} is missing"));
                Ok(())
            }
            Err(StoreError::Missing(item)) if self.has_flips && !self.disk.has_ended() => {
                self.mend(what, record, pin, item)
            }
            Err(error) => {
                self.model.was_to_commit(what, record, pin);
                self.excuse("commit", Err::<(), _>(error)).map(|_| ())
            }
        }
    }

    /// Whether this may be missing for all that is known.
    fn may_miss(&self, item: &Item) -> bool {
        match item {
            Item::Blob(digest) => !self.model.here.blobs().any(|blob| blob.digest == *digest),
            Item::Directory(digest) => !self.model.here.has_directory(digest),
            Item::Path(_) | Item::Root(_) => false,
        }
    }

    fn remove(&mut self) -> Result<(), Violation> {
        let what = self.any_visible();
        self.note(format!("removes {}", name(&what)));
        let was_visible = self.model.visible.now().any(|(visible, _)| *visible == what);
        let removed = self.store().remove(&what);
        if removed.is_err() {
            self.model.was_to_remove(&what);
        }
        match self.excuse("remove", removed)? {
            Some(removed) if removed != was_visible && !self.has_faults => Err(Breach::Forgotten
                .of(format!("{} was visible: {was_visible}, removed: {removed}", name(&what)))),
            Some(_) => {
                self.model.removed(&what);
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn change_pin(&mut self) -> Result<(), Violation> {
        let what = self.any_visible();
        let reason = self.dice.percent(50).then(|| self.any_reason());
        self.note(format!("pins {} with {reason:?}", name(&what)));
        let was_pinned = self.model.pins.now().any(|(pinned, _)| *pinned == what);
        let done = match &reason {
            Some(reason) => self.store().pin(&what, reason).map(|()| was_pinned),
            None => self.store().unpin(&what),
        };
        if done.is_err() {
            self.model.was_to_pin(&what, reason.as_ref());
        }
        match self.excuse("pinning", done)? {
            Some(had_pin) if had_pin != was_pinned && !self.has_faults => Err(Breach::Forgotten
                .of(format!("{} was pinned: {was_pinned}, unpinned: {had_pin}", name(&what)))),
            Some(_) => {
                self.model.pinned(&what, reason.as_ref());
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn use_something(&mut self) -> Result<(), Violation> {
        let visible: Vec<_> = self.model.visible.now().map(|(what, _)| what.clone()).collect();
        if visible.is_empty() {
            return Ok(());
        }
        let what = self.dice.pick(&visible);
        self.clock += self.dice.between(1..10);
        let at = UnixSeconds(self.clock);
        self.note(format!("uses {} at {}", name(&what), at.0));
        let used = self.store().used(&what, at);
        self.model.used(&what, at);
        self.excuse("used", used).map(|_| ())
    }

    fn collect(&mut self) -> Result<(), Violation> {
        let dry = match self.dice.percent(30) {
            true => self.collect_once(true)?,
            false => None,
        };
        let Some(collected) = self.collect_once(false)? else { return Ok(()) };
        let counts =
            |collected: firn_store::Collected| (collected.blobs, collected.directories, collected.partials);
        if let Some(dry) = dry
            && !self.has_faults
            && counts(dry) != counts(collected)
        {
            return Err(Breach::Garbage.of(format!("{dry:?} was to be collected, {collected:?} was")));
        }
        match self.model.is_held() {
            _ if self.has_faults || self.disk.has_ended() => Ok(()),
            true => self.look_for_groups(),
            false => self.check_tidy(),
        }
    }

    fn hold(&mut self) -> Result<(), Violation> {
        self.hold = match self.hold.take() {
            Some(_) => None,
            None => Some(self.store().hold()),
        };
        self.model.hold(self.hold.is_some());
        self.note(format!("holds: {}", self.hold.is_some()));
        Ok(())
    }

    fn quarantine(&mut self) -> Result<(), Violation> {
        let tree = self.any_tree();
        let tree = &self.trees[tree];
        let mut items: Vec<Item> = tree.blobs.iter().map(|blob| Item::Blob(blob.digest)).collect();
        items.extend(tree.directories.keys().map(|digest| Item::Directory(*digest)));
        if items.is_empty() {
            return Ok(());
        }
        let item = self.dice.pick(&items);
        self.put_aside(&item)
    }

    pub(super) fn put_aside(&mut self, item: &Item) -> Result<(), Violation> {
        self.note(format!("puts {item} aside"));
        let done = self.store().quarantine(item);
        // Where it fails it may be gone nevertheless, and that is no harm: it was to go.
        self.model.lost(item.clone(), done.is_ok());
        self.excuse("quarantine", done).map(|_| ())
    }
}

pub(super) fn name(what: &Visible) -> String {
    match what {
        Visible::Path(hash) => format!("path {}", hash.as_bytes()[0]),
        Visible::Root(root) => format!("{root}"),
    }
}
