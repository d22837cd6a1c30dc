//! Trees that cannot be added, trees that change meanwhile, and stores that fail.

use std::{
    fs, io,
    ops::ControlFlow,
    os::unix::{
        fs::{FileExt, PermissionsExt, symlink},
        net::UnixListener,
    },
    panic::{self, AssertUnwindSafe},
    path::Path,
    time::{Duration, UNIX_EPOCH},
};

use firn_bao::PIECE_BYTES;
use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::{
    much, options,
    watched::{Calls, Watched},
};
use crate::{AddError, AddOptions, AddProgress, MemoryStore, StoreError, add_tree, conformance::contents};

/// So that whatever changes it from now on changes its time.
fn make_old(path: &Path) {
    fs::File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_modified(UNIX_EPOCH + Duration::from_secs(1))
        .unwrap();
}

#[test]
fn what_is_no_file_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("b/pipe");
    fs::create_dir(dir.path().join("b")).unwrap();
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR, 0).unwrap();
    // It comes first in the directory above, but not in a NAR.
    let _listener = UnixListener::bind(dir.path().join("c")).unwrap();
    let store = Watched::default();
    let error = add_tree(&store, dir.path(), &options(2, false)).unwrap_err();
    assert!(matches!(&error, AddError::Kind(path) if *path == pipe), "{error}");
    assert_eq!(error.to_string(), format!("{} is neither a file, a directory nor a symlink", pipe.display()));
    assert_eq!(store.keeps.take(), 0, "nothing is kept of a tree that cannot be");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret");
    fs::write(&secret, "x").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o0)).unwrap();
    if fs::read(&secret).is_ok() {
        return; // The user of these tests may read everything.
    }
    let error = add_tree(&MemoryStore::new(), dir.path(), &options(1, false)).unwrap_err();
    let AddError::Io { path, source } = error else { panic!("{error}") };
    assert_eq!((path, source.kind()), (secret, io::ErrorKind::PermissionDenied));
}

#[test]
fn a_small_file_that_changes_after_the_walk_is_named() {
    type Change = fn(&Path);
    let changes: [Change; 5] = [
        |path| fs::write(path, "now the file is longer").unwrap(),
        |path| fs::write(path, "").unwrap(),
        |path| fs::write(path, "other").unwrap(),
        |path| {
            let aside = path.with_extension("aside");
            fs::copy(path, &aside).unwrap();
            fs::rename(aside, path).unwrap();
        },
        |path| {
            fs::remove_file(path).unwrap();
            mknodat(CWD, path, FileType::Fifo, Mode::RUSR, 0).unwrap();
        },
    ];
    for change in changes {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "first").unwrap();
        make_old(&path);
        let searches = Calls::then(|_| {
            change(&path);
            Ok(())
        });
        let store = Watched { searches, ..Watched::default() };
        let error = add_tree(&store, dir.path(), &options(1, false)).unwrap_err();
        assert!(matches!(&error, AddError::Changed { path: at, .. } if *at == path), "{error}");
        assert_eq!(store.keeps.take(), 0);
    }
}

#[test]
fn no_file_is_read_through_a_symlink_that_has_come_in_place_of_a_directory() {
    for size in [10, 3 * PIECE_BYTES] {
        let dir = tempfile::tempdir().unwrap();
        let (tree, outside) = (dir.path().join("tree"), dir.path().join("outside"));
        for place in [tree.join("a/b"), outside.join("b")] {
            fs::create_dir_all(&place).unwrap();
            fs::write(place.join("file"), contents(size, 0)).unwrap();
        }
        let searches = Calls::then(|_| {
            fs::rename(tree.join("a"), dir.path().join("aside")).unwrap();
            symlink(&outside, tree.join("a")).unwrap();
            Ok(())
        });
        let store = Watched { searches, ..Watched::default() };
        let error = add_tree(&store, &tree, &options(1, false)).unwrap_err();
        assert!(
            matches!(&error, AddError::Changed { path, .. } if *path == tree.join("a/b/file")),
            "{error}"
        );
        assert_eq!(store.keeps.take(), 0);
    }
}

#[test]
fn a_large_file_that_changes_while_it_is_read_is_named() {
    for in_place in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, contents(3 * PIECE_BYTES, 0)).unwrap();
        make_old(&path);
        // It is told of each piece, with which one thread then goes on.
        let change = |progress: AddProgress| {
            if progress.done_bytes > 0 {
                let file = fs::File::options().write(true).open(&path).unwrap();
                file.write_at(b"changed", 2 * PIECE_BYTES).unwrap();
            }
            ControlFlow::Continue(())
        };
        let options = AddOptions { progress: Some(&change), ..options(1, in_place) };
        let store = MemoryStore::new();
        let error = add_tree(&store, &path, &options).unwrap_err();
        let size = 3 * PIECE_BYTES;
        assert!(
            matches!(&error, AddError::Changed { before, after, .. } if (*before, *after) == (size, size))
        );
        assert_eq!(error.to_string(), format!("{} has changed while it was read", path.display()));
    }
}

#[test]
fn a_large_file_that_shrinks_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, contents(3 * PIECE_BYTES, 0)).unwrap();
    let shrink = |before| {
        if before == 0 {
            fs::File::options().write(true).open(&path).unwrap().set_len(PIECE_BYTES + 7).unwrap();
        }
        Ok(())
    };
    let store = Watched { pieces: Calls::then(shrink), ..Watched::default() };
    let error = add_tree(&store, &path, &options(1, false)).unwrap_err();
    let after = PIECE_BYTES + 7;
    assert!(matches!(&error, AddError::Changed { after: got, .. } if *got == after), "{error}");
}

#[test]
fn the_first_error_in_the_order_of_a_nar_is_reported() {
    for _ in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let file = |number| dir.path().join(format!("{number:04}"));
        for number in 0..600u64 {
            fs::write(file(number), contents(3000, number)).unwrap();
        }
        let searches = Calls::then(|_| {
            [400, 301, 302, 599].into_iter().for_each(|number| fs::remove_file(file(number)).unwrap());
            Ok(())
        });
        let store = Watched { searches, ..Watched::default() };
        let error = add_tree(&store, dir.path(), &options(4, false)).unwrap_err();
        assert!(matches!(&error, AddError::Io { path, .. } if *path == file(301)), "{error}");
    }
}

#[test]
fn a_store_that_fails_or_panics_ends_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = much(dir.path());
    for calls in [1, 5, 20] {
        let full = || StoreError::Reader(io::ErrorKind::StorageFull.into());
        let fail = move |before| if before >= calls { Err(full()) } else { Ok(()) };
        let store = Watched { keeps: Calls::then(fail), ..Watched::default() };
        let error = add_tree(&store, &path, &options(3, false)).unwrap_err();
        assert!(matches!(error, AddError::Store(StoreError::Reader(_))), "{error}");

        let fail = move |before| if before == calls { panic!("as the test wants it") } else { Ok(()) };
        let store = Watched { keeps: Calls::then(fail), ..Watched::default() };
        let add = || add_tree(&store, &path, &options(3, false)).map(|_| ());
        assert!(panic::catch_unwind(AssertUnwindSafe(add)).is_err());
    }
}
