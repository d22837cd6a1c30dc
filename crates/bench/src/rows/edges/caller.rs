//! Peers that connect over iroh alone: they keep connections open, or ask what no peer of this version asks.

use std::{net::Ipv4Addr, time::Duration};

use firn_net::{ALPN, StaticPeer};
use iroh::{Endpoint, endpoint::Connection};
use tokio::time::timeout;

use crate::{
    error::BenchError,
    raw::{bind, connect},
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest reply that is read: a status, and nothing after it.
const REPLY_BYTES_MAX: usize = 1000;

/// A peer with a key of its own.
pub(super) struct Caller {
    endpoint: Endpoint,
    connections: Vec<Connection>,
}

impl Caller {
    /// Connects several times; a connection that is refused is none.
    pub(super) async fn connect(
        name: String,
        peer: StaticPeer,
        connections: usize,
    ) -> Result<Self, BenchError> {
        let endpoint = bind(Ipv4Addr::LOCALHOST.into(), &name, ALPN).await.map_err(BenchError::peer)?;
        let mut caller = Self { endpoint, connections: Vec::new() };
        for _ in 0..connections {
            let connection = timeout(CONNECT_TIMEOUT, connect(&caller.endpoint, peer, ALPN)).await;
            caller.connections.extend(connection.ok().and_then(Result::ok));
        }
        Ok(caller)
    }

    /// How many of its connections are open.
    pub(super) fn open(&self) -> usize {
        self.connections.iter().filter(|connection| connection.close_reason().is_none()).count()
    }

    /// Asks once over each connection; how many of the requests were answered at all.
    pub(super) async fn ask(&self, request: &[u8]) -> usize {
        let mut answered = 0;
        for connection in &self.connections {
            let asked = timeout(REPLY_TIMEOUT, ask(connection, request)).await;
            answered += usize::from(asked.is_ok_and(|reply| reply.is_some()));
        }
        answered
    }
}

/// The reply, if there was one.
async fn ask(connection: &Connection, request: &[u8]) -> Option<Vec<u8>> {
    let (mut send, mut receive) = connection.open_bi().await.ok()?;
    // One that is too long is not read to its end, and may be answered all the same.
    let _ = send.write_all(request).await;
    let _ = send.finish();
    receive.read_to_end(REPLY_BYTES_MAX).await.ok()
}
