//! Processes that serve while others are measured.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{cost::start, error::BenchError, work::Report};

/// A server that ends with its run, whatever happens.
pub(crate) struct Server(Child);

impl Server {
    /// Starts one of others.
    pub(crate) fn start(command: &mut Command) -> Result<Self, BenchError> {
        start(command.stdin(Stdio::null()).stdout(Stdio::null())).map(Self)
    }

    /// Starts one of ours, and waits for the line with which it says that it serves, and where.
    pub(crate) fn start_ours(command: &mut Command) -> Result<(Self, String), BenchError> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut server = Self(start(command)?);
        let mut line = String::new();
        if let Some(pipe) = server.0.stdout.take() {
            // An error is as good as no line.
            let _ = BufReader::new(pipe).read_line(&mut line);
        }
        if line.is_empty() {
            let mut said = String::new();
            if let Some(mut pipe) = server.0.stderr.take() {
                let _ = pipe.read_to_string(&mut said);
            }
            let program = command.get_program().to_string_lossy().into();
            return Err(BenchError::Answer { program, said: said.trim().into() });
        }
        Ok((server, line.trim().to_owned()))
    }

    /// Ends one of ours, which says what it took.
    pub(crate) fn end_by_closing_its_input(&mut self) -> Result<Report, BenchError> {
        drop(self.0.stdin.take());
        let mut said = String::new();
        if let Some(mut pipe) = self.0.stderr.take() {
            let _ = pipe.read_to_string(&mut said);
        }
        let _ = self.0.wait();
        Report::parse(&said)
    }

    /// Asks it to end, and its workers with it.
    pub(crate) fn end_by_signal(&mut self) {
        self.signal(Signal::TERM);
        let _ = self.0.wait();
    }

    fn signal(&mut self, signal: Signal) {
        // After the end of a child that was waited for, its id may be another's.
        if matches!(self.0.try_wait(), Ok(None))
            && let Some(pid) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw)
        {
            let _ = kill_process(pid, signal);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end_by_signal();
    }
}
