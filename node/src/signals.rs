//! The signals that end a process from outside.

use std::{fmt, io, task::Poll};

use rustix::process;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// A signal that ends: the terminal has closed, ctrl-C was pressed, or a service manager asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// SIGHUP.
    Hangup,
    /// SIGINT.
    Interrupt,
    /// SIGTERM.
    Terminate,
}

impl Ending {
    /// Its number, the same on all of Linux.
    pub fn number(self) -> u8 {
        match self {
            Ending::Hangup => 1,
            Ending::Interrupt => 2,
            Ending::Terminate => 15,
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Ending::Hangup => "ended by SIGHUP",
            Ending::Interrupt => "ended by SIGINT",
            Ending::Terminate => "ended by SIGTERM",
        })
    }
}

impl std::error::Error for Ending {}

/// Those of them that are listened for. From then on none of them ends the process by itself.
#[derive(Debug)]
pub struct Signals(Vec<(Ending, Signal)>);

impl Signals {
    /// For a command: what was ignored at the start stays ignored, as a shell arranges it for jobs in the background and
    /// `nohup` for what outlives its terminal.
    pub fn of_command() -> io::Result<Self> {
        Self::listen(|ending| !is_ignored(ending))
    }

    /// For a node, which ends by SIGINT and SIGTERM however it was started, and outlives its terminal under `nohup` alone.
    pub fn of_node() -> io::Result<Self> {
        Self::listen(|ending| ending != Ending::Hangup || !is_ignored(ending))
    }

    fn listen(is_wanted: impl Fn(Ending) -> bool) -> io::Result<Self> {
        let wanted =
            [Ending::Hangup, Ending::Interrupt, Ending::Terminate].into_iter().filter(|one| is_wanted(*one));
        let listen = |ending: Ending| Ok((ending, signal(SignalKind::from_raw(ending.number().into()))?));
        wanted.map(listen).collect::<io::Result<_>>().map(Self)
    }

    /// The next that comes.
    pub async fn next(&mut self) -> Ending {
        std::future::poll_fn(|context| {
            let mut came = self
                .0
                .iter_mut()
                .filter_map(|(ending, signal)| signal.poll_recv(context).is_ready().then_some(*ending));
            came.next().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

/// Makes a file that outgrows `ulimit -f` an error of its writing, where by itself the system ends the process with SIGXFSZ.
/// Must be called within a tokio runtime.
pub fn outlive_file_limit() -> io::Result<()> {
    // The handler stays when the stream of its signals is dropped.
    signal(SignalKind::from_raw(process::Signal::XFSZ.as_raw())).map(drop)
}

/// Whether the process ignores it, by what Linux tells; where nothing is told it does not.
fn is_ignored(ending: Ending) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    ignored_in(&status, ending)
}

fn ignored_in(status: &str, ending: Ending) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask & (1 << (ending.number() - 1)) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_of_ignored_signals_is_read() {
        let status = "SigBlk:\t0000000000000007\nSigIgn:\t0000000000001001\nSigCgt:\t0000000000004002\n";
        assert!(ignored_in(status, Ending::Hangup));
        assert!(!ignored_in(status, Ending::Interrupt) && !ignored_in(status, Ending::Terminate));
        assert!(
            ignored_in("SigIgn: 4002", Ending::Interrupt) && ignored_in("SigIgn: 4002", Ending::Terminate)
        );
        assert!(!ignored_in("", Ending::Hangup) && !ignored_in("SigIgn: ?", Ending::Hangup));
    }
}
