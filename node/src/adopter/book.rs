//! What is known of each registration, and whose turn it is.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::{Bound, RangeBounds},
    sync::Arc,
};

use firn_castore::BlobDigest;
use firn_nix::{StorePath, StorePathHash};

use super::AdoptStatus;
use crate::nixdb::{RegistrationId, RowDigest};

/// With more blobs than these under suspicion, all are.
const SUSPECTS_MAX: usize = 1 << 18;

/// What became of a registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is to be looked at, or is being looked at.
    Waiting,
    /// It is here, and not by us.
    Here,
    /// It is adopted.
    Adopted,
    /// No trusted key has signed it.
    Untrusted,
    /// It is not what it should be.
    Failed,
}

/// What a listing has found of a registration.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    pub(super) hash: StorePathHash,
    pub(super) nar_size: u64,
    pub(super) row: RowDigest,
    pub(super) view: View,
}

/// Whether a path is visible in our store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum View {
    Absent,
    /// With the NAR hash that is registered.
    Same,
    /// With another one.
    Other,
}

/// When it is somebody's turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    /// It was here and is broken.
    First,
    Usual,
    /// It did not go well the last time, and must not keep others waiting.
    Last,
}

#[derive(Debug, Clone, Copy)]
struct Mark {
    hash: StorePathHash,
    nar_size: u64,
    row: RowDigest,
    fate: Fate,
    turn: Turn,
}

/// Something to do for a worker.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) id: RegistrationId,
    pub(super) hash: StorePathHash,
    row: RowDigest,
    pub(super) task: Task,
}

#[derive(Debug, Clone)]
pub(super) enum Task {
    /// Adopt it, if it is trusted.
    Adopt,
    /// Look whether it still has these blobs.
    Check(Arc<Suspects>),
}

/// What a worker came to.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It is adopted, or still is.
    Adopted,
    Untrusted,
    /// It is not what it should be.
    Failed,
    /// It was adopted, and is to be adopted again.
    Broken,
    /// It was collected meanwhile; the next look at the database will find it so.
    Gone,
    /// It may go better a while later.
    Later,
}

/// Blobs whose place may be in a path that is no more.
#[derive(Debug, Clone, Default)]
pub(super) struct Suspects {
    blobs: BTreeSet<BlobDigest>,
    /// There are too many to name.
    are_all: bool,
}

impl Suspects {
    pub(super) fn add(&mut self, blobs: impl IntoIterator<Item = BlobDigest>) {
        for blob in blobs {
            if self.blobs.len() >= SUSPECTS_MAX {
                self.add_all();
            }
            if self.are_all {
                return;
            }
            self.blobs.insert(blob);
        }
    }

    pub(super) fn add_all(&mut self) {
        self.are_all = true;
        self.blobs.clear();
    }

    pub(super) fn contains(&self, blob: &BlobDigest) -> bool {
        self.are_all || self.blobs.contains(blob)
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.are_all && self.blobs.is_empty()
    }
}

/// A round over all that is adopted.
struct Round {
    suspects: Arc<Suspects>,
    /// Where what it has not come to begins.
    rest: Bound<RegistrationId>,
}

impl Round {
    fn come_back_to(&mut self, id: RegistrationId) {
        if !(self.rest, Bound::Unbounded).contains(&id) {
            self.rest = Bound::Included(id);
        }
    }
}

/// All that the threads must know of each other.
#[derive(Default)]
pub(super) struct Book {
    marks: BTreeMap<RegistrationId, Mark>,
    /// Those that are [`Fate::Waiting`] and not under way.
    waiting: BTreeSet<(Turn, RegistrationId)>,
    under_way: BTreeMap<RegistrationId, Option<StorePath>>,
    round: Option<Round>,
    /// What is valid no more and is being withdrawn.
    gone: BTreeSet<StorePathHash>,
    /// The counts, and what is told besides.
    status: AdoptStatus,
    /// Nothing is begun until the watcher has looked again.
    pub(super) pauses: bool,
    /// A worker has seen that the database has changed.
    wants_look: bool,
    /// The last look at the database went well.
    is_read: bool,
}

impl Book {
    pub(super) fn status(&self) -> AdoptStatus {
        let is_idle = self.waiting.is_empty()
            && self.under_way.is_empty()
            && self.round.is_none()
            && self.gone.is_empty();
        AdoptStatus {
            current: self.under_way.values().flatten().cloned().collect(),
            settled: self.is_read && !self.wants_look && is_idle,
            ..self.status.clone()
        }
    }

