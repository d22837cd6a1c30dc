//! How a process ends, and the next one begins.

use std::{path::Path, sync::Arc};

use firn_store::DiskStore;

use super::{
    Plan,
    story::{Breach, STORE, Story, Trouble, Violation},
};

const OPENINGS_MAX: u64 = 3;

/// What comes of opening a store.
pub(super) enum Opened {
    Open,
    /// It says that it is damaged, and it is.
    Damaged,
}

impl Story<'_> {
    /// Ends the process, in one way or another.
    pub(super) fn end(&mut self) {
        self.hold = None;
        let was_cut_off = self.disk.has_ended();
        if !was_cut_off && self.dice.percent(30) {
            self.store = None;
            self.note("closed");
        }
        self.next_disk();
    }

    fn next_disk(&mut self) {
        self.gather_faults();
        self.report.crashes += u64::from(self.disk.has_ended());
        self.report.calls += self.disk.calls();
        self.disk.halt();
        self.hold = None;
        self.store = None;
        let seed = self.dice.number();
        let was_killed = self.dice.percent(35);
        // Where calls have failed, or bits flipped, not all that was kept need be there.
        self.model.ended(was_killed && !self.disk.has_failed() && !self.has_flips);
        self.disk = if was_killed { self.disk.kill(seed) } else { self.disk.crash(seed) };
        self.note(if was_killed { "-- killed" } else { "-- the power failed" });
        self.has_faults = false;
    }

    pub(super) fn flip(&mut self) {
        self.trouble = Trouble::Ends;
        for _ in 0..self.dice.between(1..4) {
            if let Some((path, at)) = self.disk.flip_bit(self.dice.number()) {
                self.has_flips = true;
                self.note(format!("a bit flips in {} at {at}", path.display()));
                self.spoilt.insert(path);
                self.model.has_flipped();
            }
        }
    }

    /// Opens the store, which may fail, or end, now and then.
    pub(super) fn open(&mut self) -> Result<Opened, Violation> {
        for attempt in 0..=OPENINGS_MAX {
            let mut plan = Plan::default();
            if attempt < OPENINGS_MAX && self.dice.percent(20) {
                let calls_max = self.dice.pick(&[20, 100]);
                plan.ends_at = Some(self.dice.between(1..calls_max));
            } else if attempt < OPENINGS_MAX && self.trouble == Trouble::Faults && self.dice.percent(20) {
                plan.faults.push(self.fault(60));
            }
            self.set_plan(plan);
            let opened = DiskStore::open_on(Arc::new(self.disk.clone()), Path::new(STORE));
            self.gather_faults();
            match opened {
                Ok(store) => {
                    self.store = Some(store);
                    if !self.disk.has_ended() {
                        self.note(format!("opened after {} calls", self.disk.calls()));
                        self.set_plan(Plan::default());
                        return Ok(Opened::Open);
                    }
                }
                Err(error) => {
                    self.note(format!("cannot be opened: {error}"));
                    let text = error.to_string();
                    if !text.contains(STORE) {
                        return Err(Breach::Unnamed.of(text));
                    }
                    if self.has_flips && !self.has_faults {
                        self.report.losses += 1;
                        return Ok(Opened::Damaged);
                    }
                    if !self.has_faults {
                        return Err(Breach::Refused.of(format!("opening: {text}")));
                    }
                }
            }
            self.next_disk();
        }
        unreachable!("nothing goes wrong in the last attempt")
    }

    /// Opens the store; now and then processes look before for what is here, and are cut off while they do. Where bits have
    /// flipped they don't: what they would find out first is for the check to hear.
    pub(super) fn open_and_look(&mut self) -> Result<Opened, Violation> {
        loop {
            let opened = self.open()?;
            if matches!(opened, Opened::Damaged) || self.has_flips || !self.dice.percent(30) {
                return Ok(opened);
            }
            let calls_max = self.dice.pick(&[10, 30, 100]);
            let plan = Plan { ends_at: Some(self.dice.between(1..calls_max)), ..Plan::default() };
            self.set_plan(plan);
            self.look_for_groups()?;
            if !self.disk.has_ended() {
                self.set_plan(Plan::default());
                return Ok(opened);
            }
            self.next_disk();
        }
    }
}
