//! What a node does for its store by itself: it takes out of view what has been lost, and makes room.
//!
//! Both run as tasks of the node until it stops. What fails is logged, and told by `firn status` until it succeeds.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use firn_engine::{Engine, EngineError};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

/// How often what peers' reads have found damaged is taken out of view.
const WITHDRAW_INTERVAL: Duration = Duration::from_secs(5);
/// The least time between two looks at how much room the store takes.
const ROOM_INTERVAL: Duration = Duration::from_secs(120);
/// A store that is over its limit is brought this part of the limit under it, so that the next commit does not bring it
/// over it again.
const ROOM_SHARE: u64 = 10;

/// What could not be done of late.
#[derive(Debug, Default)]
pub struct Trouble(Mutex<BTreeMap<&'static str, String>>);

impl Trouble {
    /// All of it in one line; empty if there is none.
    pub fn text(&self) -> String {
        let lines: Vec<String> =
            self.entries().iter().map(|(task, error)| format!("{task}: {error}")).collect();
        lines.join("; ")
    }

    /// Remembers how a task went this time.
    fn note<T>(&self, task: &'static str, result: Result<T, EngineError>) {
        match result {
            Ok(_) => {
                self.entries().remove(task);
            }
            Err(error) => {
                tracing::error!(%error, "{task} failed");
                self.entries().insert(task, error.to_string());
            }
        }
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<&'static str, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Every few seconds takes out of view what is no longer whole here, until `stop`.
pub async fn withdraw(engine: Engine, trouble: Arc<Trouble>, stop: CancellationToken) {
    while stop.run_until_cancelled(sleep(WITHDRAW_INTERVAL)).await.is_some() {
        // The engine logs what it withdraws, and why.
        trouble.note("withdrawing what is lost", engine.withdraw_lost().await);
    }
}

/// At the start, and after commits though not too often, evicts and deletes what is over the limit, until `stop`.
pub async fn keep_room(engine: Engine, bytes_max: u64, trouble: Arc<Trouble>, stop: CancellationToken) {
    let mut changes = engine.changes();
    loop {
        changes.mark_unchanged();
        let next = Instant::now() + ROOM_INTERVAL;
        trouble.note("making room", make_room(&engine, bytes_max).await);
        let changed = async {
            let changed = changes.changed().await;
            sleep_until(next).await;
            changed
        };
        match stop.run_until_cancelled(changed).await {
            Some(Ok(())) => {}
            Some(Err(_)) | None => return,
        }
    }
}

async fn make_room(engine: &Engine, bytes_max: u64) -> Result<(), EngineError> {
    let store = engine.store().clone();
    let usage = engine.run_blocking(move || store.usage()).await??;
    if usage.disk_bytes <= bytes_max {
        return Ok(());
    }
    let goal = bytes_max - bytes_max / ROOM_SHARE;
    let collection = engine.collect(Some(goal), false).await?;
    tracing::info!(
        disk_bytes = usage.disk_bytes,
        bytes_max,
        evicted = collection.evicted.len(),
        freed_bytes = collection.collected.bytes,
        "the store was over its limit"
    );
    Ok(())
}
