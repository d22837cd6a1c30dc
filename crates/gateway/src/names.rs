//! The URLs of NARs, and the narinfo that names them.
//!
//! Nix keeps a narinfo, and its URL, for a month. So a URL names contents, never a peer or a root that is not believed:
//! ```text
//!   nar/snix-castore/<base64url of the root's Entry>?narsize=<bytes>&path=<hash>   an attested root
//!   nar/sha256-<Nix's base 32 of the NAR hash>.nar?path=<hash>                     any other path
//! ```
//! `path` is the hash of the store path: a node that has forgotten what it said asks its peers about that again.

use firn_engine::{NarName, Resolved};
use firn_nix::{FileHash, NarHash, NarInfo, nixbase32};
use firn_trust::Ground;

/// What the gateway says of a path.
pub(crate) fn narinfo(resolved: &Resolved) -> NarInfo {
    let facts = resolved.facts();
    NarInfo {
        store_path: facts.path.clone(),
        url: url(resolved),
        compression: "none".into(),
        // Nix tells its user from the file's size how much there is to download.
        file_hash: Some(FileHash::from(*facts.nar.nar_hash.as_bytes())),
        file_size: Some(facts.nar.nar_size),
        facts: facts.nar.clone(),
        deriver: facts.deriver.clone(),
        signatures: resolved.signatures().to_vec(),
        ca: facts.ca,
    }
}

fn url(resolved: &Resolved) -> String {
    let facts = resolved.facts();
    let path = facts.path.hash();
    match resolved {
        Resolved::Proven(trusted) if trusted.ground() == Ground::Attested => {
            let (root, size) = (facts.root.to_base64url(), facts.nar.nar_size);
            format!("nar/snix-castore/{root}?narsize={size}&path={path}")
        }
        Resolved::Proven(_) | Resolved::Signed(_) => {
            let hash = nixbase32::encode(facts.nar.nar_hash.as_bytes());
            format!("nar/sha256-{hash}.nar?path={path}")
        }
    }
}

/// Reads the file in `nar/<file>`: `sha256-<hash>.nar`, or `<hash>.nar`, which is what a Nix that has pushed a path to
/// some cache at this address remembers.
pub(crate) fn nar_file(file: &str) -> Option<NarName> {
    let hash = file.strip_suffix(".nar")?;
    let hash = hash.strip_prefix("sha256-").unwrap_or(hash);
    let hash: [u8; 32] = nixbase32::decode(hash).ok()?;
    Some(NarName::Hash(NarHash::from(hash)))
}
