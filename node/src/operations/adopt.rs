//! Adopting the Nix store, or paths of it.

use std::{
    num::NonZeroUsize,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use firn_nix::{STORE_DIR, StorePath};
use firn_proto::control::{AdoptReply, AdoptRequest, AdoptStatus, Progress, progress::Phase};
use firn_trust::Policy;
use tokio::sync::Mutex;

use super::{
    Ops, Report,
    add::{self, nix_store, path_of},
};
use crate::{
    adopter::{self, AdoptConfig, Adopter},
    failure::Failure,
};

/// Why nothing is adopted.
#[derive(Debug, thiserror::Error)]
enum AdoptError {
    #[error("{} is neither the Nix store ({}) nor a path in it", .path.display(), .store_dir.display())]
    Elsewhere { path: PathBuf, store_dir: PathBuf },
    #[error("the Nix store {} cannot be adopted: {said}", .store_dir.display())]
    Database { store_dir: PathBuf, said: Box<str> },
    #[error("adopting ended before its time")]
    Ended,
}

/// The adopting of the Nix store that goes on in this process.
#[derive(Default)]
pub struct Adopting(Mutex<Option<Running>>);

struct Running {
    adopter: Arc<Adopter>,
    nix_root: PathBuf,
    jobs: NonZeroUsize,
}

impl Adopting {
    /// Begins, or goes on if it is the same store; a number of threads that differs counts from now on.
    pub async fn start(
        &self,
        ops: &Ops,
        nix_root: &Path,
        jobs: Option<NonZeroUsize>,
    ) -> Result<Arc<Adopter>, Failure> {
        let mut running = self.0.lock().await;
        if let Some(running) = &*running
            && running.nix_root == nix_root
            && jobs.is_none_or(|jobs| jobs == running.jobs)
        {
            return Ok(running.adopter.clone());
        }
        if let Some(earlier) = running.take() {
            earlier.adopter.stop().await.map_err(Failure::failed)?;
        }
        let usual = AdoptConfig::new(nix_store(nix_root));
        let jobs = jobs.or(ops.config.adopt_jobs).unwrap_or(usual.jobs);
        let policy = Policy::new(ops.config.trust.clone());
        let adopter = Adopter::start(ops.engine.clone(), policy, AdoptConfig { jobs, ..usual });
        let adopter = Arc::new(adopter.map_err(Failure::failed)?);
        *running = Some(Running { adopter: adopter.clone(), nix_root: nix_root.into(), jobs });
        Ok(adopter)
    }

    /// How far it has come; none where nothing is adopted.
    pub async fn status(&self) -> Option<AdoptStatus> {
        let running = self.0.lock().await;
        running.as_ref().map(|running| told(&running.nix_root, running.adopter.status()))
    }

    /// Ends it.
    pub async fn stop(&self) -> Result<(), Failure> {
        match self.0.lock().await.take() {
            Some(running) => running.adopter.stop().await.map_err(Failure::failed),
            None => Ok(()),
        }
    }
}

/// Where the files of the Nix store are.
fn store_dir(nix_root: &Path) -> PathBuf {
    nix_root.join("nix/store")
}

/// Whether this is how the whole Nix store is called.
pub(crate) fn is_store_dir(path: &Path, nix_root: &Path) -> bool {
    path == Path::new(STORE_DIR) || path == store_dir(nix_root)
}

fn told(nix_root: &Path, status: adopter::AdoptStatus) -> AdoptStatus {
    AdoptStatus {
        store_dir: Bytes::copy_from_slice(store_dir(nix_root).as_os_str().as_bytes()),
        total_paths: status.total,
        adopted_paths: status.adopted,
        adopted_bytes: status.adopted_bytes,
        waiting_paths: status.waiting,
        withdrawn_paths: status.withdrawn,
        untrusted_paths: status.skipped_untrusted,
        failed_paths: status.failed,
        last_failure: status.last_error.unwrap_or_default(),
        complete: status.settled,
    }
}

/// Adopts paths that are named at once, the whole store in the background where a node runs.
pub(super) async fn adopt(ops: &Ops, request: AdoptRequest, report: Report) -> Result<AdoptReply, Failure> {
    let nix_root = path_of(&request.nix_root);
    let what = request.what.iter().map(|what| path_of(what));
    let (whole, named): (Vec<_>, Vec<_>) = what.partition(|path| is_store_dir(path, &nix_root));
    let nix = nix_store(&nix_root);
    let named = named.into_iter().map(|path| {
        nix.store_path(&path)
            .ok_or_else(|| Failure::usage(AdoptError::Elsewhere { path, store_dir: store_dir(&nix_root) }))
    });
    let named: Vec<StorePath> = named.collect::<Result<_, _>>()?;
    let jobs = NonZeroUsize::new(request.jobs as usize);
    let mut reply = AdoptReply::default();
    if !named.is_empty() {
        let how = (request.closure, request.share);
        reply.paths = add::adopt(ops, &nix_root, named, how, jobs, report.clone()).await?.paths;
    }
    if !whole.is_empty() {
        reply.status = Some(adopt_store(ops, &nix_root, jobs, request.once, &report).await?);
        reply.goes_on = ops.is_node();
    }
    Ok(reply)
}

async fn adopt_store(
    ops: &Ops,
    nix_root: &Path,
    jobs: Option<NonZeroUsize>,
    once: bool,
    report: &Report,
) -> Result<AdoptStatus, Failure> {
    let adopter = ops.adopting.start(ops, nix_root, jobs).await?;
    let waited = settled(&adopter, nix_root, once || !ops.is_node(), report).await;
    if !ops.is_node() || waited.is_err() {
        ops.adopting.stop().await?;
    }
    waited
}

/// Waits until all is adopted that can be, or, if only the beginning is of interest, until Nix's database was read.
async fn settled(
    adopter: &Adopter,
    nix_root: &Path,
    to_the_end: bool,
    report: &Report,
) -> Result<AdoptStatus, Failure> {
    let mut changes = adopter.subscribe();
    loop {
        let status = changes.borrow_and_update().clone();
        report.send_replace(progress(nix_root, &status));
        let has_begun = status.settled || status.total > 0;
        if status.settled || (has_begun && !to_the_end) {
            return Ok(told(nix_root, status));
        }
        if !has_begun && let Some(said) = status.last_error {
            let store_dir = store_dir(nix_root);
            return Err(Failure::failed(AdoptError::Database { store_dir, said: said.into() }));
        }
        changes.changed().await.map_err(|_| Failure::failed(AdoptError::Ended))?;
    }
}

fn progress(nix_root: &Path, status: &adopter::AdoptStatus) -> Progress {
    let current = status.current.first().map(StorePath::to_absolute);
    Progress {
        phase: Phase::Adopting.into(),
        subject: current.unwrap_or_else(|| store_dir(nix_root).display().to_string()),
        done_items: status.adopted,
        total_items: status.adopted.saturating_add(status.waiting),
        done_bytes: status.adopted_bytes,
        ..Progress::default()
    }
}
