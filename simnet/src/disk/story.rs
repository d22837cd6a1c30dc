//! One run: a store, what is done with it, and how its process ends, again and again.

use std::{
    collections::BTreeSet,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use firn_store::{Access, Disk, DiskStore, Hold, StoreError};

use super::{
    FakeDisk, Fault, FaultKind, Flaw, Plan, Pool,
    lives::Opened,
    model::Model,
    pool::{Tree, trees},
};
use crate::dice::Dice;

pub(super) const STORE: &str = "/store";
/// Where the files are that are adopted.
const SOURCE: &str = "/source";

/// What a store has done that it must not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breach {
    /// What had become visible, was removed or pinned is not as it was left.
    Forgotten,
    /// Something beneath what is visible is not there, or not readable.
    NotWhole,
    /// What was read is not what was kept.
    FalseBytes,
    /// Something was made visible that cannot be whole.
    Unproven,
    /// Something that was kept, or found, is gone without a reason.
    Vanished,
    /// Garbage was left.
    Garbage,
    /// An error without a reason.
    Refused,
    /// An error that names no file of the store.
    Unnamed,
    /// It has panicked.
    Panicked,
}

/// What a store has done that it must not do, and what it was about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// In what way.
    pub breach: Breach,
    /// Details for the reader.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.breach, self.detail)
    }
}

impl Breach {
    pub(super) fn of(self, detail: impl Into<String>) -> Violation {
        Violation { breach: self, detail: detail.into() }
    }
}

/// How a run went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiskReport {
    /// Which run.
    pub seed: u64,
    /// What was found first; the run has ended there.
    pub violation: Option<Violation>,
    /// What has happened, in words.
    pub events: Vec<String>,
    /// How often the power has failed or the process was killed in the middle of a call.
    pub crashes: u64,
    /// How many calls were made to fail.
    pub faults: u64,
    /// How many commits have succeeded.
    pub commits: u64,
    /// How many groups and Directories had to be found again, though nothing visible needs them, after a process was killed.
    pub resumed: u64,
    /// How much the store said that it has lost, where bits were flipped.
    pub losses: u64,
    /// How many calls the disks have seen.
    pub calls: u64,
}

/// What goes wrong in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Processes end.
    Ends,
    /// Calls fail, too.
    Faults,
    /// Bits flip once, too.
    Flips,
}

/// Runs a store on a disk of which this seed decides. With a flaw, the disk does not keep its promises.
pub fn run_disk(pool: &Pool, seed: u64, flaw: Option<Flaw>) -> DiskReport {
    let mut story = Story::new(pool, seed, flaw);
    let told = catch_unwind(AssertUnwindSafe(|| story.tell()));
    let violation = match told {
        Ok(told) => told.err(),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            Some(Breach::Panicked.of(text))
        }
    };
    DiskReport { seed, violation, ..story.report }
}

pub(super) struct Story<'a> {
    pub(super) pool: &'a Pool,
    pub(super) dice: Dice,
    pub(super) trees: Vec<Tree>,
    pub(super) model: Model,
    pub(super) disk: FakeDisk,
    pub(super) store: Option<DiskStore>,
    pub(super) hold: Option<Hold>,
    pub(super) report: DiskReport,
    pub(super) trouble: Trouble,
    /// In seconds.
    pub(super) clock: u64,
    /// How much was found damaged and kept anew.
    pub(super) mended: u64,
    /// A call has failed since the store was opened.
    pub(super) has_faults: bool,
    /// Bits have flipped: what is said to be damaged may be so.
    pub(super) has_flips: bool,
    /// The files to be adopted that are not what they were.
    pub(super) spoilt: BTreeSet<PathBuf>,
}

impl<'a> Story<'a> {
    fn new(pool: &'a Pool, seed: u64, flaw: Option<Flaw>) -> Self {
        let mut dice = Dice::new(seed ^ 0x6469_736b);
        let trees = trees(pool, &mut dice);
        let trouble =
            dice.pick(&[Trouble::Ends, Trouble::Ends, Trouble::Faults, Trouble::Faults, Trouble::Flips]);
        let disk = FakeDisk::new(dice.number());
        disk.set_flaw(flaw);
        Self {
            pool,
            dice,
            trees,
            model: Model::new(),
            disk,
            store: None,
            hold: None,
            report: DiskReport::default(),
            trouble,
            clock: 0,
            mended: 0,
            has_faults: false,
            has_flips: false,
            spoilt: BTreeSet::new(),
        }
    }

    pub(super) fn note(&mut self, event: impl Into<String>) {
        self.report.events.push(event.into());
    }

