//! Packs, and adopted files.

use std::{
    fs, io,
    os::unix::{fs::symlink, net::UnixListener},
    path::Path,
};

use firn_bao::{GROUP_BYTES, HashedBlob, PIECE_BYTES, Span};
use firn_castore::{BlobRef, Node, Root};
use firn_store::{Blobs, DiskStore, Intake, Paths, Room, StoreError, conformance::contents};

use super::{Sample, Thing, flip, make_fifo, truncate};

/// The things whose records end behind this in the pack.
fn behind(sample: &Sample, length: usize) -> Vec<usize> {
    let is_behind = |thing: &usize| sample.place(*thing).is_some_and(|place| place.end > length);
    (0..sample.things.len()).filter(is_behind).collect()
}

#[test]
fn a_truncated_pack_is_found_and_healed() {
    for make in [Sample::new, Sample::with_two_packs] {
        let lengths = {
            let sample = make();
            let places: Vec<_> = (0..sample.things.len()).filter_map(|thing| sample.place(thing)).collect();
            let ends = places.iter().flat_map(|place| [place.end, place.end - 1]);
            [0, 7, 16, 17].into_iter().chain(ends).collect::<Vec<_>>()
        };
        for length in lengths {
            let sample = make();
            let damaged = behind(&sample, length);
            truncate(&sample.pack(), length as u64);
            sample.check(&damaged, &sample.pack());
        }
    }
}

#[test]
fn a_pack_that_is_gone_is_found_and_healed() {
    for make in [Sample::new, Sample::with_two_packs] {
        let sample = make();
        let damaged = behind(&sample, 0);
        fs::remove_file(sample.pack()).unwrap();
        sample.check(&damaged, &sample.pack());
    }
}

#[test]
fn a_pack_of_zeros_is_found_and_healed() {
    for make in [Sample::new, Sample::with_two_packs] {
        let sample = make();
        let damaged = behind(&sample, 0);
        let length = fs::metadata(sample.pack()).unwrap().len();
        fs::write(sample.pack(), vec![0; length as usize]).unwrap();
        sample.check(&damaged, &sample.pack());
    }
}

#[test]
fn a_flipped_bit_in_a_pack_is_found_and_healed() {
    let things = Sample::new().things.len();
    for thing in 0..things {
        let Some(place) = Sample::new().place(thing) else { continue };
        // Contents and outboard; of an adopted blob the name and the outboard.
        for at in [place.start, (place.start + place.end) / 2, place.end - 1] {
            let sample = Sample::new();
            flip(&sample.pack(), at);
            sample.check(&[thing], &sample.pack());
        }
    }
}

#[test]
fn a_flipped_bit_in_the_head_of_an_adopted_record_is_found_and_healed() {
    // Kind, length (three bytes), place and the length of the name.
    for back in 1..=6 {
        let sample = Sample::new();
        let thing = sample.find(|thing| thing.is_adopted());
        let name = sample.place(thing).unwrap().start;
        flip(&sample.pack(), name - back);
        sample.check(&[thing], &sample.pack());
    }
}

#[test]
fn the_heads_of_other_records_tell_nothing_that_the_index_does_not() {
    let sample = Sample::new();
    for thing in 0..sample.things.len() {
        if let (Some(place), false) = (sample.place(thing), sample.things[thing].is_adopted()) {
            flip(&sample.pack(), place.start - 1);
            flip(&sample.pack(), place.start - 2);
        }
    }
    flip(&sample.pack(), 0);
    let store = DiskStore::open(&sample.dir).unwrap();
    assert!(sample.things.iter().all(|thing| thing.read(&store).unwrap()));
    store.commit_root(&sample.root, true, None).unwrap();
}

