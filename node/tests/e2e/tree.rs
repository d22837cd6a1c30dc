//! Comparing file trees.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use walkdir::WalkDir;

/// The length of the largest file that [`write_site`] makes.
pub const LARGE_BYTES: usize = 1_000_000;

/// What a tree's entry is, as far as castore and NAR know.
#[derive(PartialEq, Eq)]
enum Entry {
    Directory,
    File { contents: Vec<u8>, executable: bool },
    Symlink(PathBuf),
}

/// Both trees have the same names, kinds, contents, executable bits and symlink targets.
pub fn assert_same_tree(left: &Path, right: &Path) {
    let (left_entries, right_entries) = (read(left), read(right));
    assert!(!left_entries.is_empty(), "{} is not there", left.display());
    for (name, entry) in &left_entries {
        let same = right_entries.get(name).is_some_and(|other| other == entry);
        assert!(same, "{} differs between {} and {}", name.display(), left.display(), right.display());
    }
    for name in right_entries.keys() {
        assert!(left_entries.contains_key(name), "{} is only in {}", name.display(), right.display());
    }
}

fn read(root: &Path) -> BTreeMap<PathBuf, Entry> {
    let entries = WalkDir::new(root).into_iter().map(|entry| {
        let entry = entry.unwrap();
        let kind = entry.file_type();
        let value = if kind.is_dir() {
            Entry::Directory
        } else if kind.is_symlink() {
            Entry::Symlink(fs::read_link(entry.path()).unwrap())
        } else {
            let executable = entry.metadata().unwrap().permissions().mode() & 0o100 != 0;
            Entry::File { contents: fs::read(entry.path()).unwrap(), executable }
        };
        (entry.path().strip_prefix(root).unwrap().to_path_buf(), value)
    });
    entries.collect()
}

/// Makes a small tree with a symlink, an executable, an empty directory and a file of many chunk groups.
pub fn write_site(site: &Path) {
    fs::create_dir_all(site.join("pages/empty")).unwrap();
    fs::write(site.join("pages/index.html"), "<h1>hello</h1>").unwrap();
    fs::write(site.join("large"), "0123456789".repeat(LARGE_BYTES / 10)).unwrap();
    fs::write(site.join("run"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(site.join("run"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("pages/index.html", site.join("index.html")).unwrap();
}

/// Makes a tree of 8 MiB that no compression makes shorter: one large file, some of many chunk groups, many of one.
pub fn write_noise(tree: &Path) {
    fs::create_dir_all(tree).unwrap();
    let mut state = 1u64;
    let mut noise = |bytes: usize| {
        // xorshift64: Marsaglia, "Xorshift RNGs", 2003.
        let word = |_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        };
        (0..bytes / 8).flat_map(word).collect::<Vec<u8>>()
    };
    for (name, count, bytes) in [("large", 1, 5 << 20), ("middle", 4, 512 << 10), ("small", 64, 16 << 10)] {
        for number in 0..count {
            fs::write(tree.join(format!("{name}-{number}")), noise(bytes)).unwrap();
        }
    }
}
