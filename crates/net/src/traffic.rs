//! What goes over the wire now.

use std::collections::BTreeMap;

use firn_exchange::PeerId;

use crate::{
    limits::{Pacer, RateLimits},
    serve::Serving,
};

/// What replies bring and take, and how many requests there are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Traffic {
    /// What may go in a second.
    pub limits: RateLimits,
    /// With all peers together.
    pub all: PeerTraffic,
    /// Requests that were told to come again later, since the start.
    pub turned_away: u64,
    /// With each peer with which there is any.
    pub peers: BTreeMap<PeerId, PeerTraffic>,
}

/// The same with one peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PeerTraffic {
    /// Bytes a second of replies to it, over the last few seconds.
    pub upload: u64,
    /// Bytes a second of replies from it, over the last few seconds.
    pub download: u64,
    /// Connections that it has to this node.
    pub connections: usize,
    /// Its requests that are being answered.
    pub requests: usize,
}

impl Traffic {
    pub(crate) fn of(limits: RateLimits, serving: &Serving, download: &Pacer) -> Self {
        let mut peers: BTreeMap<PeerId, PeerTraffic> = BTreeMap::new();
        for (peer, rate) in serving.upload.meter.rates() {
            peers.entry(peer).or_default().upload = rate;
        }
        for (peer, rate) in download.meter.rates() {
            peers.entry(peer).or_default().download = rate;
        }
        for (peer, connections) in serving.connections.counts() {
            peers.entry(peer).or_default().connections = connections;
        }
        for (peer, requests) in serving.gate.requests() {
            peers.entry(peer).or_default().requests = requests;
        }
        let all = PeerTraffic {
            upload: serving.upload.meter.rate(),
            download: download.meter.rate(),
            connections: peers.values().map(|peer| peer.connections).sum(),
            requests: peers.values().map(|peer| peer.requests).sum(),
        };
        Self { limits, all, turned_away: serving.gate.turned_away(), peers }
    }
}
