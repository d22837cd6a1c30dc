//! What a user can do about an error of the file system or of the store.

use std::{error::Error, io, path::Path};

use firn_store::{OpenError, StoreError};

use crate::failure::Failure;

/// An error, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("{source}; {advice}")]
struct Advised {
    source: Box<dyn Error + Send + Sync>,
    advice: String,
}

impl Failure {
    /// [`Kind::Failed`](crate::failure::Kind::Failed), with advice where there is some.
    pub fn advised(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        let source = source.into();
        match advice(source.as_ref()) {
            Some(advice) => Self::failed(Advised { source, advice }),
            None => Self::failed(source),
        }
    }
}

impl Failure {
    /// Whether another process has the store open.
    pub fn is_in_use(&self) -> bool {
        let causes = std::iter::successors(self.source(), |error| (*error).source());
        causes.into_iter().any(|error| matches!(error.downcast_ref(), Some(OpenError::Locked { .. })))
    }
}

/// What to do about an error, by the first of its causes that tells.
fn advice(error: &(dyn Error + 'static)) -> Option<String> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let known = match error.downcast_ref::<OpenError>() {
            Some(error) => about_opening(error),
            None => error.downcast_ref::<io::Error>().and_then(about_io),
        };
        if known.is_some() {
            return known;
        }
        cause = error.source();
    }
    None
}

fn about_opening(error: &OpenError) -> Option<String> {
    match error {
        OpenError::Locked { .. } => {
            Some("one process at a time uses a store: end that one, or give another --data-dir".into())
        }
        OpenError::NoIndex(_)
        | OpenError::Index { .. }
        | OpenError::Sweep(StoreError::Index { .. }) => Some(
            "nothing in the store can be found without it: `firn verify --rebuild-index` makes a new one of what \
             the store holds"
                .into(),
        ),
        OpenError::NotAStore { .. } => Some("another place is given by --data-dir".into()),
        OpenError::Io { path, source } => about_a_file(path, source),
        _ => None,
    }
}

/// A file of the store that cannot be used when the store is opened.
fn about_a_file(path: &Path, error: &io::Error) -> Option<String> {
    match error.kind() {
        io::ErrorKind::PermissionDenied => Some(format!(
            "{} must belong to the user who runs firn; another place is given by --data-dir",
            path.display()
        )),
        io::ErrorKind::IsADirectory | io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            Some(format!("firn has not put {} there: move it away", path.display()))
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Some(
            "the disk is full to its last byte: make some room by other means, then use `firn gc`".into(),
        ),
        _ => about_io(error),
    }
}

fn about_io(error: &io::Error) -> Option<String> {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Some(
            "the disk is full, but for what is left free so that `firn gc` can work: it deletes what is not \
             needed, and evicts more with --max-bytes"
                .into(),
        ),
        io::ErrorKind::ReadOnlyFilesystem => Some(
            "a store must be on a disk that can be written to; another place is given by --data-dir".into(),
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn what_can_be_done_is_said_once_behind_the_error() {
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let error = StoreError::Io { path: PathBuf::from("/s/packs"), source: full() };
        let text = Failure::advised(error).to_string();
        assert!(text.starts_with("/s/packs: ") && text.contains("firn gc"), "{text}");
        assert_eq!(text.matches(&full().to_string()).count(), 1, "{text}");
        let index = OpenError::NoIndex("/s/index".into());
        assert!(Failure::advised(index).to_string().contains("firn verify --rebuild-index"));
        let at_opening =
            |source| Failure::advised(OpenError::Io { path: "/s/temp".into(), source }).to_string();
        assert!(at_opening(full()).contains("other means"), "`firn gc` cannot be what helps");
        let foreign = at_opening(io::ErrorKind::IsADirectory.into());
        assert!(foreign.contains("move it away"), "{foreign}");
        let text = Failure::advised(io::Error::other("something else")).to_string();
        assert_eq!(text, "something else");
    }
}
