//! Large blobs, as files.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Read, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use firn_bao::{Outboard, Span, SpanError, VerifiedSpan, hash_blob};
use firn_castore::{BlobDigest, BlobRef};

use super::layout::Layout;
use crate::{Damage, Item, StoreError, groups::Groups, lock};

/// How many blobs may be partly here. Beyond, the one goes whose last span came longest ago.
const PARTIALS_MAX: usize = 4096;
/// How many outboards are remembered, so that a large blob's is not read anew for each of its spans.
const OUTBOARDS_MAX: usize = 8;
/// Longer outboards than this (of blobs over 4 GiB) are not remembered.
const OUTBOARD_BYTES_MAX: usize = 16 << 20;
const WRITE_BUFFER_BYTES: usize = 256 << 10;
const OUTBOARD_SUFFIX: &str = ".outboard";

/// The files of large blobs, whole and partial.
pub(super) struct Files {
    blobs: PathBuf,
    temp: PathBuf,
    next_temp: AtomicU64,
    /// Held while a whole blob is put in its place.
    pub(super) publishing: Mutex<()>,
    partials: Mutex<Partials>,
    /// The latest stands first.
    outboards: Mutex<VecDeque<(BlobDigest, Bytes)>>,
}

#[derive(Default)]
struct Partials {
    /// By digest and length: a false length may well have true spans, but never all of them.
    by_blob: BTreeMap<BlobRef, Entry>,
    spans: u64,
}

struct Entry {
    partial: Arc<Mutex<Partial>>,
    /// The number of the last span that came.
    touched: u64,
}

/// A blob that is partly here.
struct Partial {
    /// `None` once it is whole.
    temp: Option<TempFile>,
    groups: Groups,
}

/// A file that is removed unless it is put in its place.
pub(super) struct TempFile {
    path: PathBuf,
}

impl Drop for TempFile {
    fn drop(&mut self) {
        // Where it has been renamed there is nothing; what stays otherwise goes with the next opening.
        let _ = fs::remove_file(&self.path);
    }
}

impl Files {
    pub(super) fn new(layout: &Layout) -> Self {
        Self {
            blobs: layout.blobs.clone(),
            temp: layout.temp.clone(),
            next_temp: AtomicU64::new(0),
            publishing: Mutex::new(()),
            partials: Mutex::default(),
            outboards: Mutex::default(),
        }
    }

    fn blob_path(&self, digest: &BlobDigest) -> PathBuf {
        let name = digest.to_string();
        self.blobs.join(&name[..2]).join(name)
    }

    fn outboard_path(&self, digest: &BlobDigest) -> PathBuf {
        let mut path = self.blob_path(digest).into_os_string();
        path.push(OUTBOARD_SUFFIX);
        path.into()
    }

    fn create_temp(&self) -> Result<(TempFile, File), StoreError> {
        let path = self.temp.join(self.next_temp.fetch_add(1, Ordering::Relaxed).to_string());
        let options = OpenOptions::new().read(true).write(true).create_new(true).open(&path);
        let file = options.map_err(StoreError::io(&path))?;
        Ok((TempFile { path }, file))
    }

    pub(super) fn write_temp(&self, bytes: &[u8]) -> Result<TempFile, StoreError> {
        let (temp, mut file) = self.create_temp()?;
        file.write_all(bytes).map_err(StoreError::io(&temp.path))?;
        Ok(temp)
    }

    /// Copies a blob into a file while hashing it.
    pub(super) fn add(&self, reader: &mut dyn Read) -> Result<(TempFile, BlobRef, Outboard), StoreError> {
        let (temp, file) = self.create_temp()?;
        let mut copy =
            Copy { reader, file: BufWriter::with_capacity(WRITE_BUFFER_BYTES, file), failed: None };
        let hashed = hash_blob(&mut copy);
        if let Some(error) = copy.failed.take() {
            return Err(StoreError::io(&temp.path)(error));
        }
        let (blob, outboard) = hashed.map_err(StoreError::Reader)?;
        copy.file.flush().map_err(StoreError::io(&temp.path))?;
        Ok((temp, blob, outboard))
    }

