//! Where things lie: the values in the index, and the heads of a pack's records.
//!
//! A pack is a head of [`PACK_HEAD_BYTES`] bytes, and after it one record after another:
//!
//! ```text
//! Directory   01  varint length   the Directory's encoding
//! contents    02  varint size     the blob's contents   its outboard
//! adopted     03  varint size     varint place   1 byte length of the name   name   the blob's outboard
//! ```
//!
//! Varints are LEB128, as protobuf has them. A record does not say whose it is: the digest of its contents does, and the
//! index. An adopted blob is the file of that name in the directory that the index has under that place.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt};

use firn_bao::Outboard;

/// The head of a pack.
pub(super) const PACK_HEAD: &[u8; PACK_HEAD_BYTES as usize] = b"firn pack 2\n\0\0\0\0";
/// Its length.
pub(super) const PACK_HEAD_BYTES: u32 = 16;

const DIRECTORY: u8 = 1;
const CONTENTS: u8 = 2;
const ADOPTED: u8 = 3;
/// In the index only.
const FILE: u8 = 4;

const VARINT_BYTES_MAX: usize = 10;
/// The longest head of a record.
pub(super) const HEAD_BYTES_MAX: usize = 1 + 2 * VARINT_BYTES_MAX + 1 + 255;

/// Where a record begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    pub(super) pack: u32,
    pub(super) offset: u32,
}

/// The number of a directory that adopted files are in.
pub(super) type PlaceId = u32;

/// Where a blob is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BlobPlace {
    pub(super) size: u64,
    pub(super) kind: BlobKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BlobKind {
    /// In a pack, with its outboard.
    Packed(Position),
    /// In a file elsewhere; a pack has its place and its outboard.
    Adopted(Position),
    /// In a file of its own, with its outboard.
    File,
}

/// The length of a [`BlobPlace`] in the index: kind, size (6 bytes), pack and offset, little-endian.
pub(super) const BLOB_PLACE_BYTES: usize = 15;

impl BlobPlace {
    pub(super) fn to_bytes(self) -> [u8; BLOB_PLACE_BYTES] {
        let (kind, position) = match self.kind {
            BlobKind::Packed(position) => (CONTENTS, position),
            BlobKind::Adopted(position) => (ADOPTED, position),
            BlobKind::File => (FILE, Position { pack: 0, offset: 0 }),
        };
        let mut bytes = [0; BLOB_PLACE_BYTES];
        bytes[0] = kind;
        bytes[1..7].copy_from_slice(&self.size.to_le_bytes()[..6]);
        bytes[7..11].copy_from_slice(&position.pack.to_le_bytes());
        bytes[11..].copy_from_slice(&position.offset.to_le_bytes());
        bytes
    }

    /// `None` for a kind that there is not.
    pub(super) fn from_bytes(bytes: &[u8; BLOB_PLACE_BYTES]) -> Option<Self> {
        let [kind, s0, s1, s2, s3, s4, s5, p0, p1, p2, p3, o0, o1, o2, o3] = *bytes;
        let size = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, 0, 0]);
        let position = Position {
            pack: u32::from_le_bytes([p0, p1, p2, p3]),
            offset: u32::from_le_bytes([o0, o1, o2, o3]),
        };
        let kind = match kind {
            CONTENTS => BlobKind::Packed(position),
            ADOPTED => BlobKind::Adopted(position),
            FILE => BlobKind::File,
            _ => return None,
        };
        Some(Self { size, kind })
    }

    /// The same thing at another position.
    pub(super) fn moved(self, to: Position) -> Self {
        let kind = match self.kind {
            BlobKind::Packed(_) => BlobKind::Packed(to),
            BlobKind::Adopted(_) => BlobKind::Adopted(to),
            BlobKind::File => BlobKind::File,
        };
        Self { kind, ..self }
    }

    pub(super) fn position(&self) -> Option<Position> {
        match self.kind {
            BlobKind::Packed(position) | BlobKind::Adopted(position) => Some(position),
            BlobKind::File => None,
        }
    }
}

/// Where a Directory's record is, and how long its encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DirectoryPlace {
    pub(super) position: Position,
    pub(super) bytes: u32,
}

/// The length of a [`DirectoryPlace`] in the index: pack, offset and length, little-endian.
pub(super) const DIRECTORY_PLACE_BYTES: usize = 12;

impl DirectoryPlace {
    pub(super) fn to_bytes(self) -> [u8; DIRECTORY_PLACE_BYTES] {
        let mut bytes = [0; DIRECTORY_PLACE_BYTES];
        bytes[..4].copy_from_slice(&self.position.pack.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.position.offset.to_le_bytes());
        bytes[8..].copy_from_slice(&self.bytes.to_le_bytes());
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8; DIRECTORY_PLACE_BYTES]) -> Self {
        let [p0, p1, p2, p3, o0, o1, o2, o3, l0, l1, l2, l3] = *bytes;
        let position = Position {
            pack: u32::from_le_bytes([p0, p1, p2, p3]),
            offset: u32::from_le_bytes([o0, o1, o2, o3]),
        };
        Self { position, bytes: u32::from_le_bytes([l0, l1, l2, l3]) }
    }

    /// How long the whole record is.
    pub(super) fn record_bytes(&self) -> u64 {
        directory_head(self.bytes).len() as u64 + u64::from(self.bytes)
    }
}

