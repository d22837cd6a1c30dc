//! libp2p, put together: QUIC, Kademlia under our own name, identify, ping and limits.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use libp2p::{
    Multiaddr, StreamProtocol, Swarm, Transport, connection_limits,
    core::muxing::StreamMuxerBox,
    identify, kad, ping, quic,
    swarm::{self, NetworkBehaviour},
};

use crate::{
    announce::RECORD_TTL,
    dial::{DialRules, quic_multiaddr},
    error::NetError,
    identity::Identity,
    records::Records,
    transport::{RuledTransport, Silent},
};

/// Connections of libp2p, both ways together.
const CONNECTIONS_MAX: u32 = 384;
/// Connections that others opened.
const INCOMING_MAX: u32 = 256;
/// Handshakes under way that others began.
const PENDING_INCOMING_MAX: u32 = 64;
/// Handshakes under way that this node began.
const PENDING_OUTGOING_MAX: u32 = 128;
/// Connections with one peer: both sides may dial at the same time, on more than one address.
const CONNECTIONS_OF_A_PEER_MAX: u32 = 4;
/// Streams that one connection may open at once.
const STREAMS_MAX: u32 = 64;
/// Bytes of one stream under way: Kademlia's messages are short.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
/// Bytes of one connection under way.
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;
/// A peer that doesn't shake hands within this is not there.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);
/// A connection on which nothing happens for so long is closed; Kademlia opens it again when it needs it.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// A look-up or an announcement ends after this, whoever doesn't answer.
const QUERY_TIMEOUT: Duration = Duration::from_secs(8);
/// One peer's answer within a query.
const SUBSTREAM_TIMEOUT: Duration = Duration::from_secs(3);

const PROTOCOL: &str = "/firn/kad/1";

/// All that runs on the swarm.
#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    limits: connection_limits::Behaviour,
    pub(crate) kad: kad::Behaviour<Records>,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
}

/// What of the configuration concerns libp2p.
#[derive(Clone)]
pub(crate) struct SwarmConfig {
    pub(crate) identity: Identity,
    pub(crate) bind: Vec<SocketAddr>,
    pub(crate) named: BTreeSet<SocketAddr>,
    pub(crate) rules: DialRules,
    pub(crate) silent: Silent,
    pub(crate) protocol: StreamProtocol,
    pub(crate) is_server: bool,
}

/// The name of the DHT: everybody's, or that of a private network.
pub(crate) fn kad_protocol(network: Option<&str>) -> Result<StreamProtocol, NetError> {
    let Some(network) = network else { return Ok(StreamProtocol::new(PROTOCOL)) };
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if network.is_empty() || network.len() > 64 || !network.bytes().all(is_legal) {
        return Err(NetError::NetworkName { name: network.into() });
    }
    StreamProtocol::try_from_owned(format!("{PROTOCOL}/{network}"))
        .map_err(|_| NetError::NetworkName { name: network.into() })
}

/// Builds the swarm and binds its sockets.
pub(crate) fn build(config: &SwarmConfig) -> Result<Swarm<Behaviour>, NetError> {
    let mut quic = quic::Config::new(config.identity.keypair());
    quic.handshake_timeout = HANDSHAKE_TIMEOUT;
    quic.max_concurrent_stream_limit = STREAMS_MAX;
    quic.max_stream_data = STREAM_WINDOW_BYTES;
    quic.max_connection_data = CONNECTION_WINDOW_BYTES;
    let transport = RuledTransport {
        inner: quic::tokio::Transport::new(quic),
        rules: config.rules.clone(),
        named: config.named.clone(),
        silent: config.silent.clone(),
    };
    let transport = transport.map(|(peer, connection), _| (peer, StreamMuxerBox::new(connection))).boxed();
    let local = config.identity.libp2p_peer_id();
    let executor = swarm::Config::with_tokio_executor().with_idle_connection_timeout(IDLE_TIMEOUT);
    let mut swarm = Swarm::new(transport, behaviour(config, local), local, executor);
    for address in &config.bind {
        let listening: Multiaddr = quic_multiaddr(*address);
        swarm
            .listen_on(listening)
            .map_err(|source| NetError::Listen { address: *address, source: Box::new(source) })?;
    }
    Ok(swarm)
}

fn behaviour(config: &SwarmConfig, local: libp2p::PeerId) -> Behaviour {
    let limits = connection_limits::ConnectionLimits::default()
        .with_max_established(Some(CONNECTIONS_MAX))
        .with_max_established_incoming(Some(INCOMING_MAX))
        .with_max_established_per_peer(Some(CONNECTIONS_OF_A_PEER_MAX))
        .with_max_pending_incoming(Some(PENDING_INCOMING_MAX))
        .with_max_pending_outgoing(Some(PENDING_OUTGOING_MAX));
    // No agent version beyond the name, and no cache: who is where is the routing table's business.
    let identify = identify::Config::new(PROTOCOL.into(), config.identity.keypair().public())
        .with_agent_version("firn".into())
        .with_cache_size(0);
    Behaviour {
        limits: connection_limits::Behaviour::new(limits),
        kad: kademlia(config, local),
        identify: identify::Behaviour::new(identify),
        ping: ping::Behaviour::default(),
    }
}

fn kademlia(config: &SwarmConfig, local: libp2p::PeerId) -> kad::Behaviour<Records> {
    let mut kademlia = kad::Config::new(config.protocol.clone());
    kademlia
        .set_query_timeout(QUERY_TIMEOUT)
        .set_substreams_timeout(SUBSTREAM_TIMEOUT)
        .set_kbucket_inserts(kad::BucketInserts::Manual)
        .set_record_filtering(kad::StoreInserts::FilterBoth)
        .set_caching(kad::Caching::Disabled)
        .set_record_ttl(Some(RECORD_TTL))
        .set_provider_record_ttl(Some(RECORD_TTL))
        // The announcer sweeps; Kademlia's own jobs have no bound on what they start.
        .set_replication_interval(None)
        .set_publication_interval(None)
        .set_provider_publication_interval(None);
    let mut kademlia = kad::Behaviour::with_config(local, Records::new(local), kademlia);
    // Set by hand: left to itself it stays a client until somebody confirms an address, which on a LAN nobody does.
    kademlia.set_mode(Some(if config.is_server { kad::Mode::Server } else { kad::Mode::Client }));
    kademlia
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_network_has_its_own_protocol() {
        assert_eq!(kad_protocol(None).unwrap(), "/firn/kad/1");
        assert_eq!(kad_protocol(Some("work-1")).unwrap(), "/firn/kad/1/work-1");
        for bad in ["", "a/b", "a b", &"x".repeat(65)] {
            assert!(matches!(kad_protocol(Some(bad)), Err(NetError::NetworkName { .. })), "{bad}");
        }
    }
}
