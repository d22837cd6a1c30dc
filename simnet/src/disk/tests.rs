//! The fake disk keeps what it has promised, whatever happens, and nothing else for sure.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use firn_store::{Access, Disk, DiskFile};

use super::*;
use crate::dice::Dice;

const SEEDS: u64 = 300;

fn create(disk: &FakeDisk, path: &str) -> Arc<dyn DiskFile> {
    disk.open(Path::new(path), Access::CreateNew).unwrap()
}

fn read(disk: &FakeDisk, path: &str) -> Option<Vec<u8>> {
    let file = disk.open(Path::new(path), Access::Read).ok()?;
    let mut bytes = vec![0; file.size().unwrap() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    Some(bytes)
}

/// All that a disk may be after a crash.
fn after<T: Ord>(prepare: impl Fn(&FakeDisk), see: impl Fn(&FakeDisk) -> T) -> BTreeMap<T, usize> {
    let mut seen = BTreeMap::new();
    for seed in 0..SEEDS {
        let disk = FakeDisk::new(seed);
        prepare(&disk);
        *seen.entry(see(&disk.crash(seed + 1))).or_default() += 1;
    }
    seen
}

fn durable(disk: &FakeDisk, path: &str, bytes: &[u8]) -> Arc<dyn DiskFile> {
    let file = create(disk, path);
    file.write_all_at(bytes, 0).unwrap();
    Disk::sync(disk).unwrap();
    file
}

#[test]
fn what_was_synced_stays() {
    let seen = after(|disk| drop(durable(disk, "/a", b"bytes")), |disk| read(disk, "/a"));
    assert_eq!(seen, BTreeMap::from([(Some(b"bytes".to_vec()), SEEDS as usize)]));
}

#[test]
fn a_synced_file_without_a_durable_name_may_be_gone_but_never_empty() {
    let prepare = |disk: &FakeDisk| {
        let file = create(disk, "/a");
        file.write_all_at(b"bytes", 0).unwrap();
        file.sync().unwrap();
    };
    let seen = after(prepare, |disk| read(disk, "/a"));
    assert_eq!(seen.keys().cloned().collect::<Vec<_>>(), [None, Some(b"bytes".to_vec())]);
}

#[test]
fn an_unsynced_file_may_be_anything() {
    let prepare = |disk: &FakeDisk| create(disk, "/a").write_all_at(&[1; 600], 0).unwrap();
    let seen = after(prepare, |disk| read(disk, "/a"));
    assert!(seen.contains_key(&None) && seen.contains_key(&Some(vec![1; 600])));
    assert!(seen.contains_key(&Some(Vec::new())), "the bytes are lost, the name is not");
    assert!(seen.contains_key(&Some(vec![0; 600])), "a length without its bytes");
    let first_lost = [vec![0; 512], vec![1; 88]].concat();
    assert!(seen.contains_key(&Some(first_lost)), "the later sector alone");
    assert!(seen.len() > 6, "torn ones too");
}

#[test]
fn a_rename_is_whole_or_not_at_all() {
    let prepare = |disk: &FakeDisk| {
        durable(disk, "/a", b"new");
        durable(disk, "/b", b"old");
        disk.rename(Path::new("/a"), Path::new("/b")).unwrap();
        assert_eq!((read(disk, "/a"), read(disk, "/b")), (None, Some(b"new".to_vec())));
    };
    let seen = after(prepare, |disk| (read(disk, "/a"), read(disk, "/b")));
    let expected = [(None, Some(b"new".to_vec())), (Some(b"new".to_vec()), Some(b"old".to_vec()))];
    assert_eq!(seen.into_keys().collect::<Vec<_>>(), expected);
}

#[test]
fn a_rename_may_come_before_the_bytes() {
    let prepare = |disk: &FakeDisk| {
        durable(disk, "/b", b"old");
        create(disk, "/a").write_all_at(b"new", 0).unwrap();
        disk.rename(Path::new("/a"), Path::new("/b")).unwrap();
    };
    let seen = after(prepare, |disk| read(disk, "/b"));
    assert!(seen.contains_key(&Some(Vec::new())) && seen.contains_key(&Some(b"old".to_vec())));
}

#[test]
fn a_removed_file_may_be_back() {
    let prepare = |disk: &FakeDisk| {
        durable(disk, "/a", b"old");
        disk.remove(Path::new("/a")).unwrap();
    };
    let seen = after(prepare, |disk| read(disk, "/a"));
    assert_eq!(seen.into_keys().collect::<Vec<_>>(), [None, Some(b"old".to_vec())]);
}

#[test]
fn a_killed_process_loses_nothing_but_its_files_are_not_durable() {
    let disk = FakeDisk::new(0);
    let file = create(&disk, "/a");
    file.write_all_at(b"bytes", 0).unwrap();
    let next = disk.kill(1);
    assert_eq!(read(&next, "/a"), Some(b"bytes".to_vec()));
    assert!(file.write_all_at(b"ghost", 0).is_err() && disk.list(Path::new("/")).is_err());
    assert_eq!(read(&next, "/a"), Some(b"bytes".to_vec()));
    let prepare = |disk: &FakeDisk| create(disk, "/a").write_all_at(b"bytes", 0).unwrap();
    let lost = (0..SEEDS).filter(|seed| {
        let disk = FakeDisk::new(*seed);
        prepare(&disk);
        read(&disk.kill(*seed).crash(*seed), "/a") != Some(b"bytes".to_vec())
    });
    assert!(lost.count() > 10);
}

#[test]
fn a_failed_sync_loses_although_the_next_one_succeeds() {
    let prepare = |disk: &FakeDisk| {
        let file = durable(disk, "/a", b"old");
        disk.set_plan(Plan {
            faults: vec![Fault { kind: FaultKind::Sync, from: 1, count: 1 }],
            ..Plan::default()
        });
        file.write_all_at(b"new", 0).unwrap();
        assert_eq!(file.sync().unwrap_err().raw_os_error(), Some(5));
        file.sync().unwrap();
    };
    let seen = after(prepare, |disk| read(disk, "/a"));
    assert!(seen.contains_key(&Some(b"old".to_vec())) && seen.contains_key(&Some(b"new".to_vec())));
    let disks = || (0..SEEDS).map(FakeDisk::new).inspect(|disk| prepare(disk));
    let cached = disks().filter(|disk| read(disk, "/a") != read(&disk.kill(0), "/a")).count();
    assert!(cached > 10, "the process may see what is lost");
    let seen_by_next = disks().all(|disk| {
        let next = disk.kill(0);
        read(&next, "/a") == read(&next.crash(0), "/a")
    });
    assert!(seen_by_next, "the next process sees the disk");
}

#[test]
fn a_full_disk_takes_a_part() {
    let lengths: BTreeMap<usize, ()> = (0..SEEDS)
        .map(|seed| {
            let disk = FakeDisk::new(seed);
            let file = create(&disk, "/a");
            disk.set_plan(Plan { full_from: Some(1), ..Plan::default() });
            assert_eq!(file.write_all_at(b"bytes", 0).unwrap_err().kind(), std::io::ErrorKind::StorageFull);
            assert!(disk.open(Path::new("/b"), Access::CreateNew).is_err());
            assert_eq!(disk.free_bytes().unwrap(), 0);
            file.sync().unwrap();
            (read(&disk, "/a").unwrap().len(), ())
        })
        .collect();
    assert_eq!(lengths.len(), 6);
}

#[test]
fn the_call_in_which_the_process_ends_may_be_done_and_no_later_one_is() {
    let disk = FakeDisk::new(0);
    disk.set_plan(Plan { ends_at: Some(3), ..Plan::default() });
    let file = create(&disk, "/a");
    file.write_all_at(b"1", 0).unwrap();
    assert!(file.write_all_at(b"2", 1).is_err());
    assert!(file.write_all_at(b"3", 2).is_err() && file.sync().is_err());
    assert!(disk.has_ended());
    assert_eq!(read(&disk.kill(0), "/a"), Some(b"12".to_vec()));
}

#[test]
fn names_are_as_on_any_disk() {
    let disk = FakeDisk::new(0);
    let kind = |result: std::io::Result<Arc<dyn DiskFile>>| result.err().map(|error| error.kind());
    assert_eq!(kind(disk.open(Path::new("/a"), Access::Read)), Some(std::io::ErrorKind::NotFound));
    assert_eq!(kind(disk.open(Path::new("/d/a"), Access::CreateNew)), Some(std::io::ErrorKind::NotFound));
    disk.create_dir(Path::new("/d")).unwrap();
    disk.create_dir(Path::new("/d")).unwrap();
    create(&disk, "/d/a").write_all_at(b"x", 3).unwrap();
    assert_eq!(
        kind(disk.open(Path::new("/d/a"), Access::CreateNew)),
        Some(std::io::ErrorKind::AlreadyExists)
    );
    assert_eq!(read(&disk, "/d/a"), Some(b"\0\0\0x".to_vec()));
    assert_eq!(disk.list(Path::new("/d")).unwrap(), ["a"]);
    let open = disk.open(Path::new("/d/a"), Access::Write).unwrap();
    disk.remove(Path::new("/d/a")).unwrap();
    assert_eq!(open.size().unwrap(), 4, "a handle outlives the name");
    assert!(disk.list(Path::new("/d")).unwrap().is_empty());
    assert_eq!(disk.files(), []);
}

/// Any calls, of which a model knows what must be there.
#[test]
fn any_calls_and_crashes_keep_what_was_synced() {
    for seed in 0..SEEDS {
        let mut dice = Dice::new(seed);
        let mut disk = FakeDisk::new(seed);
        let mut synced: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for life in 0..4 {
            let mut now = synced.clone();
            for _ in 0..dice.between(0..20) {
                let path = format!("/{}", dice.between(0..4));
                let bytes = dice.bytes(700);
                let file = disk.open(Path::new(&path), Access::Write);
                let file = file.unwrap_or_else(|_| create(&disk, &path));
                let at = dice.between(0..900) as usize;
                file.write_all_at(&bytes, at as u64).unwrap();
                let contents = now.entry(path).or_default();
                contents.resize(contents.len().max(at + bytes.len()), 0);
                contents[at..at + bytes.len()].copy_from_slice(&bytes);
                if dice.percent(20) {
                    file.set_size(at as u64).unwrap();
                    contents.truncate(at);
                }
            }
            for (path, contents) in &now {
                assert_eq!(read(&disk, path).as_ref(), Some(contents), "seed {seed}, life {life}");
            }
            Disk::sync(&disk).unwrap();
            if dice.percent(50) {
                create(&disk, &format!("/unsynced{life}")).write_all_at(b"x", 0).unwrap();
            }
            disk = disk.crash(dice.number());
            synced = now;
            for (path, contents) in &synced {
                assert_eq!(read(&disk, path).as_ref(), Some(contents), "seed {seed}, life {life}");
            }
        }
    }
}
