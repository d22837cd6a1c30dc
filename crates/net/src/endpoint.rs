//! iroh's endpoint, set up so that it speaks to nobody that it isn't told of.

use std::net::{SocketAddr, UdpSocket};

use iroh::{
    Endpoint, NetReportConfig, RelayMode, RelayUrl,
    endpoint::{QuicTransportConfig, VarInt, presets},
};

use crate::{
    error::NetError,
    identity::Identity,
    transfer::{ALPN, STREAMS_MAX},
};

/// Bytes of one stream under way. At 4 MB and more the connection dies on fast paths.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
/// Bytes of one connection under way, each way.
const CONNECTION_WINDOW_BYTES: u32 = 12 << 20;

/// Binds iroh: no relays but our own, no DNS, no pkarr servers, no address look-up of iroh's own.
pub(crate) async fn bind(
    identity: &Identity,
    addresses: &[SocketAddr],
    relays: &[RelayUrl],
) -> Result<Endpoint, NetError> {
    let transport = QuicTransportConfig::builder()
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_MAX as u32))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES))
        .send_window(u64::from(CONNECTION_WINDOW_BYTES))
        .datagram_receive_buffer_size(None)
        .build();
    let relay_mode = match relays {
        [] => RelayMode::Disabled,
        relays => RelayMode::Custom(relays.iter().cloned().collect()),
    };
    let mut builder = Endpoint::builder(presets::Minimal)
        .secret_key(identity.secret().clone())
        .alpns(vec![ALPN.to_vec()])
        .transport_config(transport)
        .relay_mode(relay_mode)
        .net_report_config(NetReportConfig::minimal())
        .clear_ip_transports();
    for address in addresses {
        // iroh's error doesn't say which address it couldn't have.
        UdpSocket::bind(address).map_err(|source| NetError::Bind { address: *address, source })?;
        builder = builder.bind_addr(*address).map_err(|_| NetError::BindTwice { address: *address })?;
    }
    Ok(builder.bind().await?)
}
