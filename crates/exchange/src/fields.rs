//! What a message has in it, before it is taken apart.
//!
//! An empty message in a list takes two bytes on the wire and up to a hundred in memory. So the items of lists are counted
//! first, and a message with more than it may have is never taken apart.
//!
//! A message is fields one after the other: a varint of `number << 3 | wire type`, then a varint (0), 8 bytes (1), a length
//! and so many bytes (2), or 4 bytes (5). Groups (3, 4) are in none of our messages.

use prost::encoding::{WireType, decode_key, decode_varint};

use crate::frame::FrameError;

/// One field of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Field<'a> {
    pub(crate) number: u32,
    pub(crate) value: Value<'a>,
}

/// What a field holds, as far as the wire tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Varint(u64),
    /// Bytes, text, or a message.
    Bytes(&'a [u8]),
    /// 4 or 8 bytes.
    Fixed,
}

/// The fields of a message, in their order. Ends after the first error.
pub(crate) fn fields(message: &[u8]) -> impl Iterator<Item = Result<Field<'_>, FrameError>> {
    let mut rest = message;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let field = take_field(&mut rest);
        if field.is_err() {
            rest = &[];
        }
        Some(field)
    })
}

/// How many fields stand at the end of this path of field numbers: of `[1, 3]`, the fields 3 of all fields 1.
///
/// A field that stands twice where one is meant is one message in two parts, whose lists follow one another: so all count.
pub(crate) fn count(message: &[u8], path: &[u32]) -> Result<usize, FrameError> {
    let [number, inner @ ..] = path else { return Ok(1) };
    let mut sum = 0;
    for field in fields(message) {
        match field? {
            Field { number: of, .. } if of != *number => {}
            Field { value: Value::Bytes(bytes), .. } => sum += count(bytes, inner)?,
            Field { .. } => sum += usize::from(inner.is_empty()),
        }
    }
    Ok(sum)
}

fn take_field<'a>(rest: &mut &'a [u8]) -> Result<Field<'a>, FrameError> {
    let (number, wire_type) = decode_key(rest)?;
    let value = match wire_type {
        WireType::Varint => Value::Varint(decode_varint(rest)?),
        WireType::LengthDelimited => {
            let length = decode_varint(rest)?;
            Value::Bytes(take_bytes(rest, length)?)
        }
        WireType::ThirtyTwoBit => take_bytes(rest, 4).map(|_| Value::Fixed)?,
        WireType::SixtyFourBit => take_bytes(rest, 8).map(|_| Value::Fixed)?,
        WireType::StartGroup | WireType::EndGroup => return Err(FrameError::Group),
    };
    Ok(Field { number, value })
}

fn take_bytes<'a>(rest: &mut &'a [u8], length: u64) -> Result<&'a [u8], FrameError> {
    let fits = usize::try_from(length).ok().and_then(|length| rest.split_at_checked(length));
    let Some((bytes, behind)) = fits else {
        return Err(FrameError::Truncated { length, left: rest.len() });
    };
    *rest = behind;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use firn_proto::{exchange, pathinfo, store};
    use proptest::prelude::*;
    use prost::Message;

    use super::*;

    fn claims() -> impl Strategy<Value = exchange::Claim> {
        (0usize..5, 0usize..5, 0usize..5, 0usize..5).prop_map(
            |(signatures, names, references, attestations)| exchange::Claim {
                path_info: Some(pathinfo::PathInfo {
                    entry: None,
                    references: vec![vec![7u8; references].into(); references],
                    narinfo: Some(pathinfo::NarInfo {
                        signatures: vec![Default::default(); signatures],
                        reference_names: vec!["name".into(); names],
                        nar_size: 1 << 40,
                        ..Default::default()
                    }),
                }),
                attestations: vec![store::Attestation::default(); attestations],
            },
        )
    }

    /// What prost makes of the same bytes has as many items in each list.
    fn assert_counted(bytes: &[u8]) {
        let Ok(claim) = exchange::Claim::decode(bytes) else { return };
        let counted = [&[1, 3, 3][..], &[1, 3, 4], &[1, 2], &[2]].map(|path| count(bytes, path));
        // Groups are refused here, and passed over by prost where it does not know the field.
        if counted.contains(&Err(FrameError::Group)) {
            return;
        }
        let info = claim.path_info.unwrap_or_default();
        let narinfo = info.narinfo.unwrap_or_default();
        let made = [
            narinfo.signatures.len(),
            narinfo.reference_names.len(),
            info.references.len(),
            claim.attestations.len(),
        ];
        assert_eq!(counted, made.map(Ok));
    }

    proptest! {
        #[test]
        fn as_many_are_counted_as_are_made(claim in claims(), twice in claims()) {
            let one = claim.encode_to_vec();
            assert_counted(&one);
            assert_counted(&[one, twice.encode_to_vec()].concat());
        }

        #[test]
        fn altered_messages_are_counted_as_they_are(
            claim in claims(), at in any::<prop::sample::Index>(), byte in any::<u8>()
        ) {
            let mut bytes = claim.encode_to_vec();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            assert_counted(&bytes);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            assert_counted(&bytes);
            let _ = fields(&bytes).count();
        }
    }

    #[test]
    fn each_kind_of_field() {
        let message = [0x08, 0x96, 1, 0x12, 2, 7, 8, 0x1d, 1, 2, 3, 4, 0x21, 1, 2, 3, 4, 5, 6, 7, 8];
        let all: Vec<_> =
            fields(&message).map(Result::unwrap).map(|field| (field.number, field.value)).collect();
        let want =
            [(1, Value::Varint(150)), (2, Value::Bytes(&[7, 8])), (3, Value::Fixed), (4, Value::Fixed)];
        assert_eq!(all, want);
        assert_eq!(fields(&[0x0b, 0x0c]).collect::<Vec<_>>(), [Err(FrameError::Group)]);
        let cut_off = FrameError::Truncated { length: 3, left: 1 };
        assert_eq!(fields(&[0x0a, 3, 0]).collect::<Vec<_>>(), [Err(cut_off)]);
    }
}
