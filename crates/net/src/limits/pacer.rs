//! Waiting for one's turn.

use std::{
    num::NonZeroU64,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use firn_exchange::{Micros, PeerId};
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    fair::{Fair, Next},
    meter::Meter,
};

/// One direction of all that is sent in replies: counted, and where there is a limit, held to it.
pub(crate) struct Pacer {
    pub(crate) meter: Meter,
    limited: Option<Limited>,
}

struct Limited {
    since: Instant,
    queue: Mutex<Fair<oneshot::Sender<()>>>,
    /// The next turn may be earlier than it was.
    changed: Notify,
    /// The node stops: nobody waits for a turn that will not come.
    ended: CancellationToken,
}

impl Pacer {
    /// So many bytes a second for all, and for each peer. Where there is a limit, something has to [`run`](Pacer::run) it.
    pub(crate) fn new(rate: Option<NonZeroU64>, peer_rate: Option<NonZeroU64>) -> Arc<Self> {
        let since = Instant::now();
        let limited = Fair::new(rate, peer_rate, Micros(0)).map(|queue| Limited {
            since,
            queue: Mutex::new(queue),
            changed: Notify::new(),
            ended: CancellationToken::new(),
        });
        Arc::new(Self { meter: Meter::new(), limited })
    }

    /// How many bytes this peer's next piece should have at most.
    pub(crate) fn piece_bytes(&self, peer: PeerId) -> usize {
        match &self.limited {
            Some(limited) => usize::try_from(limited.lock().piece_bytes(peer)).unwrap_or(usize::MAX),
            None => usize::MAX,
        }
    }

    /// Counts these bytes, and returns when it is their turn: without a limit at once.
    pub(crate) async fn pay(&self, peer: PeerId, bytes: usize) {
        let bytes = bytes as u64;
        if let Some(limited) = &self.limited {
            limited.wait(peer, bytes).await;
        }
        self.meter.add(peer, bytes);
    }

    /// Lets one after the other go, until the node stops.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let Some(limited) = &self.limited else { return stop.cancelled().await };
        stop.run_until_cancelled(limited.run()).await;
        limited.ended.cancel();
    }
}

impl Limited {
    async fn wait(&self, peer: PeerId, bytes: u64) {
        let (ticket, turn) = oneshot::channel();
        self.lock().push(peer, bytes, ticket, self.now());
        if self.let_go().is_some() {
            self.changed.notify_one();
        }
        let _ = self.ended.run_until_cancelled(turn).await;
    }

    /// Lets all go whose turn it is; gives the time of the next turn, if anybody is left.
    fn let_go(&self) -> Option<Micros> {
        let mut queue = self.lock();
        loop {
            match queue.pop(self.now(), oneshot::Sender::is_closed) {
                // Whoever is gone by now has taken a piece for nothing, which others have to wait for.
                Next::Go(ticket) => drop(ticket.send(())),
                Next::At(then) => return Some(then),
                Next::Nobody => return None,
            }
        }
    }

    async fn run(&self) {
        loop {
            let changed = self.changed.notified();
            match self.let_go() {
                Some(then) => {
                    let then = self.since + std::time::Duration::from_micros(then.0);
                    let _ = tokio::time::timeout_at(then, changed).await;
                }
                None => changed.await,
            }
        }
    }

    fn now(&self) -> Micros {
        self.since.elapsed().into()
    }

    fn lock(&self) -> MutexGuard<'_, Fair<oneshot::Sender<()>>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::task::JoinSet;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn all_have_their_turn_and_those_who_leave_take_nothing() {
        let (pacer, stop) = (Pacer::new(NonZeroU64::new(1 << 20), None), CancellationToken::new());
        let running = tokio::spawn(Arc::clone(&pacer).run(stop.clone()));
        let begun = Instant::now();
        let mut waiting = JoinSet::new();
        for number in 0..8 {
            let pacer = Arc::clone(&pacer);
            waiting.spawn(async move {
                for _ in 0..10 {
                    pacer.pay(PeerId::from([number % 2; 32]), 64 << 10).await;
                }
            });
        }
        let mut left = JoinSet::new();
        for _ in 0..100 {
            let pacer = Arc::clone(&pacer);
            left.spawn(async move { pacer.pay(PeerId::from([9; 32]), 10 << 20).await });
        }
        tokio::task::yield_now().await;
        left.shutdown().await;
        while let Some(ended) = waiting.join_next().await {
            ended.unwrap();
        }
        // 5 MiB at 1 MiB/s, a quarter of a second of which was saved up.
        let took = begun.elapsed();
        assert!((Duration::from_millis(4600)..Duration::from_millis(5400)).contains(&took), "{took:?}");
        stop.cancel();
        running.await.unwrap();
    }

    #[tokio::test]
    async fn without_a_limit_nobody_waits() {
        let pacer = Pacer::new(None, None);
        let peer = PeerId::from([1; 32]);
        assert_eq!(pacer.piece_bytes(peer), usize::MAX);
        pacer.pay(peer, 1 << 40).await;
        assert_eq!(pacer.meter.rates()[&peer], 1 << 40);
    }
}
