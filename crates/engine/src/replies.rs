//! What the replies under way take in memory, shared by all of them.
//!
//! A reply takes memory as its bytes come, and waits where there is none. It may go on as long as no more than what it has
//! is left for others, so those who bring much leave room for those who begin; and one at a time may always go on, so that
//! not all wait for each other.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// What all replies together may take, in bytes, from the first byte until they were checked. One may take more.
pub const REPLIES_BYTES_MAX: usize = 64 << 20;
/// A reply of so few bytes goes on while there is any room.
const SHORT_BYTES: usize = 64 << 10;
/// The one that may always go on is given up after this time if others wait.
const TURN: Duration = Duration::from_secs(30);
/// What checks may take at once, in bytes, beside the replies themselves. One that would take more is alone.
const CHECKS_BYTES_MAX: usize = 64 << 20;
/// Memory of checks is counted in units of so many bytes.
const UNIT_BYTES: usize = 64 << 10;

/// The memory of all replies of a node.
#[derive(Clone)]
pub(crate) struct ReplyMemory {
    replies: Arc<Replies>,
    checks: Arc<Semaphore>,
}

impl Default for ReplyMemory {
    fn default() -> Self {
        Self { replies: Arc::default(), checks: Arc::new(Semaphore::new(CHECKS_BYTES_MAX / UNIT_BYTES)) }
    }
}

impl ReplyMemory {
    /// For a reply of which nothing has come yet.
    pub(crate) fn reply(&self) -> ReplyRoom {
        ReplyRoom { replies: self.replies.clone(), held: Mutex::default() }
    }

    /// Waits for the memory of a check. Nobody who holds some waits for anything but the processor.
    pub(crate) async fn check(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let units = bytes.min(CHECKS_BYTES_MAX).div_ceil(UNIT_BYTES);
        self.checks.clone().acquire_many_owned(units as u32).await.ok()
    }
}

#[derive(Default)]
struct Replies {
    state: Mutex<State>,
    freed: Notify,
}

#[derive(Default)]
struct State {
    /// What has been given out, without what the one whose turn it is has over its share.
    bytes: usize,
    /// Since when one may go on whatever the others have.
    turn: Option<Instant>,
    /// Those who wait.
    waiting: usize,
}

impl State {
    /// Whether a reply that has some may have more.
    fn has_room(&self, has: usize, more: usize) -> bool {
        let left = REPLIES_BYTES_MAX.checked_sub(self.bytes.saturating_add(more));
        left.is_some_and(|left| has + more <= left.max(SHORT_BYTES))
    }
}

impl Replies {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one reply takes, for as long as this lives.
pub(crate) struct ReplyRoom {
    replies: Arc<Replies>,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    bytes: usize,
    has_turn: bool,
}

/// Others wait, and this reply has had its turn for long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("others wait for the memory that the reply takes")]
pub struct TurnOver;

impl ReplyRoom {
    /// Waits until the reply may take so many bytes in all.
    pub(crate) async fn grow(&self, bytes: usize) -> Result<(), TurnOver> {
        loop {
            let freed = self.replies.freed.notified();
            tokio::pin!(freed);
            // What is freed from here on is not missed.
            freed.as_mut().enable();
            if self.try_grow(bytes)? {
                return Ok(());
            }
            let _waiting = Waiting::new(&self.replies);
            freed.await;
        }
    }

    fn try_grow(&self, bytes: usize) -> Result<bool, TurnOver> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.replies.state();
        let more = bytes.saturating_sub(held.bytes);
        if held.has_turn {
            let is_long = state.turn.is_some_and(|since| since.elapsed() > TURN);
            return if is_long && state.waiting > 0 { Err(TurnOver) } else { Ok(true) };
        }
        if state.has_room(held.bytes, more) {
            held.bytes += more;
            state.bytes += more;
            return Ok(true);
        }
        held.has_turn = state.turn.is_none();
        if held.has_turn {
            state.turn = Some(Instant::now());
        }
        Ok(held.has_turn)
    }
}

