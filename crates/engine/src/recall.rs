//! What of a tree is here already, before anybody is asked for it.

use std::sync::Arc;

use firn_castore::{Closure, Root};
use firn_exchange::Known;
use firn_nix::StorePath;
use firn_store::{Store, StoreError, closure};

use crate::index::Index;

/// The most trees whose Directories are offered.
const SIMILAR_MAX: usize = 4;

/// All Directories of the tree, if they are here (an earlier fetch was stopped); else those that are likely to be a part
/// of it: of other versions of the path, as far as peers may see them anyway. Blocks.
pub(crate) fn recall(
    store: &dyn Store,
    index: &Index,
    root: &Root,
    path: Option<&StorePath>,
) -> Result<(Option<Arc<Closure>>, Known), StoreError> {
    match closure(store, root) {
        Ok(Some(here)) => return Ok((Some(Arc::new(here)), Known::default())),
        // What is damaged is fetched anew; that a root can be no tree, whoever is asked for it will show.
        Ok(None) | Err(StoreError::Damaged { .. } | StoreError::Tree { .. }) => {}
        Err(error) => return Err(error),
    }
    let Some(path) = path else { return Ok((None, Known::default())) };
    let alike = index.roots_alike(path, SIMILAR_MAX);
    let trees: Vec<Closure> = alike.iter().filter_map(|root| closure(store, root).ok().flatten()).collect();
    Ok((None, Known::of(&trees)))
}

/// A store path's name up to its version: to the first dash that no letter follows, as Nix cuts it.
pub(crate) fn stem(name: &str) -> &str {
    let is_version = |(at, _): &(usize, &str)| {
        let next = name.as_bytes().get(at + 1);
        next.is_some_and(|byte| !byte.is_ascii_alphabetic())
    };
    name.match_indices('-').find(is_version).map_or(name, |(at, _)| &name[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_one_name_have_one_stem() {
        for (name, expected) in [
            ("hello-2.12.1", "hello"),
            ("gtk-doc-1", "gtk-doc"),
            ("hello", "hello"),
            ("a-", "a-"),
            ("-1", ""),
        ] {
            assert_eq!(stem(name), expected);
        }
    }
}
