//! iroh's endpoint, set up so that it speaks to nobody that it isn't told of.

mod kept;

use std::{
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use iroh::{
    Endpoint, NetReportConfig, RelayMode, RelayUrl,
    endpoint::{AckFrequencyConfig, QuicTransportConfig, VarInt, presets},
};

pub(crate) use kept::KeptEndpoint;

use crate::{
    congestion::CubicOrReno, error::NetError, identity::Identity, limits::RateLimits, link::STREAMS_MAX,
    transfer::ALPN,
};

/// Bytes of one stream under way. At 4 MB and more the connection dies on fast paths.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
/// The same where the download is limited as far as it can be: a window is told anew in eighths, and a sender that hears
/// nothing of a slow reader for long gives it up.
const STREAM_WINDOW_BYTES_MIN: u64 = 64 << 10;
/// Bytes of one connection under way to this node.
const CONNECTION_WINDOW_BYTES: u32 = 12 << 20;
/// How many such streams' windows fit into that of a connection.
const CONNECTION_WINDOWS: u32 = CONNECTION_WINDOW_BYTES / STREAM_WINDOW_BYTES;

/// Bytes of one connection that are kept until the other side has them: at 100 Mbit/s enough for 120 ms there and back.
/// Fifty slow peers at once hold so much each.
const SEND_WINDOW_BYTES: u64 = 3 << 19;
/// What is sent before anything was acknowledged: 32 packets, as others do by now. A claim, the Directories of a small
/// tree or the first files each come in one round trip.
const INITIAL_WINDOW_BYTES: u64 = 32 * 1200;

/// How long a peer may wait before it acknowledges a packet that came alone.
const ACK_DELAY: Duration = Duration::from_millis(2);

/// What an endpoint is bound by.
pub(crate) struct Binding {
    pub(crate) identity: Identity,
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) relays: Vec<RelayUrl>,
    pub(crate) limits: RateLimits,
}

/// Binds iroh: no relays but our own, no DNS, no pkarr servers, no address look-up of iroh's own.
async fn bind(binding: &Binding) -> Result<Endpoint, NetError> {
    let Binding { identity, addresses, relays, limits } = binding;
    let stream_window = stream_window_bytes(limits);
    let transport = QuicTransportConfig::builder()
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_MAX as u32))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(stream_window))
        .receive_window(VarInt::from_u32(connection_window_bytes(limits)))
        .send_window(SEND_WINDOW_BYTES)
        .ack_frequency_config(Some(acks()))
        .congestion_controller_factory(Arc::new(CubicOrReno::new(INITIAL_WINDOW_BYTES)))
        .datagram_receive_buffer_size(None)
        .build();
    let relay_mode = match &relays[..] {
        [] => RelayMode::Disabled,
        relays => RelayMode::Custom(relays.iter().cloned().collect()),
    };
    let mut net_report = NetReportConfig::minimal();
    // Where no datagram gets out, a relay is found by this alone.
    net_report.https_probes = !relays.is_empty();
    let mut builder = Endpoint::builder(presets::Minimal)
        .secret_key(identity.secret().clone())
        .alpns(vec![ALPN.to_vec()])
        .transport_config(transport)
        .relay_mode(relay_mode)
        .net_report_config(net_report)
        .clear_ip_transports();
    for address in addresses {
        // iroh's error doesn't say which address it couldn't have.
        UdpSocket::bind(address).map_err(|source| NetError::Bind { address: *address, source })?;
        builder = builder.bind_addr(*address).map_err(|_| NetError::BindTwice { address: *address })?;
    }
    Ok(builder.bind().await?)
}

/// What iroh cannot send at once it drops, and on a busy receiver that is much: what it asks for is then sent again once the
/// other side has been silent for as long as it may be. By default that is 25 ms, many times what a reply takes on a LAN.
fn acks() -> AckFrequencyConfig {
    let mut acks = AckFrequencyConfig::default();
    acks.max_ack_delay(Some(ACK_DELAY)).reordering_threshold(VarInt::from_u32(1));
    acks
}

/// What is under way on all streams of a connection together.
pub(crate) fn connection_window_bytes(limits: &RateLimits) -> u32 {
    stream_window_bytes(limits) * CONNECTION_WINDOWS
}

/// What is under way when the download is held up is what comes in about a second.
fn stream_window_bytes(limits: &RateLimits) -> u32 {
    let rates = [limits.download, limits.download_peer].into_iter().flatten();
    let slowest = rates.map(std::num::NonZeroU64::get).min().unwrap_or(u64::MAX);
    let window = slowest.clamp(STREAM_WINDOW_BYTES_MIN, STREAM_WINDOW_BYTES.into());
    u32::try_from(window).unwrap_or(STREAM_WINDOW_BYTES)
}
