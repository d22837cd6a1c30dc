//! Reading what the store holds, and checking every byte.

use firn_castore::Root;
use firn_proto::control::{Damage, Progress, VerifyReply, VerifyRequest, progress::Phase};
use firn_store::{Holder, Store, StoreError, verify_some};

use super::{Ops, Report, subject::Subject};
use crate::failure::Failure;

/// The store does not have it.
#[derive(Debug, thiserror::Error)]
#[error("{0} is not in the store")]
struct NotHere(Box<str>);

/// Reads what is asked for, or all.
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
    ops.engine.run_blocking(move || read(&*store, &subjects)).await?
}

fn read(store: &dyn Store, subjects: &[Subject]) -> Result<VerifyReply, Failure> {
    for subject in subjects {
        if !is_here(store, subject)? {
            return Err(Failure::missing(NotHere(subject.to_string().into())));
        }
    }
    let is_wanted = |holder: &Holder, root: &Root| {
        subjects.is_empty() || subjects.iter().any(|subject| is_part(subject, holder, root))
    };
    let mut damages = Vec::new();
    let verified = verify_some(store, is_wanted, &mut |finding| {
        let what = finding.error.to_string();
        // A damage that nothing visible has is the store's own.
        if finding.holders.is_empty() {
            damages.push(Damage { subject: "the store".into(), what: what.clone() });
        }
        damages.extend(finding.holders.iter().map(|holder| {
            let subject = match holder {
                Holder::Path(path) => path.to_absolute(),
                Holder::Root(root) => root.to_string(),
            };
            Damage { subject, what: what.clone() }
        }));
    });
    Ok(VerifyReply { checked: verified.holders, bytes: verified.blob_bytes, damages })
}

fn is_part(subject: &Subject, holder: &Holder, root: &Root) -> bool {
    match (subject, holder) {
        (Subject::Path(wanted), Holder::Path(path)) => wanted == path,
        (Subject::Path(_), Holder::Root(_)) => false,
        (Subject::Tree(wanted), _) => wanted == root,
    }
}

fn is_here(store: &dyn Store, subject: &Subject) -> Result<bool, StoreError> {
    match subject {
        Subject::Path(path) => Ok(store.path(path.hash())?.is_some_and(|stored| stored.path() == path)),
        Subject::Tree(wanted) => {
            let is_tree = store.roots()?.iter().any(|(root, _)| root == wanted);
            Ok(is_tree || store.paths()?.iter().any(|path| path.root() == wanted))
        }
    }
}
