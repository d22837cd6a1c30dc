//! What must be in a store, from what the program has reported.

use serde_json::Value;

use crate::{acts::Act, trees::Tree};

/// What is known of a tree; `None` is unknown, since a command about it was killed, or another one is under way.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    pub(crate) here: Option<bool>,
    pub(crate) pinned: Option<bool>,
    /// A command about it is under way.
    pub(crate) is_busy: bool,
    /// When a command about it was begun or ended last.
    touched: u64,
}

/// An eviction that is under way.
#[derive(Debug)]
struct Eviction {
    begun: u64,
    /// What was here and might go.
    candidates: Vec<usize>,
}

/// What is known of all trees.
#[derive(Debug)]
pub(crate) struct Known {
    states: Vec<State>,
    /// Counts what happens.
    clock: u64,
    evicting: Option<Eviction>,
    evicted_at: u64,
}

impl Known {
    /// Nothing is here.
    pub(crate) fn nothing(trees: usize) -> Self {
        let absent = State { here: Some(false), pinned: Some(false), ..State::default() };
        Self { states: vec![absent; trees], clock: 0, evicting: None, evicted_at: 0 }
    }

    pub(crate) fn state(&self, tree: usize) -> &State {
        &self.states[tree]
    }

    pub(crate) fn is_evicting(&self) -> bool {
        self.evicting.is_some()
    }

    /// Something is begun, now.
    pub(crate) fn begin(&mut self, act: Act) -> u64 {
        self.clock += 1;
        if let Act::Evict = act {
            self.begin_eviction();
        }
        let (now, is_evicting) = (self.clock, self.is_evicting());
        let Some(tree) = act.tree() else { return now };
        let state = &mut self.states[tree];
        (state.is_busy, state.touched) = (true, now);
        let yes_or_unknown = |known: Option<bool>| known.filter(|is_so| *is_so);
        match act {
            Act::Add { .. } => {
                (state.here, state.pinned) = (yes_or_unknown(state.here), yes_or_unknown(state.pinned));
            }
            Act::Get(_) => state.here = yes_or_unknown(state.here),
            Act::Pin(_) => state.pinned = yes_or_unknown(state.pinned),
            Act::Unpin(_) => {
                state.pinned = None;
                if is_evicting {
                    state.here = None;
                }
            }
            Act::Read(_) | Act::Collect | Act::Evict => {}
        }
        now
    }

    fn begin_eviction(&mut self) {
        let might_go = |state: &State| state.here == Some(true) && state.pinned != Some(true);
        let candidates: Vec<usize> =
            (0..self.states.len()).filter(|tree| might_go(&self.states[*tree])).collect();
        for tree in &candidates {
            self.states[*tree].here = None;
        }
        self.evicting = Some(Eviction { begun: self.clock, candidates });
    }

    /// It has ended, with what it said if it has succeeded.
    pub(crate) fn end(&mut self, act: Act, begun: u64, said: Option<&Value>, trees: &[Tree]) {
        self.clock += 1;
        if let (Act::Evict, Some(said)) = (act, said) {
            self.end_eviction(&said["evicted"], trees);
        }
        let may_be_evicted = self.is_evicting() || self.evicted_at > begun;
        let Some(tree) = act.tree() else { return };
        let state = &mut self.states[tree];
        (state.is_busy, state.touched) = (false, self.clock);
        if said.is_none() {
            return;
        }
        match act {
            Act::Add { .. } => (state.here, state.pinned) = (Some(true), Some(true)),
            Act::Get(_) if may_be_evicted && state.pinned != Some(true) => state.here = None,
            Act::Get(_) => state.here = Some(true),
            Act::Pin(_) => state.pinned = Some(true),
            Act::Unpin(_) => state.pinned = Some(false),
            Act::Read(_) | Act::Collect | Act::Evict => {}
        }
    }

    fn end_eviction(&mut self, evicted: &Value, trees: &[Tree]) {
        let Eviction { begun, candidates } = self.evicting.take().unwrap();
        self.evicted_at = self.clock;
        let number = |evicted: &Value| {
            let subject = evicted["subject"].as_str().unwrap();
            trees.iter().position(|tree| tree.is_named_by(subject)).unwrap()
        };
        let evicted: Vec<usize> = evicted.as_array().unwrap().iter().map(number).collect();
        for tree in &evicted {
            let state = &mut self.states[*tree];
            if !state.is_busy && state.touched < begun {
                assert_ne!(state.pinned, Some(true), "{} was evicted though it is pinned", trees[*tree].what);
                state.here = Some(false);
            }
        }
        for tree in candidates {
            let state = &mut self.states[tree];
            if !evicted.contains(&tree) && state.here.is_none() {
                state.here = Some(true);
            }
        }
    }

    /// All commands have ended or were killed.
    pub(crate) fn settle(&mut self) {
        self.evicting = None;
        self.states.iter_mut().for_each(|state| state.is_busy = false);
    }

    /// It was looked what there is.
    pub(crate) fn learn(&mut self, tree: usize, here: bool, pinned: bool) {
        (self.states[tree].here, self.states[tree].pinned) = (Some(here), Some(pinned));
    }
}
