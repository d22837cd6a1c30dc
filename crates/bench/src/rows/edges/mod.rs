//! A node among clients and peers that are many, slow, silent, gone or hostile.
//!
//! The node is the real `firn`, as it is built beside the bench. Clients over HTTP and the peers that answer or connect
//! wrongly are tasks of the bench itself, whose CPU is not counted; peers that fetch are processes of their own. All of it
//! is on the loopback.
//!
//! Where a row says how much longer or how much more something may take, the baseline is what it takes undisturbed and
//! that on top.

mod bombs;
mod caller;
mod client;
mod firn;
mod hints;
mod idle;
mod misses;
mod readers;
mod short_peers;
mod swollen;

use tokio::runtime::Runtime;

use super::{Bench, Plan, plan};
use crate::{cost::Cost, error::BenchError, table::Row, tools::Tool};

/// Less of a growth counts as this, so that the ratio is a number.
const GROWTH_MB_MIN: f64 = 0.1;

/// The rows of a node's edges, in the order in which they are measured.
pub(crate) const EDGES: [Plan; 7] = [
    plan("memory over 2,000 short peers", Some(1.0), &[Tool::Firn], false, short_peers::memory),
    plan("firn get, ten dead hints", Some(1.0), &[Tool::Firn], false, hints::dead),
    plan("memory, 300 slow readers", Some(1.0), &[Tool::Firn], false, readers::slow),
    plan("narinfo, 5,000 idle clients", Some(1.0), &[Tool::Firn], false, idle::crowded),
    plan("memory, swollen replies of 16 peers", Some(1.0), &[Tool::Zstd], false, swollen::replies),
    plan("memory, swollen requests of 16 peers", Some(1.0), &[Tool::Firn], false, swollen::requests),
    plan("2,000 misses, silent neighbour", Some(1.0), &[Tool::Firn], false, misses::beside_neighbours),
];

/// What runs the bench's own clients and peers.
fn runtime() -> Result<Runtime, BenchError> {
    Runtime::new().map_err(|source| BenchError::Start { program: "the bench's runtime".into(), source })
}

/// A disturbed time against the undisturbed one and what is allowed on top.
fn on_top(disturbed: Cost, undisturbed_s: f64, allowed_s: f64, against: &'static str) -> Row {
    let more_ms = (disturbed.seconds - undisturbed_s) * 1e3;
    Row::limit(disturbed, disturbed.seconds, undisturbed_s + allowed_s, "s", against)
        .noted(format!("undisturbed {undisturbed_s:.4} s, {more_ms:+.1} ms"))
}

/// A growth of memory against the most that it should be.
fn growth(cost: Cost, grown_mb: f64, limit_mb: f64) -> Row {
    Row::limit(cost, grown_mb.max(GROWTH_MB_MIN), limit_mb, "MB", "limit")
}
