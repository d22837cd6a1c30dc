//! When peers are looked for, and when that is worth doing once more.

use super::{Fetch, Goal, Micros, Output};
use crate::Key;

/// How long after a look-up that brought nobody the next one begins; it doubles each time.
const FIND_AGAIN: Micros = Micros::from_millis(1_000);
/// The longest time between two look-ups.
const FIND_AGAIN_MAX: Micros = Micros::from_millis(30_000);

/// A look-up.
pub(super) struct Find {
    is_over: bool,
    /// When it ended, or will be worth repeating.
    again_at: Micros,
    gap: Micros,
}

impl Fetch {
    /// Begins to look, unless that has begun.
    pub(super) fn find(&mut self, key: Key) {
        if !self.finds.contains_key(&key) {
            let find = Find { is_over: false, again_at: Micros(0), gap: FIND_AGAIN };
            self.finds.insert(key.clone(), find);
            self.outputs.push_back(Output::Find(key));
        }
    }

    pub(super) fn find_ended(&mut self, now: Micros, key: &Key) {
        if let Some(find) = self.finds.get_mut(key) {
            (find.is_over, find.again_at) = (true, now.after(find.gap));
            find.gap = Micros((find.gap.0 * 2).min(FIND_AGAIN_MAX.0));
        }
    }

    /// Whether all have been found that are to be found for now.
    pub(super) fn is_over(&self, key: &Key) -> bool {
        self.finds.get(key).is_some_and(|find| find.is_over)
    }

    /// Whether there is nobody left to be asked, so that it may be worth looking for others, or for the same once more.
    pub(super) fn lacks_peers(&self) -> Option<Key> {
        let Some(tree) = &self.tree else {
            let may_find = |key: &Key| self.is_over(key) && self.may_find_claims(key, self.stepped_at);
            return self.claims_key().filter(may_find);
        };
        let key = Key::Root(tree.root().clone());
        let now = self.stepped_at;
        if !tree.wants_peers() || !(tree.may_go_on() || self.any_busy(&key)) {
            return None;
        }
        let is_served = self.peers.any_left(&key, |peer| {
            tree.can_serve(peer) && self.peers.is_usable(peer, now) && !self.peers.is_busy(peer)
        });
        (!is_served && self.is_over(&key)).then_some(key)
    }

    /// Whether somebody who may vouch for the path has not answered, or was busy: perhaps it does by now, or somebody else has
    /// come.
    pub(super) fn may_find_claims(&self, key: &Key, now: Micros) -> bool {
        let is_patient = self.is_asking_claims() || now < self.claims_at.after(self.limits.claims_patience);
        let is_wanted = self.peers.any_failed(key) || self.any_busy(key);
        matches!(self.goal, Goal::Path(_)) && is_patient && is_wanted
    }

    /// Whether somebody who may have this has only said that it is busy.
    fn any_busy(&self, key: &Key) -> bool {
        self.peers.any_left(key, |peer| self.peers.is_busy(peer))
    }

    /// When it is given up where there is nobody left to be asked.
    pub(super) fn patience_ends(&self) -> Option<Micros> {
        self.lacking.as_ref()?;
        Some(match &self.tree {
            Some(tree) => tree.progress_at().after(self.limits.patience),
            None => self.claims_at.after(self.limits.claims_patience),
        })
    }

    /// When it is worth looking once more.
    pub(super) fn next_find(&self) -> Option<Micros> {
        self.finds.get(self.lacking.as_ref()?).map(|find| find.again_at)
    }

    /// Looks once more, if it is time.
    pub(super) fn find_again(&mut self, now: Micros) {
        if let Some(key) = &self.lacking
            && let Some(find) = self.finds.get_mut(key).filter(|find| find.again_at <= now)
        {
            find.is_over = false;
            self.outputs.push_back(Output::Find(key.clone()));
            self.lacking = None;
        }
    }
}
