//! Bodies of replies, compressed: one zstd frame.

use std::io::{self, Write};

use bytes::Bytes;
use zstd::stream::{raw::CParameter, write::Encoder};

/// The largest window that a frame may want: what decompressing takes in memory, as a power of two, 8 MiB.
pub(crate) const WINDOW_LOG_MAX: u32 = 23;
pub(crate) const WINDOW_BYTES_MAX: usize = 1 << WINDOW_LOG_MAX;

/// The window and the tables of the encoder, as powers of two: bodies are short, and many are compressed at once.
const ENCODER_WINDOW_LOG: u32 = 19;
const ENCODER_TABLE_LOG: u32 = 17;
/// What an encoder takes in memory, about.
pub(crate) const ENCODER_BYTES: usize = 2 << 20;

/// So much of a body tells whether it is worth compressing.
pub(crate) const SAMPLE_BYTES: usize = 64 << 10;
/// A body that is shorter is not.
const BODY_BYTES_MIN: usize = 256;

/// Whether the body that begins like this gets shorter by at least a twentieth.
pub(crate) fn is_worth_it(sample: &[u8]) -> bool {
    let sample = &sample[..sample.len().min(SAMPLE_BYTES)];
    let squeezed = || zstd::bulk::compress(sample, 1).map_or(usize::MAX, |squeezed| squeezed.len());
    sample.len() >= BODY_BYTES_MIN && squeezed() <= sample.len() / 20 * 19
}

/// Compresses a body that comes in pieces.
pub(crate) struct Squeezer(Encoder<'static, Vec<u8>>);

impl Squeezer {
    /// `level` as zstd counts them.
    pub(crate) fn new(level: i32) -> io::Result<Self> {
        let mut encoder = Encoder::new(Vec::new(), level)?;
        encoder.set_parameter(CParameter::WindowLog(ENCODER_WINDOW_LOG))?;
        encoder.set_parameter(CParameter::HashLog(ENCODER_TABLE_LOG))?;
        encoder.set_parameter(CParameter::ChainLog(ENCODER_TABLE_LOG))?;
        Ok(Self(encoder))
    }

    pub(crate) fn put(&mut self, piece: &[u8]) -> io::Result<()> {
        self.0.write_all(piece)
    }

    /// How much can be [taken](Squeezer::take).
    pub(crate) fn ready(&self) -> usize {
        self.0.get_ref().len()
    }

    pub(crate) fn take(&mut self) -> Bytes {
        std::mem::take(self.0.get_mut()).into()
    }

    /// The rest of the frame.
    pub(crate) fn finish(self) -> io::Result<Bytes> {
        Ok(self.0.finish()?.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_shrink_is_not_worth_it() {
        let mut noise = vec![0; 1 << 20];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        assert!(!is_worth_it(&noise));
        assert!(!is_worth_it(&[0; 100]));
        assert!(is_worth_it(&[0; 1000]));
        let text: String = (0..10_000).map(|number| format!("{number} bottles ")).collect();
        assert!(is_worth_it(text.as_bytes()));
    }
}
