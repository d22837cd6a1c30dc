//! Hints of who else may have something.

use std::net::SocketAddr;

use bytes::Bytes;
use firn_proto::exchange as proto;

use crate::PeerId;
use crate::fields::{Field, Value, fields};
use crate::frame::FrameError;

/// The most fellows in a reply; what is said beyond is not heard.
pub const FELLOWS_MAX: usize = 16;
/// The most addresses of one fellow.
pub(crate) const ADDRESSES_MAX: usize = 8;

/// Somebody who may have a part of what was asked for. A hint, like all that a peer says of others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fellow {
    /// Who.
    pub peer: PeerId,
    /// Where it may be.
    pub addresses: Vec<SocketAddr>,
}

impl Fellow {
    pub(crate) fn to_proto(&self) -> proto::Fellow {
        proto::Fellow {
            peer: Bytes::copy_from_slice(self.peer.as_bytes()),
            addresses: self.addresses.iter().take(ADDRESSES_MAX).map(ToString::to_string).collect(),
        }
    }

    /// Reads one that was named; `None` where it has no key.
    pub(crate) fn decode(message: &[u8]) -> Result<Option<Self>, FrameError> {
        let (mut peer, mut addresses) = (None, Vec::new());
        for field in fields(message) {
            match field? {
                Field { number: 1, value: Value::Bytes(key) } => peer = <[u8; 32]>::try_from(key).ok(),
                Field { number: 2, value: Value::Bytes(text) } if addresses.len() < ADDRESSES_MAX => {
                    addresses.extend(
                        std::str::from_utf8(text).ok().and_then(|text| text.parse::<SocketAddr>().ok()),
                    );
                }
                _ => {}
            }
        }
        Ok(peer.map(|peer| Self { peer: peer.into(), addresses }))
    }
}