    /// Puts a whole blob and its outboard where they are found.
    pub(super) fn publish(
        &self,
        digest: &BlobDigest,
        blob: TempFile,
        outboard: TempFile,
    ) -> Result<(), StoreError> {
        rename(&outboard.path, &self.outboard_path(digest))?;
        rename(&blob.path, &self.blob_path(digest))?;
        self.forget_outboard(digest);
        Ok(())
    }

    fn forget_outboard(&self, digest: &BlobDigest) {
        lock(&self.outboards).retain(|(of, _)| of != digest);
    }

    /// Reads and verifies a span of a blob that the index says is here.
    pub(super) fn read(&self, blob: &BlobRef, span: Span) -> Result<VerifiedSpan, StoreError> {
        let (blob_path, outboard_path) = (self.blob_path(&blob.digest), self.outboard_path(&blob.digest));
        let damaged =
            |path: &Path, damage: Damage| StoreError::damaged(Item::Blob(blob.digest), path, damage);
        let gone = |path: &Path, error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => damaged(path, Damage::Gone),
            _ => StoreError::io(path)(error),
        };
        let bytes = read_bytes(&blob_path, blob, span).map_err(|error| gone(&blob_path, error))?;
        let outboard =
            self.outboard(&blob.digest, &outboard_path).map_err(|error| gone(&outboard_path, error))?;
        let is_short = (outboard.len() as u64) < Outboard::byte_length(blob.size);
        VerifiedSpan::check(*blob, span, &outboard, bytes).map_err(|error| {
            self.forget_outboard(&blob.digest);
            let is_outboard = is_short || error == SpanError::WrongParent;
            damaged(if is_outboard { &outboard_path } else { &blob_path }, error.into())
        })
    }

    fn outboard(&self, digest: &BlobDigest, path: &Path) -> io::Result<Bytes> {
        if let Some((_, outboard)) = lock(&self.outboards).iter().find(|(of, _)| of == digest) {
            return Ok(outboard.clone());
        }
        let outboard = Bytes::from(fs::read(path)?);
        if outboard.len() <= OUTBOARD_BYTES_MAX {
            let mut outboards = lock(&self.outboards);
            outboards.push_front((*digest, outboard.clone()));
            outboards.truncate(OUTBOARDS_MAX);
        }
        Ok(outboard)
    }

    /// Keeps a span of a blob that is not whole. When it was the last one, gives the whole blob, verified once more.
    pub(super) fn keep_span(&self, span: &VerifiedSpan) -> Result<Option<(TempFile, Outboard)>, StoreError> {
        let blob = span.blob();
        let partial = self.partial(&blob)?;
        let mut partial = lock(&partial);
        let Partial { temp, groups } = &mut *partial;
        // Nothing in it: another thread has completed it just now.
        let Some(path) = temp.as_ref().map(|temp| temp.path.clone()) else { return Ok(None) };
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(StoreError::io(&path))?;
        let start = span.span().bytes(blob.size).start;
        file.write_all_at(span.bytes(), start).map_err(StoreError::io(&path))?;
        groups.insert(span.span().groups());
        if !groups.covers(&Span::whole(blob.size).groups()) {
            return Ok(None);
        }
        let whole = temp.take();
        lock(&self.partials).by_blob.remove(&blob);
        let (actual, outboard) = hash_blob(&mut &file).map_err(StoreError::io(&path))?;
        if actual != blob {
            let error = SpanError::WrongBytes { offset: 0 };
            return Err(StoreError::damaged(Item::Blob(blob.digest), path, error));
        }
        Ok(whole.map(|temp| (temp, outboard)))
    }

    /// What is here of a blob; a new one where nothing is.
    fn partial(&self, blob: &BlobRef) -> Result<Arc<Mutex<Partial>>, StoreError> {
        let mut partials = lock(&self.partials);
        partials.spans += 1;
        let touched = partials.spans;
        if let Some(entry) = partials.by_blob.get_mut(blob) {
            entry.touched = touched;
            return Ok(entry.partial.clone());
        }
        if partials.by_blob.len() >= PARTIALS_MAX {
            let oldest = partials.by_blob.iter().min_by_key(|(_, entry)| entry.touched);
            let oldest = oldest.map(|(blob, _)| *blob);
            oldest.and_then(|blob| partials.by_blob.remove(&blob));
        }
        let (temp, _) = self.create_temp()?;
        let partial = Arc::new(Mutex::new(Partial { temp: Some(temp), groups: Groups::default() }));
        partials.by_blob.insert(*blob, Entry { partial: partial.clone(), touched });
        Ok(partial)
    }
}

