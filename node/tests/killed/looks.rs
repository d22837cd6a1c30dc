//! Looking into a store after something was killed.

use std::{fs, ops::AddAssign};

use serde_json::Value;

use crate::{
    chance::Chance,
    known::Known,
    trees::{Tree, assert_same},
    world::Home,
};

/// So many trees are written out and compared, each time.
const SAMPLES: usize = 2;

/// What was seen.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Seen {
    /// How many trees are here.
    pub(crate) trees: usize,
    /// Of how many it was not known before whether they are.
    pub(crate) unsure: usize,
    /// How many blobs are here in part.
    pub(crate) partials: u64,
}

impl AddAssign for Seen {
    fn add_assign(&mut self, other: Self) {
        self.trees += other.trees;
        self.unsure += other.unsure;
        self.partials += other.partials;
    }
}

/// All that was reported is there, and whole; what was killed is there or is not; and there is nothing else.
pub(crate) fn look(home: &Home, known: &mut Known, trees: &[Tree], chance: &mut Chance) -> Seen {
    known.settle();
    let verified = home.ask(&["verify"]);
    assert!(verified.code == Some(0) && verified.json["damages"] == Value::Array(Vec::new()), "{verified:?}");
    let sure = (0..trees.len()).filter(|tree| known.state(*tree).here == Some(true));
    let whats: Vec<&str> = sure.map(|tree| trees[tree].what.as_str()).collect();
    // All of them by name: one that is not in view is an error that names it.
    home.ask(&[&["verify"], &whats[..]].concat()).done();
    let pins = home.ask(&["pin", "list"]).done()["pins"].clone();
    let mut seen = Seen::default();
    for (number, tree) in trees.iter().enumerate() {
        let state = known.state(number);
        // What is gone is found by counting all that is here, below.
        let here = state.here.unwrap_or_else(|| is_in_view(home, tree));
        let is_it = |pin: &Value| tree.is_named_by(pin["subject"].as_str().unwrap());
        let pinned = pins.as_array().unwrap().iter().any(is_it);
        assert!(
            state.pinned.is_none_or(|known| known == pinned),
            "{}: {state:?}, and in the list: {pinned}",
            tree.what
        );
        seen.unsure += usize::from(state.here.is_none());
        seen.trees += usize::from(here);
        known.learn(number, here, pinned);
    }
    let stats = home.ask(&["store", "stats"]).done();
    let count = stats["paths"].as_u64().unwrap() + stats["trees"].as_u64().unwrap();
    assert_eq!((count, &verified.json["checked"]), (seen.trees as u64, &count.into()), "{stats}");
    seen.partials = stats["partials"].as_u64().unwrap();
    write_out_some(home, known, trees, chance);
    let put_aside = fs::read_dir(home.store("quarantine")).map_or(0, Iterator::count);
    assert_eq!(put_aside, 0, "something was found damaged");
    seen
}

/// Whether a tree is in view of which this was not known; then it is whole.
fn is_in_view(home: &Home, tree: &Tree) -> bool {
    let verified = home.ask(&["verify", &tree.what]);
    assert!(matches!(verified.code, Some(0 | 3)), "{}: {verified:?}", tree.what);
    verified.code == Some(0)
}

fn write_out_some(home: &Home, known: &Known, trees: &[Tree], chance: &mut Chance) {
    let here: Vec<usize> = (0..trees.len()).filter(|tree| known.state(*tree).here == Some(true)).collect();
    for _ in 0..SAMPLES {
        let Some(number) = chance.one_of(&here) else { return };
        let (tree, out) = (&trees[number], home.path("out"));
        let got = home.ask(&["get", &tree.what, "-o", out.to_str().unwrap()]).done();
        assert_eq!((&got["root"], &got["fetched_bytes"]), (&tree.root.as_str().into(), &0.into()), "{got}");
        assert_same(&tree.dir, &out);
        fs::remove_dir_all(out).unwrap();
    }
}
