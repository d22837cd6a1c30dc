//! The one place where blocking work runs.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::EngineError;

/// At most so many pieces of blocking work at once: disks like a queue, and hashing takes a core each.
const JOBS_MAX: usize = 16;

/// Runs what reads, writes or hashes, a bounded number of them at once.
#[derive(Clone)]
pub(crate) struct Pool(Arc<Semaphore>);

impl Pool {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(JOBS_MAX)))
    }

    /// Waits for a place, then for the result.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, EngineError> {
        let place = self.0.clone().acquire_owned().await.map_err(|_| EngineError::Ending)?;
        let span = tracing::Span::current();
        let job = move || {
            let _place = place;
            span.in_scope(job)
        };
        tokio::task::spawn_blocking(job).await.map_err(|_| EngineError::Ending)
    }
}
