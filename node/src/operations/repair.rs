//! Putting aside what is damaged, and getting it again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use firn_castore::Root;
use firn_engine::Progress as Flown;
use firn_nix::StorePathHash;
use firn_proto::control::{Damage, Progress, VerifyReply, progress::Phase};
use firn_store::{Finding, Item, Reason, StoreError, Visible};
use firn_trust::{StoredPath, TrustedPath};

use super::{
    Ops, Report,
    verify::{Damaged, Found, look},
};
use crate::failure::Failure;

/// Why a damage stays that nothing visible has, such as that of a record.
const NOT_BY_ITSELF: &str = "what it was cannot be read any more: add or get it anew";
/// Why a damage stays though what was damaged has come again.
const STILL: &str = "it came again, and was damaged when it was read back";

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

/// Puts aside all that was found and gets again what it is part of, until that has been read back whole or nothing more
/// comes of it. A Directory that has come again shows what else is damaged beneath it.
pub(super) async fn repair(
    ops: &Ops,
    records: &Records,
    found: Found,
    report: &Report,
) -> Result<VerifyReply, Failure> {
    // What has come again is not collected before it is visible again.
    let _hold = ops.engine.store().hold();
    let (checked, bytes) = (found.checked, found.bytes);
    let mut repairs = Repairs::new(ops, records, report);
    let mut left = found;
    while repairs.note_new(&left) {
        put_aside(ops, &left.findings).await?;
        repairs.get_again(&left).await;
        left = repairs.read_back().await?;
    }
    let still = left.damaged.iter();
    let still: BTreeMap<&Visible, &str> =
        still.filter_map(|damaged| Some((damaged.what.as_ref()?, damaged.text.as_str()))).collect();
    let damages = repairs.all.iter().map(|damaged| {
        let result = repairs.result(damaged.what.as_ref(), &still);
        Damage {
            repaired: result.is_ok(),
            unrepaired_because: result.err().unwrap_or_default(),
            ..damaged.told()
        }
    });
    let damages = damages.collect();
    Ok(VerifyReply { checked, bytes, damages, fetched_bytes: repairs.fetched_bytes })
}

/// What has been found and done.
struct Repairs<'a> {
    ops: &'a Ops,
    records: &'a Records,
    report: &'a Report,
    /// Each damage once.
    all: Vec<Damaged>,
    results: BTreeMap<Visible, Result<(), String>>,
    /// How many bytes came.
    fetched_bytes: u64,
}

impl<'a> Repairs<'a> {
    fn new(ops: &'a Ops, records: &'a Records, report: &'a Report) -> Self {
        Self { ops, records, report, all: Vec::new(), results: BTreeMap::new(), fetched_bytes: 0 }
    }

    /// Whether something was found that was not known: else there is nothing more to be done. What was damaged may be
    /// missing later, and what has it be withdrawn, which is nothing new.
    fn note_new(&mut self, found: &Found) -> bool {
        let of = |damaged: &Damaged| (damaged.subject.clone(), damaged.item.clone());
        let known: BTreeSet<(String, Option<Item>)> = self.all.iter().map(of).collect();
        let is_first = self.all.is_empty();
        let is_new =
            |damaged: &&Damaged| is_first || (damaged.item.is_some() && !known.contains(&of(damaged)));
        let new: Vec<Damaged> = found.damaged.iter().filter(is_new).cloned().collect();
        let has_new = !new.is_empty();
        self.all.extend(new);
        has_new
    }

    /// Gets again what is damaged, one after the other.
    async fn get_again(&mut self, found: &Found) {
        let mut tried = BTreeSet::new();
        for Damaged { what, subject, .. } in &found.damaged {
            let Some(what) = what.as_ref().filter(|what| tried.insert(*what)) else { continue };
            let bytes = AtomicU64::new(0);
            let tell = |flown: &Flown| {
                bytes.store(flown.givers.iter().map(|(_, bytes)| bytes).sum(), Ordering::Relaxed);
                self.report.send_replace(progress(self.ops, subject, flown));
            };
            tell(&Flown::default());
            let result = Repair { ops: self.ops, records: self.records, tell: &tell }.get_again(what).await;
            self.fetched_bytes += bytes.into_inner();
            self.results.insert(what.clone(), result.map_err(|failure| failure.to_string()));
        }
    }

    /// Reads once more all that was damaged.
    async fn read_back(&self) -> Result<Found, Failure> {
        let was_damaged: BTreeSet<Visible> = self.results.keys().cloned().collect();
        let store = self.ops.engine.store().clone();
        let read = move || look(&*store, &|what, _| was_damaged.contains(what));
        Ok(self.ops.engine.run_blocking(read).await??)
    }

    /// Whether something is whole now: it was got again, and nothing of it was found damaged after that.
    fn result(&self, what: Option<&Visible>, still: &BTreeMap<&Visible, &str>) -> Result<(), String> {
        let Some(what) = what else { return Err(NOT_BY_ITSELF.to_owned()) };
        match (self.results.get(what), still.get(what)) {
            (Some(Err(why)), _) => Err(why.clone()),
            (_, Some(damage)) => Err(format!("{STILL}: {damage}")),
            (Some(Ok(())), None) => Ok(()),
            (None, None) => Err(NOT_BY_ITSELF.to_owned()),
        }
    }
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
                // It was withdrawn earlier, and its root is not known any more: somebody trusted must vouch for one. The
                // engine remembers whether it was private.
                None => Ok(self.ops.engine.get_path(*hash, self.tell).await.map(drop)?),
            },
            Visible::Root(root) => self.tree_again(root).await,
        }
    }

    /// A path whose record is known. Who may have it is as it was, also while it comes.
    async fn path_again(&self, stored: &StoredPath, trusted: Option<&TrustedPath>) -> Result<(), Failure> {
        if !stored.shared() {
            self.ops.engine.keep_private(Visible::Path(stored.path_hash()));
            if !self.records.roots.contains_key(stored.root()) {
                self.ops.engine.keep_private(Visible::Root(stored.root().clone()));
            }
        }
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
        if self.records.roots.get(root) == Some(&false) {
            self.ops.engine.keep_private(Visible::Root(root.clone()));
        }
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
