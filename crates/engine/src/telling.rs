//! What a log says of a flight: one span, and in it what happens.
//!
//! What is told once a flight is at `info`, what happens to it and its peers at `debug`, single requests at `trace`.

use std::time::Duration;

use firn_castore::{Closure, Root};
use firn_exchange::Goal;
use firn_trust::TrustedPath;
use tracing::Span;

use crate::flights::Landed;
use crate::{EngineError, Progress};

/// How much of a root's text is told: enough to tell trees apart. Its first half is the same for all.
const ROOT_CHARS: usize = 24;

/// The span of a flight to this goal, for this path if it is known.
pub(crate) fn span(goal: &Goal, path: Option<&TrustedPath>) -> Span {
    match (goal, path) {
        (Goal::Claims(hash), _) => tracing::info_span!("claims", path = %hash),
        (Goal::Path(hash), _) => tracing::info_span!("flight", path = %hash),
        (Goal::Tree(root), Some(path)) => {
            tracing::info_span!("flight", path = %path.facts().path.hash(), root = short(root))
        }
        (Goal::Tree(root), None) => tracing::info_span!("flight", root = short(root)),
    }
}

/// The beginning of a root's text.
pub(crate) fn short(root: &Root) -> String {
    let mut text = root.to_string();
    text.truncate(ROOT_CHARS);
    text
}

/// The Directories are here.
pub(crate) fn tree(closure: &Closure) {
    tracing::debug!(
        root = short(closure.root()),
        entries = closure.entries(),
        bytes = closure.blobs().iter().map(|blob| blob.size).fold(0, u64::saturating_add),
        "the tree is known"
    );
}

/// How it ended.
pub(crate) fn ended(landed: &Result<Landed, EngineError>, progress: &Progress, took: Duration) {
    let (bytes, peers) = (progress.bytes_done, progress.givers.len());
    let seconds = took.as_secs_f32();
    match landed {
        Ok(Landed::Here(fetched)) => {
            tracing::info!(root = short(fetched.closure.root()), bytes, peers, seconds, "committed");
        }
        Ok(Landed::Claims(claims)) => tracing::debug!(claims = claims.len(), seconds, "claims are believed"),
        Err(error) => tracing::debug!(%error, bytes, peers, seconds, "ended without it"),
    }
}
