//! A disk that does not give back what was written.

mod foreign;
mod index;
mod packs;
mod partials;
mod rebuilt;

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use firn_bao::{HashedBlob, PIECE_BYTES, PIECE_GROUPS, Span};
use firn_castore::{BlobRef, Directory, Node, Root};
use firn_store::{
    Blobs, Damage, DiskStore, Finding, Holder, Item, MemoryStore, Paths, Room, Store, StoreError,
    conformance::{self, add, contents, directory},
    verify_some,
};

use crate::{
    commit, copy_in,
    disk::large_files,
    findings,
    many::{Step, Watched},
};

/// Something that is in a store, of each kind that there is.
enum Thing {
    Blob(Bytes),
    /// Its file is elsewhere.
    Adopted(Bytes, PathBuf),
    Directory(Directory),
}

impl Thing {
    fn item(&self) -> Item {
        match self {
            Thing::Blob(bytes) | Thing::Adopted(bytes, _) => Item::Blob(BlobRef::of(bytes).digest),
            Thing::Directory(directory) => Item::Directory(directory.digest()),
        }
    }

    fn is_adopted(&self) -> bool {
        matches!(self, Thing::Adopted(..))
    }

    /// Whether it is here, without reading it.
    fn is_known(&self, store: &dyn Store) -> bool {
        match self {
            Thing::Blob(bytes) | Thing::Adopted(bytes, _) => {
                let blob = BlobRef::of(bytes);
                store.has_blob(&blob.digest).unwrap() == Some(blob.size)
            }
            Thing::Directory(directory) => store.has_directory(&directory.digest()).unwrap(),
        }
    }

    /// Reads all of it; whether it is here.
    fn read(&self, store: &dyn Store) -> Result<bool, StoreError> {
        match self {
            Thing::Blob(bytes) | Thing::Adopted(bytes, _) => {
                let blob = BlobRef::of(bytes);
                for span in Span::whole(blob.size).pieces(PIECE_GROUPS) {
                    let Some(read) = store.read_span(&blob, span)? else { return Ok(false) };
                    let range = span.bytes(blob.size);
                    assert_eq!(read.bytes()[..], bytes[range.start as usize..range.end as usize]);
                }
                Ok(true)
            }
            Thing::Directory(directory) => {
                let read = store.directory(&directory.digest())?;
                assert!(read.as_ref().is_none_or(|read| read == directory));
                Ok(read.is_some())
            }
        }
    }

    fn keep(&self, store: &dyn Store) {
        match self {
            Thing::Blob(bytes) if bytes.len() as u64 > PIECE_BYTES => drop(copy_in(store, bytes)),
            Thing::Blob(bytes) => drop(add(store, bytes)),
            Thing::Adopted(bytes, file) => {
                fs::write(file, bytes).unwrap();
                store.adopt_blob(file, &HashedBlob::of(bytes)).unwrap();
            }
            Thing::Directory(directory) => store.keep_directories(std::slice::from_ref(directory)).unwrap(),
        }
    }

    /// What a pack has of it, with the head of its record left out; `None` if it is a file of its own.
    fn packed(&self) -> Option<Vec<u8>> {
        let outboard = |bytes: &Bytes| HashedBlob::of(bytes).outboard().as_bytes().to_vec();
        match self {
            Thing::Blob(bytes) if bytes.len() as u64 > PIECE_BYTES => None,
            Thing::Blob(bytes) => Some([bytes.to_vec(), outboard(bytes)].concat()),
            Thing::Adopted(bytes, file) => {
                Some([file.file_name().unwrap().as_encoded_bytes(), &outboard(bytes)].concat())
            }
            Thing::Directory(directory) => Some(directory.encoded().to_vec()),
        }
    }
}

/// A store that is closed, with things of each kind beneath one path, and another path beside it.
struct Sample {
    dir: PathBuf,
    things: Vec<Thing>,
    root: Root,
    /// How many trees there are without a path.
    roots: usize,
    _scratch: tempfile::TempDir,
}

