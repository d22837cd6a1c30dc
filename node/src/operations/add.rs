//! Taking a tree, or paths of the Nix store, into the store.

use std::{
    ffi::OsStr,
    io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use firn_bao::Span;
use firn_castore::Closure;
use firn_nix::{
    ContentAddress, ContentHash, KeyError, NarFacts, NarHash, NarLayout, PublicKey, Segment, Sha256Writer,
    Signature, SigningKey, StorePath, StorePathError, StorePathHash, fingerprint, source_store_path,
};
use firn_proto::control::{AddReply, AddRequest, AddedPath, Progress, progress::Phase};
use firn_store::{AddError, Item, Store, StoreError, add_tree};
use firn_trust::{PathFacts, TrustedPath};

use super::{Ops, Report, size::Size};
use crate::{
    failure::Failure,
    nixdb::{NixDatabaseError, NixStore, ValidPath},
};

/// How many groups are hashed at a time: 1 MiB.
const READ_GROUPS: u64 = 64;

/// Why something can't be added.
#[derive(Debug, thiserror::Error)]
enum AddPathError {
    #[error("{} has no last part to take a name from: give one by --name", .0.display())]
    NoName(PathBuf),
    #[error("\"{name}\" can't be the name of a store path: {source}; another is given by --name")]
    Name { name: Box<str>, source: StorePathError },
    #[error("{0} is a path of the Nix store and keeps its name")]
    NamedAlready(StorePath),
    #[error("{} is no path of the Nix store: only these have a closure", .0.display())]
    NoClosure(PathBuf),
    #[error("a key to sign with: {0}")]
    Key(KeyError),
    #[error(
        "{} is not what Nix's database says: its NAR has {actual_size} bytes and the hash {actual}, the database \
         says {size} and {hash}; nothing was added. `nix-store --verify --check-contents` finds such paths",
        path.to_absolute()
    )]
    NotAsRegistered { path: StorePath, hash: NarHash, size: u64, actual: NarHash, actual_size: u64 },
}

/// Reads all, then commits all: a closure of which something can't be read is not added in part.
pub(super) async fn add(ops: &Ops, request: AddRequest, report: Report) -> Result<AddReply, Failure> {
    // The request holds secret keys: it is never logged.
    let keys = request.sign_keys.iter().map(|text| text.parse()).collect::<Result<Vec<SigningKey>, _>>();
    let keys = keys.map_err(|error| Failure::usage(AddPathError::Key(error)))?;
    let state_dir = std::env::var_os("NIX_STATE_DIR").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let adding = Adding {
        store: ops.engine.store().clone(),
        nix: NixStore::at(&path_of(&request.nix_root), state_dir.as_deref()),
        trust: ops.config.trust.clone(),
        is_shared: request.share || !keys.is_empty(),
        keys,
        report,
    };
    let (path, name) = (path_of(&request.path), Some(request.name).filter(|name| !name.is_empty()));
    let with_closure = request.closure;
    let known = ops.engine.clone();
    let job = move || -> Result<Vec<Added>, Failure> {
        let mut added = adding.read(&path, name, with_closure)?;
        for added in &mut added {
            adding.keep_earlier(added, known.path(added.path.facts().path.hash()).as_deref())?;
        }
        Ok(added)
    };
    let added = ops.engine.run_blocking(job).await??;
    let mut reply = AddReply { announced: ops.gives_away(), ..AddReply::default() };
    let mut size = Size::default();
    for Added { path, is_shared, size: its_size } in added {
        reply.paths.push(told(&path, is_shared));
        size += its_size;
        ops.engine.commit(path, is_shared).await?;
    }
    Ok(AddReply { files: size.files, bytes: size.bytes, ..reply })
}

fn path_of(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}

fn told(path: &TrustedPath, is_shared: bool) -> AddedPath {
    let facts = path.facts();
    let signers =
        path.attestations().iter().map(|attestation| attestation.signature().key_name().to_string());
    AddedPath {
        store_path: facts.path.to_absolute(),
        root: facts.root.to_string(),
        nar_hash: facts.nar.nar_hash.to_string(),
        nar_size: facts.nar.nar_size,
        shared: is_shared,
        signed_by: signers.collect(),
    }
}

