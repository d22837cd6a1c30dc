//! How long a reader waits for the first byte of a file of a path that nobody here has heard of.

use std::{error::Error, sync::Arc, time::Duration, time::Instant};

use firn_engine::NarName;
use firn_net::StaticPeer;
use firn_nix::{NarLayout, Segment, StorePathHash};
use firn_store::MemoryStore;
use futures::StreamExt;
use tokio::runtime::Runtime;

use crate::{
    peers::{Party, Spot},
    work::Said,
};

const BUDGET: Duration = Duration::from_secs(10);

/// As a gateway does it: what is believed of the path, its NAR, the bytes of that in order. Timed until contents
/// come; the stages before that end with the belief and with the tree.
pub(crate) fn read(hash: StorePathHash, peer: StaticPeer, spot: &Spot) -> Result<Said, Box<dyn Error>> {
    Runtime::new()?.block_on(async {
        let party = Party::start(Arc::new(MemoryStore::new()), spot, vec![peer]).await?;
        let begun = Instant::now();
        let resolved = party.engine.resolve(hash, BUDGET).await?.ok_or("no peer knows the path")?;
        let mut stages_s = vec![begun.elapsed().as_secs_f64()];
        let name = NarName::Root(resolved.facts().root.clone());
        let nar =
            party.engine.nar(name, Some(hash), BUDGET).await?.ok_or("the path has no NAR")?.open().await?;
        stages_s.push(begun.elapsed().as_secs_f64());
        let layout = NarLayout::new(nar.closure().clone())?;
        let mut before = 0;
        for segment in layout.segments(0..layout.nar_size()) {
            match segment {
                Segment::Literal(bytes) => before += bytes.len() as u64,
                Segment::Blob { .. } => break,
            }
        }
        let (mut came, mut pieces) = (0, nar.read(0..layout.nar_size()));
        while came <= before {
            came += pieces.next().await.ok_or("the path has no contents")??.len() as u64;
        }
        let seconds = Some(begun.elapsed().as_secs_f64());
        drop(pieces);
        party.net.shutdown().await?;
        Ok(Said { seconds, stages_s, ..Said::default() })
    })
}
