//! Bodies of replies, compressed: one zstd frame.

use std::io::{self, Read, Write};

use bytes::Bytes;
use zstd::stream::{raw::CParameter, read::Decoder, write::Encoder};

/// The largest window that a frame may want: what decompressing takes in memory, as a power of two, 8 MiB.
const WINDOW_LOG_MAX: u32 = 23;

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

/// What became of a compressed body.
pub(crate) enum Expanded {
    Body(Bytes),
    /// It is longer than any honest one.
    TooMuch,
    /// It is no zstd frame, or something follows it.
    Garbage,
}

/// Decompresses a body of at most `bytes_max` bytes; stops where it gets longer.
pub(crate) fn expand(compressed: &[u8], bytes_max: usize) -> Expanded {
    match read(compressed, bytes_max) {
        Ok(body) if body.len() > bytes_max => Expanded::TooMuch,
        Ok(body) => Expanded::Body(body.into()),
        Err(_) => Expanded::Garbage,
    }
}

fn read(compressed: &[u8], bytes_max: usize) -> io::Result<Vec<u8>> {
    let mut decoder = Decoder::with_buffer(compressed)?.single_frame();
    decoder.window_log_max(WINDOW_LOG_MAX)?;
    let mut body = Vec::new();
    decoder.by_ref().take(bytes_max as u64 + 1).read_to_end(&mut body)?;
    let is_over = body.len() > bytes_max || decoder.finish().is_empty();
    if is_over { Ok(body) } else { Err(io::ErrorKind::InvalidData.into()) }
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

    fn squeezed(body: &[u8]) -> Vec<u8> {
        let mut squeezer = Squeezer::new(3).unwrap();
        let mut frame = Vec::new();
        for piece in body.chunks(1000) {
            squeezer.put(piece).unwrap();
            frame.extend_from_slice(&squeezer.take());
        }
        frame.extend_from_slice(&squeezer.finish().unwrap());
        frame
    }

    #[test]
    fn there_and_back() {
        for body in [&[][..], b"a", &[7; 100_000]] {
            let frame = squeezed(body);
            let Expanded::Body(back) = expand(&frame, body.len()) else { panic!() };
            assert_eq!(back, body);
        }
    }

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

    #[test]
    fn a_bomb_is_stopped_where_it_gets_too_long() {
        let frame = squeezed(&vec![0; 10 << 20]);
        assert!(frame.len() < 4000);
        assert!(matches!(expand(&frame, 1000), Expanded::TooMuch));
    }

    #[test]
    fn what_is_no_single_frame_is_garbage() {
        let frame = squeezed(b"something");
        let longer = [&frame[..], &[0]].concat();
        let twice = [&frame[..], &frame[..]].concat();
        for bytes in [&b"garbage"[..], &frame[..frame.len() - 1], &longer, &twice] {
            assert!(matches!(expand(bytes, 1000), Expanded::Garbage));
        }
    }
}