/// What was read, and waits to be committed.
struct Added {
    path: TrustedPath,
    is_shared: bool,
    size: Size,
}

/// Reads paths into the store. All of it blocks.
struct Adding {
    store: Arc<dyn Store>,
    nix: NixStore,
    /// Whose false signatures are not passed on.
    trust: Vec<PublicKey>,
    keys: Vec<SigningKey>,
    is_shared: bool,
    report: Report,
}

impl Adding {
    fn read(&self, path: &Path, name: Option<String>, closure: bool) -> Result<Vec<Added>, Failure> {
        match (self.nix.store_path(path), name) {
            (Some(path), Some(_)) => Err(Failure::usage(AddPathError::NamedAlready(path))),
            (Some(path), None) if closure => self.read_registered(self.nix.closure(&path)?),
            (Some(path), None) => self.read_registered(vec![self.nix.path(&path)?]),
            (None, _) if closure => Err(Failure::usage(AddPathError::NoClosure(path.into()))),
            (None, name) => Ok(vec![self.read_plain(path, name)?]),
        }
    }

    /// A tree under the path that `nix-store --add` gives it.
    fn read_plain(&self, path: &Path, name: Option<String>) -> Result<Added, Failure> {
        let last = || path.file_name().map(|last| last.to_string_lossy().into_owned());
        let name = name.or_else(last).ok_or_else(|| Failure::usage(AddPathError::NoName(path.into())))?;
        let wrong = |source| Failure::usage(AddPathError::Name { name: name.as_str().into(), source });
        // Before the tree is read, which may take long.
        StorePath::new(StorePathHash::from([0; 20]), &name).map_err(wrong)?;
        self.tell(Phase::Reading, path.display().to_string());
        let (closure, layout) = self.read_tree(path)?;
        let nar_hash = self.nar_hash(&layout)?;
        let nar = NarFacts { nar_hash, nar_size: layout.nar_size(), references: Default::default() };
        let ca = ContentAddress::Nar(ContentHash::Sha256(*nar_hash.as_bytes()));
        let path = source_store_path(&name, &nar_hash).map_err(wrong)?;
        let facts = PathFacts { path, root: closure.root().clone(), nar, deriver: None, ca: Some(ca) };
        Ok(self.added(facts, Vec::new(), &closure))
    }

    /// Paths that Nix knows, each checked against what it says of them.
    fn read_registered(&self, rows: Vec<ValidPath>) -> Result<Vec<Added>, Failure> {
        let total_bytes = rows.iter().map(|row| row.nar.nar_size).fold(0, u64::saturating_add);
        let mut progress = Progress {
            phase: Phase::Reading.into(),
            total_items: rows.len() as u64,
            total_bytes,
            ..Progress::default()
        };
        let mut added = Vec::with_capacity(rows.len());
        for row in rows {
            progress.subject = row.path.to_absolute();
            self.report.send_replace(progress.clone());
            let nar_size = row.nar.nar_size;
            added.push(self.read_one_registered(row)?);
            progress.done_items += 1;
            progress.done_bytes = progress.done_bytes.saturating_add(nar_size);
        }
        Ok(added)
    }

    fn read_one_registered(&self, row: ValidPath) -> Result<Added, Failure> {
        let (closure, layout) = self.read_tree(&self.nix.on_disk(&row.path))?;
        let (actual, actual_size) = (self.nar_hash(&layout)?, layout.nar_size());
        let NarFacts { nar_hash: hash, nar_size: size, .. } = row.nar;
        if (actual, actual_size) != (hash, size) {
            let path = row.path;
            return Err(Failure::failed(AddPathError::NotAsRegistered {
                path,
                hash,
                size,
                actual,
                actual_size,
            }));
        }
        let signatures = self.without_false(&row);
        let ValidPath { path, nar, deriver, ca, .. } = row;
        let facts = PathFacts { path, root: closure.root().clone(), nar, deriver, ca };
        Ok(self.added(facts, signatures, &closure))
    }

