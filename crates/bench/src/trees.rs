//! What is added: three trees that are the same on each machine, but for the toolchain, which is the machine's own.
//!
//! | tree | what | bytes |
//! |---|---|---|
//! | big | one file | 1 GiB |
//! | small | 20,000 files of 1 to 13 KiB, 7 KiB on average, in 9,000 folders | 140 MiB |
//! | toolchain | a copy of the Rust toolchain: about 52,000 files | 1.3 GB |
//!
//! The contents of the first two are BLAKE3's extended output, so that nothing is there twice and nothing compresses.

use std::{
    cell::{OnceCell, RefCell},
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufWriter, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Stdio,
    thread,
    time::Duration,
};

use walkdir::{DirEntry, WalkDir};

use crate::{error::BenchError, tools::Tool};

const BIG_BYTES: u64 = 1 << 30;
const SMALL_FILES: u64 = 20_000;
const SMALL_FOLDERS: u64 = 9_000;
const SMALL_FILE_BYTES_MIN: u64 = 1 << 10;
const SMALL_FILE_BYTES_MAX: u64 = 13 << 10;
/// How many folders a folder of the small tree has.
const SMALL_FAN_OUT: u64 = 8;
const TOOLCHAIN_FILES: u64 = 52_000;
const TOOLCHAIN_BYTES: u64 = 1_300_000_000;
const TEXT_BYTES: u64 = 30_000_000;
const HEADERS: &str = "/usr/include";
const BUFFER_BYTES: usize = 1 << 20;
/// A store remembers no tree of which anything has changed within the last 2 s: it might change again unnoticed.
const SETTLE: Duration = Duration::from_millis(2100);

/// The share of the whole size that trees are made in; 1 but in tests.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Scale(pub(crate) f64);

impl Scale {
    /// So many of so many, but at least one.
    pub(crate) fn of(self, whole: u64) -> u64 {
        ((whole as f64 * self.0).round() as u64).max(1)
    }

    fn is_whole(self) -> bool {
        self.0 >= 1.0
    }
}

/// The trees, each made when it is asked for.
pub(crate) struct Trees {
    directory: PathBuf,
    scale: Scale,
    big: OnceCell<PathBuf>,
    small: OnceCell<PathBuf>,
    toolchain: OnceCell<PathBuf>,
    /// Smaller ones, by name.
    parts: RefCell<BTreeMap<String, PathBuf>>,
}

impl Trees {
    /// Trees within a directory.
    pub(crate) fn new(directory: PathBuf, scale: Scale) -> Self {
        let (big, small, toolchain, parts) = Default::default();
        Self { directory, scale, big, small, toolchain, parts }
    }

    /// What is left of a number on the scale of the trees.
    pub(crate) fn scaled(&self, whole: u64) -> u64 {
        self.scale.of(whole)
    }

    /// The big file.
    pub(crate) fn big(&self) -> Result<&Path, BenchError> {
        self.made(&self.big, "big", |file| write_file(file, "big", self.scale.of(BIG_BYTES)))
    }

    /// The tree of small files.
    pub(crate) fn small(&self) -> Result<&Path, BenchError> {
        self.made(&self.small, "small", |tree| make_small(tree, self.scale))
    }

    /// The copy of the toolchain.
    pub(crate) fn toolchain(&self) -> Result<&Path, BenchError> {
        self.made(&self.toolchain, "toolchain", |tree| copy_toolchain(tree, self.scale))
    }

    /// A file as the big one, of so many bytes.
    pub(crate) fn file(&self, bytes: u64) -> Result<PathBuf, BenchError> {
        let name = format!("file-{bytes}");
        self.part(&name, |file| write_file(file, &name, self.scale.of(bytes)))
    }

    /// A tree as the small one, of so many files.
    pub(crate) fn small_part(&self, files: u64) -> Result<PathBuf, BenchError> {
        let share = files as f64 / SMALL_FILES as f64;
        self.part(&format!("small-{files}"), |tree| make_small(tree, Scale(self.scale.0 * share)))
    }

    /// Text: C headers and the toolchain's documentation.
    pub(crate) fn text(&self) -> Result<PathBuf, BenchError> {
        self.part("text", |tree| copy_text(tree, self.scale.of(TEXT_BYTES)))
    }

    fn part(
        &self,
        name: &str,
        make: impl FnOnce(&Path) -> Result<(), BenchError>,
    ) -> Result<PathBuf, BenchError> {
        if let Some(tree) = self.parts.borrow().get(name) {
            return Ok(tree.clone());
        }
        let tree = self.directory.join(name);
        make(&tree)?;
        self.parts.borrow_mut().insert(name.into(), tree.clone());
        Ok(tree)
    }

