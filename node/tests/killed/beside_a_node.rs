//! A node that is killed under load.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    acts::Act,
    chance::Chance,
    http,
    known::Known,
    looks::{Seen, look},
    trees::{self, Tree},
    world::{Answer, Home, Node},
};

const ROUNDS: u64 = 50;
const THREADS: usize = 4;
const TREES_ADDED: usize = 20;
const TREES_FETCHED: usize = 6;
/// A node is killed after at most so many commands.
const COMMANDS_MAX: u64 = 24;

/// What several threads do with a node until it is killed.
struct Load<'a> {
    home: &'a Home,
    node: Node,
    trees: &'a [Tree],
    known: Mutex<&'a mut Known>,
    /// After so many commands it is killed.
    commands: u64,
    ended: AtomicU64,
    is_killed: AtomicBool,
}

impl<'a> Load<'a> {
    fn new(home: &'a Home, node: Node, trees: &'a [Tree], known: &'a mut Known, commands: u64) -> Self {
        let (known, ended, is_killed) = (Mutex::new(known), AtomicU64::new(0), AtomicBool::new(false));
        Self { home, node, trees, known, commands, ended, is_killed }
    }

    /// Returns when the node was killed and all commands have ended.
    fn run(&self, chance: &mut Chance) {
        thread::scope(|scope| {
            for _ in 0..THREADS {
                let chance = chance.fork();
                scope.spawn(|| self.work(chance));
            }
        });
    }

    fn work(&self, mut chance: Chance) {
        while !self.is_killed.load(Ordering::SeqCst) {
            let (act, begun) = {
                let mut known = self.known.lock().unwrap();
                let act = Act::any(&known, self.trees, &mut chance);
                (act, known.begin(act))
            };
            let answer = self.ask(act);
            let is_first_failure = answer.code != Some(0) && !self.is_killed.load(Ordering::SeqCst);
            assert!(!is_first_failure, "{act:?} on a living node: {answer:?}");
            self.check(act, &answer);
            {
                let mut known = self.known.lock().unwrap();
                known.end(act, begun, answer.success(), self.trees);
                eprintln!("{act:?}: {:?}", answer.code);
            }
            if self.ended.fetch_add(1, Ordering::SeqCst) + 1 == self.commands {
                self.is_killed.store(true, Ordering::SeqCst);
                self.node.kill();
            }
        }
    }

    fn ask(&self, act: Act) -> Answer {
        match act {
            Act::Read(tree) => http::read_nar(self.node.http(), &self.trees[tree]),
            _ => self.home.ask(&act.arguments(self.trees)),
        }
    }

    /// What was added or got is what it should be.
    fn check(&self, act: Act, answer: &Answer) {
        let (Act::Add { tree, .. } | Act::Get(tree), Some(said)) = (act, answer.success()) else { return };
        let tree = &self.trees[tree];
        assert_eq!(said["root"], tree.root, "{act:?}: {said}");
        if let Act::Add { .. } = act {
            assert_eq!(
                (&said["store_path"], &said["paths"][0]["nar_hash"]),
                (&tree.what.as_str().into(), &tree.nar_hash.as_str().into())
            );
        }
    }
}

/// The node that is killed, and how it is started.
struct Victim<'a> {
    home: &'a Home,
    peer: String,
    start_time: Duration,
}

impl Victim<'_> {
    /// Starts it, now and then after it was killed while it started.
    fn start(&mut self, chance: &mut Chance) -> Node {
        let role = if chance.below(4) == 0 { "seed" } else { "lan" };
        let settings = ["--role", role, "--peer", &self.peer];
        if chance.below(4) == 0 {
            // What an opening puts right, another one can, too. There is nothing to be seen of how far it is.
            let started = self.home.start_node(&settings);
            thread::sleep(self.start_time.mul_f64(chance.below(100) as f64 / 100.0));
            started.kill();
        }
        let begun = Instant::now();
        let node = self.home.node(&settings);
        self.start_time = begun.elapsed();
        node
    }
}

#[test]
fn a_node_that_is_killed_under_load_loses_nothing_that_it_has_reported() {
    let mut chance = Chance::of_this_run();
    let (home, giver) = (Home::new(), Home::new());
    let giving = giver.node(&["--role", "seed"]);
    let mut trees = trees::to_add(TREES_ADDED, &home, &giver);
    trees.extend(trees::to_fetch(TREES_FETCHED, &giver));
    let mut known = Known::nothing(trees.len());
    let mut victim = Victim { home: &home, peer: giving.peer(), start_time: Duration::ZERO };
    let mut sum = Seen::default();
    for round in 0..ROUNDS {
        let node = victim.start(&mut chance);
        let seen = look(&home, &mut known, &trees, &mut chance);
        eprintln!("round {round}: {seen:?}");
        sum += seen;
        let commands = 1 + chance.below(COMMANDS_MAX);
        Load::new(&home, node, &trees, &mut known, commands).run(&mut chance);
    }
    // The last time without a node.
    sum += look(&home, &mut known, &trees, &mut chance);
    eprintln!("killed {ROUNDS} times: {sum:?}");
    let is_load = sum.trees as u64 > 5 * ROUNDS && sum.unsure as u64 > ROUNDS && sum.partials > 0;
    assert!(is_load, "much was there, and much was under way: {sum:?}");
}
