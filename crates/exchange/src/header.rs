//! What stands before the body of a reply.

use bytes::Bytes;
use firn_proto::exchange as proto;
use prost::encoding::decode_varint;

use crate::Micros;
use crate::check::Lie;
use crate::fellows::{FELLOWS_MAX, Fellow};
use crate::fields::{Field, Value, fields};
use crate::frame::{self, FrameError};

/// The longest header, in bytes: twice what one with the most fellows takes, each with the most and the longest addresses.
pub(crate) const HEADER_BYTES_MAX: usize = 16 << 10;

/// A header, as far as it is heard.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Header {
    pub(crate) status: i32,
    pub(crate) encoding: i32,
    pub(crate) busy_ms: u32,
    /// The first [`FELLOWS_MAX`] of those that can be understood.
    pub(crate) fellows: Vec<Fellow>,
}

impl Header {
    /// Takes the header off a reply. Only what it says within the limits is made.
    pub(crate) fn take(reply: &mut Bytes) -> Result<Self, Lie> {
        if header_is_too_long(reply) {
            return Err(Lie::TooMuch);
        }
        Ok(Self::decode(&frame::take(reply)?)?)
    }

    fn decode(message: &[u8]) -> Result<Self, FrameError> {
        let mut header = Self::default();
        for field in fields(message) {
            match field? {
                // As protobuf narrows numbers that are too long for their field.
                Field { number: 1, value: Value::Varint(status) } => header.status = status as i32,
                Field { number: 2, value: Value::Varint(encoding) } => header.encoding = encoding as i32,
                Field { number: 3, value: Value::Varint(busy_ms) } => header.busy_ms = busy_ms as u32,
                Field { number: 4, value: Value::Bytes(fellow) } if header.fellows.len() < FELLOWS_MAX => {
                    header.fellows.extend(Fellow::decode(fellow)?);
                }
                _ => {}
            }
        }
        Ok(header)
    }

    /// A status of a later version is a refusal.
    pub(crate) fn status(&self) -> proto::Status {
        proto::Status::try_from(self.status).unwrap_or(proto::Status::Refused)
    }

    pub(crate) fn encoding(&self) -> Result<proto::Encoding, Lie> {
        proto::Encoding::try_from(self.encoding).map_err(|_| Lie::Encoding(self.encoding))
    }

    pub(crate) fn busy_for(&self) -> Option<Micros> {
        (self.busy_ms > 0).then(|| Micros::from_millis(self.busy_ms.into()))
    }
}

/// Whether a reply that begins like this has a header that is longer than any honest one: what follows need not be waited
/// for.
pub fn header_is_too_long(mut reply: &[u8]) -> bool {
    decode_varint(&mut reply).is_ok_and(|length| length > HEADER_BYTES_MAX as u64)
}

/// Whom a reply hints at. What cannot be understood is left out: no harm is done by that, and
/// [`check`](crate::check) tells what is garbage.
pub fn fellows(reply: &Bytes) -> Vec<Fellow> {
    Header::take(&mut reply.clone()).map(|header| header.fellows).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::PeerId;
    use crate::fellows::ADDRESSES_MAX;

    fn fellow(number: usize, addresses: usize) -> proto::Fellow {
        let address = "[1111:2222:3333:4444:5555:6666:7777:8888%4294967295]:65535".to_owned();
        proto::Fellow { peer: vec![number as u8; 32].into(), addresses: vec![address; addresses] }
    }

    fn said(fellows: Vec<proto::Fellow>) -> Bytes {
        proto::ReplyHeader { fellows, ..Default::default() }.encode_length_delimited_to_vec().into()
    }

    fn heard(reply: &Bytes) -> Vec<PeerId> {
        fellows(reply).into_iter().map(|fellow| fellow.peer).collect()
    }

    #[test]
    fn an_honest_header_is_never_too_long() {
        let most = said((0..FELLOWS_MAX).map(|number| fellow(number, ADDRESSES_MAX)).collect());
        assert!(most.len() <= HEADER_BYTES_MAX, "{}", most.len());
        assert_eq!(heard(&most).len(), FELLOWS_MAX);
    }

    #[test]
    fn what_is_said_beyond_the_limits_is_not_heard_and_no_lie() {
        let many = said((0..FELLOWS_MAX + 9).map(|number| fellow(number, 1)).collect());
        let first: Vec<PeerId> = (0..FELLOWS_MAX).map(|number| [number as u8; 32].into()).collect();
        assert_eq!(heard(&many), first);
        let chatty = proto::Fellow {
            peer: vec![7; 32].into(),
            addresses: (0..50).map(|port| format!("10.0.0.1:{}", port + 1)).collect(),
        };
        let told = fellows(&said(vec![chatty]));
        assert_eq!(told[0].addresses.len(), ADDRESSES_MAX);
        let nameless = said(vec![proto::Fellow::default(), fellow(3, 0)]);
        assert_eq!(heard(&nameless), [PeerId::from([3; 32])]);
    }

    #[test]
    fn empty_hints_take_nothing_and_a_header_of_many_is_refused_by_its_length() {
        let many = said(vec![proto::Fellow::default(); HEADER_BYTES_MAX / 2 - 8]);
        assert_eq!(Header::take(&mut many.clone()).map(|header| header.fellows.capacity()), Ok(0));
        let more = said(vec![proto::Fellow::default(); HEADER_BYTES_MAX / 2 + 1]);
        assert_eq!(Header::take(&mut more.clone()), Err(Lie::TooMuch));
        assert!(
            header_is_too_long(&more[..3]) && !header_is_too_long(&more[..2]) && !header_is_too_long(&many)
        );
    }

    proptest! {
        /// Where there are not too many, it is what prost makes of the same bytes.
        #[test]
        fn it_says_what_prost_reads(
            status in any::<i32>(), encoding in any::<i32>(), busy_ms in any::<u32>(), count in 0..FELLOWS_MAX
        ) {
            let fellows: Vec<_> = (0..count).map(|number| fellow(number, number % 3)).collect();
            let header = proto::ReplyHeader { status, encoding, busy_ms, fellows };
            let read = Header::decode(&header.encode_to_vec()).unwrap();
            prop_assert_eq!((read.status, read.encoding, read.busy_ms), (status, encoding, busy_ms));
            prop_assert_eq!(read.fellows.iter().map(Fellow::to_proto).collect::<Vec<_>>(), header.fellows);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let read = Header::decode(&bytes);
            if let (Ok(read), Ok(header)) = (read, proto::ReplyHeader::decode(&bytes[..])) {
                prop_assert_eq!((read.status, read.busy_ms), (header.status, header.busy_ms));
            }
        }
    }
}
