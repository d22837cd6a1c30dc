//! Whole NARs.

use std::io::{self, Write};

use firn_castore::BlobRef;

use super::{NarLayout, Segment};

/// Why a NAR was not written.
#[derive(Debug, thiserror::Error)]
pub enum NarWriteError<E: std::error::Error + 'static> {
    /// A blob could not be had.
    #[error("blob {} could not be read", .blob.digest)]
    Blob {
        /// Which one.
        blob: BlobRef,
        /// Why.
        source: E,
    },
    /// A blob gave more or fewer bytes than its length.
    #[error("blob {} has {} bytes, {got} came", .blob.digest, .blob.size)]
    BlobLength {
        /// Which one.
        blob: BlobRef,
        /// How many bytes came; one that gives too many is stopped.
        got: u64,
    },
    /// The NAR could not be put where it belongs.
    #[error("the NAR could not be written")]
    Io(#[from] io::Error),
}

/// Writes a whole NAR; `read_blob` writes all bytes of a blob to the writer that it is given.
pub fn write_nar<E: std::error::Error + 'static>(
    layout: &NarLayout,
    out: &mut dyn Write,
    mut read_blob: impl FnMut(BlobRef, &mut dyn Write) -> Result<(), E>,
) -> Result<(), NarWriteError<E>> {
    for segment in layout.segments(0..layout.nar_size()) {
        match segment {
            Segment::Literal(bytes) => out.write_all(&bytes)?,
            Segment::Blob { blob, .. } => {
                let mut counted = Counted { out, bytes: 0, bytes_max: blob.size };
                let result = read_blob(blob, &mut counted);
                let got = counted.bytes;
                if got > blob.size {
                    return Err(NarWriteError::BlobLength { blob, got });
                }
                result.map_err(|source| NarWriteError::Blob { blob, source })?;
                if got < blob.size {
                    return Err(NarWriteError::BlobLength { blob, got });
                }
            }
        }
    }
    Ok(())
}

/// Lets through what a blob may have, and counts what it has.
struct Counted<'a> {
    out: &'a mut dyn Write,
    bytes: u64,
    bytes_max: u64,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sum = self.bytes.saturating_add(bytes.len() as u64);
        if sum > self.bytes_max {
            self.bytes = sum;
            return Err(io::Error::new(io::ErrorKind::InvalidData, "more bytes than the blob has"));
        }
        let written = self.out.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
