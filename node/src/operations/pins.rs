//! What stays in the store though room is wanted.

use firn_nix::{STORE_DIR, StorePathHash};
use firn_proto::control::{PinReply, PinRequest, PinnedItem, PinsReply, UnpinReply, UnpinRequest};
use firn_store::{Reason, Store, StoreError, Visible};

use super::{
    Ops,
    subject::{Subject, SubjectError, named, stored},
};
use crate::failure::Failure;

/// There is no such pin.
#[derive(Debug, thiserror::Error)]
#[error("{0} is not pinned; `firn pin list` shows what is")]
struct NotPinned(Box<str>);

pub(super) async fn pin(ops: &Ops, request: PinRequest) -> Result<PinReply, Failure> {
    let reason: Reason = request.reason.parse().map_err(Failure::usage)?;
    let subject: Subject = request.what.parse().map_err(Failure::usage)?;
    let store = ops.engine.store().clone();
    let (what, is_here) = ops.engine.run_blocking(move || visible(&*store, &subject)).await??;
    ops.engine.pin(&what, &reason).await?;
    let subject = subject_of(ops, what).await?;
    Ok(PinReply { pin: Some(PinnedItem { subject, reason: reason.to_string() }), is_here })
}

/// What to pin, and whether it is here. A root may be that of a path, which is then what keeps it.
fn visible(store: &dyn Store, subject: &Subject) -> Result<(Visible, bool), StoreError> {
    match subject {
        Subject::Path(path) => {
            let is_here = stored(store, path.hash())?.is_some();
            Ok((subject.visible(), is_here))
        }
        Subject::Tree(wanted) => {
            if store.roots()?.iter().any(|(root, _)| root == wanted) {
                return Ok((subject.visible(), true));
            }
            let path = store.paths()?.iter().find(|path| path.root() == wanted).map(|path| path.path_hash());
            Ok(path.map_or((subject.visible(), false), |hash| (Visible::Path(hash), true)))
        }
    }
}

pub(super) async fn unpin(ops: &Ops, request: UnpinRequest) -> Result<UnpinReply, Failure> {
    let what = parse(&request.what).map_err(Failure::usage)?;
    let mut found = ops.engine.unpin(&what).await?;
    if let Visible::Root(wanted) = &what {
        for path in ops.engine.paths().iter().filter(|path| path.facts().root == *wanted) {
            found |= ops.engine.unpin(&Visible::Path(*path.facts().path.hash())).await?;
        }
    }
    let subject = subject_of(ops, what).await?;
    match found {
        true => Ok(UnpinReply { subject }),
        false => Err(Failure::missing(NotPinned(subject.into()))),
    }
}

/// A subject, or a path of which only the hash is known, as the list of pins may have it.
fn parse(text: &str) -> Result<Visible, SubjectError> {
    let base = text.strip_prefix(STORE_DIR).map_or(text, |rest| rest.trim_start_matches('/'));
    match base.parse::<StorePathHash>() {
        Ok(hash) => Ok(Visible::Path(hash)),
        Err(_) => text.parse().map(|subject: Subject| subject.visible()),
    }
}

async fn subject_of(ops: &Ops, what: Visible) -> Result<String, Failure> {
    let store = ops.engine.store().clone();
    Ok(ops.engine.run_blocking(move || subject_in(&*store, &what)).await??)
}

/// What is visible by its name in this store.
pub(super) fn subject_in(store: &dyn Store, what: &Visible) -> Result<String, StoreError> {
    let stored = match what {
        Visible::Path(hash) => stored(store, hash)?,
        Visible::Root(_) => None,
    };
    Ok(named(what, stored.as_ref().map(|stored| stored.path())))
}

pub(super) async fn pins(ops: &Ops) -> Result<PinsReply, Failure> {
    let pins = ops.engine.pins().await?;
    let store = ops.engine.store().clone();
    let list = move || {
        let item = |(what, reason): (Visible, Reason)| {
            Ok(PinnedItem { subject: subject_in(&*store, &what)?, reason: reason.to_string() })
        };
        pins.into_iter().map(item).collect::<Result<_, StoreError>>()
    };
    Ok(PinsReply { pins: ops.engine.run_blocking(list).await?? })
}
