//! Reading what the store holds, and checking every byte.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::PathBuf,
};

use firn_castore::{Closure, Node, PathComponent, Root};
use firn_proto::control::{Damage, Progress, VerifyReply, VerifyRequest, progress::Phase};
use firn_store::{Finding, Holder, Item, Reason, Store, StoreError, Visible, verify_some, verify_tree};

use super::{
    Ops, Report,
    pins::subject_in,
    repair::{self, Records},
    subject::{Subject, stored},
};
use crate::failure::Failure;

/// The store does not have it.
#[derive(Debug, thiserror::Error)]
#[error("{0} is not in the store")]
struct NotHere(Box<str>);

/// Why something is damaged though nothing of it was found: it is not visible any more.
const WITHDRAWN: &str = "it was added here, and was withdrawn since something of it was damaged or gone \
    (add it again, or `firn pin rm` it if it is not wanted any more)";
/// Why contents are missing that a visible tree has.
const NO_LONGER_THERE: &str = "the file that was added in place or adopted has changed, is gone or cannot be read, \
    or a copy was damaged and put aside";

/// Something visible, or that should be, and what is wrong with it.
#[derive(Clone)]
pub(super) struct Damaged {
    /// None where the store itself is damaged.
    pub(super) what: Option<Visible>,
    /// What of it, if that is known.
    pub(super) item: Option<Item>,
    pub(super) subject: String,
    pub(super) text: String,
}

/// What was found.
pub(super) struct Found {
    pub(super) checked: u64,
    pub(super) bytes: u64,
    pub(super) findings: Vec<Finding>,
    pub(super) damaged: Vec<Damaged>,
}

impl Damaged {
    pub(super) fn told(&self) -> Damage {
        Damage { subject: self.subject.clone(), what: self.text.clone(), ..Damage::default() }
    }
}

/// Reads what is asked for, or all, and gets again what is damaged where that is asked for.
pub(super) async fn verify(
    ops: &Ops,
    request: VerifyRequest,
    report: Report,
) -> Result<VerifyReply, Failure> {
    let subjects = request.what.iter().map(|what| what.parse()).collect::<Result<Vec<Subject>, _>>();
    let subjects = subjects.map_err(Failure::usage)?;
    let subject = match &request.what[..] {
        [] => "everything".to_owned(),
        what => what.join(" "),
    };
    report.send_replace(Progress { phase: Phase::Checking.into(), subject, ..Progress::default() });
    let store = ops.engine.store().clone();
    // Before anything is read: what is found damaged may be withdrawn at once, and its record with it.
    let records = if request.repair { Some(Records::read(ops).await?) } else { None };
    let read = move || {
        let is_wanted = |what: &Visible, root: Option<&Root>| {
            subjects.is_empty() || subjects.iter().any(|subject| is_part(subject, what, root))
        };
        let gone = withdrawn(&*store, &is_wanted)?;
        for subject in &subjects {
            let is_gone = gone.iter().any(|gone| gone.what == Some(subject.visible()));
            if !is_gone && !is_here(&*store, subject)? {
                return Err(Failure::missing(NotHere(subject.to_string().into())));
            }
        }
        Ok::<_, Failure>(look(&*store, &is_wanted)?)
    };
    let found = ops.engine.run_blocking(read).await??;
    match records {
        Some(records) if !found.damaged.is_empty() => repair::repair(ops, &records, found, &report).await,
        _ => {
            let damages = found.damaged.iter().map(Damaged::told).collect();
            Ok(VerifyReply { checked: found.checked, bytes: found.bytes, damages, fetched_bytes: 0 })
        }
    }
}

/// Reads all that is wanted of what is visible, or should be.
pub(super) fn look(
    store: &dyn Store,
    is_wanted: &dyn Fn(&Visible, Option<&Root>) -> bool,
) -> Result<Found, StoreError> {
    let mut damaged = withdrawn(store, is_wanted)?;
    let roots = RefCell::new(BTreeMap::new());
    let is_wanted = |holder: &Holder, root: &Root| {
        let what = visible(holder);
        let is_wanted = is_wanted(&what, Some(root));
        roots.borrow_mut().insert(what, root.clone());
        is_wanted
    };
    let mut findings = Vec::new();
    let verified = verify_some(store, is_wanted, &mut |finding| findings.push(finding));
    let roots = roots.into_inner();
    for Finding { error, item, holders } in &findings {
        let text = told(error);
        // A damage that nothing visible has is the store's own.
        if holders.is_empty() {
            let (item, subject) = (item.clone(), "the store".into());
            damaged.push(Damaged { what: None, item, subject, text: text.clone() });
        }
        for holder in holders {
            let (what, subject) = (visible(holder), subject_of(holder));
            let place = item.as_ref().zip(roots.get(&what)).and_then(|(item, root)| find(store, root, item));
            let text = place.map_or(text.clone(), |place| format!("{place}: {text}"));
            damaged.push(Damaged { what: Some(what), item: item.clone(), subject, text });
        }
    }
    Ok(Found { checked: verified.holders, bytes: verified.blob_bytes, findings, damaged })
}

