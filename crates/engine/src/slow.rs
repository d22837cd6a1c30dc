//! Peers that did not answer a look-up in time: they are asked on, and not waited for until they answer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use firn_exchange::PeerId;
use futures::future::BoxFuture;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

/// The most slow peers that are remembered, each with one question under way at most; of more, the ones that were waited
/// for longest ago are forgotten.
const SLOW_MAX: usize = 256;
/// How long a question that nobody waits for may go on.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(20);
/// How long after the first such question the next one follows; it doubles each time.
const GAP: Duration = Duration::from_secs(1);
/// The longest time between two such questions.
const GAP_MAX: Duration = Duration::from_secs(30);
/// After so many questions, some ten minutes, a peer is forgotten: the next look-up waits for it once more.
const QUESTIONS_MAX: u32 = 24;

/// Asks a slow peer once more, and says whether it has answered.
pub(crate) type Question = Box<dyn Fn() -> BoxFuture<'static, bool> + Send>;

/// Slow peers, of all flights together.
#[derive(Default)]
pub(crate) struct Slow(Mutex<BTreeMap<PeerId, SlowPeer>>);

struct SlowPeer {
    /// How long it was waited for in vain.
    waited: Duration,
    since: Instant,
    _asking: AbortOnDropHandle<()>,
}

impl Slow {
    pub(crate) fn contains(&self, peer: &PeerId) -> bool {
        self.lock().contains_key(peer)
    }

    /// This peer was waited for in vain. It is asked on, unless it is being asked.
    pub(crate) fn add(self: &Arc<Self>, peer: PeerId, waited: Duration, question: Question) {
        let mut peers = self.lock();
        if let Some(slow) = peers.get_mut(&peer) {
            (slow.waited, slow.since) = (waited, Instant::now());
            return;
        }
        if peers.len() >= SLOW_MAX {
            let oldest = peers.iter().min_by_key(|(_, slow)| slow.since).map(|(peer, _)| *peer);
            oldest.and_then(|peer| peers.remove(&peer));
        }
        let asking = tokio::spawn(ask_on(Arc::downgrade(self), peer, question));
        let since = Instant::now();
        peers.insert(peer, SlowPeer { waited, since, _asking: AbortOnDropHandle::new(asking) });
    }

    /// This peer has answered: it is waited for again, if it took less than it was waited for in vain.
    pub(crate) fn answered(&self, peer: &PeerId, took: Duration) {
        let mut peers = self.lock();
        if peers.get(peer).is_some_and(|slow| took < slow.waited) {
            peers.remove(peer);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PeerId, SlowPeer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends when the peer has answered in time, and is aborted when it is forgotten.
async fn ask_on(peers: Weak<Slow>, peer: PeerId, question: Question) {
    let mut gap = GAP;
    for _ in 0..QUESTIONS_MAX {
        let begun = Instant::now();
        if timeout(QUESTION_TIMEOUT, question()).await.unwrap_or(false)
            && let Some(peers) = peers.upgrade()
        {
            peers.answered(&peer, begun.elapsed());
        }
        sleep(gap).await;
        gap = GAP_MAX.min(gap * 2);
    }
    if let Some(peers) = peers.upgrade() {
        peers.lock().remove(&peer);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::sync::watch;

    use super::*;

    fn peer(number: u16) -> PeerId {
        let mut id = [0; 32];
        id[..2].copy_from_slice(&number.to_be_bytes());
        PeerId::from(id)
    }

    /// Is answered after so long, and counted.
    fn answered_after(time: Duration, asked: watch::Sender<u32>) -> Question {
        Box::new(move || {
            asked.send_modify(|count| *count += 1);
            async move {
                sleep(time).await;
                true
            }
            .boxed()
        })
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_bounded() {
        let (slow, (asked, _)) = (Arc::new(Slow::default()), watch::channel(0));
        for number in 0..=SLOW_MAX as u16 {
            slow.add(peer(number), Duration::from_millis(1), answered_after(QUESTION_TIMEOUT, asked.clone()));
            tokio::time::advance(Duration::from_nanos(1)).await;
        }
        assert_eq!(slow.lock().len(), SLOW_MAX);
        assert!(!slow.contains(&peer(0)) && slow.contains(&peer(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_is_asked_on_until_it_answers_sooner_than_before() {
        let (slow, (asked, mut counted)) = (Arc::new(Slow::default()), watch::channel(0));
        let waited = Duration::from_millis(300);
        slow.add(peer(1), waited, answered_after(waited, asked.clone()));
        slow.add(peer(1), waited, answered_after(waited, asked.clone()));
        slow.add(peer(2), waited, answered_after(waited / 2, asked));
        sleep(waited).await;
        assert!(slow.contains(&peer(1)) && !slow.contains(&peer(2)));
        counted.wait_for(|count| *count == QUESTIONS_MAX + 1).await.unwrap();
        sleep(QUESTION_TIMEOUT + GAP_MAX).await;
        assert!(!slow.contains(&peer(1)), "it gets another chance in the end");
        assert!(counted.changed().await.is_err(), "nobody asks any more");
    }
}
