//! What is said of a store path.

use firn_castore::Root;
use firn_nix::{ContentAddress, NarFacts, StorePath};

/// All that a claim says of a store path. It is well-formed; whether it is true is another matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathFacts {
    /// The path.
    pub path: StorePath,
    /// Its contents.
    pub root: Root,
    /// What Nix's signatures cover: NAR hash, NAR size and references.
    pub nar: NarFacts,
    /// What built it. No Nix signature covers this.
    pub deriver: Option<StorePath>,
    /// Its content address. No Nix signature covers this.
    pub ca: Option<ContentAddress>,
}

impl PathFacts {
    /// The text that Nix signs.
    pub fn fingerprint(&self) -> String {
        firn_nix::fingerprint(&self.path, &self.nar)
    }

    /// Without what no Nix signature covers: no deriver, and a content address only if it makes this very path.
    pub(crate) fn covered_by_nix(mut self) -> Self {
        self.deriver = None;
        self.ca =
            self.ca.filter(|ca| ca.recompute(&self.path, &self.nar.references).as_ref() == Some(&self.path));
        self
    }
}