/// Reads the bytes of a span, or as many as there are.
fn read_bytes(path: &Path, blob: &BlobRef, span: Span) -> io::Result<Bytes> {
    let file = File::open(path)?;
    let range = span.bytes(blob.size);
    let there = file.metadata()?.len().clamp(range.start, range.end);
    let mut bytes = vec![0; (there - range.start) as usize];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], range.start + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes.into())
}

fn rename(from: &Path, to: &Path) -> Result<(), StoreError> {
    let renamed = match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // The first blob of this fan-out directory.
            to.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::rename(from, to))
        }
        renamed => renamed,
    };
    renamed.map_err(StoreError::io(to))
}

/// Removes files of blobs that are not in the index; what else there may be stays.
pub(super) fn sweep(
    blobs: &Path,
    is_kept: impl Fn(&BlobDigest) -> Result<bool, StoreError>,
) -> Result<(), StoreError> {
    for fan in fs::read_dir(blobs).map_err(StoreError::io(blobs))? {
        let fan = fan.map_err(StoreError::io(blobs))?;
        if !fan.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let fan = fan.path();
        for entry in fs::read_dir(&fan).map_err(StoreError::io(&fan))? {
            let entry = entry.map_err(StoreError::io(&fan))?;
            let name = entry.file_name();
            let Some(digest) = name.to_str().and_then(|name| parse_name(&fan, name)) else { continue };
            if !is_kept(&digest)? {
                let path = entry.path();
                fs::remove_file(&path).map_err(StoreError::io(&path))?;
            }
        }
    }
    Ok(())
}

/// The digest in the name of a file that we have written.
fn parse_name(fan: &Path, name: &str) -> Option<BlobDigest> {
    let hex = name.strip_suffix(OUTBOARD_SUFFIX).unwrap_or(name);
    let mut bytes = [0; 32];
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(hex.get(2 * i..2 * i + 2)?, 16).ok()?;
    }
    let digest = BlobDigest::from(bytes);
    (digest.to_string() == hex && fan.ends_with(&hex[..2])).then_some(digest)
}

/// A reader that writes down what goes through it.
struct Copy<'a> {
    reader: &'a mut dyn Read,
    file: BufWriter<File>,
    /// Told apart from an error of the reader.
    failed: Option<io::Error>,
}

impl Read for Copy<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        if let Err(error) = self.file.write_all(&buffer[..read]) {
            let kind = error.kind();
            self.failed = Some(error);
            return Err(kind.into());
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_names_are_parsed() {
        let digest = BlobDigest::of(b"x");
        let hex = digest.to_string();
        let fan = Path::new("blobs").join(&hex[..2]);
        assert_eq!(parse_name(&fan, &hex), Some(digest));
        assert_eq!(parse_name(&fan, &format!("{hex}.outboard")), Some(digest));
        assert_eq!(parse_name(Path::new("blobs/zz"), &hex), None);
        for name in
            ["", "ab", "README", &hex[1..], &hex.to_uppercase(), &format!("{hex}0"), "é".repeat(32).as_str()]
        {
            assert_eq!(parse_name(&fan, name), None, "{name}");
        }
    }
}
