//! Opening the packs, and finding again what a process has left behind the ends that the index has.
//!
//! Records come to a pack one after another and each is written before its keeper is told, so of a process that was
//! killed all of them are there but the last. After a power failure anything may be there. A record does not say whose it
//! is: it is named anew by the digest of what is in it, so whatever is found is what its name says. What is not a record
//! ends the search in its pack, and is cut off with all that follows.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use firn_bao::{HashedBlob, Outboard, PIECE_BYTES};
use firn_castore::{BlobDigest, DIRECTORY_BYTES_MAX, Directory, DirectoryDigest};

use super::{
    super::{
        away::Away,
        place::{
            BlobKind, BlobPlace, DirectoryPlace, HEAD_BYTES_MAX, PACK_HEAD, PACK_HEAD_BYTES, Position,
            RecordHead, parse_head,
        },
        vfs::{Access, Disk, DiskFile},
    },
    DIRTY_MAX, DirtyPack, Open, PACK_BYTES_FULL, Packs, Tail, cut, name, parse_name, read_some,
};
use crate::{StoreError, lock};

/// In so many packs it is looked for what the index does not have. A process that has so many that are not durable syncs
/// before it goes on, and each of its threads can fill one more.
const RECOVERED_PACKS_MAX: usize = 2 * DIRTY_MAX;
/// So many records are found again. A process has a quarter of them waiting for the index at most; beyond that only a
/// collection leaves more, which copies what the index has elsewhere.
const RECORDS_MAX: usize = 1 << 18;

/// What was found behind the ends that the index has, and is to come to the index.
#[derive(Default)]
pub(in super::super) struct Recovered {
    pub(in super::super) blobs: BTreeMap<BlobDigest, BlobPlace>,
    pub(in super::super) directories: BTreeMap<DirectoryDigest, DirectoryPlace>,
    /// The Directories themselves, where a whole pack is read.
    pub(in super::super) decoded: Vec<Directory>,
    records: usize,
    /// Whether a whole pack is read, in which a record that is not sound does not end the search.
    is_whole: bool,
    /// How many records are not sound.
    damaged: u64,
}

/// A pack that is there.
struct Found {
    pack: u32,
    /// Where the index has its end; 0 where it does not know it.
    indexed_end: u32,
}

impl Packs {
    /// The packs of a store whose index has these ends, and what is sound behind them: all of it is [dirty](Packs::dirty).
    ///
    /// Nothing but the last pack of the index and later ones has anything that a process has not given up. What lies behind
    /// the ends of the others is cut off if the store `was_left`, and packs that the index does not have are removed.
    pub(in super::super) fn open(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        away: Away,
        ends: &BTreeMap<u32, u32>,
        was_left: bool,
    ) -> Result<(Self, Recovered), StoreError> {
        let packs = Self { disk, dir, away, tail: Mutex::default(), open: Mutex::new(Open::default()) };
        let last = ends.last_key_value().map_or(0, |(pack, _)| *pack);
        let mut looked_at = 0;
        let mut recovered = Recovered::default();
        let mut tail = packs.first_tail(ends);
        for pack in packs.list()? {
            let indexed_end = ends.get(&pack).copied();
            let is_recovered = pack >= last && looked_at < RECOVERED_PACKS_MAX;
            match indexed_end {
                Some(end) if pack < last => {
                    if was_left {
                        // A pack that cannot be cut is told of when it is read; garbage behind it does no harm.
                        let _ = packs
                            .disk
                            .open(&packs.path(pack), Access::Write)
                            .and_then(|file| cut(&*file, end));
                    }
                }
                None if !is_recovered => {
                    packs.remove_file(pack)?;
                    // What could not be removed has its number still.
                    if pack >= tail.pack {
                        (tail.pack, tail.end, tail.file) = (pack.saturating_add(1), 0, None);
                    }
                }
                _ => {
                    looked_at += 1;
                    let found = Found { pack, indexed_end: indexed_end.unwrap_or(0) };
                    packs.go_on_after(&found, &mut tail, &mut recovered)?;
                }
            }
        }
        *lock(&packs.tail) = tail;
        Ok((packs, recovered))
    }

    /// All packs that are there, in order, with their files.
    pub(in super::super) fn all(disk: &dyn Disk, dir: &Path) -> Result<Vec<(u32, PathBuf)>, StoreError> {
        let names = disk.list(dir).map_err(StoreError::io(dir))?;
        let packs: BTreeSet<u32> = names.iter().filter_map(parse_name).collect();
        Ok(packs.into_iter().map(|pack| (pack, dir.join(name(pack)))).collect())
    }

    /// Reads a pack from its beginning and gives what is sound in it to `take`, a part at a time. Gives where it ends, and
    /// how many records are not sound; `None` where it is no pack, or cannot be read.
    pub(in super::super) fn read_whole(
        disk: &dyn Disk,
        path: &Path,
        pack: u32,
        take: &mut dyn FnMut(Recovered) -> Result<(), StoreError>,
    ) -> Result<Option<(u32, u64)>, StoreError> {
        let opened = disk.open(path, Access::Read);
        let Ok((file, length)) = opened.and_then(|file| Ok((file.clone(), file.size()?))) else {
            return Ok(None);
        };
        let (mut end, mut damaged) = (0, 0);
        loop {
            let mut recovered = Recovered { is_whole: true, ..Recovered::default() };
            let next = recovered.scan(&*file, pack, end);
            if next == 0 {
                return Ok(None);
            }
            damaged += recovered.damaged;
            let is_all = next == end || recovered.records < RECORDS_MAX;
            end = next;
            take(recovered)?;
            if is_all {
                break;
            }
        }
        // What stands behind the last record that could be told from garbage stays: it may be looked at.
        let has_more = u64::from(end) < length;
        Ok(Some((u32::try_from(length).unwrap_or(u32::MAX), damaged + u64::from(has_more))))
    }

