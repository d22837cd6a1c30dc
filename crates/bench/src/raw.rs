//! One bare stream of iroh, with the windows of `firn-net`: what moving bytes costs when nothing is done with them.
//!
//! The sender reads a file that is in the page cache, in pieces of 1 MiB. The receiver reads and drops: no hash, no
//! proof, no store.

use std::{
    error::Error,
    fs::File,
    io::Read,
    net::{IpAddr, SocketAddr},
    path::Path,
    process,
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use firn_net::{StaticPeer, endpoint_id, peer_of_endpoint};
use iroh::{
    Endpoint, EndpointAddr, NetReportConfig, RelayMode, SecretKey, TransportAddr,
    endpoint::{Connection, QuicTransportConfig, VarInt, presets},
};
use tokio::runtime::Runtime;

use crate::{input::input_ended, work::Said};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const ALPN: &[u8] = b"firn-bench-raw/0";
const NAME: &str = "raw";
const PIECE_BYTES: usize = 1 << 20;
/// As in `firn-net`.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 12 << 20;

/// An endpoint whose key is made of this process and a name.
pub(crate) async fn bind(ip: IpAddr, name: &str, alpn: &[u8]) -> Outcome<Endpoint> {
    let seed = blake3::hash(format!("firn-bench {name} {}", process::id()).as_bytes());
    let transport = QuicTransportConfig::builder()
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES))
        .send_window(u64::from(CONNECTION_WINDOW_BYTES))
        .datagram_receive_buffer_size(None)
        .build();
    let builder = Endpoint::builder(presets::Minimal)
        .secret_key(SecretKey::from_bytes(seed.as_bytes()))
        .alpns(vec![alpn.to_vec()])
        .transport_config(transport)
        .relay_mode(RelayMode::Disabled)
        .net_report_config(NetReportConfig::minimal())
        .clear_ip_transports()
        .bind_addr(SocketAddr::new(ip, 0))?;
    Ok(builder.bind().await?)
}

/// A new connection to a peer.
pub(crate) async fn connect(endpoint: &Endpoint, peer: StaticPeer, alpn: &[u8]) -> Outcome<Connection> {
    let address = EndpointAddr::from_parts(endpoint_id(peer.id)?, [TransportAddr::Ip(peer.address)]);
    Ok(endpoint.connect(address, alpn).await?)
}

/// Sends to each who connects, until standard input ends.
pub(crate) fn send(file: &Path, bytes: u64, ip: IpAddr) -> Result<(), Box<dyn Error>> {
    let file: Arc<Path> = file.into();
    let serve = async {
        let endpoint = bind(ip, NAME, ALPN).await?;
        let address = *endpoint.addr().ip_addrs().next().ok_or("iroh does not say where it listens")?;
        println!("{}", StaticPeer { id: peer_of_endpoint(endpoint.id()), address });
        let accept = async {
            while let Some(incoming) = endpoint.accept().await {
                let file = file.clone();
                tokio::spawn(async move {
                    let sent = async { send_on(incoming.await?, &file, bytes).await };
                    if let Err(error) = sent.await {
                        eprintln!("firn-bench: {error}");
                    }
                });
            }
        };
        tokio::select! {
            () = accept => {}
            () = input_ended() => {}
        }
        endpoint.close().await;
        Outcome::Ok(())
    };
    Runtime::new()?.block_on(serve).map_err(|error| error as Box<dyn Error>)
}

async fn send_on(connection: Connection, file: &Path, bytes: u64) -> Outcome<()> {
    let mut stream = connection.open_uni().await?;
    let mut left = bytes;
    while left > 0 {
        let mut file = File::open(file)?;
        loop {
            let mut piece = vec![0; PIECE_BYTES.min(usize::try_from(left)?)];
            let read = file.read(&mut piece)?;
            if read == 0 {
                break;
            }
            piece.truncate(read);
            stream.write_chunk(Bytes::from(piece)).await?;
            left -= read as u64;
        }
    }
    stream.finish()?;
    connection.closed().await;
    Ok(())
}

/// Takes what one sends.
pub(crate) fn take(peer: StaticPeer, ip: IpAddr) -> Result<Said, Box<dyn Error>> {
    let take = async {
        let endpoint = bind(ip, NAME, ALPN).await?;
        let begun = Instant::now();
        let connection = connect(&endpoint, peer, ALPN).await?;
        let mut stream = connection.accept_uni().await?;
        while stream.read_chunk(PIECE_BYTES).await?.is_some() {}
        let seconds = Some(begun.elapsed().as_secs_f64());
        connection.close(VarInt::from_u32(0), b"");
        endpoint.close().await;
        Outcome::Ok(Said { seconds, ..Said::default() })
    };
    Runtime::new()?.block_on(take).map_err(|error| error as Box<dyn Error>)
}
