//! What is found again of a fetch whose process was killed, and what not, where the tail of a pack is not as it was.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use bytes::Bytes;
use firn_bao::{PIECE_BYTES, Span};
use firn_castore::{BlobRef, Directory, Node, Root};
use firn_store::{
    Blobs, Directories, DiskStore, Paths, closure,
    conformance::{add, contents, directory},
    missing_spans,
};

use crate::{copy, copy_in, findings, span_of};

/// Where the child process is told which store to fetch into.
const FETCH: &str = "FIRN_TEST_FETCH";
/// In front of what it says; the test harness says other things.
const MARK: char = '»';
const SMALL: usize = 1500;
/// The groups of a span that comes.
const SPAN_GROUPS: u64 = 16;

/// A tree of many small files, some larger ones, and a few of more than a piece.
fn tree() -> (Root, Vec<Directory>, Vec<Bytes>) {
    let small = (0..SMALL as u64).map(|seed| contents(seed * 7919 % 12_000, seed));
    let medium = (0..20).map(|seed| contents(100_000 + seed, 10_000 + seed));
    let large = (0..6).map(|seed| contents(PIECE_BYTES + seed * 300_000 + 1, 20_000 + seed));
    let blobs: Vec<Bytes> = small.chain(medium).chain(large).collect();
    let folders: Vec<Directory> = blobs
        .chunks(25)
        .enumerate()
        .map(|(folder, blobs)| {
            let file = |bytes: &Bytes| Node::File { blob: BlobRef::of(bytes), executable: false };
            let names: Vec<String> = (0..blobs.len()).map(|file| format!("{folder}-{file}")).collect();
            directory(names.iter().map(String::as_str).zip(blobs.iter().map(file)))
        })
        .collect();
    let names: Vec<String> = (0..folders.len()).map(|folder| format!("{folder}")).collect();
    let top = directory(names.iter().map(String::as_str).zip(folders.iter().map(Directory::node)));
    let root = top.node().into();
    (root, std::iter::once(top).chain(folders).collect(), blobs)
}

/// What the child does: it keeps all of the tree, tells of each step, and commits nothing.
fn fetch(dir: &Path) {
    let store = DiskStore::open(dir).unwrap();
    let (_, directories, blobs) = tree();
    store.keep_directories(&directories).unwrap();
    println!("{MARK}directories");
    for (i, bytes) in blobs.iter().enumerate() {
        let size = bytes.len() as u64;
        if size <= PIECE_BYTES {
            add(&store, bytes);
            println!("{MARK}{i} {}", Span::whole(size).groups().end);
            continue;
        }
        for span in Span::whole(size).pieces(SPAN_GROUPS) {
            store.keep_spans(&[span_of(bytes, span)]).unwrap();
            println!("{MARK}{i} {}", span.groups().end);
        }
    }
    println!("{MARK}all");
    // Nobody says anything: it waits to be killed.
    let _ = std::io::stdin().read_line(&mut String::new());
}

/// Lets a child fetch until it has said so many lines, and kills it; gives how much of each blob it has told of, in groups.
fn fetch_until(dir: &Path, lines: usize) -> Vec<(usize, u64)> {
    let test = "crash::resumed::a_process_that_is_killed_has_to_fetch_nothing_again";
    let mut child = Command::new(env::current_exe().unwrap());
    child.args(["--nocapture", "--exact", test]).env(FETCH, dir);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = Vec::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        let Some((_, text)) = line.split_once(MARK) else { continue };
        said.push(text.to_owned());
        if said.len() == lines || text == "all" {
            child.kill().unwrap();
        }
    }
    assert!(!child.wait().unwrap().success());
    assert!(!said.is_empty());
    let told = said.iter().filter_map(|text| text.split_once(' '));
    told.map(|(blob, groups)| (blob.parse().unwrap(), groups.parse().unwrap())).collect()
}