    /// Whether it is another than the one before.
    pub(super) fn note_error(&mut self, error: String) -> bool {
        let is_new = self.status.last_error.as_ref() != Some(&error);
        self.status.last_error = Some(error);
        is_new
    }

    /// The last look at the database came to nothing: the next is taken when it is time for it.
    pub(super) fn unread(&mut self) {
        self.is_read = false;
    }

    /// Whether somebody is waiting for a look.
    pub(super) fn wants_look(&self) -> bool {
        self.wants_look
    }

    /// Whether this look must be one at the database, changed or not.
    pub(super) fn begin_look(&mut self) -> bool {
        std::mem::take(&mut self.wants_look) || !self.is_read
    }

    /// Takes what the database lists, and gives what is to be [withdrawn](Self::withdrew). `pinned`: what the store has as
    /// adopted.
    pub(super) fn take_listing(
        &mut self,
        listing: BTreeMap<RegistrationId, Seen>,
        pinned: &BTreeSet<StorePathHash>,
    ) -> BTreeSet<StorePathHash> {
        let present: BTreeSet<StorePathHash> = listing.values().map(|seen| seen.hash).collect();
        let before = std::mem::take(&mut self.marks);
        let ours = before.values().filter(|mark| mark.fate == Fate::Adopted).map(|mark| mark.hash);
        let gone: BTreeSet<StorePathHash> =
            pinned.iter().copied().chain(ours).filter(|hash| !present.contains(hash)).collect();
        self.gone.extend(&gone);
        self.waiting.clear();
        self.status = AdoptStatus {
            withdrawn: self.status.withdrawn,
            last_error: self.status.last_error.take(),
            ..AdoptStatus::default()
        };
        for (id, Seen { hash, nar_size, row, view }) in listing {
            let earlier = before.get(&id);
            let was = earlier.map(|mark| mark.fate);
            let is_ours = pinned.contains(&hash) || was == Some(Fate::Adopted);
            let fate = match (view, is_ours) {
                (View::Same, true) => Fate::Adopted,
                (View::Same | View::Other, false) => Fate::Here,
                (View::Other, true) => Fate::Waiting,
                (View::Absent, _) => match earlier {
                    Some(mark) if mark.row == row => mark.fate.unless_here(),
                    _ => Fate::Waiting,
                },
            };
            let turn = earlier.filter(|mark| mark.row == row).map_or(Turn::Usual, |mark| mark.turn);
            let mark = Mark { hash, nar_size, row, fate, turn };
            self.marks.insert(id, mark);
            self.count(mark, true);
            self.enqueue(id, mark);
        }
        self.is_read = true;
        gone
    }

    /// Takes from the book what is no longer visible.
    pub(super) fn look_again(&mut self, is_visible: impl Fn(&StorePathHash) -> bool) {
        let ours = self.marks.iter().filter(|(_, mark)| matches!(mark.fate, Fate::Here | Fate::Adopted));
        let lost = ours.filter(|(_, mark)| !is_visible(&mark.hash));
        let lost: Vec<RegistrationId> = lost.map(|(id, _)| *id).collect();
        for id in lost {
            self.settle(id, Fate::Waiting, Turn::First);
        }
    }

    /// These were withdrawn, so many of which were visible, and with them may have gone the suspects.
    pub(super) fn withdrew(&mut self, paths: &BTreeSet<StorePathHash>, count: u64, suspects: Suspects) {
        self.gone.retain(|hash| !paths.contains(hash));
        self.status.withdrawn += count;
        if suspects.is_empty() {
            return;
        }
        let mut all = match self.round.take() {
            Some(round) => Arc::unwrap_or_clone(round.suspects),
            None => Suspects::default(),
        };
        if suspects.are_all {
            all.add_all();
        }
        all.add(suspects.blobs);
        self.round = Some(Round { suspects: Arc::new(all), rest: Bound::Unbounded });
    }

    /// The next thing to do: what is broken, then what may be broken, then the rest.
    pub(super) fn next_job(&mut self) -> Option<Job> {
        if self.pauses {
            return None;
        }
        let first = self.waiting.first().copied();
        match first {
            Some((Turn::First, id)) => self.begin(id),
            _ => self.next_check().or_else(|| self.begin(first?.1)),
        }
    }