    /// Where the next record would go if the index's packs were all, and the last of them could not be written to.
    fn first_tail(&self, ends: &BTreeMap<u32, u32>) -> Tail {
        // An end of 0 only says that the packs before are none of those that nobody knows yet.
        let named = ends.iter().rev().find(|(_, end)| **end > 0).map_or(0, |(pack, _)| *pack);
        let last = ends.last_key_value().map_or(0, |(pack, _)| *pack);
        Tail { pack: last.max(named.saturating_add(1)), made: named, named, ..Tail::default() }
    }

    /// Looks for records behind the end of a pack, and makes it the one that is written to if it may be.
    fn go_on_after(
        &self,
        found: &Found,
        tail: &mut Tail,
        recovered: &mut Recovered,
    ) -> Result<(), StoreError> {
        let (pack, synced_end) = (found.pack, found.indexed_end);
        // Whatever is wrong with it, its number is not used again.
        tail.pack = tail.pack.max(pack.saturating_add(1));
        tail.end = 0;
        tail.file = None;
        let opened = self.disk.open(&self.path(pack), Access::Write);
        let Ok((file, length)) = opened.and_then(|file| Ok((file.clone(), file.size()?))) else {
            // It is damaged, which whoever reads it will be told. Nothing more is put into it.
            return Ok(());
        };
        if length < u64::from(synced_end) {
            return Ok(());
        }
        let end = recovered.scan(&*file, pack, synced_end);
        if end == 0 {
            return self.remove_file(pack);
        }
        let is_cut = cut(&*file, end).is_ok();
        if end > synced_end {
            tail.dirty.insert(pack, DirtyPack { end, synced_end, file: file.clone() });
            tail.made = tail.made.max(pack);
        }
        if is_cut && end < PACK_BYTES_FULL {
            (tail.pack, tail.end, tail.file) = (pack, end, Some(file));
        }
        Ok(())
    }
}

impl Recovered {
    /// Takes in the sound records behind this end of a pack; gives where the last of them ends. 0: it is no pack.
    fn scan(&mut self, file: &dyn DiskFile, pack: u32, end: u32) -> u32 {
        let mut end = end;
        if end == 0 {
            let mut head = [0; PACK_HEAD_BYTES as usize];
            if file.read_exact_at(&mut head, 0).is_err() || head != *PACK_HEAD {
                return 0;
            }
            end = PACK_HEAD_BYTES;
        }
        // What cannot be read is as good as gone: it is fetched again. The store can be opened without it.
        while self.records < RECORDS_MAX
            && let Ok(Some(next)) = self.take(file, Position { pack, offset: end })
        {
            self.records += 1;
            end = next;
        }
        end
    }

    /// Takes in a record, if there is a sound one here; gives where it ends.
    fn take(&mut self, file: &dyn DiskFile, position: Position) -> io::Result<Option<u32>> {
        let start = u64::from(position.offset);
        let mut head = [0; HEAD_BYTES_MAX];
        let read = read_some(file, start, &mut head)?;
        let Some((head, head_bytes)) = parse_head(&head[..read]) else { return Ok(None) };
        let body = start + head_bytes as u64;
        let left = file.size()?.saturating_sub(body);
        let body_bytes = match head {
            RecordHead::Directory { bytes } if bytes as usize <= DIRECTORY_BYTES_MAX => u64::from(bytes),
            RecordHead::Contents { size } if size <= PIECE_BYTES => size + Outboard::byte_length(size),
            RecordHead::Adopted { size } => Outboard::byte_length(size),
            RecordHead::Directory { .. } | RecordHead::Contents { .. } => return Ok(None),
        };
        let Some(next) = u32::try_from(body.saturating_add(body_bytes)).ok().filter(|_| body_bytes <= left)
        else {
            return Ok(None);
        };
        let is_sound = match head {
            RecordHead::Directory { bytes } => self.take_directory(
                file.read_bytes_at(body_bytes as usize, body)?,
                DirectoryPlace { position, bytes },
            ),
            RecordHead::Contents { size } => {
                self.take_contents(&file.read_bytes_at(body_bytes as usize, body)?, size, position)
            }
            // Which directory its place is, has only the index, and has it not: the file is adopted again.
            RecordHead::Adopted { .. } => true,
        };
        self.damaged += u64::from(!is_sound);
        Ok((is_sound || self.is_whole).then_some(next))
    }

    fn take_directory(&mut self, encoded: Bytes, place: DirectoryPlace) -> bool {
        let digest = DirectoryDigest::of(&encoded);
        let Ok(directory) = Directory::decode(encoded, &digest) else { return false };
        self.directories.insert(digest, place);
        if self.is_whole {
            self.decoded.push(directory);
        }
        true
    }

    fn take_contents(&mut self, record: &Bytes, size: u64, position: Position) -> bool {
        let (contents, outboard) = record.split_at(size as usize);
        let hashed = HashedBlob::of(contents);
        let is_sound = hashed.outboard().as_bytes() == outboard;
        if is_sound {
            let place = BlobPlace { size, kind: BlobKind::Packed(position) };
            self.blobs.insert(hashed.blob().digest, place);
        }
        is_sound
    }
}
