//! A consumer among peers of which it knows nothing good.

use std::{error::Error, sync::Arc, time::Duration};

use firn_castore::Root;
use firn_net::StaticPeer;
use firn_nix::StorePathHash;
use firn_store::MemoryStore;
use futures::future::join_all;
use tokio::{runtime::Runtime, time::timeout};

use crate::{
    cost::Memory,
    peers::{Party, Spot},
    work::Said,
};

/// Asks for all of it at once, within a time, since a peer may promise a tree for ever. What comes of it does not matter: the
/// memory of this process does.
pub(crate) fn ask(
    peers: Vec<StaticPeer>,
    paths: Vec<StorePathHash>,
    roots: Vec<Root>,
    asking_max: Duration,
) -> Result<Said, Box<dyn Error>> {
    Runtime::new()?.block_on(async {
        let party = Party::start(Arc::new(MemoryStore::new()), &Spot::default(), peers).await?;
        let resident_mb = Memory::of("self")?.resident_mb;
        let engine = &party.engine;
        let paths = join_all(paths.into_iter().map(|path| engine.resolve(path, asking_max)));
        let trees = join_all(roots.into_iter().map(|root| engine.get_root(root, &|_| ())));
        let _ = timeout(asking_max, async { tokio::join!(paths, trees) }).await;
        party.net.shutdown().await?;
        Ok(Said { resident_mb, ..Said::default() })
    })
}
