//! What the store holds, and what that takes.

use firn_proto::control::StatsReply;

use super::Ops;
use crate::failure::Failure;

pub(super) async fn stats(ops: &Ops) -> Result<StatsReply, Failure> {
    let store = ops.engine.store().clone();
    let stats = ops.engine.run_blocking(move || firn_store::stats(&*store)).await??;
    let usage = stats.usage;
    Ok(StatsReply {
        paths: stats.paths,
        trees: stats.roots,
        blobs: usage.blobs,
        directories: usage.directories,
        partials: usage.partials,
        total_bytes: stats.total_bytes,
        unique_bytes: stats.unique_bytes,
        blob_bytes: usage.blob_bytes,
        adopted_blobs: usage.adopted_blobs,
        adopted_bytes: usage.adopted_bytes,
        disk_bytes: usage.disk_bytes,
        disk_bytes_max: ops.config.store_bytes_max.map(|limit| limit.0),
        pinned: stats.pinned,
    })
}
