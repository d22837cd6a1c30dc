//! Hints of who else may have something.

use std::net::SocketAddr;

use bytes::Bytes;
use firn_proto::exchange as proto;

use crate::{PeerId, frame};

/// The most fellows in a reply; what is said beyond is not heard.
pub const FELLOWS_MAX: usize = 16;
/// The most addresses of one fellow.
const ADDRESSES_MAX: usize = 8;

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

    fn from_proto(fellow: &proto::Fellow) -> Option<Self> {
        let peer: [u8; 32] = fellow.peer[..].try_into().ok()?;
        let addresses = fellow.addresses.iter().take(ADDRESSES_MAX).filter_map(|text| text.parse().ok());
        Some(Self { peer: peer.into(), addresses: addresses.collect() })
    }
}

/// Whom a reply hints at. What cannot be understood is left out: no harm is done by that, and
/// [`check`](crate::check) tells what is garbage.
pub fn fellows(reply: &Bytes) -> Vec<Fellow> {
    let header: Result<proto::ReplyHeader, _> = frame::take_message(&mut reply.clone());
    let fellows = header.map(|header| header.fellows).unwrap_or_default();
    fellows.iter().take(FELLOWS_MAX).filter_map(Fellow::from_proto).collect()
}
