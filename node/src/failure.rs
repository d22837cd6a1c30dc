//! Why a command did not succeed, and what the shell is told of it.
//!
//! A failure has one of four kinds. The kind decides the exit code, and which gRPC code carries it from a running node
//! to the command line:
//!
//! | kind | exit code | gRPC | meaning |
//! |---|---|---|---|
//! | – | 0 | ok | done |
//! | [`Kind::Failed`] | 1 | internal | it was tried and did not succeed |
//! | [`Kind::Usage`] | 2 | invalid argument | the command line or the configuration is wrong; nothing was tried |
//! | [`Kind::Missing`] | 3 | not found | not found: neither here nor at any peer |
//! | [`Kind::Untrusted`] | 4 | permission denied | it is there, but no trusted key vouches for it |
//! | [`Kind::Ended`] | 128 + signal | – | a signal ended the command; it never comes from a node |

use std::{error::Error, fmt, process::ExitCode};

use crate::{output::harmless, signals::Ending};

/// The table above as the command line's help tells it.
pub const EXIT_CODES_HELP: &str = "\
Exit codes:
  0  done
  1  it was tried and did not succeed (verify: damage was found), or the answer could not be written
  2  the command line or the configuration is wrong
  3  not found: neither here nor at any peer
  4  it is there, but no trusted key vouches for it
  129, 130, 143  ended by SIGHUP, SIGINT (ctrl-C), SIGTERM (a node ends well by these: 0)
That nobody reads the answer any more (firn status | head -1) changes nothing of these.";

/// What sort of failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It was tried and did not succeed.
    Failed,
    /// What the user wrote is wrong.
    Usage,
    /// Nobody has it.
    Missing,
    /// No trusted key vouches for it.
    Untrusted,
    /// A signal ended the command.
    Ended(Ending),
}

impl Kind {
    /// The exit code.
    pub fn code(self) -> u8 {
        match self {
            Kind::Failed => 1,
            Kind::Usage => 2,
            Kind::Missing => 3,
            Kind::Untrusted => 4,
            Kind::Ended(ending) => 128 + ending.number(),
        }
    }
}

/// Why a command did not succeed: an error and its [`Kind`].
#[derive(Debug)]
pub struct Failure {
    kind: Kind,
    source: Box<dyn Error + Send + Sync>,
}

/// The longest message that goes over the control socket, where it travels as a header.
const MESSAGE_BYTES_MAX: usize = 4096;

/// What a running node said.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Said(Box<str>);

impl Failure {
    /// A failure of this kind.
    pub fn new(kind: Kind, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { kind, source: source.into() }
    }

    /// [`Kind::Failed`].
    pub fn failed(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(Kind::Failed, source)
    }

    /// [`Kind::Usage`].
    pub fn usage(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(Kind::Usage, source)
    }

    /// [`Kind::Missing`].
    pub fn missing(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(Kind::Missing, source)
    }

    /// [`Kind::Untrusted`].
    pub fn untrusted(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(Kind::Untrusted, source)
    }

    /// What sort of failure it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What the shell is told.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.kind.code())
    }
}

/// The error and its causes in one line, without secrets and without what a terminal may obey: paths and names in it come
/// from elsewhere. A cause that the error before it already tells is left out.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = self.source.to_string();
        let mut line = said.trim_end().to_owned();
        let mut cause = self.source.source();
        while let Some(error) = cause {
            let text = error.to_string();
            if !said.contains(&text) {
                line += &format!(": {}", text.trim_end());
                said = text;
            }
            cause = error.source();
        }
        f.write_str(&harmless(&line))
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(self.source.as_ref())
    }
}

impl From<Failure> for tonic::Status {
    fn from(failure: Failure) -> Self {
        let code = match failure.kind {
            Kind::Failed | Kind::Ended(_) => tonic::Code::Internal,
            Kind::Usage => tonic::Code::InvalidArgument,
            Kind::Missing => tonic::Code::NotFound,
            Kind::Untrusted => tonic::Code::PermissionDenied,
        };
        let mut message = failure.to_string();
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
        Self::new(code, message)
    }
}

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Self {
        let kind = match status.code() {
            tonic::Code::InvalidArgument => Kind::Usage,
            tonic::Code::NotFound => Kind::Missing,
            tonic::Code::PermissionDenied => Kind::Untrusted,
            tonic::Code::Internal => Kind::Failed,
            _ => return Self::failed(NodeGone(status)),
        };
        Self::new(kind, Said(status.message().into()))
    }
}

/// The node stopped, or something else answers on its socket.
#[derive(Debug, thiserror::Error)]
#[error("the node broke off: {}", .0.message())]
struct NodeGone(#[source] tonic::Status);

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("can't read the key")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn a_failure_keeps_its_kind_and_its_causes_over_the_socket() {
        for kind in [Kind::Failed, Kind::Usage, Kind::Missing, Kind::Untrusted] {
            let failure = Failure::new(kind, Outer(std::io::Error::other("the disk is on fire")));
            let back = Failure::from(tonic::Status::from(failure));
            assert_eq!(back.kind(), kind);
            assert_eq!(back.to_string(), "can't read the key: the disk is on fire");
        }
    }

    #[test]
    fn an_error_is_one_line_that_steers_no_terminal_and_repeats_no_secret() {
        let secret = format!("k:{}==", "Zm9v+/".repeat(14) + "Zg");
        let source = std::io::Error::other(format!("no \u{1b}[31m\nfirn: {secret}"));
        let text = Failure::failed(Outer(source)).to_string();
        assert_eq!(text, "can't read the key: no \\u{1b}[31m\\nfirn: k:(hidden)");
    }

    #[test]
    fn a_long_message_is_cut_where_a_character_ends() {
        let status = tonic::Status::from(Failure::failed("é".repeat(MESSAGE_BYTES_MAX) + "x"));
        assert_eq!(status.message().len(), MESSAGE_BYTES_MAX);
    }
}