impl Drop for ReplyRoom {
    fn drop(&mut self) {
        let held = self.held.get_mut().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.replies.state();
        state.bytes -= held.bytes;
        if held.has_turn {
            state.turn = None;
        }
        drop(state);
        self.replies.freed.notify_waiters();
    }
}

/// One that waits, for as long as this lives.
struct Waiting<'a>(&'a Replies);

impl<'a> Waiting<'a> {
    fn new(replies: &'a Replies) -> Self {
        replies.state().waiting += 1;
        Self(replies)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.state().waiting -= 1;
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const MIB: usize = 1 << 20;

    /// Grows in steps of a MiB until it has to wait, or has this much.
    fn grown(room: &ReplyRoom, upto: usize) -> usize {
        let steps = (MIB..=upto).step_by(MIB);
        steps.take_while(|bytes| matches!(room.grow(*bytes).now_or_never(), Some(Ok(())))).last().unwrap_or(0)
    }

    fn used(memory: &ReplyMemory) -> usize {
        memory.replies.state().bytes
    }

    #[tokio::test]
    async fn one_that_is_alone_gets_all_that_it_brings() {
        let memory = ReplyMemory::default();
        assert_eq!(grown(&memory.reply(), 256 * MIB), 256 * MIB);
        assert_eq!(used(&memory), 0, "and gives it back");
        assert!(memory.replies.state().turn.is_none());
    }

    #[tokio::test]
    async fn those_who_bring_much_leave_room_for_those_who_begin() {
        let memory = ReplyMemory::default();
        let greedy: Vec<ReplyRoom> = (0..16).map(|_| memory.reply()).collect();
        let got: Vec<usize> = greedy.iter().map(|room| grown(room, 256 * MIB)).collect();
        assert_eq!(got.iter().filter(|bytes| **bytes == 256 * MIB).count(), 1, "{got:?}: one at a time");
        assert!(used(&memory) <= REPLIES_BYTES_MAX);
        let short: Vec<ReplyRoom> = (0..8).map(|_| memory.reply()).collect();
        for room in &short {
            assert_eq!(
                room.grow(SHORT_BYTES).now_or_never(),
                Some(Ok(())),
                "{got:?}, {} used",
                used(&memory)
            );
        }
        drop((greedy, short));
        assert_eq!((used(&memory), grown(&memory.reply(), 32 * MIB)), (0, 32 * MIB));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_gets_its_turn_and_nobody_has_it_for_ever() {
        let memory = ReplyMemory::default();
        let (first, second) = (memory.reply(), memory.reply());
        assert_eq!(grown(&first, 200 * MIB), 200 * MIB);
        assert!(grown(&second, 200 * MIB) < 200 * MIB);
        let waits = second.grow(200 * MIB);
        tokio::pin!(waits);
        assert!((&mut waits).now_or_never().is_none());
        assert_eq!(first.grow(201 * MIB).await, Ok(()));
        tokio::time::advance(TURN + Duration::from_millis(1)).await;
        assert_eq!(first.grow(202 * MIB).await, Err(TurnOver));
        drop(first);
        assert_eq!(waits.now_or_never(), Some(Ok(())));
        tokio::time::advance(TURN * 2).await;
        assert_eq!(second.grow(256 * MIB).await, Ok(()), "nobody else wants it");
    }

    #[tokio::test]
    async fn who_stops_waiting_is_forgotten() {
        let memory = ReplyMemory::default();
        let (first, second) = (memory.reply(), memory.reply());
        assert_eq!(grown(&first, 200 * MIB), 200 * MIB);
        assert!(second.grow(200 * MIB).now_or_never().is_none());
        assert_eq!(memory.replies.state().waiting, 0);
    }

    #[tokio::test]
    async fn a_check_that_takes_more_than_all_is_alone() {
        let memory = ReplyMemory::default();
        let small = memory.check(UNIT_BYTES).await;
        assert!(memory.check(usize::MAX).now_or_never().is_none());
        drop(small);
        let large = memory.check(usize::MAX).now_or_never().unwrap();
        assert!(large.is_some() && memory.check(1).now_or_never().is_none());
        assert!(memory.check(0).now_or_never().is_some(), "what takes nothing need not wait");
    }
}
