//! What a command is about: a store path or a root, as a user writes it.

use std::{fmt, str::FromStr};

use firn_castore::{Root, RootError};
use firn_nix::{STORE_DIR, StorePath, StorePathError, StorePathHash};
use firn_store::{Store, StoreError, Visible};
use firn_trust::StoredPath;

/// The record of a path; one that is damaged is none: repairing puts it aside and fetches the path again.
pub(super) fn stored(store: &dyn Store, hash: &StorePathHash) -> Result<Option<StoredPath>, StoreError> {
    match store.path(hash) {
        Err(StoreError::Damaged { .. }) => Ok(None),
        stored => stored,
    }
}

/// A store path or a root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Subject {
    Path(StorePath),
    Tree(Root),
}

/// Text that names neither.
#[derive(Debug, thiserror::Error)]
pub(super) enum SubjectError {
    #[error("\"{text}\" is no root: {source}")]
    Root { text: Box<str>, source: RootError },
    #[error("\"{text}\" is neither a store path nor a root (firn:...): {source}")]
    Path { text: Box<str>, source: StorePathError },
}

impl FromStr for Subject {
    type Err = SubjectError;

    /// A path may be absolute or a base name.
    fn from_str(text: &str) -> Result<Self, SubjectError> {
        if text.starts_with("firn:") {
            return text
                .parse()
                .map(Subject::Tree)
                .map_err(|source| SubjectError::Root { text: text.into(), source });
        }
        let path = if text.starts_with('/') { StorePath::from_absolute(text) } else { text.parse() };
        path.map(Subject::Path).map_err(|source| SubjectError::Path { text: text.into(), source })
    }
}

impl Subject {
    /// Under which name it is visible in a store.
    pub(super) fn visible(&self) -> Visible {
        match self {
            Subject::Path(path) => Visible::Path(*path.hash()),
            Subject::Tree(root) => Visible::Root(root.clone()),
        }
    }
}

/// What is visible, as a person reads it. Of a path that is not in the store any more only the hash is known.
pub(super) fn named(what: &Visible, path: Option<&StorePath>) -> String {
    match (what, path) {
        (Visible::Path(_), Some(path)) => path.to_absolute(),
        (Visible::Path(hash), None) => format!("{STORE_DIR}/{hash}"),
        (Visible::Root(root), _) => root.to_string(),
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Path(path) => f.write_str(&path.to_absolute()),
            Subject::Tree(root) => write!(f, "{root}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_roots_are_told_apart() {
        let base = "00000000000000000000000000000001-app";
        let path = Subject::Path(base.parse().unwrap());
        assert_eq!(base.parse::<Subject>().unwrap(), path);
        assert_eq!(format!("/nix/store/{base}").parse::<Subject>().unwrap(), path);
        assert_eq!(path.to_string(), format!("/nix/store/{base}"));
        let root: Root = firn_castore::Node::Symlink { target: "to".try_into().unwrap() }.into();
        assert_eq!(root.to_string().parse::<Subject>().unwrap(), Subject::Tree(root));
    }

    #[test]
    fn anything_else_is_named() {
        for text in ["", "app", "/home/app", "/nix/store/app", "firn:", "firn:!", "/gnu/store/x"] {
            let error = text.parse::<Subject>().unwrap_err().to_string();
            assert!(error.contains(&format!("\"{text}\"")), "{error}");
        }
    }
}