impl Sample {
    fn new() -> Self {
        Self::make(false)
    }

    /// One whose things are in the first of two packs: only the last is written to.
    fn with_two_packs() -> Self {
        Self::make(true)
    }

    fn make(two_packs: bool) -> Self {
        let scratch = crate::scratch();
        let (dir, files) = (scratch.path().join("store"), scratch.path().join("files"));
        [&dir, &files].into_iter().for_each(|dir| fs::create_dir(dir).unwrap());
        let (things, root) = things(&files);
        let (watched, store) = Watched::open(&dir);
        things.iter().for_each(|thing| thing.keep(&*store));
        store.commit(conformance::stored_path("sample", &root, true), None).unwrap();
        if two_packs {
            // After a sync that failed, nothing is put into the same pack any more.
            watched.once(|step| matches!(step, Step::Sync), || Err(io::Error::other("no")));
            add(&*store, b"lost");
            store.commit_root(&root, true, None).unwrap_err();
            watched.watch_no_more();
        }
        let roots = usize::from(two_packs);
        if two_packs {
            let small = file(add(&*store, b"small"));
            store.commit_root(&small.into(), true, None).unwrap();
        }
        let large = file(copy_in(&*store, &contents(2 * PIECE_BYTES, 99)));
        store.commit(conformance::stored_path("other", &large.into(), true), None).unwrap();
        assert_eq!(fs::read_dir(dir.join("packs")).unwrap().count(), 1 + roots);
        // Opened on a disk of its own it has no lock yet.
        drop(store);
        drop(DiskStore::open(&dir).unwrap());
        Self { dir, things, root, roots, _scratch: scratch }
    }

    /// The pack that the things are in.
    fn pack(&self) -> PathBuf {
        self.dir.join("packs/00000001")
    }

    fn find(&self, is_it: impl Fn(&Thing) -> bool) -> usize {
        self.things.iter().position(is_it).unwrap()
    }

    /// The file of the large blob.
    fn large_file(&self) -> PathBuf {
        let Item::Blob(digest) = self.things[self.find(is_large)].item() else { panic!() };
        let files = large_files(&self.dir);
        files.into_iter().find(|file| file.ends_with(digest.to_string())).unwrap()
    }

    /// Where in the pack a thing is.
    fn place(&self, thing: usize) -> Option<std::ops::Range<usize>> {
        let packed = self.things[thing].packed()?;
        let pack = fs::read(self.pack()).unwrap();
        let start = pack.windows(packed.len()).position(|window| window == packed).unwrap();
        Some(start..start + packed.len())
    }

    /// Opens the store, in which these things alone are damaged, as whoever reads this file finds out.
    fn check(&self, damaged: &[usize], file: &Path) {
        let store = DiskStore::open(&self.dir).unwrap();
        let others = || self.things.iter().enumerate().filter(|(i, _)| !damaged.contains(i));
        let [lost, healthy] = [true, false].map(|is_lost| {
            self.things.iter().enumerate().filter(move |(i, _)| damaged.contains(i) == is_lost)
        });
        for (_, thing) in lost.clone() {
            assert!(thing.is_known(&store));
            match thing.read(&store) {
                Err(error) => assert_names(&error, &thing.item(), file),
                // The user may do with the file whatever he likes, so that is no error.
                Ok(is_here) => assert!(!is_here && thing.is_adopted(), "{:?} is not damaged", thing.item()),
            }
            assert!(!thing.is_known(&store), "it counts as absent");
            assert!(!thing.read(&store).unwrap());
        }
        healthy.for_each(|(i, thing)| assert!(thing.read(&store).unwrap(), "thing {i}"));
        let is_blob = |item: &Item| matches!(item, Item::Blob(_));
        let blobs = lost.clone().map(|(_, thing)| thing.item()).filter(is_blob);
        assert_eq!(store.take_lost().into_iter().map(Item::Blob).collect::<BTreeSet<_>>(), blobs.collect());

        // A tree that needs it can't be committed before all of it was kept anew.
        for (_, thing) in lost {
            let refused = store.commit_root(&self.root, true, None);
            assert!(matches!(refused, Err(StoreError::Missing(_))), "{refused:?}");
            thing.keep(&store);
            assert!(thing.read(&store).unwrap());
        }
        store.commit_root(&self.root, true, None).unwrap();
        assert!(findings(&store).is_empty());
        drop(store);
        let store = DiskStore::open(&self.dir).unwrap();
        assert!(findings(&store).is_empty());
        assert_eq!((store.paths().unwrap().len(), store.roots().unwrap().len()), (2, self.roots + 1));
        assert!(others().all(|(_, thing)| thing.read(&store).unwrap()));
        // What is damaged is in nobody's way when the store is tidied up.
        store.collect(false).unwrap();
        assert!(self.things.iter().all(|thing| thing.read(&store).unwrap()));
        assert!(findings(&store).is_empty());
    }
}

