//! Threads that work on one thing until it is done.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, Scope},
};

use crate::lock;

/// Work that is cut into tasks, and what is known of it, which all who work on it share.
///
/// What is next is decided under a lock and must be quick; the tasks themselves run side by side.
pub(super) trait Work: Sync {
    /// What is known.
    type State: Send;
    /// Something to do.
    type Task;
    /// What came of it.
    type Outcome;

    /// What a thread that has nothing to do should do.
    fn next(&self, state: &mut Self::State) -> Next<Self::Task>;

    /// Does it, without the lock.
    fn run(&self, task: Self::Task) -> Self::Outcome;

    /// Takes in what came of it.
    fn finish(&self, state: &mut Self::State, outcome: Self::Outcome);

    /// Whether there is so much to do that more than one thread is worth its while.
    fn is_much(&self, state: &Self::State) -> bool;
}

/// What a thread should do.
pub(super) enum Next<T> {
    /// This.
    Do(T),
    /// Look again when another thread has finished something. Only where another thread is at work.
    Wait,
    /// Go: there is nothing left to begin.
    End,
}

/// Works until all is done, on this thread and on up to `threads - 1` more.
///
/// If a thread panics the others stop, and this panics.
pub(super) fn work<W: Work>(work: &W, state: W::State, threads: usize) -> W::State {
    let shared =
        Shared { inner: Mutex::new(Inner { state, waiting: 0, panicked: false }), changed: Condvar::new() };
    thread::scope(|scope| shared.work(work, Some((scope, threads.saturating_sub(1)))));
    shared.inner.into_inner().unwrap_or_else(PoisonError::into_inner).state
}

struct Shared<S> {
    inner: Mutex<Inner<S>>,
    changed: Condvar,
}

struct Inner<S> {
    state: S,
    /// How many threads wait.
    waiting: usize,
    panicked: bool,
}

impl<S: Send> Shared<S> {
    /// One thread's work. `helpers`: how many more threads it may start.
    fn work<'scope, 'env, W: Work<State = S>>(
        &'scope self,
        work: &'scope W,
        mut helpers: Option<(&'scope Scope<'scope, 'env>, usize)>,
    ) {
        let _alarm = Alarm(self);
        let mut inner = lock(&self.inner);
        loop {
            if inner.panicked {
                return;
            }
            match work.next(&mut inner.state) {
                Next::End => return,
                Next::Wait => inner = self.wait(inner),
                Next::Do(task) => {
                    if let Some((scope, count)) = helpers.take_if(|_| work.is_much(&inner.state)) {
                        for _ in 0..count {
                            scope.spawn(move || self.work(work, None));
                        }
                    }
                    drop(inner);
                    let outcome = work.run(task);
                    inner = lock(&self.inner);
                    work.finish(&mut inner.state, outcome);
                    if inner.waiting > 0 {
                        self.changed.notify_all();
                    }
                }
            }
        }
    }

    fn wait<'a>(&self, mut inner: MutexGuard<'a, Inner<S>>) -> MutexGuard<'a, Inner<S>> {
        inner.waiting += 1;
        inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
        inner.waiting -= 1;
        inner
    }
}

/// Wakes all that wait when a thread's work ends, however it ends.
struct Alarm<'a, S>(&'a Shared<S>);

impl<S> Drop for Alarm<'_, S> {
    fn drop(&mut self) {
        if thread::panicking() {
            lock(&self.0.inner).panicked = true;
        }
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{self, AssertUnwindSafe};

    use super::*;

    /// Counts down; each number is a task. The task `bad` panics, and no other is begun before it has ended.
    struct Countdown {
        bad: Option<u32>,
    }

    struct Left {
        left: u32,
        running: u32,
        sum: u32,
    }

    impl Work for Countdown {
        type State = Left;
        type Task = u32;
        type Outcome = u32;

        fn next(&self, state: &mut Left) -> Next<u32> {
            if state.left == 0 {
                return if state.running == 0 { Next::End } else { Next::Wait };
            }
            if self.bad.is_some_and(|bad| state.left < bad) {
                return Next::Wait;
            }
            state.running += 1;
            state.left -= 1;
            Next::Do(state.left + 1)
        }

        fn run(&self, task: u32) -> u32 {
            assert_ne!(self.bad, Some(task), "as the test wants it");
            task
        }

        fn finish(&self, state: &mut Left, outcome: u32) {
            state.running -= 1;
            state.sum += outcome;
        }

        fn is_much(&self, _: &Left) -> bool {
            true
        }
    }

    #[test]
    fn all_is_done_by_however_many() {
        for threads in [0, 1, 2, 7] {
            let state = work(&Countdown { bad: None }, Left { left: 1000, running: 0, sum: 0 }, threads);
            assert_eq!(state.sum, 500_500);
        }
    }

    #[test]
    fn a_panic_does_not_leave_the_others_waiting() {
        let run = || work(&Countdown { bad: Some(500) }, Left { left: 1000, running: 0, sum: 0 }, 4);
        assert!(panic::catch_unwind(AssertUnwindSafe(run)).is_err());
    }
}
