//! Commands that open the store themselves, and are killed.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{
    acts::Act,
    chance::Chance,
    known::Known,
    looks::look,
    trees::{self, Tree},
    world::{Home, answer},
};

const ROUNDS: u64 = 10;
const TREES: usize = 8;

/// Runs commands one after the other.
struct Shell<'a> {
    home: &'a Home,
    trees: &'a [Tree],
    known: Known,
}

impl Shell<'_> {
    fn run(&mut self, act: Act) {
        let begun = self.known.begin(act);
        let said = self.home.ask(&act.arguments(self.trees)).done();
        self.known.end(act, begun, Some(&said), self.trees);
    }

    /// Kills it after this time, unless it has succeeded by then.
    fn run_and_kill(&mut self, act: Act, after: Duration) -> Option<i32> {
        let begun = self.known.begin(act);
        let mut child = self.home.start(&act.arguments(self.trees));
        thread::sleep(after);
        child.kill().unwrap();
        let answer = answer(child);
        assert!(matches!(answer.code, None | Some(0)), "{act:?}: {answer:?}");
        self.known.end(act, begun, answer.success(), self.trees);
        answer.code
    }

    fn unpin_some(&mut self, chance: &mut Chance) {
        for tree in 0..self.trees.len() {
            if self.known.state(tree).pinned == Some(true) && chance.coin() {
                self.run(Act::Unpin(tree));
            }
        }
    }
}

#[test]
fn a_command_that_is_killed_leaves_a_store_that_the_next_one_finds_whole() {
    let mut chance = Chance::of_this_run();
    let (home, other) = (Home::new(), Home::new());
    let trees = trees::to_add(TREES, &home, &other);
    let mut shell = Shell { home: &home, trees: &trees, known: Known::nothing(trees.len()) };
    for round in 0..ROUNDS {
        // Nothing is to be seen of how far a command is: it is killed within the time that one has taken just now.
        let timed = Instant::now();
        shell.run(Act::any_add(&shell.known, &trees, &mut chance).unwrap());
        let after = timed.elapsed().mul_f64(chance.below(120) as f64 / 100.0);
        let act = if round % 2 == 0 {
            Act::any_add(&shell.known, &trees, &mut chance).unwrap()
        } else {
            shell.unpin_some(&mut chance);
            if chance.coin() { Act::Evict } else { Act::Collect }
        };
        let code = shell.run_and_kill(act, after);
        let seen = look(&home, &mut shell.known, &trees, &mut chance);
        eprintln!("round {round}: {act:?} ended with {code:?}, then {seen:?}");
    }
}
