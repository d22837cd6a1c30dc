//! What a store in memory holds.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    ops::Range,
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
};

use bytes::{Bytes, BytesMut};
use firn_bao::{GROUP_BYTES, Groups, Outboard, Span, SpanError, VerifiedSpan};
use firn_castore::{BlobDigest, BlobRef, Directory, DirectoryDigest, Node, Root};
use firn_nix::StorePathHash;
use firn_trust::StoredPath;
use rustix::fs::OFlags;

use crate::{
    Collected, Damage, Item, KnownTree, Listing, Reason, StoreError, UnixSeconds, Usage, Visible,
    mark::{Holds, Live, mark},
    traits::check_fits,
    tree,
};

/// The length of a parent: two chaining values.
const PARENT_BYTES: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Contents {
    blobs: BTreeMap<BlobDigest, Kept>,
    partials: BTreeMap<BlobRef, Partial>,
    pub(super) directories: BTreeMap<DirectoryDigest, Bytes>,
    pub(super) paths: BTreeMap<StorePathHash, StoredPath>,
    pub(super) roots: BTreeMap<Vec<u8>, (Root, bool)>,
    /// Records that are not what was written.
    pub(super) damaged: BTreeSet<Visible>,
    pub(super) pins: BTreeMap<Visible, Reason>,
    pub(super) uses: BTreeMap<Visible, UnixSeconds>,
    pub(super) known: BTreeMap<Listing, KnownTree>,
    pub(super) lost: BTreeSet<BlobDigest>,
    pub(super) holds: Holds,
}

/// A blob that is here as a whole.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) size: u64,
    pub(super) place: Place,
    pub(super) outboard: Bytes,
}

/// Where the contents of a blob are.
#[derive(Debug)]
pub(super) enum Place {
    Memory(Bytes),
    /// They stay in this file.
    File(PathBuf),
}

/// What is here of a blob that is not whole.
#[derive(Debug, Default)]
struct Partial {
    groups: Groups,
    bytes: BTreeMap<u64, Bytes>,
    /// By their places in the outboard.
    parents: BTreeMap<u64, Bytes>,
}

impl Kept {
    /// The bytes of this range; an adopted file that is not what it was is [`Damage::Gone`] or gives other bytes.
    fn read(&self, range: Range<u64>) -> Result<Bytes, Damage> {
        match &self.place {
            Place::Memory(bytes) => Ok(bytes.slice(range.start as usize..range.end as usize)),
            Place::File(file) => read_file(file, self.size, range).map_err(|_| Damage::Gone),
        }
    }

    fn parents(&self, span: Span) -> Bytes {
        let run = |run: Range<u64>| {
            &self.outboard[run.start as usize * PARENT_BYTES..run.end as usize * PARENT_BYTES]
        };
        span.parents(self.size).into_iter().flat_map(run).copied().collect()
    }

    fn read_span(&self, blob: &BlobRef, span: Span) -> Result<VerifiedSpan, Damage> {
        let bytes = self.read(span.bytes(blob.size))?;
        Ok(VerifiedSpan::check(*blob, span, self.parents(span), bytes)?)
    }

    /// How much of this machine's memory it takes, in bytes.
    fn memory_bytes(&self) -> u64 {
        let contents = match &self.place {
            Place::Memory(bytes) => bytes.len(),
            Place::File(_) => 0,
        };
        (contents + self.outboard.len()) as u64
    }
}

/// Reads from a file that had `size` bytes. No symlink is followed and no pipe waited for.
fn read_file(file: &PathBuf, size: u64, range: Range<u64>) -> io::Result<Bytes> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    let mut file = OpenOptions::new().read(true).custom_flags(flags).open(file)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() != size {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; (range.end - range.start) as usize];
    file.seek(SeekFrom::Start(range.start))?;
    file.read_exact(&mut bytes)?;
    Ok(bytes.into())
}