    fn made<'a>(
        &self,
        cell: &'a OnceCell<PathBuf>,
        name: &str,
        make: impl FnOnce(&Path) -> Result<(), BenchError>,
    ) -> Result<&'a Path, BenchError> {
        if let Some(tree) = cell.get() {
            return Ok(tree);
        }
        let tree = self.directory.join(name);
        make(&tree)?;
        thread::sleep(SETTLE);
        Ok(cell.get_or_init(|| tree))
    }
}

/// Writes a file of bytes that follow from its name.
fn write_file(file: &Path, name: &str, size: u64) -> Result<(), BenchError> {
    let write = || -> io::Result<()> {
        let mut out = BufWriter::with_capacity(BUFFER_BYTES, File::create(file)?);
        let mut bytes = contents(name);
        let mut buffer = vec![0; BUFFER_BYTES.min(usize::try_from(size).unwrap_or(BUFFER_BYTES))];
        let mut left = size;
        while left > 0 {
            let part = buffer.len().min(usize::try_from(left).unwrap_or(buffer.len()));
            bytes.fill(&mut buffer[..part]);
            out.write_all(&buffer[..part])?;
            left -= part as u64;
        }
        out.flush()
    };
    write().map_err(BenchError::io(file))
}

fn contents(name: &str) -> blake3::OutputReader {
    blake3::Hasher::new_derive_key("firn bench tree 1").update(name.as_bytes()).finalize_xof()
}

/// Folder n lies in folder (n - 1) / 8, the files are dealt out to all folders in turn.
fn make_small(tree: &Path, scale: Scale) -> Result<(), BenchError> {
    let mut folders: Vec<PathBuf> = Vec::new();
    for at in 0..scale.of(SMALL_FOLDERS) {
        let folder = match at.checked_sub(1).map(|before| before / SMALL_FAN_OUT) {
            None => tree.to_path_buf(),
            Some(parent) => folders[parent as usize].join(format!("folder-{at}")),
        };
        fs::create_dir(&folder).map_err(BenchError::io(&folder))?;
        folders.push(folder);
    }
    for at in 0..scale.of(SMALL_FILES) {
        let name = format!("file-{at}");
        let mut size = [0; 8];
        contents(&format!("{name} size")).fill(&mut size);
        let size = u64::from_le_bytes(size) % (SMALL_FILE_BYTES_MAX - SMALL_FILE_BYTES_MIN + 1);
        let folder = &folders[at as usize % folders.len()];
        write_file(&folder.join(&name), &name, SMALL_FILE_BYTES_MIN + size)?;
    }
    Ok(())
}

/// The whole toolchain; on a smaller scale the first of its files that are not too large.
fn copy_toolchain(tree: &Path, scale: Scale) -> Result<(), BenchError> {
    let source = sysroot()?;
    let mut files_left = if scale.is_whole() { u64::MAX } else { scale.of(TOOLCHAIN_FILES) };
    let file_bytes_max = if scale.is_whole() { u64::MAX } else { scale.of(TOOLCHAIN_BYTES) / 4 };
    for entry in walk(&source) {
        let entry = entry?;
        let to = match entry.path().strip_prefix(&source) {
            Ok(inside) if !inside.as_os_str().is_empty() => tree.join(inside),
            _ => tree.to_path_buf(),
        };
        let kind = entry.file_type();
        let copied = if kind.is_dir() {
            fs::create_dir(&to)
        } else if files_left == 0 || is_larger(&entry, file_bytes_max)? {
            continue;
        } else if kind.is_symlink() {
            fs::read_link(entry.path()).and_then(|target| std::os::unix::fs::symlink(target, &to))
        } else {
            files_left -= 1;
            fs::copy(entry.path(), &to).map(|_| ())
        };
        copied.map_err(BenchError::io(&to))?;
    }
    Ok(())
}

