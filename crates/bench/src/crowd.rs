//! Many peers at once, for what they cost the one that all of them ask.

use std::{error::Error, net::Ipv4Addr, process, sync::Arc};

use firn_castore::Root;
use firn_net::StaticPeer;
use firn_store::MemoryStore;
use futures::{TryStreamExt, future::try_join_all, stream};
use tokio::runtime::Runtime;

use crate::peers::{Party, Spot};

/// The first address of peers that are apart.
const APART_FROM: Ipv4Addr = Ipv4Addr::new(127, 0, 1, 1);
/// How many short peers are there at once.
const TOGETHER: usize = 4;

/// Each has an endpoint, a key and an empty store in memory, and gets one of the trees. Nobody begins before all are
/// there. Those that are apart are at different hosts, by their addresses.
pub(crate) fn get(peer: StaticPeer, roots: &[Root], count: usize, apart: bool) -> Result<(), Box<dyn Error>> {
    Runtime::new()?.block_on(async {
        let start = |number| async move {
            let mut spot = Spot { name: format!("one of a crowd: {number}"), ..Spot::default() };
            if apart {
                spot.ip = Ipv4Addr::from_bits(APART_FROM.to_bits() + number as u32).into();
            }
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

/// Each has a key of its own, gets the tree and leaves.
pub(crate) fn come_and_go(peer: StaticPeer, root: &Root, count: usize) -> Result<(), Box<dyn Error>> {
    let visit = |number: usize| async move {
        let spot = Spot { name: format!("short peer {number} of {}", process::id()), ..Spot::default() };
        let party = Party::start(Arc::new(MemoryStore::new()), &spot, vec![peer]).await?;
        party.engine.get_root(root.clone(), &|_| ()).await?;
        Ok(party.net.shutdown().await?)
    };
    let all = stream::iter((0..count).map(Ok)).try_for_each_concurrent(TOGETHER, visit);
    Runtime::new()?.block_on(all)
}
