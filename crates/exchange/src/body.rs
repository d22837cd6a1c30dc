//! The body of a reply, which comes out item by item.
//!
//! A compressed body is expanded no further than what is looked at: each item is checked before the next one is made, so a
//! body that is false from its beginning costs as much as its first item, however long it would become.

use std::io::{BufRead, BufReader, Read};

use bytes::{Buf, Bytes, buf::Reader};
use firn_proto::exchange::Encoding;
use prost::encoding::decode_varint;
use zstd::stream::read::Decoder;

use crate::check::Lie;
use crate::compress::WINDOW_LOG_MAX;
use crate::frame::FrameError;

/// How much is expanded at once.
const PIECE_BYTES: usize = 64 << 10;
/// The longest varint, in bytes.
const VARINT_BYTES_MAX: usize = 10;

pub(crate) struct Body {
    bytes: Source,
    /// How many bytes may still come.
    bytes_left: usize,
}

enum Source {
    Plain(Bytes),
    Zstd(BufReader<Decoder<'static, Reader<Bytes>>>),
    /// The frame has ended, and nothing follows it.
    Ended,
}

impl Body {
    /// A body as it came, of at most `bytes_max` bytes once it is expanded.
    pub(crate) fn new(bytes: Bytes, encoding: Encoding, bytes_max: usize) -> Result<Self, Lie> {
        let bytes = match encoding {
            Encoding::Plain => Source::Plain(bytes),
            Encoding::Zstd => {
                let mut decoder = Decoder::with_buffer(bytes.reader()).map_err(|_| Lie::Zstd)?.single_frame();
                decoder.window_log_max(WINDOW_LOG_MAX).map_err(|_| Lie::Zstd)?;
                Source::Zstd(BufReader::with_capacity(PIECE_BYTES, decoder))
            }
        };
        Ok(Self { bytes, bytes_left: bytes_max })
    }

    /// The next item, of at most `bytes_max` bytes; `None` at the end.
    pub(crate) fn next(&mut self, bytes_max: usize) -> Result<Option<Bytes>, Lie> {
        if self.is_over()? {
            return Ok(None);
        }
        let length = self.length()?;
        if let Source::Plain(bytes) = &self.bytes
            && length > bytes.len() as u64
        {
            return Err(FrameError::Truncated { length, left: bytes.len() }.into());
        }
        if length > bytes_max as u64 {
            return Err(Lie::TooMuch);
        }
        let item = self.take(usize::try_from(length).map_err(|_| Lie::TooMuch)?)?;
        match item.len() as u64 {
            left if left < length => Err(FrameError::Truncated { length, left: item.len() }.into()),
            _ => Ok(Some(item)),
        }
    }

    /// All of it, without items.
    pub(crate) fn whole(mut self) -> Result<Bytes, Lie> {
        if let Source::Plain(bytes) = self.bytes {
            return Ok(bytes);
        }
        let whole = self.take(self.bytes_left)?;
        match self.is_over()? {
            true => Ok(whole),
            false => Err(Lie::TooMuch),
        }
    }

    /// Whether it has ended, as it should where it is compressed.
    fn is_over(&mut self) -> Result<bool, Lie> {
        match &mut self.bytes {
            Source::Plain(bytes) => Ok(bytes.is_empty()),
            Source::Ended => Ok(true),
            Source::Zstd(reader) => {
                if !reader.fill_buf().map_err(|_| Lie::Zstd)?.is_empty() {
                    return Ok(false);
                }
                let Source::Zstd(reader) = std::mem::replace(&mut self.bytes, Source::Ended) else {
                    return Ok(true);
                };
                match reader.into_inner().finish().into_inner().is_empty() {
                    true => Ok(true),
                    false => Err(Lie::Zstd),
                }
            }
        }
    }

    fn length(&mut self) -> Result<u64, Lie> {
        let mut varint = Vec::with_capacity(VARINT_BYTES_MAX);
        while varint.len() < VARINT_BYTES_MAX && varint.last().is_none_or(|byte| byte & 0x80 != 0) {
            match self.take(1)?.first() {
                Some(byte) => varint.push(*byte),
                None => break,
            }
        }
        Ok(decode_varint(&mut &varint[..]).map_err(|_| FrameError::Length)?)
    }

