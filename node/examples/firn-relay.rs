//! A relay, for the end-to-end tests: `firn-relay ADDRESS` serves at this address, over HTTP, until it is killed. It says
//! its URL once it does.

use std::{error::Error, net::SocketAddr};

use clap::Parser;
use iroh_relay::server::{RelayConfig, Server, ServerConfig};

/// A relay.
#[derive(Parser)]
struct Arguments {
    /// Where: an address and a port
    address: SocketAddr,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut config = ServerConfig::default();
    config.relay = Some(RelayConfig::new(Arguments::parse().address));
    let relay = Server::spawn(config).await?;
    let url = relay.http_addr().map(|address| format!("http://{address}"));
    println!("{}", url.ok_or("it serves nowhere")?);
    std::future::pending().await
}
