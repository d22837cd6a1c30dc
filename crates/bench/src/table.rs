//! What is printed.

use std::{fmt, fs};

use serde::Serialize;

use crate::cost::Cost;

/// What a row has come to.
///
/// A ratio is always better when larger. Of times it is baseline / ours. Of memory and disk the baseline is the limit and
/// the ratio is limit / ours, so that 1 or more keeps it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Row {
    row: &'static str,
    ours: f64,
    baseline: f64,
    unit: &'static str,
    ratio: f64,
    goal: Option<f64>,
    cpu_s: f64,
    peak_rss_mb: f64,
    #[serde(skip)]
    baseline_cpu_s: Option<f64>,
    #[serde(skip)]
    against: &'static str,
    #[serde(skip)]
    note: String,
    #[serde(skip)]
    also: Option<Box<Row>>,
}

impl Row {
    /// Our time against another's.
    pub(crate) fn times(ours: Cost, baseline: Cost, against: &'static str) -> Self {
        let baseline_cpu_s = Some(baseline.cpu_s);
        Self { baseline_cpu_s, ..Self::limit(ours, ours.seconds, baseline.seconds, "s", against) }
    }

    /// What our work takes against the most that it should.
    pub(crate) fn limit(
        cost: Cost,
        ours: f64,
        limit: f64,
        unit: &'static str,
        against: &'static str,
    ) -> Self {
        Self {
            row: "",
            ours,
            baseline: limit,
            unit,
            ratio: limit / ours,
            goal: None,
            cpu_s: cost.cpu_s,
            peak_rss_mb: cost.peak_rss_mb,
            baseline_cpu_s: None,
            against,
            note: String::new(),
            also: None,
        }
    }

    /// Under its name, with what it should reach.
    pub(crate) fn named(self, row: &'static str, goal: Option<f64>) -> Self {
        Self { row, goal, ..self }
    }

    /// With more figures, for people.
    pub(crate) fn noted(self, note: String) -> Self {
        Self { note, ..self }
    }

    /// With more behind what is noted already.
    pub(crate) fn also_noted(self, more: &str) -> Self {
        let note = format!("{}; {more}", self.note);
        self.noted(note)
    }

    /// With another one that came out of the same runs.
    pub(crate) fn and(self, also: Row) -> Self {
        Self { also: Some(Box::new(also)), ..self }
    }

    /// Itself, and what came out of the same runs.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Row> {
        std::iter::successors(Some(self), |row| row.also.as_deref())
    }

    /// One JSON object on one line.
    pub(crate) fn json(&self) -> String {
        serde_json::to_string(self).expect("numbers and texts have a JSON form")
    }
}

/// The line above the rows.
pub(crate) fn head() -> String {
    format!(
        "{:<38} {:>8} {:>8} {:<4} {:>6} {:>5} {:<5} {:>7} {:>7} {:>7}  {}",
        "row", "ours", "baseline", "unit", "ratio", "goal", "", "cpu s", "theirs", "peak MB", "baseline is"
    )
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let goal = self.goal.map(|goal| format!("{goal:.2}")).unwrap_or_default();
        let verdict = match self.goal {
            Some(goal) if self.ratio >= goal => "ok",
            Some(_) => "short",
            None => "",
        };
        let theirs = self.baseline_cpu_s.map(|cpu| format!("{cpu:.2}")).unwrap_or_default();
        write!(
            f,
            "{:<38} {:>8} {:>8} {:<4} {:>6.2} {:>5} {:<5} {:>7.2} {:>7} {:>7.1}  {}",
            self.row,
            digits(self.ours),
            digits(self.baseline),
            self.unit,
            self.ratio,
            goal,
            verdict,
            self.cpu_s,
            theirs,
            self.peak_rss_mb,
            self.against,
        )?;
        if self.note.is_empty() { Ok(()) } else { write!(f, "; {}", self.note) }
    }
}

/// Three digits or more.
fn digits(value: f64) -> String {
    let decimals = if value >= 100.0 { 0 } else { 3 };
    format!("{value:.decimals$}")
}

/// On what machine this runs.
pub(crate) fn machine() -> String {
    let cpu = first_value("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown CPU".into());
    let memory = first_value("/proc/meminfo", "MemTotal");
    let memory = memory.and_then(|text| text.split(' ').next()?.parse::<u64>().ok()).unwrap_or(0);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    let memory_gib = memory as f64 / f64::from(1 << 20);
    format!("{cpu}, {cores} cores, {memory_gib:.0} GiB of memory, Linux {kernel}")
}

fn first_value(file: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const COST: Cost = Cost { seconds: 2.0, cpu_s: 1.5, peak_rss_mb: 30.0 };

    #[test]
    fn a_row_has_these_keys_and_no_others() {
        let baseline = Cost { seconds: 3.0, cpu_s: 9.0, peak_rss_mb: 0.0 };
        let row = Row::times(COST, baseline, "cp").named("add", Some(0.5));
        let keys = r#"{"row":"add","ours":2.0,"baseline":3.0,"unit":"s","ratio":1.5,"goal":0.5,"cpu_s":1.5,"peak_rss_mb":30.0}"#;
        assert_eq!(row.json(), keys);
        assert!(row.named("add", None).json().contains(r#""goal":null"#));
    }

    #[test]
    fn a_limit_that_is_kept_has_a_ratio_of_one_or_more() {
        let kept = Row::limit(COST, 100.0, 200.0, "MB", "limit").named("memory", Some(1.0));
        assert_eq!(kept.ratio, 2.0);
        assert!(kept.to_string().contains(" ok "));
        let exceeded = Row::limit(COST, 400.0, 200.0, "MB", "limit").named("memory", Some(1.0));
        assert!(exceeded.to_string().contains(" short "));
    }

    #[test]
    fn the_head_stands_above_its_columns() {
        let row = Row::times(COST, COST, "cp").named("add", None).to_string();
        assert_eq!(head().find("baseline is"), row.find("cp"));
    }
}