/// What stands before a Directory's encoding.
pub(super) fn directory_head(bytes: u32) -> Vec<u8> {
    let mut head = vec![DIRECTORY];
    put_varint(&mut head, u64::from(bytes));
    head
}

/// What stands before a blob's contents.
pub(super) fn contents_head(size: u64) -> Vec<u8> {
    let mut head = vec![CONTENTS];
    put_varint(&mut head, size);
    head
}

/// How long the record of a blob's contents is.
pub(super) fn contents_record_bytes(size: u64) -> u64 {
    (contents_head(size).len() as u64).saturating_add(size).saturating_add(Outboard::byte_length(size))
}

/// What stands before an adopted blob's outboard. `None` if the name is longer than names are.
pub(super) fn adopted_head(size: u64, place: PlaceId, name: &OsStr) -> Option<Vec<u8>> {
    let mut head = vec![ADOPTED];
    put_varint(&mut head, size);
    put_varint(&mut head, u64::from(place));
    head.push(u8::try_from(name.len()).ok()?);
    head.extend_from_slice(name.as_bytes());
    Some(head)
}

/// The head of an adopted blob's record, taken apart.
pub(super) struct AdoptedHead<'a> {
    pub(super) place: PlaceId,
    pub(super) name: &'a OsStr,
    /// How long the head is: where the outboard begins in the record.
    pub(super) bytes: usize,
}

/// Reads the head of an adopted blob of this size from the beginning of its record. `None` if it is none.
pub(super) fn parse_adopted(record: &[u8], size: u64) -> Option<AdoptedHead<'_>> {
    let mut rest = record.strip_prefix(&[ADOPTED])?;
    if take_varint(&mut rest)? != size {
        return None;
    }
    let place = PlaceId::try_from(take_varint(&mut rest)?).ok()?;
    let (length, rest) = rest.split_first()?;
    let (name, after) = rest.split_at_checked(usize::from(*length))?;
    Some(AdoptedHead { place, name: OsStr::from_bytes(name), bytes: record.len() - after.len() })
}

/// What stands in front of a record, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RecordHead {
    Directory { bytes: u32 },
    Contents { size: u64 },
    Adopted { size: u64 },
}

/// Reads the head of any record from its beginning; gives its length too. `None` if it is none that we write.
pub(super) fn parse_head(record: &[u8]) -> Option<(RecordHead, usize)> {
    let (kind, mut rest) = record.split_first()?;
    let number = take_varint(&mut rest)?;
    let (head, bytes) = match *kind {
        DIRECTORY => {
            let bytes = u32::try_from(number).ok()?;
            (RecordHead::Directory { bytes }, directory_head(bytes).len())
        }
        CONTENTS => (RecordHead::Contents { size: number }, contents_head(number).len()),
        ADOPTED => return Some((RecordHead::Adopted { size: number }, parse_adopted(record, number)?.bytes)),
        _ => return None,
    };
    // Whoever reads the record counts on a number that is as short as it can be.
    (bytes == record.len() - rest.len()).then_some((head, bytes))
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for i in 0..VARINT_BYTES_MAX {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let bits = u64::from(byte & 0x7f);
        let shifted = bits << (7 * i);
        if shifted >> (7 * i) != bits {
            return None;
        }
        value |= shifted;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn places_and_back(size in 0u64..1 << 48, pack: u32, offset: u32, kind in 0..3) {
            let position = Position { pack, offset };
            let kind = [BlobKind::Packed(position), BlobKind::Adopted(position), BlobKind::File][kind as usize];
            let place = BlobPlace { size, kind };
            prop_assert_eq!(BlobPlace::from_bytes(&place.to_bytes()), Some(place));
            let place = DirectoryPlace { position, bytes: offset };
            prop_assert_eq!(DirectoryPlace::from_bytes(&place.to_bytes()), place);
        }

        #[test]
        fn adopted_heads_and_back(size: u64, place: u32, name in prop::collection::vec(any::<u8>(), 1..256), more in prop::collection::vec(any::<u8>(), 0..9)) {
            let name = OsStr::from_bytes(&name);
            let mut record = adopted_head(size, place, name).unwrap();
            prop_assert!(record.len() <= HEAD_BYTES_MAX);
            let bytes = record.len();
            record.extend(more);
            let head = parse_adopted(&record, size).unwrap();
            prop_assert_eq!((head.place, head.name, head.bytes), (place, name, bytes));
            prop_assert!(parse_adopted(&record, size ^ 1).is_none());
            prop_assert_eq!(parse_head(&record), Some((RecordHead::Adopted { size }, bytes)));
        }

        #[test]
        fn heads_and_back(bytes: u32, size: u64, more in prop::collection::vec(any::<u8>(), 0..9)) {
            for (head, encoded) in [
                (RecordHead::Directory { bytes }, directory_head(bytes)),
                (RecordHead::Contents { size }, contents_head(size)),
            ] {
                let record = [&encoded[..], &more].concat();
                prop_assert_eq!(parse_head(&record), Some((head, encoded.len())));
                prop_assert_eq!(parse_head(&encoded[..encoded.len() - 1]), None);
            }
        }

        #[test]
        fn arbitrary_heads_never_panic(record in prop::collection::vec(any::<u8>(), 0..300), size: u64, place: [u8; 15]) {
            let _ = parse_adopted(&record, size);
            if let Some((RecordHead::Contents { size }, bytes)) = parse_head(&record) {
                prop_assert_eq!(&record[..bytes], &contents_head(size)[..]);
            }
            let _ = BlobPlace::from_bytes(&place);
        }
    }
}
