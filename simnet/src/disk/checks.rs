//! Whether the store is as it has promised.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use firn_bao::Span;
use firn_castore::{BlobDigest, BlobRef, DirectoryDigest};
use firn_store::{Blobs, Collected, Directories, Item, Paths, Pins, Room, StoreError, Visible};

use super::{
    acts::{name, stored_path},
    model::{Record, View},
    story::{Breach, STORE, Story, Violation},
};

/// How many groups are read at a time.
const READ_GROUPS: u64 = 64;
/// Packs may take so many times what is live in them.
const PACK_FACTOR: u64 = 2;
/// And so much more.
const PACK_SLACK_BYTES: u64 = 64 << 10;
/// What a record in a pack takes beside its contents, at most.
const RECORD_BYTES_MAX: u64 = 512;

impl Story<'_> {
    /// What is visible is what must be.
    pub(super) fn check_view(&mut self) -> Result<(), Violation> {
        if self.disk.has_ended() {
            return Ok(());
        }
        self.see(if self.has_faults { View::Doubtful } else { View::Same })
    }

    fn see(&mut self, view: View) -> Result<(), Violation> {
        let found = self.visible();
        let Some(found) = self.excuse("looking", found)? else { return Ok(()) };
        let found = found?;
        self.compare_visible(found, view)?;
        let pins = self.store().pins();
        if let Some(pins) = self.excuse("pins", pins)? {
            let wrong = |what: Visible| Breach::Forgotten.of(format!("the pin of {}", name(&what)));
            self.model.pins.see(pins, view).map_err(wrong)?;
        }
        if view == View::New {
            let uses = self.store().uses();
            if let Some(uses) = self.excuse("uses", uses)? {
                let text = format!("{uses:?}");
                let wrong =
                    |what: Visible| Breach::Forgotten.of(format!("the use of {} in {text}", name(&what)));
                self.model.uses.see(uses, view).map_err(wrong)?;
            }
        }
        Ok(())
    }

    fn compare_visible(&mut self, found: BTreeMap<Visible, Record>, view: View) -> Result<(), Violation> {
        let text =
            format!("{:?}", found.iter().map(|(what, record)| (name(what), record)).collect::<Vec<_>>());
        let known = format!("{:?}", self.model.visible);
        self.model
            .visible
            .see(found, view)
            .map_err(|what| Breach::Forgotten.of(format!("{}: found {text}, known {known}", name(&what))))
    }

    /// All that is visible, with the trees by number.
    fn visible(&self) -> Result<Result<BTreeMap<Visible, Record>, Violation>, StoreError> {
        let (paths, roots) = (self.store().paths()?, self.store().roots()?);
        let tree = |root: &firn_castore::Root| self.trees.iter().position(|tree| tree.root == *root);
        let mut found = BTreeMap::new();
        for path in paths {
            let record = tree(path.root()).map(|tree| Record { tree, shared: path.shared() });
            let number = u64::from(path.path_hash().as_bytes()[0]);
            match record {
                Some(record) if path == stored_path(number, path.root(), path.shared()) => {
                    found.insert(Visible::Path(path.path_hash()), record);
                }
                _ => return Ok(Err(Breach::FalseBytes.of(format!("the record of {}", path.path())))),
            }
        }
        for (root, shared) in roots {
            let Some(tree) = tree(&root) else {
                return Ok(Err(Breach::FalseBytes.of(format!("root {root}"))));
            };
            found.insert(Visible::Root(root), Record { tree, shared });
        }
        Ok(Ok(found))
    }

    /// Right after opening: all that was promised is there.
    pub(super) fn check_all(&mut self) -> Result<(), Violation> {
        self.see(View::New)?;
        self.report.resumed += self.model.opened(&self.trees, self.disk.has_failed());
        self.check_contents()?;
        if self.has_flips && !self.model.absent.is_empty() {
            self.repair()?;
        }
        self.check_directories()?;
        self.check_groups()
    }

    /// All that is beneath what is visible is there, byte for byte.
    fn check_contents(&mut self) -> Result<(), Violation> {
        let trees: BTreeSet<usize> = self.model.visible.now().map(|(_, record)| record.tree).collect();
        let blobs: BTreeSet<BlobRef> =
            trees.iter().flat_map(|tree| self.trees[*tree].blobs.clone()).collect();
        let directories: BTreeSet<DirectoryDigest> =
            trees.iter().flat_map(|tree| self.trees[*tree].directories.keys().copied()).collect();
        for digest in directories {
            self.check_directory(&digest)?;
        }
        for blob in blobs {
            self.check_blob(&blob)?;
        }
        Ok(())
    }

    fn check_directory(&mut self, digest: &DirectoryDigest) -> Result<(), Violation> {
        let item = Item::Directory(*digest);
        let found = self.store().directory(digest);
        match found {
            Ok(Some(_)) => Ok(()),
            Ok(None) if self.model.absent.contains(&item) => Ok(()),
            Err(StoreError::Damaged { item: named, .. }) if named == item && self.has_flips => {
                self.lose(item);
                Ok(())
            }
            Ok(None) => Err(Breach::NotWhole.of(format!("{item} is gone"))),
            Err(error) => self.excuse("directory", Err::<(), _>(error)).map(|_| ()),
        }
    }

    fn lose(&mut self, item: Item) {
        self.note(format!("   it says that {item} is damaged"));
        self.report.losses += 1;
        self.model.lost(item, true);
    }

    fn check_blob(&mut self, blob: &BlobRef) -> Result<(), Violation> {
        for span in Span::whole(blob.size).pieces(READ_GROUPS) {
            self.check_span(blob, span)?;
        }
        Ok(())
    }

    /// A span of something visible.
    fn check_span(&mut self, blob: &BlobRef, span: Span) -> Result<(), Violation> {
        let item = Item::Blob(blob.digest);
        let read = self.store().read_span(blob, span);
        self.gather_faults();
        match read {
            Ok(Some(read)) if *read.bytes() != self.pool.sample(blob).part(span) => {
                Err(Breach::FalseBytes.of(format!("{item}, {span:?}")))
            }
            Ok(Some(_)) => Ok(()),
            Ok(None) if self.model.absent.contains(&item) => Ok(()),
            // Whatever keeps an adopted file from being read makes the blob absent for the process.
            Ok(None) if self.has_faults => {
                self.model.lost(item, false);
                Ok(())
            }
            Ok(None) if self.has_flips && self.store().take_lost().contains(&blob.digest) => {
                self.lose(item);
                Ok(())
            }
            Err(StoreError::Damaged { item: named, .. }) if named == item && self.has_flips => {
                self.lose(item);
                Ok(())
            }
            Ok(None) => {
                let is_told = self.store().take_lost().contains(&blob.digest);
                Err(Breach::NotWhole.of(format!("{item} of {} bytes is gone, told: {is_told}", blob.size)))
            }
            Err(error @ StoreError::Damaged { .. }) => Err(Breach::NotWhole.of(error.to_string())),
            Err(error) => self.excuse("read_span", Err::<(), _>(error)).map(|_| ()),
        }
    }

    pub(super) fn read_some(&mut self) -> Result<(), Violation> {
        let trees: BTreeSet<usize> = self.model.visible.now().map(|(_, record)| record.tree).collect();
        let blobs: Vec<BlobRef> = trees.iter().flat_map(|tree| self.trees[*tree].blobs.clone()).collect();
        if blobs.is_empty() {
            return Ok(());
        }
        let blob = self.dice.pick(&blobs);
        let count = Span::whole(blob.size).groups().end;
        let start = self.dice.between(0..count);
        let end = self.dice.between(start + 1..count + 1);
        let span = Span::from_groups(start..end).expect("it is not empty");
        self.note(format!("reads {span:?} of {} bytes", blob.size));
        self.check_span(&blob, span)
    }

    /// What is said to be here can be read, and what was kept is said to be.
    pub(super) fn look_for_groups(&mut self) -> Result<(), Violation> {
        self.note("looks for groups");
        self.check_groups()
    }

    fn check_groups(&mut self) -> Result<(), Violation> {
        let blobs: BTreeSet<BlobRef> = self.trees.iter().flat_map(|tree| tree.blobs.clone()).collect();
        for blob in blobs {
            let spans = self.store().groups(&blob);
            let Some(spans) = self.excuse("groups", spans)? else { return Ok(()) };
            let is_whole = spans == [Span::whole(blob.size)];
            let has_blob = self.store().has_blob(&blob.digest);
            let Some(has_blob) = self.excuse("has_blob", has_blob)? else { return Ok(()) };
            match has_blob {
                Some(_) if !is_whole && !self.has_faults => {
                    return Err(Breach::Vanished.of(format!("{blob:?} was said to be whole: {spans:?}")));
                }
                None if is_whole && !self.has_faults && !self.has_flips => {
                    return Err(
                        Breach::Vanished.of(format!("all groups of {blob:?} are here, and it is not"))
                    );
                }
                Some(_) | None => {}
            }
            let mut said = BTreeSet::new();
            for span in spans {
                said.extend(span.groups());
                self.check_kept(&blob, span)?;
            }
            let vanished = self.model.here.groups().find(|(kept, _)| **kept == blob);
            if let Some((_, groups)) = vanished.filter(|(_, groups)| !groups.is_subset(&said))
                && !self.has_faults
            {
                return Err(
                    Breach::Vanished.of(format!("of {blob:?}, {groups:?} were kept, {said:?} are here"))
                );
            }
        }
        Ok(())
    }

    /// Each Directory that was kept is here.
    fn check_directories(&mut self) -> Result<(), Violation> {
        for digest in self.model.here.directories().clone() {
            let found = self.store().directory(&digest);
            if let Some(None) = self.excuse("directory", found)?
                && !self.has_faults
                && !self.has_flips
            {
                return Err(Breach::Vanished.of(format!("Directory {digest} was kept")));
            }
        }
        Ok(())
    }

    fn check_kept(&mut self, blob: &BlobRef, span: Span) -> Result<(), Violation> {
        for span in span.pieces(READ_GROUPS) {
            let read = self.store().read_span(blob, span);
            match self.excuse("read_span", read)? {
                Some(Some(read)) if *read.bytes() != self.pool.sample(blob).part(span) => {
                    return Err(Breach::FalseBytes.of(format!("{blob:?}, {span:?}")));
                }
                Some(None) if !self.has_faults && !self.has_flips => {
                    return Err(Breach::Vanished.of(format!("{span:?} of {blob:?} was said to be here")));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Keeps anew what is damaged. Then all is as before.
    fn repair(&mut self) -> Result<(), Violation> {
        let damaged: Vec<Item> = self.model.absent.iter().cloned().collect();
        for item in &damaged {
            if self.dice.percent(30) {
                self.put_aside(item)?;
            }
        }
        self.note("repairs");
        for record in
            self.model.visible.now().map(|(what, record)| (what.clone(), *record)).collect::<Vec<_>>()
        {
            self.keep_tree(record.1.tree, 100)?;
            self.commit_as(&record.0, record.1, None)?;
        }
        let losses = self.report.losses;
        self.check_contents()?;
        match self.report.losses - losses {
            0 => Ok(()),
            more => {
                Err(Breach::NotWhole.of(format!("{more} things are damaged although they were kept anew")))
            }
        }
    }

    /// Collects, or only counts. `None` where that was refused for a reason that there is.
    pub(super) fn collect_once(&mut self, dry_run: bool) -> Result<Option<Collected>, Violation> {
        self.note(if dry_run { "counts what would be collected" } else { "collects" });
        let collected = self.store().collect(dry_run);
        // What is beneath a Directory that is not there must not be taken for garbage.
        if let Err(StoreError::NotCollected { source }) = &collected
            && let Some(item) = source.lost()
            && (self.has_flips || self.model.absent.contains(item))
        {
            self.note(format!("   {source}"));
            return Ok(None);
        }
        if !dry_run {
            self.model.collected(&self.trees);
        }
        let collected = self.excuse("collect", collected)?;
        self.note(format!("   {collected:?}"));
        Ok(collected)
    }

    /// Collects, and looks whether that was all.
    pub(super) fn collect_all(&mut self) -> Result<(), Violation> {
        if self.collect_once(false)?.is_none() || self.has_faults {
            return Ok(());
        }
        self.check_tidy()?;
        match self.collect_once(false)? {
            Some(Collected { blobs: 0, directories: 0, partials: 0, .. }) | None => self.check_contents(),
            Some(again) => Err(Breach::Garbage.of(format!("{again:?} was left"))),
        }
    }

    /// Right after collecting: there is nothing but what is reachable.
    pub(super) fn check_tidy(&mut self) -> Result<(), Violation> {
        // What is damaged and was not put aside is counted still.
        let is_damaged = self.has_flips && !self.model.absent.is_empty();
        if is_damaged || !self.model.is_certain() {
            return Ok(());
        }
        let reachable = self.model.reachable(&self.trees);
        let usage = self.store().usage();
        let Some(usage) = self.excuse("usage", usage)? else { return Ok(()) };
        let blobs: BTreeSet<&BlobRef> = reachable.blobs().collect();
        let blob_bytes: u64 = blobs.iter().map(|blob| blob.size).sum();
        let counted = (usage.blobs, usage.blob_bytes, usage.directories);
        let expected = (blobs.len() as u64, blob_bytes, reachable.directories().len() as u64);
        if counted != expected {
            return Err(Breach::Garbage.of(format!("{usage:?}, but {expected:?} are reachable")));
        }
        let small: u64 =
            blobs.iter().filter(|blob| blob.size <= firn_bao::PIECE_BYTES).map(|blob| blob.size).sum();
        let outboards: u64 = blobs.iter().map(|blob| firn_bao::Outboard::byte_length(blob.size)).sum();
        let directories: u64 = self
            .trees
            .iter()
            .flat_map(|tree| tree.directories.values())
            .map(|directory| directory.encoded().len() as u64)
            .sum();
        let records = (blobs.len() + reachable.directories().len()) as u64 * RECORD_BYTES_MAX;
        let packs_max = PACK_FACTOR * (small + outboards + directories + records) + PACK_SLACK_BYTES;
        let mut packs = 0;
        for (path, length) in self.disk.files() {
            let Ok(inside) = path.strip_prefix(STORE) else { continue };
            if is_garbage(inside, &blobs, &self.model.absent) {
                return Err(Breach::Garbage.of(format!("{} was left", path.display())));
            }
            packs += if inside.starts_with("packs") { length } else { 0 };
        }
        if packs > packs_max {
            return Err(Breach::Garbage.of(format!("packs take {packs} bytes, at most {packs_max} are live")));
        }
        Ok(())
    }
}

/// Whether nothing that is reachable can be in this file.
fn is_garbage(inside: &Path, blobs: &BTreeSet<&BlobRef>, absent: &BTreeSet<Item>) -> bool {
    let file = inside.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let is = |digest: &BlobDigest| file.starts_with(&digest.to_string());
    match inside.components().next().and_then(|top| top.as_os_str().to_str()) {
        Some("temp") => true,
        Some("blobs") => !blobs.iter().any(|blob| is(&blob.digest)),
        Some("partial") => !absent.iter().any(|item| matches!(item, Item::Blob(digest) if is(digest))),
        _ => false,
    }
}