#[test]
fn a_process_that_is_killed_has_to_fetch_nothing_again() {
    if let Some(dir) = env::var_os(FETCH) {
        return fetch(Path::new(&dir));
    }
    let (root, _, blobs) = tree();
    let by_name: BTreeMap<BlobRef, Bytes> = blobs.iter().map(|it| (BlobRef::of(it), it.clone())).collect();
    for lines in [1, 50, 700, SMALL + 10, SMALL + 40, usize::MAX] {
        let scratch = crate::scratch();
        let dir = scratch.path().join("store");
        let told = fetch_until(&dir, lines);
        // Found, and not lost by being found.
        for _ in 0..2 {
            let store = DiskStore::open(&dir).unwrap();
            let closure = closure(&store, &root).unwrap().expect("the Directories were kept");
            let missing = missing_spans(&store, &closure).unwrap();
            for (blob, groups) in &told {
                let blob = BlobRef::of(&blobs[*blob]);
                let gaps = missing.iter().filter(|missing| missing.blob == blob);
                let first = gaps.flat_map(|missing| &missing.spans).map(|gap| gap.groups().start).min();
                assert!(first.is_none_or(|first| first >= *groups), "{groups} groups of {blob:?}, {first:?}");
            }
            std::mem::forget(store);
            // The lock is still held here, so another takes its place.
            fs::remove_file(dir.join("lock")).unwrap();
            fs::write(dir.join("lock"), "1\n").unwrap();
        }
        let store = DiskStore::open(&dir).unwrap();
        let left = missing_spans(&store, &closure(&store, &root).unwrap().unwrap()).unwrap();
        assert!(lines != usize::MAX || left.is_empty());
        for missing in left {
            let bytes = &by_name[&missing.blob];
            missing.spans.iter().for_each(|span| store.keep_spans(&[span_of(bytes, *span)]).unwrap());
        }
        store.commit_root(&root, true, None).unwrap();
        assert!(findings(&store).is_empty());
    }
}

/// A store with small blobs behind the end of its pack, as a killed process has left it.
struct Left {
    scratch: tempfile::TempDir,
    blobs: Vec<Bytes>,
    directories: Vec<Directory>,
    /// Where the pack ended before.
    end: u64,
}

impl Left {
    fn new() -> Self {
        let scratch = crate::scratch();
        let dir = scratch.path().join("store");
        let store = DiskStore::open(&dir).unwrap();
        let blob = add(&store, b"committed");
        store.commit_root(&Node::File { blob, executable: false }.into(), true, None).unwrap();
        let end = fs::metadata(dir.join("packs/00000001")).unwrap().len();
        let blobs: Vec<Bytes> = [3000, 0, 16_384, 16_385, 1, 200_000, 5000, 5001, PIECE_BYTES, 77]
            .into_iter()
            .zip(100..)
            .map(|(size, seed)| contents(size, seed))
            .collect();
        let mut directories = Vec::new();
        for bytes in &blobs {
            let blob = add(&store, bytes);
            let folder = directory([("file", Node::File { blob, executable: false })]);
            store.keep_directories(std::slice::from_ref(&folder)).unwrap();
            directories.push(folder);
        }
        let left = scratch.path().join("left");
        copy(&dir, &left);
        Self { scratch, blobs, directories, end }
    }

    fn dir(&self) -> PathBuf {
        self.scratch.path().join("left")
    }

    fn pack(&self) -> PathBuf {
        self.dir().join("packs/00000001")
    }

    /// Where each record begins, a blob's and then its Directory's, and where the last ends.
    fn starts(&self) -> Vec<u64> {
        let pack = fs::read(self.pack()).unwrap();
        let mut starts = Vec::new();
        let mut at = self.end as usize;
        for (bytes, directory) in self.blobs.iter().zip(&self.directories) {
            for part in [&bytes[..], &directory.encoded()[..]] {
                starts.push(at as u64);
                at += pack[at..]
                    .windows(part.len().max(1))
                    .position(|it| part.is_empty() || it == part)
                    .unwrap();
                at += part.len();
                // The head of a blob of no bytes is two bytes long, and an outboard follows what is longer than a group.
                at += if part.is_empty() {
                    2
                } else {
                    firn_bao::Outboard::byte_length(part.len() as u64) as usize
                };
            }
        }
        assert_eq!(at, pack.len());
        starts.push(at as u64);
        starts
    }

    /// Opens it, twice, and tells which records were found: blobs have even numbers, Directories odd ones.
    fn found(&self) -> BTreeSet<usize> {
        let mut found = BTreeSet::new();
        for round in 0..2 {
            let store = DiskStore::open(&self.dir()).unwrap();
            let before = std::mem::take(&mut found);
            for (i, bytes) in self.blobs.iter().enumerate() {
                let blob = BlobRef::of(bytes);
                if store.has_blob(&blob.digest).unwrap().is_some() {
                    let read = store.read_span(&blob, Span::whole(blob.size)).unwrap().unwrap();
                    assert_eq!(read.bytes(), bytes);
                    found.insert(2 * i);
                }
                if let Some(directory) = store.directory(&self.directories[i].digest()).unwrap() {
                    assert_eq!(directory, self.directories[i]);
                    found.insert(2 * i + 1);
                }
            }
            assert!(round == 0 || found == before);
            assert!(findings(&store).is_empty());
        }
        // What is kept now goes where it is found.
        let store = DiskStore::open(&self.dir()).unwrap();
        crate::commit(&store, 1);
        for bytes in &self.blobs {
            add(&store, bytes);
        }
        store.keep_directories(&self.directories).unwrap();
        for directory in &self.directories {
            store.commit_root(&directory.node().into(), true, None).unwrap();
        }
        drop(store);
        assert!(findings(&DiskStore::open(&self.dir()).unwrap()).is_empty());
        found
    }
}