/// The first files that are text, of both together, until there is enough.
fn copy_text(tree: &Path, bytes: u64) -> Result<(), BenchError> {
    let mut left = bytes;
    for (source, name) in [(PathBuf::from(HEADERS), "include"), (sysroot()?.join("share"), "share")] {
        // A machine may have only one of them.
        for entry in walk(&source).map_while(Result::ok).filter(|entry| entry.file_type().is_file()) {
            let contents = fs::read(entry.path()).map_err(BenchError::io(entry.path()))?;
            if contents.len() as u64 > left || std::str::from_utf8(&contents).is_err() {
                continue;
            }
            left -= contents.len() as u64;
            let to = tree.join(name).join(entry.path().strip_prefix(&source).unwrap_or(entry.path()));
            let folder = to.parent().unwrap_or(tree);
            fs::create_dir_all(folder).map_err(BenchError::io(folder))?;
            fs::write(&to, contents).map_err(BenchError::io(&to))?;
            if left < bytes / 100 {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn is_larger(entry: &DirEntry, bytes_max: u64) -> Result<bool, BenchError> {
    Ok(metadata(entry)?.len() > bytes_max)
}

fn sysroot() -> Result<PathBuf, BenchError> {
    let mut command = Tool::Rustc.command()?;
    command.args(["--print", "sysroot"]).stderr(Stdio::inherit());
    let program = Tool::Rustc.to_string().into_boxed_str();
    let output = command.output().map_err(|source| BenchError::Start { program: program.clone(), source })?;
    let said = String::from_utf8_lossy(&output.stdout);
    match output.status.success() {
        true => Ok(PathBuf::from(said.trim_end_matches('\n'))),
        false => Err(BenchError::Failed { program, status: output.status, said: said.into() }),
    }
}

/// All that is beneath a path, itself first, sorted by name, parents first; symlinks are not followed.
pub(crate) fn walk(path: &Path) -> impl Iterator<Item = Result<DirEntry, BenchError>> {
    let path = path.to_path_buf();
    WalkDir::new(&path).sort_by_file_name().into_iter().map(move |entry| {
        entry.map_err(|error| {
            let at = error.path().unwrap_or(&path).to_path_buf();
            BenchError::Io { path: at, source: error.into() }
        })
    })
}

fn metadata(entry: &DirEntry) -> Result<fs::Metadata, BenchError> {
    entry.metadata().map_err(|error| BenchError::Io { path: entry.path().into(), source: error.into() })
}

/// The files beneath a path, without symlinks.
pub(crate) fn files(path: &Path) -> Result<Vec<PathBuf>, BenchError> {
    let files = walk(path).filter(|entry| entry.as_ref().map_or(true, |entry| entry.file_type().is_file()));
    files.map(|entry| entry.map(DirEntry::into_path)).collect()
}

/// How long all files are together.
pub(crate) fn total_bytes(path: &Path) -> Result<u64, BenchError> {
    let mut total = 0;
    for entry in walk(path) {
        let entry = entry?;
        total += if entry.file_type().is_file() { metadata(&entry)?.len() } else { 0 };
    }
    Ok(total)
}

/// How long all files are together if each content counts once.
pub(crate) fn unique_bytes(path: &Path) -> Result<u64, BenchError> {
    let mut sizes = BTreeMap::new();
    for file in files(path)? {
        let bytes = fs::read(&file).map_err(BenchError::io(&file))?;
        sizes.insert(*blake3::hash(&bytes).as_bytes(), bytes.len() as u64);
    }
    Ok(sizes.values().sum())
}

/// What a directory takes of its file system: the blocks of all files and directories.
pub(crate) fn allocated_bytes(path: &Path) -> Result<u64, BenchError> {
    walk(path).map(|entry| Ok(metadata(&entry?)?.blocks() * 512)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(make: impl Fn(&Path) -> Result<(), BenchError>) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let tree = directory.path().join("tree");
        make(&tree).unwrap();
        (directory, tree)
    }

    fn digest(tree: &Path) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        for file in files(tree).unwrap() {
            hasher.update(file.strip_prefix(tree).unwrap().as_os_str().as_encoded_bytes());
            hasher.update(&fs::read(file).unwrap());
        }
        hasher.finalize()
    }

    #[test]
    fn the_same_trees_come_out_each_time() {
        let small = |tree: &Path| make_small(tree, Scale(0.01));
        let ((_one, first), (_other, second)) = (made(small), made(small));
        assert_eq!(digest(&first), digest(&second));
        assert_eq!(files(&first).unwrap().len(), 200);
        let folders = walk(&first).filter(|entry| entry.as_ref().unwrap().file_type().is_dir()).count();
        assert_eq!(folders, 90);
        let mean = total_bytes(&first).unwrap() / 200;
        assert!((6 << 10..8 << 10).contains(&mean), "{mean} bytes a file");
        assert_eq!(unique_bytes(&first).unwrap(), total_bytes(&first).unwrap());
    }

    #[test]
    fn a_big_file_has_its_size_and_does_not_repeat() {
        let size = (3 << 20) + 5;
        let (_directory, file) = made(|file| write_file(file, "big", size));
        let bytes = fs::read(file).unwrap();
        assert_eq!(bytes.len() as u64, size);
        assert_ne!(bytes[..1 << 20], bytes[1 << 20..2 << 20]);
    }

    #[test]
    fn part_of_the_toolchain_is_copied_on_a_small_scale() {
        let (_directory, tree) = made(|tree| copy_toolchain(tree, Scale(0.001)));
        assert_eq!(files(&tree).unwrap().len() as u64, Scale(0.001).of(TOOLCHAIN_FILES));
    }

    #[test]
    fn what_is_there_twice_counts_once_as_unique() {
        let (_directory, tree) = made(|tree| {
            fs::create_dir(tree).unwrap();
            for name in ["one", "two"] {
                fs::write(tree.join(name), [7; 5000]).unwrap();
            }
            Ok(())
        });
        assert_eq!((total_bytes(&tree).unwrap(), unique_bytes(&tree).unwrap()), (10_000, 5_000));
        assert!(allocated_bytes(&tree).unwrap() >= 10_000);
    }
}
