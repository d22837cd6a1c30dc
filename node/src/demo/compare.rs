//! Whether two trees are the same.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, BufReader, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use crate::failure::Failure;

/// What could not be read.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}", path = .path.display())]
struct Unreadable {
    path: PathBuf,
    source: io::Error,
}

/// Whether two trees have the same names, kinds, contents, targets and executable bits.
pub(super) fn compare(left: &Path, right: &Path) -> Result<bool, Failure> {
    let mut pairs = vec![(left.to_path_buf(), right.to_path_buf())];
    while let Some((left, right)) = pairs.pop() {
        let failed = |source| Failure::failed(Unreadable { path: left.clone(), source });
        let (a, b) =
            (fs::symlink_metadata(&left).map_err(failed)?, fs::symlink_metadata(&right).map_err(failed)?);
        let same = if a.is_dir() && b.is_dir() {
            let (a, b) = (names(&left).map_err(failed)?, names(&right).map_err(failed)?);
            pairs.extend(a.iter().map(|name| (left.join(name), right.join(name))));
            a == b
        } else if a.is_symlink() && b.is_symlink() {
            fs::read_link(&left).map_err(failed)? == fs::read_link(&right).map_err(failed)?
        } else if a.is_file() && b.is_file() {
            let owner_executes = |metadata: &fs::Metadata| metadata.permissions().mode() & 0o100 != 0;
            a.len() == b.len()
                && owner_executes(&a) == owner_executes(&b)
                && same_contents(&left, &right).map_err(failed)?
        } else {
            false
        };
        if !same {
            return Ok(false);
        }
    }
    Ok(true)
}

fn names(directory: &Path) -> io::Result<Vec<OsString>> {
    let mut names =
        fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
    names.sort_unstable();
    Ok(names)
}

fn same_contents(left: &Path, right: &Path) -> io::Result<bool> {
    const BUFFER_BYTES: usize = 1 << 20;
    let open = |path| Ok::<_, io::Error>(BufReader::with_capacity(BUFFER_BYTES, File::open(path)?));
    let (mut left, mut right) = (open(left)?, open(right)?);
    let (mut a, mut b) = (vec![0; BUFFER_BYTES], vec![0; BUFFER_BYTES]);
    loop {
        let read = left.read(&mut a)?;
        if read == 0 {
            return Ok(right.read(&mut b)? == 0);
        }
        match right.read_exact(&mut b[..read]) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(error),
            Ok(()) if a[..read] != b[..read] => return Ok(false),
            Ok(()) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_are_compared_to_the_last_bit() {
        let temp = tempfile::tempdir().unwrap();
        let make = |name: &str, contents: &str, mode: u32| {
            let dir = temp.path().join(name);
            fs::create_dir(&dir).unwrap();
            fs::write(dir.join("file"), contents).unwrap();
            fs::set_permissions(dir.join("file"), fs::Permissions::from_mode(mode)).unwrap();
            std::os::unix::fs::symlink("file", dir.join("link")).unwrap();
            dir
        };
        let one = make("one", "contents", 0o644);
        assert!(compare(&one, &make("same", "contents", 0o600)).unwrap());
        assert!(!compare(&one, &make("byte", "contentz", 0o644)).unwrap());
        assert!(!compare(&one, &make("mode", "contents", 0o755)).unwrap());
        let more = make("more", "contents", 0o644);
        fs::write(more.join("another"), "").unwrap();
        assert!(!compare(&one, &more).unwrap());
        let other = make("link", "contents", 0o644);
        fs::remove_file(other.join("link")).unwrap();
        std::os::unix::fs::symlink("elsewhere", other.join("link")).unwrap();
        assert!(!compare(&one, &other).unwrap());
    }
}