#[test]
fn of_a_tail_that_was_cut_all_before_the_cut_is_found() {
    let all = Left::new();
    let starts = all.starts();
    assert_eq!(all.found(), (0..20).collect());
    for record in [0, 1, 2, 6, 10, 16, 19] {
        for length in [starts[record], starts[record] + 1, starts[record + 1] - 1] {
            let left = Left::new();
            fs::File::options().write(true).open(left.pack()).unwrap().set_len(length).unwrap();
            assert_eq!(left.found(), (0..record).collect(), "cut at {length}");
        }
    }
}

#[test]
fn a_flipped_bit_costs_its_record_and_at_most_what_follows() {
    let starts = Left::new().starts();
    for record in 0..20 {
        for at in [starts[record], starts[record] + 1, (starts[record] + starts[record + 1]) / 2] {
            let left = Left::new();
            let mut bytes = fs::read(left.pack()).unwrap();
            bytes[at as usize] ^= 0x10;
            fs::write(left.pack(), bytes).unwrap();
            let found = left.found();
            assert!(!found.contains(&record), "record {record}, byte {at}");
            assert!(
                (0..record).all(|before| found.contains(&before)),
                "record {record}, byte {at}: {found:?}"
            );
            let is_contents = at > starts[record] + 4;
            if is_contents && [0, 8, 12].contains(&record) {
                // It is the record of another small blob now, which nobody asks for.
                assert_eq!(found.len(), 19);
            }
        }
    }
}

#[test]
fn holes_and_garbage_in_a_tail_are_survived() {
    let starts = Left::new().starts();
    for seed in 0..60 {
        let left = Left::new();
        let mut bytes = fs::read(left.pack()).unwrap();
        let tail = bytes.len() as u64 - left.end;
        let at = (left.end + seed * 7919 * 31 % tail) as usize;
        let end = bytes.len().min((at / 4096 + 1 + (seed % 3) as usize) * 4096);
        match seed % 2 {
            0 => bytes[at..end].fill(0),
            _ => bytes[at..end].copy_from_slice(&contents((end - at) as u64, seed)),
        }
        fs::write(left.pack(), bytes).unwrap();
        let before = starts[1..].iter().filter(|next| **next <= at as u64).count();
        let found = left.found();
        assert!((0..before).all(|record| found.contains(&record)), "seed {seed}: {found:?}");
    }
}

#[test]
fn a_large_blob_that_was_whole_is_whole_again() {
    let scratch = crate::scratch();
    let (dir, left) = (scratch.path().join("store"), scratch.path().join("left"));
    let store = DiskStore::open(&dir).unwrap();
    let bytes = [1, 2, 3].map(|seed| contents(3 * PIECE_BYTES + seed, seed));
    let [copied, fetched, damaged] = [0, 1, 2].map(|i| BlobRef::of(&bytes[i]));
    copy_in(&store, &bytes[0]);
    for bytes in &bytes[1..] {
        for span in Span::whole(bytes.len() as u64).pieces(SPAN_GROUPS) {
            store.keep_spans(&[span_of(bytes, span)]).unwrap();
        }
    }
    copy(&dir, &left);
    let name = damaged.digest.to_string();
    let file = left.join("blobs").join(&name[..2]).join(&name);
    let mut contents = fs::read(&file).unwrap();
    contents[PIECE_BYTES as usize + 5] ^= 1;
    fs::write(&file, contents).unwrap();

    let store = DiskStore::open(&left).unwrap();
    for blob in [copied, fetched] {
        assert_eq!(store.groups(&blob).unwrap(), [Span::whole(blob.size)]);
        assert_eq!(store.has_blob(&blob.digest).unwrap(), Some(blob.size));
        store.commit_root(&Node::File { blob, executable: false }.into(), true, None).unwrap();
    }
    // A piece is what is verified at a time.
    let groups = |start, end| Span::from_groups(start..end).unwrap();
    assert_eq!(store.groups(&damaged).unwrap(), [groups(0, 64), groups(128, 193)]);
    store.keep_spans(&[span_of(&bytes[2], groups(64, 128))]).unwrap();
    store.commit_root(&Node::File { blob: damaged, executable: false }.into(), true, None).unwrap();
    assert!(findings(&store).is_empty());
}
