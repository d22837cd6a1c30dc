//! A process that is killed while it works, again and again.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::Mutex,
    thread,
};

use bytes::Bytes;
use firn_bao::{GROUP_BYTES, HashedBlob, PIECE_BYTES, Span, VerifiedSpan};
use firn_castore::{BlobRef, Node, Root};
use firn_store::{
    Blobs, Directories, DiskStore, Hold, Paths, Room, Visible, closure,
    conformance::{add, contents, directory, stored_path},
};
use firn_trust::StoredPath;

use crate::{copy_in, findings};

/// How often it is killed.
const ROUNDS: u64 = 50;
/// It is killed after at most so many lines about commits and removals.
const LINES_MAX: u64 = 40;
/// So many paths stay visible, about: what each round verifies.
const PATHS: usize = 12;
const PARTIAL_GROUPS: u64 = 200;
/// Where the child process is told which store to work on, and which round it is.
const WORK: &str = "FIRN_TEST_WORK";
/// In front of what it says; the test harness says other things.
const MARK: char = '»';

/// Numbers as if by chance.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(1);
        let bytes: [u8; 8] = blake3_of(self.0)[..8].try_into().unwrap();
        u64::from_le_bytes(bytes) % end
    }
}

fn blake3_of(number: u64) -> [u8; 32] {
    *firn_castore::BlobDigest::of(&number.to_le_bytes()).as_bytes()
}

/// The tree of this number: what it shares with others, what it has for itself, and now and then a large file.
fn tree(seed: u64) -> (Root, Vec<firn_castore::Directory>, Vec<Bytes>) {
    let mut blobs = vec![contents(30_000, seed % 5), contents(20_000 + seed, seed), contents(200, seed)];
    if seed.is_multiple_of(4) {
        blobs.push(contents(PIECE_BYTES + seed, seed));
    }
    let names: Vec<String> = (0..blobs.len()).map(|i| format!("blob-{i}")).collect();
    let file = |i: usize| Node::File { blob: BlobRef::of(&blobs[i]), executable: false };
    let inner = directory([("inner", file(0))]);
    let entries = names.iter().enumerate().map(|(i, name)| (name.as_str(), file(i)));
    let top = directory(entries.chain([("dir", inner.node())]));
    (top.node().into(), vec![top, inner], blobs)
}

fn path_of(seed: u64) -> StoredPath {
    stored_path(&format!("tree-{seed}"), &tree(seed).0, true)
}

fn seed_of(path: &StoredPath) -> u64 {
    path.path().name().strip_prefix("tree-").unwrap().parse().unwrap()
}

fn partial(round: u64) -> Bytes {
    contents(PARTIAL_GROUPS * GROUP_BYTES - 7, 1_000_000 + round)
}

/// What the child does until it is killed.
struct Worker {
    store: DiskStore,
    round: u64,
    /// What protects the partial blob from being collected.
    hold: Mutex<Option<Hold>>,
}

fn say(text: std::fmt::Arguments<'_>) {
    println!("{MARK}{text}");
}

impl Worker {
    fn work(&self) {
        *self.hold.lock().unwrap() = Some(self.store.hold());
        thread::scope(|scope| {
            scope.spawn(|| self.add());
            scope.spawn(|| self.keep_spans());
            scope.spawn(|| self.remove_and_collect());
        });
    }

    fn add(&self) {
        for number in 0.. {
            let seed = self.round * 10_000 + number;
            let hold = self.store.hold();
            let (_, directories, blobs) = tree(seed);
            self.store.keep_directories(&directories).unwrap();
            for bytes in &blobs {
                match bytes.len() as u64 > PIECE_BYTES {
                    true => copy_in(&self.store, bytes),
                    false => add(&self.store, bytes),
                };
            }
            say(format_args!("commit {seed}"));
            self.store.commit(path_of(seed), None).unwrap();
            say(format_args!("committed {seed}"));
            drop(hold);
        }
    }

    fn keep_spans(&self) {
        let bytes = partial(self.round);
        let hashed = HashedBlob::of(&bytes);
        let blob = hashed.blob();
        let mut chance = Chance(self.round << 32);
        // It never becomes whole: the last group never comes.
        for _ in 0..1000 {
            let start = chance.below(PARTIAL_GROUPS - 10);
            let end = start + 1 + chance.below(9);
            let span = Span::from_groups(start..end).unwrap();
            let range = span.bytes(blob.size);
            let parents = hashed.outboard().parents_of(blob.size, span).unwrap();
            let part = bytes.slice(range.start as usize..range.end as usize);
            self.store.keep_spans(&[VerifiedSpan::check(blob, span, parents, part).unwrap()]).unwrap();
            say(format_args!("kept {start} {end}"));
        }
    }

    fn remove_and_collect(&self) {
        let mut chance = Chance(self.round << 33);
        let partial = BlobRef::of(&partial(self.round));
        loop {
            let paths = self.store.paths().unwrap();
            if paths.len() > PATHS {
                let path = &paths[chance.below(paths.len() as u64) as usize];
                let seed = seed_of(path);
                say(format_args!("remove {seed}"));
                assert!(self.store.remove(&Visible::Path(path.path_hash())).unwrap());
                say(format_args!("removed {seed}"));
            }
            // The partial blob is found under a new hold before the old one goes.
            let mut hold = self.hold.lock().unwrap();
            let new = self.store.hold();
            self.store.groups(&partial).unwrap();
            *hold = Some(new);
            self.store.collect(false).unwrap();
        }
    }
}

