//! When what is here was used last.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use firn_store::{Store, UnixSeconds, Visible};
use tokio::time::Instant;

/// So long the store is not told again of a use of the same thing.
pub(crate) const USE_PAUSE: Duration = Duration::from_secs(60 * 60);
/// Of how many things it is remembered that the store has been told.
const USES_MAX: usize = 65_536;

/// Passes uses on to the store, seldom enough to cost nothing.
#[derive(Default)]
pub(crate) struct Uses(Mutex<BTreeMap<Visible, Instant>>);

impl Uses {
    /// Whether the store has to be told of a use. Whoever asks tells it.
    pub(crate) fn is_due(&self, what: &Visible) -> bool {
        let now = Instant::now();
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if told.get(what).is_some_and(|at| now.duration_since(*at) < USE_PAUSE) {
            return false;
        }
        if told.len() >= USES_MAX {
            told.retain(|_, at| now.duration_since(*at) < USE_PAUSE);
        }
        if told.len() >= USES_MAX {
            // The store is told once too often, which does no harm.
            told.clear();
        }
        told.insert(what.clone(), now);
        true
    }

    /// Forgets what is gone: should it come back, its next use counts.
    pub(crate) fn forget(&self, what: &Visible) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(what);
    }
}

/// Tells the store of a use. One that cannot be noted is no reason to fail.
pub(crate) fn note(store: &dyn Store, what: &Visible) {
    if let Err(error) = store.used(what, now()) {
        tracing::warn!(%error, "a use cannot be noted");
    }
}

/// What the clock on the wall says.
pub(crate) fn now() -> UnixSeconds {
    UnixSeconds(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs())
}
