//! A command where no node runs: the store is opened for it alone, and peers are asked if it needs them.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use firn_engine::{Ask, Engine, Find, Nobody};
use firn_net::{Identity, Net, Reach};
use firn_trust::Policy;
use tokio_util::task::TaskTracker;

use crate::{
    answerer::{RoleAnswerer, Served},
    config::{Config, Role},
    failure::Failure,
    node,
    operations::{Adopting, Ops},
    remembered,
};

/// How long the first neighbour is waited for.
const NEIGHBOURS_TIMEOUT: Duration = Duration::from_secs(3);
/// How often it is looked whether there is one.
const NEIGHBOURS_POLL: Duration = Duration::from_millis(50);

/// What a command needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// That there is a store already. Where this is false, one is made.
    pub existing: bool,
    /// Peers, if the configuration names any way to them.
    pub peers: bool,
}

impl Needs {
    /// For a command that puts something into the store.
    pub const STORE: Self = Self { existing: false, peers: false };
    /// For a command that has nothing to do in a store that it would have to make, as where the directory is mistyped.
    pub const EXISTING: Self = Self { existing: true, peers: false };
}

/// Nothing was ever put there.
#[derive(Debug, thiserror::Error)]
#[error("there is no store in {path}: nothing was added or fetched there yet; another place is given by --data-dir", path = .0.display())]
struct NoStore(PathBuf);

/// What a command writes out is waited for so long after the command has ended: it removes what it has not finished.
const WRITING_TIMEOUT: Duration = Duration::from_secs(10);

/// An engine for one command.
pub struct Alone {
    /// What can be asked of it.
    pub operations: Arc<Ops>,
    net: Option<Arc<Net>>,
}

impl Alone {
    /// Opens the store, which no other process may have open.
    ///
    /// Where peers are asked, it is as a client, on any free ports: nothing is announced or given away.
    pub async fn open(config: Config, needs: Needs) -> Result<Self, Failure> {
        if needs.existing && !node::has_store(&config.data_dir) {
            return Err(Failure::failed(NoStore(config.data_dir)));
        }
        let store = node::open_store(&config.data_dir).await?;
        let served = Arc::new(Served::default());
        let finds = config.mdns || !config.bootstrap.is_empty() || !config.peers.is_empty();
        let net = match needs.peers && finds {
            true => Some(join(&config, served.clone()).await?),
            false => None,
        };
        let policy = Policy::new(config.trust.clone());
        let (ask, find): (Arc<dyn Ask>, Arc<dyn Find>) = match &net {
            Some(net) => (net.clone(), net.clone()),
            None => (Arc::new(Nobody), Arc::new(Nobody)),
        };
        let engine = Engine::open(
            store,
            policy,
            ask,
            find,
            node::engine_config(net.as_ref().map(|net| net.status().peer))?,
        )
        .await?;
        remembered::tell(&engine, &config.data_dir);
        let (config, started) = (Arc::new(config), Instant::now());
        let operations = Ops {
            engine,
            config,
            net: net.clone(),
            served,
            http: None,
            started,
            adopting: Adopting::default(),
            trouble: Arc::default(),
            writing: TaskTracker::new(),
        };
        Ok(Self { operations: Arc::new(operations), net })
    }

    /// Leaves the network and closes the store.
    pub async fn close(self) {
        if tokio::time::timeout(WRITING_TIMEOUT, self.operations.finish_writing()).await.is_err() {
            tracing::warn!("what was being written out is left behind");
        }
        if let Some(net) = &self.net
            && let Err(error) = net.shutdown().await
        {
            tracing::debug!(%error, "the network did not end well");
        }
        let engine = &self.operations.engine;
        if *engine.lies().borrow() > 0 {
            remembered::keep_now(engine, &self.operations.config.data_dir).await;
        }
    }
}

/// Joins the network as a client.
async fn join(config: &Config, served: Arc<Served>) -> Result<Arc<Net>, Failure> {
    let any_port = |addresses: &[SocketAddr]| {
        addresses.iter().map(|address| SocketAddr::new(address.ip(), 0)).collect::<Vec<_>>()
    };
    let client = Config {
        role: Role::Client,
        iroh: any_port(&config.iroh),
        libp2p: any_port(&config.libp2p),
        ..config.clone()
    };
    let identity = Identity::load_or_create(&config.data_dir.join("node.key")).map_err(Failure::failed)?;
    // There is no engine behind it: whoever asks is given nothing.
    let answerer =
        Arc::new(RoleAnswerer::new(Role::Client, config.compress, Arc::new(OnceLock::new()), served));
    let net = Net::start(node::net_config(&client, identity), answerer).await.map_err(Failure::failed)?;
    if config.mdns {
        let has_neighbour = async {
            while net.status().neighbours.is_empty() {
                tokio::time::sleep(NEIGHBOURS_POLL).await;
            }
        };
        if tokio::time::timeout(NEIGHBOURS_TIMEOUT, has_neighbour).await.is_err()
            && net.reach() == Reach::None
        {
            tracing::warn!("no neighbour answers");
        }
    }
    Ok(Arc::new(net))
}
