//! Making room.

use firn_proto::control::{CollectReply, CollectRequest, Evicted, Progress, progress::Phase};

use super::{Ops, Report, subject::named};
use crate::failure::Failure;

/// Evicts what is over the limit, and deletes what nothing needs.
pub(super) async fn collect(
    ops: &Ops,
    request: CollectRequest,
    report: Report,
) -> Result<CollectReply, Failure> {
    let bytes_max = request.bytes_max.or(ops.config.store_bytes_max.map(|limit| limit.0));
    let subject = "what nothing needs".to_owned();
    report.send_replace(Progress { phase: Phase::Collecting.into(), subject, ..Progress::default() });
    let collection = ops.engine.collect(bytes_max, request.dry_run).await?;
    let store = ops.engine.store().clone();
    let usage = ops.engine.run_blocking(move || store.usage()).await??;
    // What is only told about has not been deleted, and so not been counted with the rest.
    let evicted_bytes = if request.dry_run { collection.evicted_bytes } else { 0 };
    let evicted = collection.evicted.iter().map(|evicted| Evicted {
        subject: named(&evicted.what, evicted.path.as_ref()),
        used_at: evicted.used.map_or(0, |used| used.0),
    });
    Ok(CollectReply {
        evicted: evicted.collect(),
        blobs: collection.collected.blobs,
        directories: collection.collected.directories,
        partials: collection.collected.partials,
        bytes: collection.collected.bytes.saturating_add(evicted_bytes),
        disk_bytes: usage.disk_bytes,
        disk_bytes_max: bytes_max,
        dry_run: request.dry_run,
    })
}
