//! What running programs costs: time, CPU and memory, and the medians of several runs.

use std::{
    fs,
    io::Read,
    path::Path,
    process::{Child, Command, Stdio},
    time::Instant,
};

use crate::{error::BenchError, work::Report};

/// What one run has cost.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Cost {
    /// How long it took.
    pub(crate) seconds: f64,
    /// The CPU of all processes that took part, user and system, in steps of 10 ms.
    pub(crate) cpu_s: f64,
    /// The most memory that our process had (VmHWM), in units of 10^6 bytes; zero for others' processes.
    pub(crate) peak_rss_mb: f64,
}

impl Cost {
    /// Of each of its parts the median; for an even number of runs the mean of the two in the middle.
    pub(crate) fn median(runs: &[Self]) -> Self {
        let of = |part: fn(&Self) -> f64| median(&runs.iter().map(part).collect::<Vec<_>>());
        Self {
            seconds: of(|cost| cost.seconds),
            cpu_s: of(|cost| cost.cpu_s),
            peak_rss_mb: of(|cost| cost.peak_rss_mb),
        }
    }
}

/// The one in the middle, or the mean of the two; zero of none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        length if length % 2 == 1 => sorted[middle],
        _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}

/// The memory of a process, in units of 10^6 bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Memory {
    /// What it has now (VmRSS).
    pub(crate) resident_mb: f64,
    /// The most that it has had (VmHWM).
    pub(crate) peak_mb: f64,
}

impl Memory {
    /// The memory of a process that lives: its id, or `self`.
    pub(crate) fn of(process: &str) -> Result<Self, BenchError> {
        let file = Path::new("/proc").join(process).join("status");
        let text = fs::read_to_string(&file).map_err(BenchError::io(&file))?;
        let of = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key));
            let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
            let ended = || BenchError::Ended(process.into());
            Ok(kib.ok_or_else(ended)? * 1024.0 / 1e6)
        };
        Ok(Self { resident_mb: of("VmRSS:")?, peak_mb: of("VmHWM:")? })
    }
}

/// The CPU that children which have ended and been waited for have taken so far, theirs included.
///
/// The kernel gives it in /proc/self/stat, to 10 ms; there is no safe wait4 in the standard library, and no row is so
/// short that a finer clock would tell more.
pub(crate) fn cpu_of_children() -> Result<f64, BenchError> {
    let file = Path::new("/proc/self/stat");
    let text = fs::read_to_string(file).map_err(BenchError::io(file))?;
    // The second field is the program's name in parentheses and may contain anything; the third follows it.
    let fields = text.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: u64 = fields.skip(16 - 3).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// Programs of which each reads what the one before writes; all run at once.
pub(crate) struct Pipeline(Vec<Command>);

impl From<Command> for Pipeline {
    fn from(command: Command) -> Self {
        Self(vec![command])
    }
}

impl Pipeline {
    /// What `first` writes is read by `cat`, which gives it to nobody.
    pub(crate) fn read_by_cat(first: Command) -> Self {
        Self::read_by(first, Command::new("cat"))
    }

    /// What `first` writes is read by `second`.
    pub(crate) fn read_by(first: Command, second: Command) -> Self {
        Self(vec![first, second])
    }

    /// What the first has said on standard error; the last one's standard output goes to `output`.
    pub(crate) fn run(mut self, output: Stdio) -> Result<Box<str>, BenchError> {
        let last = self.0.len().saturating_sub(1);
        let (mut output, mut input) = (Some(output), Stdio::null());
        let mut running = Vec::new();
        for (at, command) in self.0.iter_mut().enumerate() {
            let next = if at == last { output.take().unwrap_or_else(Stdio::null) } else { Stdio::piped() };
            let said = if at == 0 { Stdio::piped() } else { Stdio::inherit() };
            let mut child = start(command.stdin(input).stdout(next).stderr(said))?;
            input = child.stdout.take().map_or_else(Stdio::null, Stdio::from);
            running.push((program(command), child));
        }
        drop(self);
        let mut said = String::new();
        for (at, (program, mut child)) in running.into_iter().enumerate() {
            let mut own = String::new();
            if let Some(mut pipe) = child.stderr.take() {
                let _ = pipe.read_to_string(&mut own);
            }
            let status =
                child.wait().map_err(|source| BenchError::Start { program: program.clone(), source })?;
            if !status.success() {
                return Err(BenchError::Failed { program, status, said: own.trim().into() });
            }
            if at == 0 {
                said = own;
            }
        }
        Ok(said.into())
    }
}

/// Runs a program that must succeed; what it wrote to standard output.
pub(crate) fn output_of(command: &mut Command) -> Result<String, BenchError> {
    let program = program(command);
    match command.output() {
        Err(source) => Err(BenchError::Start { program, source }),
        Ok(output) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).trim().into();
            Err(BenchError::Failed { program, status: output.status, said })
        }
    }
}

