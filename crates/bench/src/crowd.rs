//! Many peers at once, for what they cost the one that all of them ask.

use std::{error::Error, sync::Arc};

use firn_castore::Root;
use firn_net::StaticPeer;
use firn_store::MemoryStore;
use futures::future::try_join_all;
use tokio::runtime::Runtime;

use crate::peers::{Party, Spot};

/// Each has an endpoint, a key and an empty store in memory, and gets one of the trees. Nobody begins before all are
/// there.
pub(crate) fn get(peer: StaticPeer, roots: &[Root], count: usize) -> Result<(), Box<dyn Error>> {
    Runtime::new()?.block_on(async {
        let start = |number| async move {
            let spot = Spot { name: format!("one of a crowd: {number}"), ..Spot::default() };
            Party::start(Arc::new(MemoryStore::new()), &spot, vec![peer]).await
        };
        let parties = try_join_all((0..count).map(start)).await?;
        let get = |(party, root): (&Party, &Root)| {
            let (engine, root) = (party.engine.clone(), root.clone());
            async move { engine.get_root(root, &|_| ()).await }
        };
        try_join_all(parties.iter().zip(roots.iter().cycle()).map(get)).await?;
        for party in parties {
            party.net.shutdown().await?;
        }
        Ok(())
    })
}
