//! Follows Nix's database, and withdraws what Nix has collected.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
    sync::PoisonError,
    time::{Instant, SystemTime},
};

use firn_engine::EngineError;
use firn_nix::StorePathHash;
use firn_store::{Reason, Visible, closure};
use tokio::sync::watch;

use super::{
    REGISTRATIONS_MAX, Shared,
    book::{Seen, Suspects, View},
    lock,
};
use crate::nixdb::{DatabaseState, NixDatabaseError, Registration, RegistrationId};

/// Why a look came to nothing; there will be another.
#[derive(Debug, thiserror::Error)]
enum LookError {
    #[error("{0}; it will be tried again")]
    Database(#[from] NixDatabaseError),
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// There are more paths than are followed.
#[derive(Debug, thiserror::Error)]
#[error("of a Nix store of more than {REGISTRATIONS_MAX} paths only these are adopted")]
struct TooMany;

/// What a look at the database has found.
#[derive(Default)]
struct Listing {
    seen: BTreeMap<RegistrationId, Seen>,
    /// The first row that is not what Nix writes.
    odd: Option<NixDatabaseError>,
    is_cut: bool,
    ends: bool,
}

/// Looks every few seconds, or when somebody wants it, until the end.
pub(super) fn run(shared: &Shared) {
    let mut last = None;
    let mut changes = shared.engine.changes();
    while !shared.ends() {
        if let Err(error) = shared.look(&mut last, &mut changes) {
            shared.update(|book| book.unread());
            shared.note_error(&error);
        }
        shared.update(|book| book.pauses = false);
        shared.sleep();
    }
}

impl Shared {
    /// Waits until it is time to look again.
    fn sleep(&self) {
        let begun = Instant::now();
        let mut book = lock(&self.book);
        while !self.ends() && !book.wants_look() {
            let Some(rest) = self.poll.checked_sub(begun.elapsed()).filter(|rest| !rest.is_zero()) else {
                return;
            };
            book = self.changed.wait_timeout(book, rest).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn look(
        &self,
        last: &mut Option<DatabaseState>,
        changes: &mut watch::Receiver<u64>,
    ) -> Result<(), LookError> {
        let is_wanted = self.update(|book| book.begin_look());
        // Whatever is withdrawn here is found not to be visible, and read anew.
        self.wait_for(|engine| async move { engine.withdraw_lost().await })?;
        let now = SystemTime::now();
        let state = self.nix.state()?;
        if is_wanted || last.as_ref() != Some(&state) {
            self.look_at_database()?;
        } else if changes.has_changed().unwrap_or(false) {
            changes.mark_unchanged();
            self.update(|book| book.look_again(|hash| self.engine.path(hash).is_some()));
        }
        *last = state.is_settled(now).then_some(state);
        Ok(())
    }

    fn look_at_database(&self) -> Result<(), LookError> {
        let listing = self.nix.fold_paths(Listing::default, |listing, row| self.take_row(listing, row))?;
        if listing.ends {
            return Ok(());
        }
        if let Some(odd) = &listing.odd {
            self.note_error(odd);
        }
        if listing.is_cut {
            self.note_error(&TooMany);
        }
        let adopted = self.wait_for(|engine| async move { engine.pins().await })?;
        let adopted = adopted.into_iter().filter(|(_, reason)| *reason == Reason::adopted());
        let adopted: BTreeSet<StorePathHash> = adopted
            .filter_map(|(what, _)| match what {
                Visible::Path(hash) => Some(hash),
                Visible::Root(_) => None,
            })
            .collect();
        let gone = self.update(|book| book.take_listing(listing.seen, &adopted));
        self.withdraw(&gone);
        Ok(())
    }

    fn take_row(
        &self,
        listing: &mut Listing,
        row: Result<Registration, NixDatabaseError>,
    ) -> ControlFlow<()> {
        listing.ends = self.ends();
        listing.is_cut = listing.seen.len() >= REGISTRATIONS_MAX;
        if listing.ends || listing.is_cut {
            return ControlFlow::Break(());
        }
        match row {
            Ok(Registration { id, path, nar_hash, nar_size, row }) => {
                let view = match self.engine.path(path.hash()) {
                    None => View::Absent,
                    Some(here) if here.facts().nar.nar_hash == nar_hash => View::Same,
                    Some(_) => View::Other,
                };
                listing.seen.insert(id, Seen { hash: *path.hash(), nar_size, row, view });
            }
            Err(odd) => {
                listing.odd.get_or_insert(odd);
            }
        }
        ControlFlow::Continue(())
    }

    /// Takes paths out of view. Others may have had some of their contents in these places.
    pub(super) fn withdraw(&self, paths: &BTreeSet<StorePathHash>) {
        let mut suspects = Suspects::default();
        let mut count = 0;
        for hash in paths {
            self.suspect(hash, &mut suspects);
            let what = Visible::Path(*hash);
            match self.wait_for(|engine| async move { engine.remove(&what).await }) {
                Ok(was_visible) => count += u64::from(was_visible),
                // The next look at the database finds it again.
                Err(error) => {
                    self.note_error(&error);
                    self.update(|book| book.unread());
                }
            }
        }
        self.update(|book| book.withdrew(paths, count, suspects));
    }

    fn suspect(&self, hash: &StorePathHash, suspects: &mut Suspects) {
        let Ok(Some(stored)) = self.engine.store().path(hash) else { return };
        match closure(&**self.engine.store(), stored.root()) {
            Ok(Some(closure)) => suspects.add(closure.blobs().iter().map(|blob| blob.digest)),
            Ok(None) | Err(_) => suspects.add_all(),
        }
    }
}
