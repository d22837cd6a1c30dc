//! What many runs add up to. As a file it is lines of a word and a number, the first line tells which run it is.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Error, ErrorKind, Result};
use std::path::Path;

const DONE: &str = "done";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Totals {
    name: String,
    counts: BTreeMap<String, u64>,
}

impl Totals {
    pub(crate) fn new(name: String) -> Self {
        Self { name, counts: BTreeMap::new() }
    }

    pub(crate) fn add(&mut self, what: &str, count: u64) {
        *self.counts.entry(what.into()).or_default() += count;
    }

    pub(crate) fn raise(&mut self, what: &str, to: u64) {
        let most = self.counts.entry(what.into()).or_default();
        *most = to.max(*most);
    }

    pub(crate) fn get(&self, what: &str) -> u64 {
        self.counts.get(what).copied().unwrap_or_default()
    }

    /// How many seeds are done.
    pub(crate) fn done(&self) -> u64 {
        self.get(DONE)
    }

    pub(crate) fn next(&mut self) {
        self.add(DONE, 1);
    }

    /// Written beside and put in place at once, so that a run that is cut off leaves a whole file.
    pub(crate) fn save(&self, file: &Path) -> Result<()> {
        let mut text = format!("{}\n", self.name);
        for (what, count) in &self.counts {
            text.push_str(&format!("{what} {count}\n"));
        }
        let beside = file.with_extension("new");
        fs::write(&beside, text)?;
        fs::rename(&beside, file)
    }

    /// What was saved of the run of this name; nothing where there is no file.
    pub(crate) fn load(file: &Path, name: &str) -> Result<Self> {
        let text = match fs::read_to_string(file) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::new(name.into())),
            read => read?,
        };
        let mut lines = text.lines();
        if lines.next() != Some(name) {
            let what = format!("it is of another run than \"{name}\"");
            return Err(Error::new(ErrorKind::InvalidData, what));
        }
        let count = |line: &str| {
            let (what, count) = line.rsplit_once(' ')?;
            Some((what.to_string(), count.parse().ok()?))
        };
        let counts: Option<_> = lines.map(count).collect();
        let counts =
            counts.ok_or_else(|| Error::new(ErrorKind::InvalidData, "a line is no word and number"))?;
        Ok(Self { name: name.into(), counts })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let file = std::env::temp_dir().join(format!("firn-simnet-totals-{}", std::process::id()));
        let mut totals = Totals::new("swarm 0..10".into());
        assert_eq!(Totals::load(&file, "swarm 0..10").unwrap(), totals);
        totals.add("two words", 3);
        totals.next();
        totals.save(&file).unwrap();
        assert_eq!(Totals::load(&file, "swarm 0..10").unwrap(), totals);
        assert!(Totals::load(&file, "swarm 0..11").is_err());
        fs::remove_file(&file).unwrap();
    }
}