    fn begin(&mut self, id: RegistrationId) -> Option<Job> {
        let mark = self.marks.get(&id)?;
        self.waiting.remove(&(mark.turn, id));
        self.under_way.insert(id, None);
        Some(Job { id, hash: mark.hash, row: mark.row, task: Task::Adopt })
    }

    fn next_check(&mut self) -> Option<Job> {
        let round = self.round.as_mut()?;
        let mut adopted = self
            .marks
            .range((round.rest, Bound::Unbounded))
            .filter(|(id, mark)| mark.fate == Fate::Adopted && !self.under_way.contains_key(id));
        let Some((&id, mark)) = adopted.next() else {
            // What is being adopted just now may have taken such a blob to be here: the round ends after it.
            if self.under_way.is_empty() {
                self.round = None;
            }
            return None;
        };
        round.rest = Bound::Excluded(id);
        self.under_way.insert(id, None);
        Some(Job { id, hash: mark.hash, row: mark.row, task: Task::Check(round.suspects.clone()) })
    }

    /// Tells what is being read.
    pub(super) fn reads(&mut self, job: &Job, path: &StorePath) {
        self.under_way.insert(job.id, Some(path.clone()));
    }

    /// Takes what a worker came to. `false`: it is adopted, but the registration has gone meanwhile, and the path is to be
    /// [withdrawn](Self::withdrew).
    pub(super) fn finish(&mut self, job: &Job, outcome: Outcome) -> bool {
        self.under_way.remove(&job.id);
        let Some(mark) = self.marks.get(&job.id) else {
            if !matches!(outcome, Outcome::Adopted) {
                return true;
            }
            self.gone.insert(job.hash);
            return false;
        };
        let is_as_it_was = mark.row == job.row;
        let (fate, turn) = match outcome {
            Outcome::Adopted => (Fate::Adopted, Turn::Usual),
            Outcome::Untrusted if is_as_it_was => (Fate::Untrusted, Turn::Usual),
            Outcome::Failed if is_as_it_was => (Fate::Failed, Turn::Usual),
            Outcome::Untrusted | Outcome::Failed => (Fate::Waiting, Turn::Usual),
            Outcome::Broken => (Fate::Waiting, Turn::First),
            Outcome::Gone | Outcome::Later => (Fate::Waiting, Turn::Last),
        };
        self.pauses |= matches!(outcome, Outcome::Gone | Outcome::Later);
        self.wants_look |= matches!(outcome, Outcome::Gone);
        self.settle(job.id, fate, turn);
        if let (Task::Adopt, Fate::Adopted, Some(round)) = (&job.task, fate, &mut self.round) {
            round.come_back_to(job.id);
        }
        true
    }

    fn settle(&mut self, id: RegistrationId, fate: Fate, turn: Turn) {
        let Some(mark) = self.marks.get_mut(&id) else { return };
        let before = *mark;
        (mark.fate, mark.turn) = (fate, turn);
        let after = *mark;
        self.waiting.remove(&(before.turn, id));
        self.count(before, false);
        self.count(after, true);
        self.enqueue(id, after);
    }

    fn enqueue(&mut self, id: RegistrationId, mark: Mark) {
        if mark.fate == Fate::Waiting && !self.under_way.contains_key(&id) {
            self.waiting.insert((mark.turn, id));
        }
    }

    fn count(&mut self, mark: Mark, comes: bool) {
        let status = &mut self.status;
        let add = |count: &mut u64, amount: u64| {
            *count = if comes { count.saturating_add(amount) } else { count.saturating_sub(amount) };
        };
        add(&mut status.total, 1);
        match mark.fate {
            Fate::Waiting => add(&mut status.waiting, 1),
            Fate::Here => add(&mut status.done, 1),
            Fate::Adopted => {
                add(&mut status.done, 1);
                add(&mut status.adopted, 1);
                add(&mut status.adopted_bytes, mark.nar_size);
            }
            Fate::Untrusted => add(&mut status.skipped_untrusted, 1),
            Fate::Failed => add(&mut status.failed, 1),
        }
    }
}

impl Fate {
    /// What was here and is no more is waited for.
    fn unless_here(self) -> Self {
        match self {
            Fate::Here | Fate::Adopted => Fate::Waiting,
            other => other,
        }
    }
}

#[cfg(test)]
mod tests;