/// What the parent knows of the store, from what was said.
#[derive(Default)]
struct Known {
    visible: BTreeSet<u64>,
    /// Those about which a call had not returned.
    unsure: BTreeSet<u64>,
    /// Those whose removal was begun, maybe before their commit was told of.
    removing: BTreeSet<u64>,
    groups: BTreeSet<u64>,
}

impl Known {
    fn hear(&mut self, said: &str) {
        let (what, numbers) = said.split_once(' ').unwrap();
        let numbers: Vec<u64> = numbers.split(' ').map(|number| number.parse().unwrap()).collect();
        match what {
            "commit" => {
                self.unsure.insert(numbers[0]);
            }
            "committed" if self.removing.contains(&numbers[0]) => {}
            "committed" => {
                self.unsure.remove(&numbers[0]);
                self.visible.insert(numbers[0]);
            }
            "remove" => {
                self.visible.remove(&numbers[0]);
                self.unsure.insert(numbers[0]);
                self.removing.insert(numbers[0]);
            }
            "removed" => {
                self.unsure.remove(&numbers[0]);
            }
            "kept" => self.groups.extend(numbers[0]..numbers[1]),
            other => panic!("{other}"),
        }
    }

    /// Looks into the store after the process was killed.
    fn check(&mut self, dir: &Path, round: u64) {
        let store = DiskStore::open(dir).unwrap();
        let paths = store.paths().unwrap();
        let found: BTreeMap<u64, &StoredPath> = paths.iter().map(|path| (seed_of(path), path)).collect();
        for seed in &self.visible {
            assert!(found.contains_key(seed), "tree {seed} was committed and is gone");
        }
        for (seed, path) in &found {
            assert!(self.visible.contains(seed) || self.unsure.contains(seed), "tree {seed} was removed");
            assert_eq!(**path, path_of(*seed));
            let blobs = tree(*seed).2;
            let is_right = |bytes: &Bytes| {
                let blob = BlobRef::of(bytes);
                matches!(store.read_span(&blob, Span::whole(blob.size)), Ok(Some(read)) if read.bytes() == bytes)
            };
            assert!(blobs.iter().all(is_right), "tree {seed} is visible and not whole");
            assert!(closure(&store, path.root()).unwrap().is_some());
        }
        assert!(findings(&store).is_empty());
        assert!(store.take_lost().is_empty());
        self.visible = found.into_keys().collect();
        self.unsure.clear();

        let here = store.groups(&BlobRef::of(&partial(round))).unwrap();
        let here: BTreeSet<u64> = here.iter().flat_map(Span::groups).collect();
        let resumed = self.groups.intersection(&here).count();
        assert!(
            resumed * 100 >= self.groups.len() * 99,
            "of {} groups, {resumed} are here",
            self.groups.len()
        );
        self.groups.clear();
    }
}

#[test]
fn a_process_that_is_killed_loses_nothing_that_it_has_told_of() {
    if let Some(told) = env::var_os(WORK) {
        let (round, dir) = told.to_str().unwrap().split_once(' ').unwrap();
        let store = DiskStore::open(Path::new(dir)).unwrap();
        return Worker { store, round: round.parse().unwrap(), hold: Mutex::default() }.work();
    }
    let parent = crate::scratch();
    let dir = parent.path().join("store");
    let mut known = Known::default();
    let mut chance = Chance(7);
    let (mut told, mut groups) = ([0; 2], 0);
    for round in 0..ROUNDS {
        let count = 1 + chance.below(LINES_MAX);
        let said = work_until(&dir, round, count);
        for (told, what) in told.iter_mut().zip(["committed", "removed"]) {
            *told += said.iter().filter(|said| said.starts_with(what)).count();
        }
        said.iter().for_each(|said| known.hear(said));
        groups += known.groups.len();
        known.check(&dir, round);
    }
    assert!(known.visible.len() > PATHS / 2, "much was committed");
    let [committed, removed] = told;
    eprintln!("killed {ROUNDS} times, after {committed} commits, {removed} removals and {groups} groups");
    assert!(committed > ROUNDS as usize && removed > ROUNDS as usize / 2);
}

/// Lets a child process work on the store until it has said so many lines, and kills it; gives all that it has said.
fn work_until(dir: &Path, round: u64, count: u64) -> Vec<String> {
    let test = "crash::killed::a_process_that_is_killed_loses_nothing_that_it_has_told_of";
    let mut child = Command::new(env::current_exe().unwrap());
    child.args(["--nocapture", "--exact", test]).env(WORK, format!("{round} {}", dir.display()));
    let mut child = child.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut said, mut counted) = (Vec::new(), 0);
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        let Some((_, text)) = line.split_once(MARK) else { continue };
        said.push(text.to_owned());
        counted += u64::from(!text.starts_with("kept"));
        if counted == count {
            child.kill().unwrap();
        }
    }
    assert!(!child.wait().unwrap().success());
    assert!(counted >= count, "the child of round {round} has ended by itself: {said:?}");
    said
}
