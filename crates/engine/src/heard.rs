//! Who was asked in a flight, and what peers named and did not give.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use firn_castore::Root;
use firn_exchange::PeerId;
use tokio::time::Instant;

/// For so long a peer's word for a root counts for nothing, after it could be reached and did not give the tree.
const UNDELIVERED_FOR: Duration = Duration::from_secs(30);
/// The most such words that are remembered; of more, the oldest are forgotten.
const UNDELIVERED_MAX: usize = 4096;

/// Who was asked in one flight, and who owes an answer.
#[derive(Clone, Default)]
pub(crate) struct Heard(Arc<Mutex<Answers>>);

#[derive(Default)]
struct Answers {
    /// By those that have not answered: since when they were asked for claims.
    owing: BTreeMap<PeerId, Instant>,
    /// Those that were asked anything, and could be reached as far as is known.
    reached: BTreeSet<PeerId>,
}

impl Heard {
    pub(crate) fn asked_for_claims(&self, peer: PeerId) {
        self.lock().owing.entry(peer).or_insert_with(Instant::now);
    }

    pub(crate) fn asked(&self, peer: PeerId) {
        self.lock().reached.insert(peer);
    }

    /// This peer cannot be reached: nobody knows what it would give.
    pub(crate) fn unreachable(&self, peer: &PeerId) {
        let mut answers = self.lock();
        answers.owing.remove(peer);
        answers.reached.remove(peer);
    }

    /// Nothing more is waited for from this peer.
    pub(crate) fn settled(&self, peer: &PeerId) {
        self.lock().owing.remove(peer);
    }

    /// Those that were asked for claims, and for how long they have not answered.
    pub(crate) fn owing(&self) -> Vec<(PeerId, Duration)> {
        self.lock().owing.iter().map(|(peer, since)| (*peer, since.elapsed())).collect()
    }

    pub(crate) fn who_was_reached(&self) -> BTreeSet<PeerId> {
        self.lock().reached.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Answers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Roots that peers have named of late, and whose trees they did not give though they could be reached.
#[derive(Default)]
pub(crate) struct Undelivered(Mutex<BTreeMap<(Root, PeerId), Instant>>);

impl Undelivered {
    pub(crate) fn add(&self, root: &Root, peers: impl IntoIterator<Item = PeerId>) {
        let mut words = self.lock();
        let now = Instant::now();
        words.retain(|_, since| now - *since < UNDELIVERED_FOR);
        for peer in peers {
            words.insert((root.clone(), peer), now);
            if words.len() > UNDELIVERED_MAX {
                let oldest = words.iter().min_by_key(|(_, since)| **since).map(|(word, _)| word.clone());
                oldest.and_then(|word| words.remove(&word));
            }
        }
    }

    pub(crate) fn contains(&self, root: &Root, peer: PeerId) -> bool {
        let since = self.lock().get(&(root.clone(), peer)).copied();
        since.is_some_and(|since| since.elapsed() < UNDELIVERED_FOR)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(Root, PeerId), Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use firn_castore::Node;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_word_counts_again_after_a_while_and_few_are_remembered() {
        let (undelivered, peer) = (Undelivered::default(), PeerId::from([1; 32]));
        let root = |name: &str| Root::from(Node::Symlink { target: name.as_bytes().try_into().unwrap() });
        undelivered.add(&root("a"), [peer]);
        assert!(undelivered.contains(&root("a"), peer) && !undelivered.contains(&root("b"), peer));
        assert!(!undelivered.contains(&root("a"), PeerId::from([2; 32])));
        tokio::time::advance(UNDELIVERED_FOR).await;
        assert!(!undelivered.contains(&root("a"), peer));
        for number in 0..=UNDELIVERED_MAX {
            undelivered.add(&root(&number.to_string()), [peer]);
            tokio::time::advance(Duration::from_nanos(1)).await;
        }
        assert_eq!(undelivered.lock().len(), UNDELIVERED_MAX);
        assert!(!undelivered.contains(&root("0"), peer));
    }
}