/// Of each kind one, and a tree that has them all.
fn things(files: &Path) -> (Vec<Thing>, Root) {
    let sizes = [1000, 100_000, PIECE_BYTES, 3 * PIECE_BYTES + 7];
    let mut things: Vec<_> = sizes.iter().map(|size| Thing::Blob(contents(*size, 10 + size))).collect();
    for (name, size) in [("the-first-adopted", 100_000), ("the-second-adopted", 2 * PIECE_BYTES)] {
        things.push(Thing::Adopted(contents(size, 20 + size), files.join(name)));
    }
    let blobs: Vec<BlobRef> = things
        .iter()
        .filter_map(|thing| match thing {
            Thing::Blob(bytes) | Thing::Adopted(bytes, _) => Some(BlobRef::of(bytes)),
            Thing::Directory(_) => None,
        })
        .collect();
    let names: Vec<String> = (0..blobs.len()).map(|i| format!("blob-{i}")).collect();
    let named = |i: usize| (names[i].as_str(), file(blobs[i]));
    let inner = directory((0..3).map(named));
    let top = directory((3..blobs.len()).map(named).chain([("inner", inner.node())]));
    let root = top.node().into();
    things.extend([inner, top].map(Thing::Directory));
    (things, root)
}

fn file(blob: BlobRef) -> Node {
    Node::File { blob, executable: false }
}