    /// So many bytes, or all that are left.
    fn take(&mut self, length: usize) -> Result<Bytes, Lie> {
        let taken = match &mut self.bytes {
            Source::Plain(bytes) => bytes.split_to(length.min(bytes.len())),
            Source::Ended => Bytes::new(),
            Source::Zstd(_) if length > self.bytes_left => return Err(Lie::TooMuch),
            Source::Zstd(reader) => expand(reader, length)?,
        };
        self.bytes_left = self.bytes_left.saturating_sub(taken.len());
        Ok(taken)
    }
}

/// Memory is taken as bytes come, for there may be fewer than the length says.
fn expand(reader: &mut impl Read, length: usize) -> Result<Bytes, Lie> {
    let mut bytes = Vec::new();
    while bytes.len() < length {
        let before = bytes.len();
        let step = (length - before).min(before.max(PIECE_BYTES));
        bytes.reserve_exact(step);
        reader.by_ref().take(step as u64).read_to_end(&mut bytes).map_err(|_| Lie::Zstd)?;
        if bytes.len() < before + step {
            break;
        }
    }
    Ok(bytes.into_boxed_slice().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::Squeezer;
    use crate::frame;

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

    fn zstd(frame: &[u8], bytes_max: usize) -> Body {
        Body::new(Bytes::copy_from_slice(frame), Encoding::Zstd, bytes_max).unwrap()
    }

    fn items(mut body: Body) -> Result<Vec<Bytes>, Lie> {
        std::iter::from_fn(|| body.next(1 << 20).transpose()).collect()
    }

    #[test]
    fn there_and_back() {
        let all: Vec<Vec<u8>> = [0, 1, 127, 128, 70_000, 500_000].map(|length| vec![7; length]).to_vec();
        let body: Vec<u8> = all.iter().flat_map(|item| frame::put(item)).collect();
        for bytes_max in [body.len(), body.len() + 1] {
            assert_eq!(items(zstd(&squeezed(&body), bytes_max)).unwrap(), all);
            let plain = Body::new(body.clone().into(), Encoding::Plain, bytes_max).unwrap();
            assert_eq!(items(plain).unwrap(), all);
            assert_eq!(zstd(&squeezed(&body), bytes_max).whole().unwrap(), body);
        }
        assert_eq!(items(zstd(&squeezed(&body), body.len() - 1)), Err(Lie::TooMuch));
        assert_eq!(zstd(&squeezed(&body), body.len() - 1).whole(), Err(Lie::TooMuch));
        assert_eq!(items(zstd(&squeezed(&[]), 0)).unwrap(), [] as [Bytes; 0]);
    }

    #[test]
    fn a_bomb_is_expanded_no_further_than_it_is_looked_at() {
        let frame = squeezed(&vec![0; 10 << 20]);
        assert!(frame.len() < 4000);
        assert_eq!(zstd(&frame, 1000).whole(), Err(Lie::TooMuch));
        let mut body = zstd(&frame, 10 << 20);
        assert_eq!(body.next(1000).unwrap().unwrap(), b""[..]);
        assert_eq!((10 << 20) - body.bytes_left, 1, "one byte was taken");
    }

    #[test]
    fn an_item_that_says_to_be_too_long_is_not_begun() {
        let frame = squeezed(&[&[0xff, 0xff, 0xff, 0xff, 0x0f][..], &[7; 100]].concat());
        assert_eq!(zstd(&frame, usize::MAX).next(1 << 20), Err(Lie::TooMuch));
        let short = squeezed(&[&[200, 1][..], &[7; 100]].concat());
        let error = FrameError::Truncated { length: 200, left: 100 };
        assert_eq!(zstd(&short, 1000).next(1 << 20), Err(error.into()));
    }

    #[test]
    fn what_is_no_single_frame_is_garbage() {
        let frame = squeezed(&frame::put(b"something"));
        let longer = [&frame[..], &[0]].concat();
        let twice = [&frame[..], &frame[..]].concat();
        for bytes in [&b"garbage"[..], &frame[..frame.len() - 1], &longer, &twice] {
            assert_eq!(items(zstd(bytes, 1000)), Err(Lie::Zstd));
        }
    }
}
