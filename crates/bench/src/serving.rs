//! Processes that serve while others are measured.

use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{Child, ChildStdout, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{cost::start, error::BenchError, work::Report};

/// A server that ends with its run, whatever happens.
pub(crate) struct Server {
    child: Child,
    /// Of ours, what it says.
    output: Option<BufReader<ChildStdout>>,
}

impl Server {
    /// Starts one of others.
    pub(crate) fn start(command: &mut Command) -> Result<Self, BenchError> {
        let child = start(command.stdin(Stdio::null()).stdout(Stdio::null()))?;
        Ok(Self { child, output: None })
    }

    /// Starts one of ours, and waits for the line with which it says that it serves, and where.
    pub(crate) fn start_ours(command: &mut Command) -> Result<(Self, String), BenchError> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = start(command)?;
        let output = child.stdout.take().map(BufReader::new);
        let mut server = Self { child, output };
        let line = server.line()?;
        Ok((server, line))
    }

    /// The id of its process.
    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    /// The next line that one of ours says.
    pub(crate) fn line(&mut self) -> Result<String, BenchError> {
        let mut line = String::new();
        if let Some(output) = &mut self.output {
            // An error is as good as no line.
            let _ = output.read_line(&mut line);
        }
        if line.is_empty() {
            let said = self.last_words().trim().into();
            return Err(BenchError::Answer { program: "firn-bench work".into(), said });
        }
        Ok(line.trim().to_owned())
    }

    /// Tells one of ours to go on.
    pub(crate) fn go(&mut self) {
        if let Some(input) = &mut self.child.stdin {
            // One that has ended says so when it is asked for a line.
            let _ = input.write_all(b"go\n");
        }
    }

    fn last_words(&mut self) -> String {
        let mut said = String::new();
        if let Some(mut pipe) = self.child.stderr.take() {
            let _ = pipe.read_to_string(&mut said);
        }
        said
    }

    /// Ends one of ours, which says what it took.
    pub(crate) fn end_by_closing_its_input(&mut self) -> Result<Report, BenchError> {
        drop(self.child.stdin.take());
        let said = self.last_words();
        let _ = self.child.wait();
        Report::parse(&said)
    }

    /// Asks it to end, and its workers with it.
    pub(crate) fn end_by_signal(&mut self) {
        self.signal(Signal::TERM);
        // A process that is stopped heeds that only once it goes on.
        self.signal(Signal::CONT);
        let _ = self.child.wait();
    }

    /// Ends it at once.
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }

    /// Stops it where it is: its sockets stay, and nothing answers.
    pub(crate) fn stop(&mut self) {
        self.signal(Signal::STOP);
    }

    fn signal(&mut self, signal: Signal) {
        // After the end of a child that was waited for, its id may be another's.
        if matches!(self.child.try_wait(), Ok(None))
            && let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
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