    /// Nix keeps signatures unchecked. One that is false under a trusted key would make us a liar before our peers.
    fn without_false(&self, row: &ValidPath) -> Vec<Signature> {
        let text = fingerprint(&row.path, &row.nar);
        let is_false = |signature: &Signature| {
            let mut namesakes = self.trust.iter().filter(|key| key.name() == signature.key_name()).peekable();
            namesakes.peek().is_some() && namesakes.all(|key| key.verify(text.as_bytes(), signature).is_err())
        };
        row.signatures.iter().filter(|signature| !is_false(signature)).cloned().collect()
    }

    fn read_tree(&self, path: &Path) -> Result<(Arc<Closure>, NarLayout), Failure> {
        let closure = add_tree(&*self.store, path).map_err(|error| match &error {
            AddError::Io { path: at, source } if at == path && source.kind() == io::ErrorKind::NotFound => {
                Failure::missing(error)
            }
            _ => Failure::failed(error),
        })?;
        let closure = Arc::new(closure);
        let layout = NarLayout::new(closure.clone()).map_err(Failure::failed)?;
        Ok((closure, layout))
    }

    /// The hash of the NAR of what was read, out of the store: this is what peers will get.
    fn nar_hash(&self, layout: &NarLayout) -> Result<NarHash, StoreError> {
        let mut hasher = Sha256Writer::new();
        for segment in layout.segments(0..layout.nar_size()) {
            match segment {
                Segment::Literal(bytes) => hasher.update(&bytes),
                Segment::Blob { blob, .. } => {
                    for span in Span::whole(blob.size).pieces(READ_GROUPS) {
                        let read = self.store.read_span(&blob, span)?;
                        let read = read.ok_or(StoreError::Missing(Item::Blob(blob.digest)))?;
                        hasher.update(read.bytes());
                    }
                }
            }
        }
        Ok(hasher.finish().0)
    }

    fn added(&self, facts: PathFacts, signatures: Vec<Signature>, closure: &Closure) -> Added {
        let path = TrustedPath::added_here(facts, signatures, &self.keys);
        Added { path, is_shared: self.is_shared, size: Size::of(closure) }
    }

    /// What was signed, and who may have it, stays from an earlier time if the contents are the same.
    fn keep_earlier(&self, added: &mut Added, known: Option<&TrustedPath>) -> Result<(), StoreError> {
        let facts = added.path.facts();
        let stored = self.store.path(facts.path.hash())?;
        added.is_shared |= stored.is_some_and(|stored| stored.shared() && *stored.root() == facts.root);
        if let Some(known) = known {
            added.path.keep_signatures_of(known);
        }
        Ok(())
    }

    fn tell(&self, phase: Phase, subject: String) {
        self.report.send_replace(Progress { phase: phase.into(), subject, ..Progress::default() });
    }
}

impl From<NixDatabaseError> for Failure {
    fn from(error: NixDatabaseError) -> Self {
        match error {
            NixDatabaseError::Invalid(_) => Self::missing(error),
            _ => Self::failed(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use firn_store::MemoryStore;
    use tokio::sync::watch;

    use super::*;

    #[test]
    fn a_signature_that_is_false_under_a_trusted_key_is_not_passed_on() {
        let key = |name: &str, seed| SigningKey::generate(name.parse().unwrap(), [seed; 32]);
        let (trusted, unknown) = (key("trusted-1", 1), key("unknown-1", 2));
        let path: StorePath = "00000000000000000000000000000001-app".parse().unwrap();
        let nar = NarFacts { nar_hash: NarHash::of(b""), nar_size: 1, references: Default::default() };
        let text = fingerprint(&path, &nar);
        let (good, other) = (trusted.sign(text.as_bytes()), unknown.sign(b"anything"));
        let signatures = vec![trusted.sign(b"something else"), good.clone(), other.clone()];
        let adding = Adding {
            store: Arc::new(MemoryStore::new()),
            nix: NixStore::at(Path::new("/nowhere"), None),
            trust: vec![key("trusted-1", 3).public(), trusted.public()],
            keys: Vec::new(),
            is_shared: false,
            report: watch::Sender::default(),
        };
        let row = ValidPath { path, nar, deriver: None, signatures, ca: None };
        assert_eq!(adding.without_false(&row), [good, other]);
    }
}
