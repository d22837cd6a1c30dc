//! What a Nix signature says.

use std::collections::BTreeSet;

use crate::{NarHash, STORE_DIR, StorePath};

/// What Nix's fingerprint covers besides the path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NarFacts {
    /// The SHA-256 of the NAR.
    pub nar_hash: NarHash,
    /// The length of the NAR in bytes.
    pub nar_size: u64,
    /// The store paths that the contents name, the path itself perhaps among them.
    pub references: BTreeSet<StorePath>,
}

/// The text that Nix signs: `1;<path>;<NAR hash>;<NAR size>;<references, joined by commas>`, with absolute paths.
///
/// Source: `ValidPathInfo::fingerprint` in Nix.
pub fn fingerprint(path: &StorePath, facts: &NarFacts) -> String {
    let NarFacts { nar_hash, nar_size, references } = facts;
    let references: Vec<String> = references.iter().map(StorePath::to_absolute).collect();
    format!("1;{STORE_DIR}/{path};{nar_hash};{nar_size};{}", references.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_stand_in_the_order_of_their_text() {
        let path = |text: &str| text.parse::<StorePath>().unwrap();
        let a = path("00000000000000000000000000000001-b");
        let b = path("10000000000000000000000000000000-a");
        let facts =
            NarFacts { nar_hash: NarHash::of(b""), nar_size: 7, references: [b.clone(), a.clone()].into() };
        assert_eq!(
            fingerprint(&b, &facts),
            "1;/nix/store/10000000000000000000000000000000-a;\
             sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73;7;\
             /nix/store/00000000000000000000000000000001-b,/nix/store/10000000000000000000000000000000-a"
        );
        let none = NarFacts { references: BTreeSet::new(), ..facts };
        assert!(fingerprint(&a, &none).ends_with(";7;"));
    }
}