/// Starts a program.
pub(crate) fn start(command: &mut Command) -> Result<Child, BenchError> {
    let program = program(command);
    command.spawn().map_err(|source| BenchError::Start { program, source })
}

fn program(command: &Command) -> Box<str> {
    command.get_program().to_string_lossy().into()
}

/// The cost of others' programs, one after the other, from the first's start to the last's end.
pub(crate) fn cost_of(steps: Vec<Pipeline>) -> Result<Cost, BenchError> {
    let (cpu, start) = (cpu_of_children()?, Instant::now());
    for step in steps {
        step.run(Stdio::null())?;
    }
    Ok(Cost { seconds: start.elapsed().as_secs_f64(), cpu_s: cpu_of_children()? - cpu, peak_rss_mb: 0.0 })
}

/// The cost of our own work, which times itself, and what else it reports.
pub(crate) fn cost_of_work(work: Command) -> Result<(Cost, Report), BenchError> {
    let cpu = cpu_of_children()?;
    let said = Pipeline::from(work).run(Stdio::null())?;
    let report = Report::parse(&said)?;
    let cpu_s = cpu_of_children()? - cpu;
    Ok((Cost { seconds: report.seconds, cpu_s, peak_rss_mb: report.peak_rss_mb }, report))
}

/// The cost of our own work in a pipeline, from the start of the first to the end of the last.
pub(crate) fn cost_of_pipeline(pipeline: Pipeline) -> Result<Cost, BenchError> {
    let (cpu, start) = (cpu_of_children()?, Instant::now());
    let said = pipeline.run(Stdio::null())?;
    let seconds = start.elapsed().as_secs_f64();
    let report = Report::parse(&said)?;
    Ok(Cost { seconds, cpu_s: cpu_of_children()? - cpu, peak_rss_mb: report.peak_rss_mb })
}

/// One of those that are measured in turn.
pub(crate) type Contender<'a> = Box<dyn FnMut() -> Result<Cost, BenchError> + 'a>;

/// Runs all of them in turn: once to warm up, then `runs` times; the medians, in the same order.
pub(crate) fn in_turn(runs: usize, contenders: &mut [Contender<'_>]) -> Result<Vec<Cost>, BenchError> {
    for contender in &mut *contenders {
        contender()?;
    }
    in_turn_at_once(runs, contenders)
}

/// The same without a warm-up, for what waits for a link most of its time: nothing of it gets faster.
pub(crate) fn in_turn_at_once(
    runs: usize,
    contenders: &mut [Contender<'_>],
) -> Result<Vec<Cost>, BenchError> {
    let mut costs = vec![Vec::with_capacity(runs); contenders.len()];
    for _ in 0..runs {
        for (contender, costs) in contenders.iter_mut().zip(&mut costs) {
            costs.push(contender()?);
        }
    }
    Ok(costs.iter().map(|costs| Cost::median(costs)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_one_in_the_middle_or_the_mean_of_two() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[3.0]), 3.0);
        assert_eq!(median(&[9.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 100.0]), 3.0);
    }

    #[test]
    fn a_warm_up_comes_first_and_counts_for_nothing() {
        let mut calls = Vec::new();
        let (mut ours, mut theirs) = (0.0, 100.0);
        let log = std::cell::RefCell::new(&mut calls);
        let mut contenders: Vec<Contender<'_>> = vec![
            Box::new(|| {
                ours += 1.0;
                log.borrow_mut().push("ours");
                Ok(Cost { seconds: ours, ..Cost::default() })
            }),
            Box::new(|| {
                theirs += 1.0;
                log.borrow_mut().push("theirs");
                Ok(Cost { seconds: theirs, ..Cost::default() })
            }),
        ];
        let medians = in_turn(3, &mut contenders).unwrap();
        drop(contenders);
        assert_eq!((medians[0].seconds, medians[1].seconds), (3.0, 103.0));
        assert_eq!(calls, ["ours", "theirs"].repeat(4));
    }

    #[test]
    fn a_pipeline_gives_what_the_first_said_and_fails_with_any() {
        let shell = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            command
        };
        let said = Pipeline::read_by_cat(shell("echo out; echo said >&2")).run(Stdio::null()).unwrap();
        assert_eq!(&*said, "said\n");
        let failed = Pipeline(vec![shell("echo why >&2; exit 3"), Command::new("cat")]).run(Stdio::null());
        assert!(matches!(failed, Err(BenchError::Failed { said, .. }) if &*said == "why"));
    }

    #[test]
    fn the_cpu_of_children_grows_with_what_they_compute() {
        let before = cpu_of_children().unwrap();
        let busy = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
        let mut command = Command::new("sh");
        command.args(["-c", busy]);
        cost_of(vec![command.into()]).unwrap();
        assert!(cpu_of_children().unwrap() > before);
    }
}
