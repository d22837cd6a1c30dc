//! Bodies of replies, compressed: one zstd frame.

use std::io::{self, Read, Write};

use bytes::Bytes;
use zstd::stream::{read::Decoder, write::Encoder};

/// The largest window that a frame may want: what decompressing takes in memory, as a power of two, 8 MiB.
const WINDOW_LOG_MAX: u32 = 23;

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
        Encoder::new(Vec::new(), level).map(Self)
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
