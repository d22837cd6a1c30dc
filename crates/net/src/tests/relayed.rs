//! Peers that no datagram reaches.

use std::net::Ipv4Addr;

use iroh_relay::server::{RelayConfig, Server, ServerConfig};

use super::*;
use crate::{RelayUrl, Route};

/// A relay of the user's own.
async fn relay() -> (Server, RelayUrl) {
    let mut config = ServerConfig::default();
    config.relay = Some(RelayConfig::new((Ipv4Addr::LOCALHOST, 0)));
    let server = Server::spawn(config).await.unwrap();
    let url = format!("http://{}", server.http_addr().unwrap()).parse().unwrap();
    (server, url)
}

/// Without a socket for datagrams.
fn behind_a_firewall(config: NetConfig, relays: &[RelayUrl]) -> NetConfig {
    NetConfig { iroh_bind: Vec::new(), relays: relays.to_vec(), ..config }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_no_datagram_reaches_is_found_and_asked_through_a_relay() {
    let (relay, url) = relay().await;
    let relays = [url];
    let bootstrap = start(server(1, &[]), Manner::Echo).await;
    let entrance = entrance(&bootstrap).await;
    let provider = start(behind_a_firewall(server(2, &entrance), &relays), Manner::Echo).await;
    provider.announce(vec![key(1)]).await;
    let consumer = start(behind_a_firewall(far(3, &entrance), &relays), Manner::Echo).await;
    let id = provider.status().peer;

    // Its record names the relay only once it has been there.
    let deadline = Instant::now() + DEADLINE;
    let reply = loop {
        find(&consumer, 1, id).await;
        if let Ok(reply) = ask(&consumer, id, request()).await {
            break reply;
        }
        assert!(Instant::now() < deadline, "not asked in time");
    };
    // Where the asker is, nobody knows: it is not taken for a neighbour.
    let seen = format!("{} false", consumer.status().peer);
    assert!(reply.ends_with(seen.as_bytes()), "{reply:?}");
    assert_eq!(consumer.route_of(&id), Some(Route::Relayed));
    shut_down([consumer, provider, bootstrap]).await;
    relay.shutdown().await.unwrap();
}
