//! Who gives what, over which way.

use firn_exchange::PeerId;
use firn_proto::control::{Giver, TransferStatus};

use super::{Ops, subject::named};

impl Ops {
    /// Peers that have given so many bytes to one transfer, as they are now.
    pub(super) fn givers(&self, given: impl IntoIterator<Item = (PeerId, u64)>) -> Vec<Giver> {
        let giver = |(peer, bytes): (PeerId, u64)| Giver {
            id: peer.to_string(),
            via: self.engine.via(&peer).map(|via| via.to_string()).unwrap_or_default(),
            route: self.route_of(&peer),
            bytes,
            rate: self.net.as_ref().map_or(0, |net| net.download_rate(&peer)),
        };
        given.into_iter().map(giver).collect()
    }

    /// How a peer is reached when this node asks it; empty where it is not connected for that.
    pub(super) fn route_of(&self, peer: &PeerId) -> String {
        let route = self.net.as_ref().and_then(|net| net.route_of(peer));
        route.map(|route| route.to_string()).unwrap_or_default()
    }

    /// What is being fetched, whoever wants it.
    pub(super) fn transfers(&self) -> Vec<TransferStatus> {
        let status = |transfer: firn_engine::Transfer| TransferStatus {
            subject: named(&transfer.what, transfer.progress.path.as_ref()),
            done_bytes: transfer.progress.bytes_done,
            total_bytes: transfer.progress.bytes_total,
            seconds: transfer.elapsed.as_secs(),
            peers: self.givers(transfer.progress.givers),
        };
        self.engine.transfers().into_iter().map(status).collect()
    }
}