/// What was added here and is no longer visible: its damage was found earlier.
fn withdrawn(
    store: &dyn Store,
    is_wanted: &dyn Fn(&Visible, Option<&Root>) -> bool,
) -> Result<Vec<Damaged>, StoreError> {
    let mut damaged = Vec::new();
    let roots: BTreeSet<Root> = store.roots()?.into_iter().map(|(root, _)| root).collect();
    for (what, reason) in store.pins()? {
        // Which tree a path had is not known any more.
        let root = match &what {
            Visible::Root(root) => Some(root),
            Visible::Path(_) => None,
        };
        if reason != Reason::added() || !is_wanted(&what, root) {
            continue;
        }
        let is_visible = match &what {
            Visible::Path(hash) => stored(store, hash)?.is_some(),
            Visible::Root(wanted) => roots.contains(wanted),
        };
        if !is_visible {
            let subject = subject_in(store, &what)?;
            damaged.push(Damaged { what: Some(what), item: None, subject, text: WITHDRAWN.into() });
        }
    }
    Ok(damaged)
}

/// Makes absent what of a tree is not what it was, also where nothing visible has the tree yet. Gives all of that.
pub(super) fn put_aside_damage(store: &dyn Store, closure: &Closure) -> Result<BTreeSet<Item>, StoreError> {
    let damaged: BTreeSet<Item> = verify_tree(store, closure).into_iter().map(|(item, _)| item).collect();
    damaged.iter().try_for_each(|item| store.quarantine(item))?;
    Ok(damaged)
}

/// What was found, for a person. The store says only that it is missing where an adopted file is not what it was.
fn told(error: &StoreError) -> String {
    match error {
        StoreError::Missing(Item::Blob(_)) => format!("{error}: {NO_LONGER_THERE}"),
        _ => error.to_string(),
    }
}

fn visible(holder: &Holder) -> Visible {
    match holder {
        Holder::Path(path) => Visible::Path(*path.hash()),
        Holder::Root(root) => Visible::Root(root.clone()),
    }
}

fn subject_of(holder: &Holder) -> String {
    match holder {
        Holder::Path(path) => path.to_absolute(),
        Holder::Root(root) => root.to_string(),
    }
}

/// Where in a tree something stands first, as far as its Directories can be read: the file that a person knows.
fn find(store: &dyn Store, root: &Root, item: &Item) -> Option<String> {
    let mut open = vec![(PathBuf::new(), root.node().clone())];
    let mut seen = BTreeSet::new();
    while let Some((path, node)) = open.pop() {
        let is_it = match &node {
            Node::Symlink { .. } => false,
            Node::File { blob, .. } => *item == Item::Blob(blob.digest),
            Node::Directory { digest, .. } => *item == Item::Directory(*digest),
        };
        if is_it {
            return Some(path.display().to_string()).filter(|path| !path.is_empty());
        }
        let Node::Directory { digest, .. } = node else { continue };
        if seen.insert(digest)
            && let Ok(Some(directory)) = store.directory(&digest)
        {
            let child = |name: &PathComponent| path.join(OsStr::from_bytes(name.as_bytes()));
            open.extend(directory.iter().map(|(name, node)| (child(name), node.clone())));
        }
    }
    None
}

fn is_part(subject: &Subject, what: &Visible, root: Option<&Root>) -> bool {
    match subject {
        Subject::Path(_) => subject.visible() == *what,
        Subject::Tree(wanted) => Some(wanted) == root,
    }
}

fn is_here(store: &dyn Store, subject: &Subject) -> Result<bool, StoreError> {
    match subject {
        Subject::Path(path) => Ok(stored(store, path.hash())?.is_some_and(|stored| stored.path() == path)),
        Subject::Tree(wanted) => {
            let is_tree = store.roots()?.iter().any(|(root, _)| root == wanted);
            Ok(is_tree || store.paths()?.iter().any(|path| path.root() == wanted))
        }
    }
}
