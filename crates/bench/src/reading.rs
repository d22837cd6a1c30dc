//! Out of a store: as a NAR into standard output, and over HTTP through engine and gateway as a node does it.

use std::{error::Error, fs::File, net::Ipv4Addr, path::Path, sync::Arc, time::Duration};

use firn_engine::{Engine, EngineConfig, Nobody};
use firn_exchange::Limits;
use firn_gateway::{CONNECTIONS_MAX, Gateway, GatewayConfig, HostNames, PRIORITY, WRITE_TIMEOUT};
use firn_net::StaticPeer;
use firn_store::{DiskStore, Paths, write_nar_to};
use tokio::{net::TcpListener, runtime::Runtime};

use crate::{
    input::input_ended,
    peers::{Party, Spot},
    work::policy,
};

/// How long Nix waits for what no peer has; every peer here has all.
const MISS_BUDGET: Duration = Duration::from_secs(5);

type Outcome<T> = Result<T, Box<dyn Error>>;

async fn open(store: &Path) -> Outcome<Engine> {
    let store = Arc::new(DiskStore::open(store)?);
    let config = EngineConfig { limits: Limits::default(), seed: 0, me: [0; 32].into() };
    Ok(Engine::open(store, policy(), Arc::new(Nobody), Arc::new(Nobody), config).await?)
}

/// Writes the NAR of the store's only path to standard output.
pub(crate) fn write_nar(store: &Path) -> Outcome<()> {
    let store = DiskStore::open(store)?;
    let path = store.paths()?.into_iter().next().ok_or("the store has no path")?;
    let closure = firn_store::closure(&store, path.root())?.ok_or("the path's tree is not whole")?;
    // Not through `Stdout`, which looks for line ends.
    let mut output = File::from(rustix::io::dup(rustix::stdio::stdout())?);
    Ok(write_nar_to(&store, Arc::new(closure), &mut output)?)
}

/// Serves a store on a free port of the loopback until standard input ends; prints the address. Where there are peers,
/// what the store has not is fetched from them.
pub(crate) fn serve(store: &Path, peers: Vec<StaticPeer>) -> Outcome<()> {
    Runtime::new()?.block_on(async {
        let budget = if peers.is_empty() { Duration::ZERO } else { MISS_BUDGET };
        let (engine, _net) = if peers.is_empty() {
            (open(store).await?, None)
        } else {
            let party = Party::start(Arc::new(DiskStore::open(store)?), &Spot::default(), peers).await?;
            (party.engine, Some(party.net))
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let end = input_ended();
        println!("{}", listener.local_addr()?);
        let config = GatewayConfig {
            priority: PRIORITY,
            budget: Arc::new(move || budget),
            hosts: HostNames::default(),
            connections_max: CONNECTIONS_MAX,
            write_timeout: WRITE_TIMEOUT,
            version: String::new(),
        };
        Gateway { engine, config }.serve(listener, end).await;
        Ok(())
    })
}
