//! What leaves this process for a person or a script: answers, remarks and the log.
//!
//! Two rules hold for all of it. First, only an answer can fail: remarks, progress and log lines that cannot be written
//! are dropped, since a full disk or a reader that has gone is no reason to stop working. The macros of the standard
//! library panic there, so nothing here prints with them. Second, nothing that goes out can steer a terminal: see
//! [`plain`].

mod text;

use std::io::{self, Write};

use serde_json::Value;

pub use text::{Text, hide_secrets, plain};

/// An answer that was not told. What was asked for is done all the same.
#[derive(Debug, thiserror::Error)]
#[error("the answer can't be written to standard output: {0}")]
pub struct AnswerError(#[source] io::Error);

/// Writes an answer to standard output.
pub fn answer(text: &str) -> Result<(), AnswerError> {
    let mut output = io::stdout().lock();
    told(output.write_all(text.as_bytes()).and_then(|()| output.flush()))
}

/// What came of writing an answer. That its reader has gone (`firn status | head -1`) is no error.
pub(crate) fn told(written: io::Result<()>) -> Result<(), AnswerError> {
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(AnswerError(error)),
        _ => Ok(()),
    }
}

/// One JSON object on one line. What serde_json leaves as it is though a terminal may obey it is escaped as well.
pub fn json_line(object: &Value) -> String {
    let escape = |c: char| format!("\\u{:04x}", u32::from(c));
    text::replace(&object.to_string(), escape).into_owned() + "\n"
}

/// Tells something besides on standard error, if that can be written to.
pub fn remark(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Where log lines go: standard error, one line for each event, and nowhere where that cannot be written to.
#[derive(Debug, Clone, Copy, Default)]
pub struct Log;

impl Write for Log {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        remark(&log_line(&String::from_utf8_lossy(event)));
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The line of one event. The formatter writes each event at once, with a newline at its end.
fn log_line(event: &str) -> String {
    harmless(event.strip_suffix('\n').unwrap_or(event)) + "\n"
}

/// Text that steers no terminal and has no secret key in it.
pub fn harmless(text: &str) -> String {
    hide_secrets(&plain(text)).into_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn json_is_the_same_and_has_no_control_characters() {
        let object = json!({ "name": "a\u{1b}]0;x\u{7}\u{9b}31m\u{7f}\u{202e}\nb\u{e9}" });
        let line = json_line(&object);
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), object);
        assert_eq!(line.chars().filter(|c| c.is_control()).collect::<String>(), "\n");
        assert!(line.contains("\\u009b") && line.contains("\\u202e") && line.contains('\u{e9}'), "{line}");
    }

    #[test]
    fn an_event_is_one_line() {
        assert_eq!(log_line("WARN a: b\n"), "WARN a: b\n");
        assert_eq!(log_line("WARN name=x\nERROR \u{1b}[31m\n"), "WARN name=x\\nERROR \\u{1b}[31m\n");
    }
}