#[test]
fn a_pack_is_not_written_to_where_it_is_too_long() {
    let sample = Sample::new();
    let length = fs::metadata(sample.pack()).unwrap().len();
    let mut bytes = fs::read(sample.pack()).unwrap();
    bytes.extend_from_slice(&contents(10_000, 0));
    fs::write(sample.pack(), bytes).unwrap();
    let store = DiskStore::open(&sample.dir).unwrap();
    assert_eq!(fs::metadata(sample.pack()).unwrap().len(), length, "the garbage of a crash is cut off");
    assert!(sample.things.iter().all(|thing| thing.read(&store).unwrap()));
    crate::commit(&store, 5);
    drop(store);
    assert!(super::findings(&DiskStore::open(&sample.dir).unwrap()).is_empty());
}

/// What may happen to a file that is not ours while it is read.
const FATES: [fn(&Path); 12] = [
    |path| truncate(path, 0),
    |path| truncate(path, PIECE_BYTES + 1),
    |path| flip(path, PIECE_BYTES as usize + 5),
    |path| fs::remove_file(path).unwrap(),
    |path| fs::remove_dir_all(path.parent().unwrap()).unwrap(),
    |path| fs::rename(path.parent().unwrap(), path.parent().unwrap().with_extension("aside")).unwrap(),
    |path| instead(path, |path| fs::create_dir(path).unwrap()),
    |path| instead(path, |path| symlink("/dev/zero", path).unwrap()),
    |path| instead(path, |path| symlink(path, path).unwrap()),
    |path| instead(path, make_fifo),
    |path| instead(path, |path| drop(UnixListener::bind(path).unwrap())),
    |path| {
        instead(path, make_fifo);
        // It is open to be written, by somebody who never writes anything.
        std::mem::forget(fs::File::options().read(true).write(true).open(path).unwrap());
    },
];

fn instead(path: &Path, make: impl Fn(&Path)) {
    fs::remove_file(path).unwrap();
    make(path);
}

#[test]
fn an_adopted_file_that_changes_while_it_is_read_is_lost() {
    for (i, fate) in FATES.into_iter().enumerate() {
        let scratch = crate::scratch();
        let path = scratch.path().join("files/file");
        fs::create_dir(path.parent().unwrap()).unwrap();
        let bytes = contents(4 * PIECE_BYTES, i as u64);
        fs::write(&path, &bytes).unwrap();
        let store = DiskStore::open(&scratch.path().join("store")).unwrap();
        let hashed = HashedBlob::of(&bytes);
        store.adopt_blob(&path, &hashed).unwrap();
        let blob = hashed.blob();
        let root = Root::from(Node::File { blob, executable: false });
        store.commit_root(&root, true, None).unwrap();
        let read = |start, end| store.read_span(&blob, Span::from_groups(start..end).unwrap()).unwrap();
        assert!(read(0, 64).is_some());
        fate(&path);
        assert!(read(64, 128).is_none(), "fate {i}");
        assert_eq!(store.take_lost(), [blob.digest].into());
        assert_eq!(store.has_blob(&blob.digest).unwrap(), None);
        assert!(read(0, 1).is_none() && store.groups(&blob).unwrap().is_empty());
        let refused = store.commit_root(&root, true, None);
        assert!(matches!(refused, Err(StoreError::Missing(_))), "{refused:?}");
        // From elsewhere it comes anew.
        crate::copy_in(&store, &bytes);
        store.commit_root(&root, true, None).unwrap();
        assert!(super::findings(&store).is_empty());
    }
}

#[test]
fn an_adopted_file_that_becomes_longer_is_still_what_it_was() {
    // Only what belongs to the blob is read.
    let sample = Sample::new();
    let Thing::Adopted(bytes, path) = &sample.things[sample.find(|thing| thing.is_adopted())] else {
        panic!()
    };
    let mut file = fs::File::options().append(true).open(path).unwrap();
    io::Write::write_all(&mut file, b"more").unwrap();
    let store = DiskStore::open(&sample.dir).unwrap();
    let blob = BlobRef::of(bytes);
    let end = Span::whole(blob.size).groups().end;
    assert!(blob.size > 2 * GROUP_BYTES && end > 2);
    assert_eq!(store.read_span(&blob, Span::whole(blob.size)).unwrap().unwrap().bytes(), bytes);
}