impl Partial {
    fn insert(&mut self, span: &VerifiedSpan) {
        let size = span.blob().size;
        let start = span.span().bytes(size).start;
        for group in span.span().groups() {
            let at = group * GROUP_BYTES - start;
            let end = (at + GROUP_BYTES).min(span.bytes().len() as u64);
            self.bytes.insert(group, span.bytes().slice(at as usize..end as usize));
        }
        let places = span.span().parents(size).into_iter().flatten();
        let parents = (0..).step_by(PARENT_BYTES).map(|at: usize| at..at + PARENT_BYTES);
        self.parents.extend(places.zip(parents).map(|(place, at)| (place, span.parents().slice(at))));
        self.groups.insert(span.span().groups());
    }

    fn read_span(&self, blob: &BlobRef, span: Span) -> Result<Option<VerifiedSpan>, SpanError> {
        if !self.groups.covers(&span.groups()) {
            return Ok(None);
        }
        let places = span.parents(blob.size).into_iter().flatten();
        let parents = join(places.filter_map(|place| self.parents.get(&place)));
        let bytes = join(self.bytes.range(span.groups()).map(|(_, bytes)| bytes));
        VerifiedSpan::check(*blob, span, parents, bytes).map(Some)
    }

    fn memory_bytes(&self) -> u64 {
        let contents: usize = self.bytes.values().map(Bytes::len).sum();
        (contents + self.parents.len() * PARENT_BYTES) as u64
    }
}

pub(super) fn join<'a>(parts: impl Iterator<Item = &'a Bytes>) -> Bytes {
    let mut whole = BytesMut::new();
    parts.for_each(|part| whole.extend_from_slice(part));
    whole.freeze()
}

fn damaged(item: Item, damage: impl Into<Damage>) -> StoreError {
    StoreError::damaged(item, PathBuf::from("memory"), damage)
}

/// Contents of files.
impl Contents {
    /// The length of a blob that is here and is what it was.
    pub(super) fn whole_size(&self, digest: &BlobDigest) -> Option<u64> {
        let kept = self.blobs.get(digest)?;
        let blob = BlobRef { digest: *digest, size: kept.size };
        kept.read_span(&blob, Span::whole(kept.size)).is_ok().then_some(kept.size)
    }

    pub(super) fn groups(&self, blob: &BlobRef) -> Vec<Span> {
        if self.whole_size(&blob.digest) == Some(blob.size) {
            return vec![Span::whole(blob.size)];
        }
        self.partials.get(blob).map(|partial| partial.groups.spans()).unwrap_or_default()
    }

    /// Reads a span. A blob that is found not to be what it was is lost.
    pub(super) fn read_span(
        &mut self,
        blob: &BlobRef,
        span: Span,
    ) -> Result<Option<VerifiedSpan>, StoreError> {
        check_fits(blob, span)?;
        let Some(kept) = self.blobs.get(&blob.digest).filter(|kept| kept.size == blob.size) else {
            return self.read_partial(blob, span);
        };
        match kept.read_span(blob, span) {
            Ok(read) => Ok(Some(read)),
            Err(damage) => {
                let is_adopted = matches!(kept.place, Place::File(_));
                self.blobs.remove(&blob.digest);
                self.lost.insert(blob.digest);
                // That a file elsewhere changes is its owner's right, and no damage of this store.
                if is_adopted { Ok(None) } else { Err(damaged(Item::Blob(blob.digest), damage)) }
            }
        }
    }

    fn read_partial(&self, blob: &BlobRef, span: Span) -> Result<Option<VerifiedSpan>, StoreError> {
        let Some(partial) = self.partials.get(blob) else { return Ok(None) };
        partial.read_span(blob, span).map_err(|error| damaged(Item::Blob(blob.digest), error))
    }

