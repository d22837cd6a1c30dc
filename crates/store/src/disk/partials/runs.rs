//! The file that has the runs of groups that came.
//!
//! A run is added for each span that comes. When there are too many they are written anew, those that touch as one.

use std::{io, ops::Range, path::PathBuf};

use bytes::Bytes;
use firn_bao::Groups;
use firn_bao::Span;
use firn_castore::BlobRef;

use super::{Partial, Partials, name};
use crate::{
    StoreError,
    disk::{away::is_no_file, vfs::Access},
};

pub(super) const SUFFIX: &str = ".groups";
const RUN_BYTES: usize = 16;
/// Of more runs than this, though those that touch are one, what comes then is forgotten when the process ends.
const RUNS_BYTES_MAX: u64 = 64 << 20;

impl Partials {
    pub(super) fn groups_path(&self, blob: &BlobRef) -> PathBuf {
        self.dir.join(name(blob) + SUFFIX)
    }

    /// Notes that a run is here, in memory and in the file.
    pub(super) fn note_run(
        &self,
        blob: &BlobRef,
        partial: &mut Partial,
        run: Range<u64>,
    ) -> Result<(), StoreError> {
        partial.groups.insert(run.clone());
        if partial.runs_bytes < RUNS_BYTES_MAX {
            let path = self.groups_path(blob);
            let bytes = to_bytes(&run);
            let written =
                self.open_or_create(&path).and_then(|file| file.write_all_at(&bytes, partial.runs_bytes));
            written.map_err(StoreError::io(path))?;
            partial.runs_bytes += RUN_BYTES as u64;
        } else if (partial.groups.run_count() * RUN_BYTES) as u64 <= RUNS_BYTES_MAX / 2 {
            partial.runs_bytes = self.write_runs(blob, &partial.groups.spans())?;
        }
        Ok(())
    }

    /// The runs that the file has, and where the next one goes.
    pub(super) fn read_runs(&self, blob: &BlobRef) -> Result<(Groups, u64), StoreError> {
        let path = self.groups_path(blob);
        let read = || -> io::Result<Bytes> {
            let file = self.disk.open(&path, Access::Read)?;
            file.read_bytes_at(file.size()?.min(RUNS_BYTES_MAX) as usize, 0)
        };
        let bytes = match read() {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound || is_no_file(&error) => Bytes::new(),
            Err(error) => return Err(StoreError::io(path)(error)),
        };
        let mut groups = Groups::default();
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
        for run in bytes.chunks_exact(RUN_BYTES) {
            let run = number(&run[..8])..number(&run[8..]);
            if run.start < run.end && run.end <= Span::whole(blob.size).groups().end {
                groups.insert(run);
            }
        }
        Ok((groups, (bytes.len() / RUN_BYTES * RUN_BYTES) as u64))
    }

    /// Puts another file in place of the one that has the runs, all at once: whenever the process ends, one of the two is
    /// there. Gives where the next run goes.
    pub(super) fn write_runs(&self, blob: &BlobRef, runs: &[Span]) -> Result<u64, StoreError> {
        let bytes = runs.iter().flat_map(|run| to_bytes(&run.groups())).collect::<Vec<u8>>();
        let temp = self.temp.join(name(blob) + SUFFIX);
        let write = || -> io::Result<()> {
            let file = self.open_or_create(&temp)?;
            file.set_size(0)?;
            file.write_all_at(&bytes, 0)?;
            let path = self.groups_path(blob);
            match self.disk.rename(&temp, &path) {
                Err(error) if is_no_file(&error) => {
                    self.away.clear(&path)?;
                    self.disk.rename(&temp, &path)
                }
                renamed => renamed,
            }
        };
        write().map_err(StoreError::io(&temp))?;
        Ok(bytes.len() as u64)
    }
}

fn to_bytes(run: &Range<u64>) -> [u8; RUN_BYTES] {
    let mut bytes = [0; RUN_BYTES];
    bytes[..8].copy_from_slice(&run.start.to_le_bytes());
    bytes[8..].copy_from_slice(&run.end.to_le_bytes());
    bytes
}
