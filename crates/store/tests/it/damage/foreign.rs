//! Files that are not ours, and files that may not be touched.

use std::{
    env, fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use firn_castore::BlobDigest;
use firn_store::{DiskStore, Paths, Room, StoreError};

use super::{Sample, findings};
use crate::commit;

/// Where files may lie that are not ours, in the directories of a store.
fn places(sample: &Sample) -> Vec<PathBuf> {
    let fan = sample.large_file().parent().unwrap().to_path_buf();
    let dirs = ["packs", "blobs", "partial", "quarantine"].map(|name| sample.dir.join(name));
    let names = ["README", ".hidden", "0000000g", "1", "deadbee", "ABCDEF01.bak", "aa-12", "aa-12.groups"];
    let dirs = [sample.dir.clone(), fan].into_iter().chain(dirs);
    dirs.flat_map(|dir| names.map(|name| dir.join(name))).collect()
}

#[test]
fn what_is_not_ours_is_left_alone() {
    for was_closed in [true, false] {
        let sample = Sample::new();
        let places = places(&sample);
        for (i, place) in places.iter().enumerate() {
            match i % 3 {
                0 => fs::write(place, place.to_str().unwrap()).unwrap(),
                1 => symlink("/nowhere", place).unwrap(),
                _ => {
                    fs::create_dir(place).unwrap();
                    fs::write(place.join("inner"), "").unwrap();
                }
            }
        }
        if !was_closed {
            fs::write(sample.dir.join("lock"), "1234567\n").unwrap();
        }
        for seed in 1..3 {
            let store = DiskStore::open(&sample.dir).unwrap();
            assert!(sample.things.iter().all(|thing| thing.read(&store).unwrap()));
            commit(&store, seed);
            store.usage().unwrap();
            store.collect(false).unwrap();
            assert!(findings(&store).is_empty());
        }
        for (i, place) in places.iter().enumerate() {
            let metadata = fs::symlink_metadata(place).unwrap();
            let kinds = [metadata.is_file(), metadata.is_symlink(), metadata.is_dir()];
            assert!(kinds[i % 3], "{} has become something else", place.display());
            if kinds[0] {
                assert_eq!(fs::read_to_string(place).unwrap(), place.to_str().unwrap());
            }
        }
    }
}

#[test]
fn what_has_a_name_of_ours_and_is_not_in_the_index_goes_after_a_crash() {
    let sample = Sample::new();
    let digest = BlobDigest::of(b"nobody knows it").to_string();
    let fan = sample.dir.join("blobs").join(&digest[..2]);
    fs::create_dir_all(&fan).unwrap();
    let [blob, pack] = [fan.join(&digest), sample.dir.join("packs/00000077")];
    [&blob, &pack].into_iter().for_each(|path| fs::write(path, "x").unwrap());
    fs::write(sample.dir.join("lock"), "1234567\n").unwrap();
    let store = DiskStore::open(&sample.dir).unwrap();
    assert!(!blob.exists() && !pack.exists());
    assert!(sample.things.iter().all(|thing| thing.read(&store).unwrap()));
}

#[test]
fn whatever_is_in_temp_goes() {
    let sample = Sample::new();
    let outside = sample.dir.with_file_name("outside");
    fs::write(&outside, "x").unwrap();
    let temp = sample.dir.join("temp");
    fs::write(temp.join("0"), "x").unwrap();
    fs::write(temp.join("README"), "x").unwrap();
    symlink(&outside, temp.join("link")).unwrap();
    drop(DiskStore::open(&sample.dir).unwrap());
    assert_eq!(fs::read_dir(&temp).unwrap().count(), 0);
    assert!(outside.exists(), "a symlink is not followed");
    // A directory is none of ours: it is put aside, and told of.
    for name in ["dir", "dir.1"] {
        fs::create_dir(temp.join("dir")).unwrap();
        let aside = sample.dir.join("quarantine").join(name);
        assert_eq!(DiskStore::open(&sample.dir).unwrap().strays(), [aside.as_path()]);
        assert!(aside.is_dir() && !temp.join("dir").exists());
    }
}

/// Where a child process without a superuser's rights is told which store to open, and what may not be touched there.
const FORBIDDEN: &str = "FIRN_TEST_FORBIDDEN";

/// Runs this test in a process that file modes count for.
fn without_rights(dir: &Path, forbidden: &Path) {
    let test = "damage::foreign::what_may_not_be_touched_is_named";
    let mut child = Command::new("setpriv");
    child.args(["--securebits=+noroot,+noroot_locked", "--inh-caps=-all", "--bounding-set=-all"]);
    child.arg(env::current_exe().unwrap()).args(["--nocapture", "--exact", test]);
    let output =
        child.env(FORBIDDEN, format!("{}\n{}", dir.display(), forbidden.display())).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{}: {said}", forbidden.display());
}

#[test]
fn what_may_not_be_touched_is_named() {
    if let Some(told) = env::var_os(FORBIDDEN) {
        let (dir, forbidden) = told.to_str().unwrap().split_once('\n').unwrap();
        return touch(Path::new(dir), Path::new(forbidden));
    }
    for name in
        ["version", "lock", "index.redb", "packs", "blobs", "partial", "temp", "packs/00000001", "large"]
    {
        let sample = Sample::new();
        let forbidden = if name == "large" { sample.large_file() } else { sample.dir.join(name) };
        let before = fs::metadata(&forbidden).unwrap().permissions();
        fs::set_permissions(&forbidden, fs::Permissions::from_mode(0o000)).unwrap();
        without_rights(&sample.dir, &forbidden);
        fs::set_permissions(&forbidden, before).unwrap();
        let store = DiskStore::open(&sample.dir).unwrap();
        assert!(findings(&store).is_empty(), "nothing is lost once it may be read again");
        assert!(store.paths().unwrap().len() >= 2);
    }
}

/// What the child does: all that cannot be done is refused by name, and all else is done.
fn touch(dir: &Path, forbidden: &Path) {
    assert!(fs::File::open(forbidden).is_err(), "file modes count");
    let is_named =
        |text: &str| text.contains(forbidden.to_str().unwrap()) && text.contains("ermission denied");
    let store = match DiskStore::open(dir) {
        Ok(store) => store,
        Err(error) => return assert!(is_named(&error.to_string()), "{error}"),
    };
    assert_eq!(store.paths().unwrap().len(), 2);
    let found = findings(&store);
    assert!(!found.is_empty());
    for finding in &found {
        let is_refused = matches!(&finding.error, StoreError::Io { .. });
        assert!(is_refused && is_named(&finding.error.to_string()), "{}", finding.error);
    }
    // It is not lost, and nothing is deleted for it.
    assert!(store.take_lost().is_empty());
    commit(&store, 7);
}