    pub(super) fn keep_span(&mut self, span: &VerifiedSpan) {
        let blob = span.blob();
        self.holds.touch(Item::Blob(blob.digest));
        let whole = Span::whole(blob.size);
        let is_copied_in = span.span() == whole && self.is_adopted(&blob.digest);
        if self.whole_size(&blob.digest) == Some(blob.size) && !is_copied_in {
            return;
        }
        let partial = self.partials.entry(blob).or_default();
        partial.insert(span);
        if partial.groups.covers(&whole.groups()) {
            // Under one lock: whoever kept the other spans must find the blob here from now on.
            let place = Place::Memory(join(partial.bytes.values()));
            let kept = Kept { size: blob.size, place, outboard: join(partial.parents.values()) };
            self.keep(blob, kept);
        }
    }

    fn is_adopted(&self, digest: &BlobDigest) -> bool {
        self.blobs.get(digest).is_some_and(|kept| matches!(kept.place, Place::File(_)))
    }

    /// Whether what is here does as well: not a file elsewhere for a copy, nor one that is gone for one that is there.
    fn does_as_well(&self, digest: &BlobDigest, kept: &Kept) -> bool {
        if self.whole_size(digest).is_none() {
            return false;
        }
        match (self.blobs.get(digest).map(|here| &here.place), &kept.place) {
            (Some(Place::File(here)), Place::File(_)) => {
                fs::metadata(here).is_ok_and(|metadata| metadata.is_file() && metadata.len() == kept.size)
            }
            (Some(Place::File(_)), Place::Memory(_)) => false,
            _ => true,
        }
    }

    /// Keeps a whole blob, unless it is here already.
    pub(super) fn keep(&mut self, blob: BlobRef, kept: Kept) {
        debug_assert_eq!(kept.outboard.len() as u64, Outboard::byte_length(blob.size));
        self.holds.touch(Item::Blob(blob.digest));
        self.partials.remove(&blob);
        if !self.does_as_well(&blob.digest, &kept) {
            self.blobs.insert(blob.digest, kept);
        }
    }

    pub(super) fn damage_blob(&mut self, digest: &BlobDigest) -> bool {
        let Some(Kept { place: Place::Memory(bytes), .. }) = self.blobs.get_mut(digest) else { return false };
        let mut damaged = BytesMut::from(&bytes[..]);
        let Some(first) = damaged.first_mut() else { return false };
        *first ^= 1;
        *bytes = damaged.freeze();
        true
    }
}

/// Trees.
impl Contents {
    pub(super) fn directory(&self, digest: &DirectoryDigest) -> Result<Option<Directory>, StoreError> {
        let Some(encoded) = self.directories.get(digest) else { return Ok(None) };
        match Directory::decode(encoded.clone(), digest) {
            Ok(directory) => Ok(Some(directory)),
            Err(error) => Err(damaged(Item::Directory(*digest), error)),
        }
    }

    /// Refuses unless all beneath the root is here and is what it was.
    pub(super) fn check(&mut self, root: &Root) -> Result<(), StoreError> {
        let closure = tree::collect(root, |digest| self.directory(digest))?.or_refuse(root)?;
        for blob in closure.blobs() {
            let read = match self.blobs.contains_key(&blob.digest) {
                true => self.read_span(&blob, Span::whole(blob.size))?,
                false => None,
            };
            read.ok_or(StoreError::Missing(Item::Blob(blob.digest)))?;
        }
        Ok(())
    }

    pub(super) fn is_visible(&self, what: &Visible) -> bool {
        match what {
            Visible::Path(hash) => self.paths.contains_key(hash),
            Visible::Root(root) => self.roots.contains_key(&root.to_bytes()),
        }
    }

    pub(super) fn damage_record(&mut self, what: &Visible) -> bool {
        let is_visible = self.is_visible(what);
        if is_visible {
            self.damaged.insert(what.clone());
        }
        is_visible
    }

    /// Refuses where the record is damaged.
    pub(super) fn check_record(&self, what: &Visible) -> Result<(), StoreError> {
        if !self.damaged.contains(what) {
            return Ok(());
        }
        let item = match what {
            Visible::Path(hash) => Item::Path(*hash),
            Visible::Root(root) => Item::Root(root.clone()),
        };
        Err(damaged(item, Damage::Checksum))
    }

