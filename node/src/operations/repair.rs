//! Putting aside what is damaged, and getting it again.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use firn_castore::Root;
use firn_engine::Progress as Flown;
use firn_nix::StorePathHash;
use firn_proto::control::{Damage, Progress, VerifyReply, progress::Phase};
use firn_store::{Finding, Item, Reason, StoreError, Visible};
use firn_trust::{StoredPath, TrustedPath};

use super::{
    Ops, Report,
    verify::{Damaged, Found},
};
use crate::failure::Failure;

/// Why a damage stays that nothing visible has, such as that of a record.
const NOT_BY_ITSELF: &str = "what it was cannot be read any more: add or get it anew";

/// What was visible before anything was read.
pub(super) struct Records {
    paths: BTreeMap<StorePathHash, (StoredPath, Option<Arc<TrustedPath>>)>,
    roots: BTreeMap<Root, bool>,
    pins: BTreeMap<Visible, Reason>,
}

impl Records {
    /// Those of the store, which leaves out damaged ones: verifying finds them.
    pub(super) async fn read(ops: &Ops) -> Result<Self, Failure> {
        let (store, engine) = (ops.engine.store().clone(), ops.engine.clone());
        let read = move || {
            let pins = store.pins()?;
            let paths = store.paths()?.into_iter();
            let paths = paths.map(|stored| {
                let hash = stored.path_hash();
                (hash, (stored, engine.path(&hash)))
            });
            let roots = store.roots()?.into_iter().collect();
            Ok::<_, StoreError>(Self { paths: paths.collect(), roots, pins })
        };
        Ok(ops.engine.run_blocking(read).await??)
    }
}

/// Puts aside all that was found, then gets again what it is part of, one after the other.
pub(super) async fn repair(
    ops: &Ops,
    records: &Records,
    found: Found,
    mut reply: VerifyReply,
    report: &Report,
) -> Result<VerifyReply, Failure> {
    // What has come again is not collected before it is visible again.
    let _hold = ops.engine.store().hold();
    let Found { findings, damaged, .. } = found;
    put_aside(ops, &findings).await?;
    let fetched: Mutex<BTreeMap<String, u64>> = Mutex::default();
    let mut results: BTreeMap<Visible, Result<(), String>> = BTreeMap::new();
    for (damage, Damaged { what, .. }) in reply.damages.iter_mut().zip(damaged) {
        let Some(what) = what else {
            note(damage, Err(NOT_BY_ITSELF.to_owned()));
            continue;
        };
        if !results.contains_key(&what) {
            let tell = |flown: &Flown| {
                let bytes = flown.givers.iter().map(|(_, bytes)| bytes).sum();
                lock(&fetched).insert(damage.subject.clone(), bytes);
                report.send_replace(progress(ops, &damage.subject, flown));
            };
            tell(&Flown::default());
            let result = Repair { ops, records, tell: &tell }.get_again(&what).await;
            results.insert(what.clone(), result.map_err(|failure| failure.to_string()));
        }
        note(damage, results.get(&what).cloned().unwrap_or(Ok(())));
    }
    reply.fetched_bytes = lock(&fetched).values().sum();
    Ok(reply)
}

/// Gets one thing again of which something is damaged or missing, and makes it visible as it was.
pub(super) async fn get_again(
    ops: &Ops,
    what: &Visible,
    tell: &(dyn Fn(&Flown) + Send + Sync),
) -> Result<(), Failure> {
    let _hold = ops.engine.store().hold();
    let records = Records::read(ops).await?;
    Repair { ops, records: &records, tell }.get_again(what).await
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn progress(ops: &Ops, subject: &str, flown: &Flown) -> Progress {
    Progress {
        phase: Phase::Repairing.into(),
        subject: subject.to_owned(),
        done_bytes: flown.bytes_done,
        total_bytes: flown.bytes_total,
        peers: ops.givers(flown.givers.iter().copied()),
        ..Progress::default()
    }
}

fn note(damage: &mut Damage, result: Result<(), String>) {
    damage.repaired = result.is_ok();
    damage.unrepaired_because = result.err().unwrap_or_default();
}

/// Makes everything that was found damaged absent.
async fn put_aside(ops: &Ops, findings: &[Finding]) -> Result<(), Failure> {
    let items: Vec<Item> = findings.iter().filter_map(|finding| finding.item.clone()).collect();
    let store = ops.engine.store().clone();
    let quarantine = move || items.iter().try_for_each(|item| store.quarantine(item));
    Ok(ops.engine.run_blocking(quarantine).await??)
}

struct Repair<'a> {
    ops: &'a Ops,
    records: &'a Records,
    tell: &'a (dyn Fn(&Flown) + Send + Sync),
}

impl Repair<'_> {
    /// Gets it from peers as far as it is not whole here, and makes it visible as it was.
    async fn get_again(&self, what: &Visible) -> Result<(), Failure> {
        match what {
            Visible::Path(hash) => match self.records.paths.get(hash) {
                Some((stored, trusted)) => self.path_again(stored, trusted.as_deref()).await,
                // It was withdrawn earlier, and its root is not known any more: somebody trusted must vouch for one.
                None => Ok(self.ops.engine.get_path(*hash, self.tell).await.map(drop)?),
            },
            Visible::Root(root) => self.tree_again(root).await,
        }
    }

    /// A path whose record is known. Who may have it is as it was, but for the moment in which its tree has come and
    /// the path has not: whoever knows the root could ask for it then, as they could ask whoever gave it.
    async fn path_again(&self, stored: &StoredPath, trusted: Option<&TrustedPath>) -> Result<(), Failure> {
        self.tree_again(stored.root()).await?;
        let pin = self.records.pins.get(&Visible::Path(stored.path_hash())).cloned();
        match trusted {
            Some(trusted) => self.ops.engine.commit(trusted.clone(), stored.shared(), pin).await?,
            // Out of view it was, and out of view it stays.
            None => {
                let (store, stored) = (self.ops.engine.store().clone(), stored.clone());
                self.ops.engine.run_blocking(move || store.commit(stored, pin.as_ref())).await??;
            }
        }
        if !self.records.roots.contains_key(stored.root()) {
            self.ops.engine.remove(&Visible::Root(stored.root().clone())).await?;
        }
        Ok(())
    }

    /// A tree, which its root proves. Who may have it is as it was.
    async fn tree_again(&self, root: &Root) -> Result<(), Failure> {
        self.ops.engine.get_root(root.clone(), self.tell).await?;
        let Some(shared) = self.records.roots.get(root) else { return Ok(()) };
        let what = Visible::Root(root.clone());
        if !shared {
            self.ops.engine.remove(&what).await?;
        }
        let pin = self.records.pins.get(&what).cloned();
        self.ops.engine.commit_root(root.clone(), *shared, pin).await?;
        Ok(())
    }
}
