//! Spans in a file that has a blob's contents and then its outboard.

use std::io;

use bytes::{Bytes, BytesMut};
use firn_bao::{Span, VerifiedSpan};

use crate::disk::vfs::DiskFile;

const PARENT_BYTES: u64 = 64;

/// Reads a span's bytes and its parents out of a file that has the contents and then the outboard.
pub(in super::super) fn read_span(file: &dyn DiskFile, size: u64, span: Span) -> io::Result<(Bytes, Bytes)> {
    let range = span.bytes(size);
    let bytes = file.read_bytes_at((range.end - range.start) as usize, range.start)?;
    let parents = read_parents(size, span, |bytes, offset| file.read_bytes_at(bytes, size + offset))?;
    Ok((bytes, parents))
}

/// Reads the parents of a span; `read` reads so many bytes from an offset of the outboard.
pub(in super::super) fn read_parents(
    size: u64,
    span: Span,
    mut read: impl FnMut(usize, u64) -> io::Result<Bytes>,
) -> io::Result<Bytes> {
    let mut parents = BytesMut::new();
    for run in span.parents(size) {
        let bytes = ((run.end - run.start) * PARENT_BYTES) as usize;
        parents.extend_from_slice(&read(bytes, run.start * PARENT_BYTES)?);
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