fn assert_names(error: &StoreError, item: &Item, file: &Path) {
    let StoreError::Damaged { item: named, file: in_file, .. } = error else { panic!("{error}") };
    assert_eq!((named, in_file.as_path()), (item, file));
    let text = error.to_string();
    assert!(text.starts_with(&format!("{item} is damaged in {}: ", file.display())), "{text}");
    assert!(!text.contains('\n'), "{text}");
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

fn truncate(path: &Path, length: u64) {
    fs::File::options().write(true).open(path).unwrap().set_len(length).unwrap();
}

fn is_large(thing: &Thing) -> bool {
    matches!(thing, Thing::Blob(bytes) if bytes.len() as u64 > PIECE_BYTES)
}

type Fate = Box<dyn Fn(&Path)>;

/// What may happen to the file of a large blob.
fn large_fates() -> Vec<Fate> {
    let size = 3 * PIECE_BYTES + 7;
    let mut fates: Vec<Fate> = Vec::new();
    for at in [0, PIECE_BYTES, size - 1, size, size + 64 * 192 - 1] {
        fates.push(Box::new(move |path| flip(path, at as usize)));
    }
    for length in [0, 1, PIECE_BYTES, size, size + 64 * 191] {
        fates.push(Box::new(move |path| truncate(path, length)));
    }
    fates.push(Box::new(|path| fs::remove_file(path).unwrap()));
    fates.push(Box::new(|path| fs::remove_dir_all(path.parent().unwrap()).unwrap()));
    fates
}

pub(crate) fn make_fifo(path: &Path) {
    assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[test]
fn a_damaged_file_of_a_large_blob_is_found_and_healed() {
    for fate in large_fates() {
        let sample = Sample::new();
        let file = sample.large_file();
        fate(&file);
        sample.check(&[sample.find(is_large)], &file);
    }
}

#[test]
fn damage_to_one_group_leaves_the_others_readable() {
    let sample = Sample::new();
    flip(&sample.large_file(), 0);
    let store = DiskStore::open(&sample.dir).unwrap();
    let blob = BlobRef::of(&contents(3 * PIECE_BYTES + 7, 10 + 3 * PIECE_BYTES + 7));
    assert!(store.read_span(&blob, Span::from_groups(1..7).unwrap()).unwrap().is_some());
    assert!(store.read_span(&blob, Span::whole(blob.size)).is_err());
}

#[test]
fn what_stands_in_place_of_a_large_blob_is_named() {
    let fates: [fn(&Path); 2] =
        [|path| fs::create_dir(path).unwrap(), |path| std::os::unix::fs::symlink("/dev/zero", path).unwrap()];
    for fate in fates {
        let sample = Sample::new();
        let file = sample.large_file();
        fs::remove_file(&file).unwrap();
        fate(&file);
        let store = DiskStore::open(&sample.dir).unwrap();
        let error = sample.things[sample.find(is_large)].read(&store).unwrap_err();
        assert!(error.to_string().contains(file.to_str().unwrap()), "{error}");
        let found = findings(&store);
        assert_eq!(found.len(), 1, "{found:?}");
        let healthy = sample.things.iter().filter(|thing| !is_large(thing));
        assert!({ healthy }.all(|thing| thing.read(&store).unwrap()));
    }
}

#[test]
fn a_finding_names_all_that_it_concerns() {
    let sample = Sample::new();
    let file = sample.large_file();
    {
        let store = DiskStore::open(&sample.dir).unwrap();
        store.commit_root(&sample.root, false, None).unwrap();
    }
    flip(&file, 5);
    let store = DiskStore::open(&sample.dir).unwrap();
    let found = findings(&store);
    let [Finding { error, holders, .. }] = &found[..] else { panic!("{found:?}") };
    assert_names(error, &sample.things[sample.find(is_large)].item(), &file);
    let concerned: Vec<_> = holders.iter().map(ToString::to_string).collect();
    assert!(concerned.len() == 2 && concerned[0].ends_with("-sample") && concerned[1].starts_with("firn:"));
    let is_damaged = |error: &StoreError| matches!(error, StoreError::Damaged { damage, .. } if matches!(**damage, Damage::Span(_)));
    assert!(is_damaged(error));
}

#[test]
fn what_is_not_asked_for_is_not_read() {
    let sample = Sample::new();
    flip(&sample.large_file(), 100);
    let store = DiskStore::open(&sample.dir).unwrap();
    let verify = |name: &str| {
        let is_wanted = |holder: &Holder, _: &Root| holder.to_string().ends_with(name);
        let mut damaged = Vec::new();
        let verified = verify_some(&store, is_wanted, &mut |finding| damaged.extend(finding.holders));
        assert_eq!(verified.holders, 1);
        damaged.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(verify("-other"), [""; 0]);
    let damaged = verify("-sample");
    assert!(damaged.len() == 1 && damaged[0].ends_with("-sample"), "{damaged:?}");
    assert!(verify_some(&store, |_, _| false, &mut |finding| panic!("{finding:?}")).holders == 0);
}

#[test]
fn damage_in_memory_is_found_and_healed() {
    let store = MemoryStore::new();
    commit(&store, 0);
    let bytes = &conformance::sample(0).2[0];
    let digest = BlobRef::of(bytes).digest;
    assert!(store.damage_blob(&digest));
    assert_eq!(findings(&store).len(), 1);
    assert_eq!(store.has_blob(&digest).unwrap(), None);
    add(&store, bytes);
    assert!(findings(&store).is_empty());
}
