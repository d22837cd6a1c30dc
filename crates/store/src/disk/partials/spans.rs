//! Spans in a file that has a blob's contents and then its outboard.

use std::io;

use bytes::{Bytes, BytesMut};
use firn_bao::{Span, VerifiedSpan};

use crate::disk::vfs::DiskFile;

const PARENT_BYTES: u64 = 64;

/// Reads a span's bytes and its parents out of a file that has the contents and then the outboard.
pub(in super::super) fn read_span(file: &dyn DiskFile, size: u64, span: Span) -> io::Result<(Bytes, Bytes)> {
    let range = span.bytes(size);
    let mut bytes = BytesMut::zeroed((range.end - range.start) as usize);
    file.read_exact_at(&mut bytes, range.start)?;
    let parents = read_parents(size, span, |buffer, offset| file.read_exact_at(buffer, size + offset))?;
    Ok((bytes.freeze(), parents))
}

/// Reads the parents of a span; `read` reads from the outboard.
pub(in super::super) fn read_parents(
    size: u64,
    span: Span,
    mut read: impl FnMut(&mut [u8], u64) -> io::Result<()>,
) -> io::Result<Bytes> {
    let runs = span.parents(size);
    let count: u64 = runs.iter().map(|run| run.end - run.start).sum();
    let mut parents = BytesMut::zeroed((count * PARENT_BYTES) as usize);
    let mut rest = &mut parents[..];
    for run in runs {
        let (part, after) = rest.split_at_mut(((run.end - run.start) * PARENT_BYTES) as usize);
        read(part, run.start * PARENT_BYTES)?;
        rest = after;
    }
    Ok(parents.freeze())
}

/// Writes a span's bytes and its parents where [`read_span`] reads them.
pub(super) fn write_span(file: &dyn DiskFile, span: &VerifiedSpan) -> io::Result<()> {
    let size = span.blob().size;
    file.write_all_at(span.bytes(), span.span().bytes(size).start)?;
    let mut parents = &span.parents()[..];
    for run in span.span().parents(size) {
        let (part, after) = parents.split_at(((run.end - run.start) * PARENT_BYTES) as usize);
        file.write_all_at(part, size + run.start * PARENT_BYTES)?;
        parents = after;
    }
    Ok(())
}