    pub(super) fn damaged_records(&self) -> Vec<StoreError> {
        self.damaged.iter().filter_map(|what| self.check_record(what).err()).collect()
    }

    /// Takes the record away; whether there was one.
    pub(super) fn hide(&mut self, what: &Visible) -> bool {
        self.damaged.remove(what);
        match what {
            Visible::Path(hash) => self.paths.remove(hash).is_some(),
            Visible::Root(root) => self.roots.remove(&root.to_bytes()).is_some(),
        }
    }
}

/// Room.
impl Contents {
    fn live(&self) -> Result<Live, StoreError> {
        let paths = self.paths.values().map(|path| path.root().clone());
        let roots = self.roots.values().map(|(root, _)| root.clone());
        let held = self.holds.roots().cloned();
        mark(paths.chain(roots), held, |digest| self.directory(digest))
    }

    pub(super) fn collect(&mut self, dry_run: bool) -> Result<Collected, StoreError> {
        if let Some(record) = self.damaged_records().into_iter().next() {
            return Err(StoreError::not_collected(record));
        }
        self.holds.prune();
        let Live { blobs, directories } = self.live()?;
        let is_live =
            |digest: &BlobDigest| blobs.contains(digest) || self.holds.protects(&Item::Blob(*digest));
        let mut collected = Collected::default();
        self.blobs.retain(|digest, kept| {
            let stays = is_live(digest);
            collected.blobs += u64::from(!stays);
            collected.bytes += if stays { 0 } else { kept.memory_bytes() };
            stays || dry_run
        });
        self.partials.retain(|blob, partial| {
            let stays = is_live(&blob.digest);
            collected.partials += u64::from(!stays);
            collected.bytes += if stays { 0 } else { partial.memory_bytes() };
            stays || dry_run
        });
        self.directories.retain(|digest, encoded| {
            let stays = directories.contains(digest) || self.holds.protects(&Item::Directory(*digest));
            collected.directories += u64::from(!stays);
            collected.bytes += if stays { 0 } else { encoded.len() as u64 };
            stays || dry_run
        });
        // Whoever believed in a tree that has gone could not commit it.
        let is_here = |tree: &KnownTree| match tree.root.node() {
            Node::Directory { digest, .. } => self.directories.contains_key(digest),
            Node::File { blob, .. } => self.blobs.contains_key(&blob.digest),
            Node::Symlink { .. } => true,
        };
        self.known.retain(|_, tree| is_here(tree));
        Ok(collected)
    }

    /// Takes damaged content away. The pin and the use of a record stay, for the day on which it is fetched again.
    pub(super) fn quarantine(&mut self, item: &Item) {
        match item {
            Item::Blob(digest) => {
                self.blobs.remove(digest);
                self.partials.retain(|blob, _| blob.digest != *digest);
            }
            Item::Directory(digest) => {
                self.directories.remove(digest);
            }
            Item::Path(hash) => {
                self.hide(&Visible::Path(*hash));
            }
            Item::Root(root) => {
                self.hide(&Visible::Root(root.clone()));
            }
        }
    }

    pub(super) fn usage(&self) -> Usage {
        let adopted = |kept: &&Kept| matches!(kept.place, Place::File(_));
        let size = |kept: &Kept| kept.size;
        Usage {
            blobs: self.blobs.len() as u64,
            blob_bytes: self.blobs.values().map(size).sum(),
            adopted_blobs: self.blobs.values().filter(adopted).count() as u64,
            adopted_bytes: self.blobs.values().filter(adopted).map(size).sum(),
            directories: self.directories.len() as u64,
            partials: self.partials.len() as u64,
            disk_bytes: self.blobs.values().map(Kept::memory_bytes).sum::<u64>()
                + self.partials.values().map(Partial::memory_bytes).sum::<u64>()
                + self.directories.values().map(|encoded| encoded.len() as u64).sum::<u64>(),
        }
    }
}