    fn tell(&mut self) -> Result<(), Violation> {
        self.describe();
        self.make_sources();
        if let Opened::Damaged = self.open()? {
            return Ok(());
        }
        let lives = self.dice.between(1..5);
        for life in 0..lives {
            self.note(format!("-- life {life}"));
            let plan = self.plan();
            self.set_plan(plan);
            for _ in 0..self.dice.between(2..25) {
                self.act()?;
                self.gather_faults();
                if self.disk.has_ended() {
                    break;
                }
                if self.has_faults || self.dice.percent(15) {
                    self.check_view()?;
                }
            }
            self.end();
            if self.trouble == Trouble::Flips && self.report.commits > 0 && self.dice.percent(60) {
                self.flip();
            }
            if let Opened::Damaged = self.open_and_look()? {
                return Ok(());
            }
            self.check_all()?;
            if self.dice.percent(40) {
                self.collect_all()?;
            }
        }
        Ok(())
    }

    fn describe(&mut self) {
        for i in 0..self.trees.len() {
            let tree = &self.trees[i];
            let sizes: Vec<_> = tree.blobs.iter().map(|blob| blob.size).collect();
            let line = format!("tree {i}: {} Directories, blobs of {sizes:?} bytes", tree.directories.len());
            self.note(line);
        }
    }

    pub(super) fn source(&self, sample: usize) -> PathBuf {
        Path::new(SOURCE).join(sample.to_string())
    }

    /// The store's directory and files that can be adopted, durable from the beginning.
    fn make_sources(&mut self) {
        const EXPECT: &str = "nothing goes wrong yet";
        for dir in [STORE, SOURCE] {
            self.disk.create_dir(Path::new(dir)).expect(EXPECT);
        }
        let used =
            |i: &usize| self.trees.iter().any(|tree| tree.blobs.contains(&self.pool.samples()[*i].blob()));
        for i in (0..self.pool.samples().len()).filter(used) {
            let file = self.disk.open(&self.source(i), Access::CreateNew).expect(EXPECT);
            file.write_all_at(&self.pool.samples()[i].bytes, 0).expect(EXPECT);
        }
        let flaw = self.disk.set_flaw(None);
        Disk::sync(&self.disk).expect(EXPECT);
        self.disk.set_flaw(flaw);
    }

    /// What is to go wrong in a life.
    fn plan(&mut self) -> Plan {
        let mut plan = Plan::default();
        let calls_max = self.dice.pick(&[10, 40, 100, 200, 400]);
        if self.dice.percent(75) {
            plan.ends_at = Some(self.dice.between(1..calls_max));
        }
        if self.trouble == Trouble::Faults {
            for _ in 0..self.dice.between(0..3) {
                plan.faults.push(self.fault(calls_max));
            }
            if self.dice.percent(15) {
                plan.full_from = Some(self.dice.between(1..calls_max));
            }
        }
        plan
    }

    pub(super) fn fault(&mut self, calls_max: u64) -> Fault {
        let kinds = [FaultKind::NoSpace, FaultKind::Read, FaultKind::Write, FaultKind::Sync, FaultKind::Sync];
        Fault {
            kind: self.dice.pick(&kinds),
            from: self.dice.between(1..calls_max),
            count: self.dice.pick(&[1, 1, 2, 5]),
        }
    }

    pub(super) fn set_plan(&mut self, plan: Plan) {
        self.report.calls += self.disk.calls();
        self.disk.set_plan(plan);
    }

    pub(super) fn gather_faults(&mut self) {
        for event in self.disk.take_events() {
            self.report.faults += 1;
            self.has_faults = true;
            self.note(format!("   {event}"));
        }
    }

    /// An error is right only where a call has failed. Tells whether the result may be used.
    pub(super) fn excuse<T>(
        &mut self,
        what: &str,
        result: Result<T, StoreError>,
    ) -> Result<Option<T>, Violation> {
        self.gather_faults();
        let error = match result {
            Ok(value) => return Ok(Some(value)),
            Err(error) => error,
        };
        let text = format!("{what}: {error}");
        self.note(format!("   {text}"));
        if self.has_flips && matches!(error, StoreError::Damaged { .. }) {
            return Ok(None);
        }
        if !self.has_faults {
            return Err(Breach::Refused.of(text));
        }
        match &error {
            StoreError::Io { path, .. } | StoreError::Index { path, .. } => {
                if !path.starts_with(STORE) && !path.starts_with(SOURCE) {
                    return Err(Breach::Unnamed.of(text));
                }
            }
            // What was not durable may be gone now.
            StoreError::Missing(_) | StoreError::Damaged { .. } => {}
            _ => return Err(Breach::Refused.of(text)),
        }
        if self.disk.has_failed() {
            self.model.forgot(&self.trees);
        }
        Ok(None)
    }
}
