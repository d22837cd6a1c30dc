//! Which seeds are run, and how a long run is taken up again.

use std::path::PathBuf;

use clap::Args;

use super::totals::Totals;

/// After so many seeds the state of a run is written down.
const SAVE_EACH: u64 = 20;

#[derive(Args)]
pub(crate) struct Seeds {
    /// How many seeds to run.
    #[arg(long, default_value_t = 300)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Run this one alone.
    #[arg(long, conflicts_with_all = ["seeds", "from", "resume"])]
    seed: Option<u64>,
    /// Tell what happens.
    #[arg(long, requires = "seed")]
    pub(crate) trace: bool,
    /// Write down here how far the run has come, and go on from there.
    #[arg(long, value_name = "FILE")]
    resume: Option<PathBuf>,
}

impl Seeds {
    /// The one seed that is to be run alone.
    pub(crate) fn alone(&self) -> Option<u64> {
        self.seed
    }

    fn range(&self) -> std::ops::Range<u64> {
        match self.seed {
            Some(seed) => seed..seed.saturating_add(1),
            None => self.from..self.from.saturating_add(self.seeds),
        }
    }

    /// Runs each seed; `run` counts what it finds. `mode` tells runs of different kinds apart.
    pub(crate) fn each(&self, mode: &str, mut run: impl FnMut(u64, &mut Totals)) -> Result<Totals, String> {
        let range = self.range();
        let name = format!("{mode} {}..{}", range.start, range.end);
        let mut totals = match &self.resume {
            Some(file) => {
                Totals::load(file, &name).map_err(|error| format!("{}: {error}", file.display()))?
            }
            None => Totals::new(name),
        };
        let first = range.start + totals.done();
        for seed in first..range.end {
            run(seed, &mut totals);
            totals.next();
            if let Some(file) = &self.resume
                && (totals.done().is_multiple_of(SAVE_EACH) || seed + 1 == range.end)
            {
                totals.save(file).map_err(|error| format!("{}: {error}", file.display()))?;
            }
        }
        Ok(totals)
    }
}
