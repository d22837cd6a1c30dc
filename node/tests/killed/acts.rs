//! What is done to a store.

use crate::{
    chance::Chance,
    known::{Known, State},
    trees::Tree,
};

/// What is done. Trees are told by their number.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Act {
    Add {
        tree: usize,
        in_place: bool,
        share: bool,
        rehash: bool,
    },
    Get(usize),
    Pin(usize),
    Unpin(usize),
    /// Deletes garbage.
    Collect,
    /// Takes all out of view that is not pinned.
    Evict,
    /// Reads the NAR over HTTP.
    Read(usize),
}

impl Act {
    /// Which tree it is about.
    pub(crate) fn tree(self) -> Option<usize> {
        match self {
            Act::Add { tree, .. } | Act::Get(tree) | Act::Pin(tree) | Act::Unpin(tree) | Act::Read(tree) => {
                Some(tree)
            }
            Act::Collect | Act::Evict => None,
        }
    }

    /// The command; a read over HTTP is none.
    pub(crate) fn arguments(self, trees: &[Tree]) -> Vec<&str> {
        let what = self.tree().map_or("", |tree| trees[tree].what.as_str());
        match self {
            Act::Add { tree, in_place, share, rehash } => {
                let flags = [(in_place, "--in-place"), (share, "--share"), (rehash, "--rehash")];
                let flags = flags.into_iter().filter_map(|(is_given, flag)| is_given.then_some(flag));
                ["add", trees[tree].dir.to_str().unwrap()].into_iter().chain(flags).collect()
            }
            Act::Get(_) => vec!["get", what],
            Act::Pin(_) => vec!["pin", "add", what],
            Act::Unpin(_) => vec!["pin", "rm", what],
            Act::Collect => vec!["gc"],
            Act::Evict => vec!["gc", "--max-bytes", "0"],
            Act::Read(_) => Vec::new(),
        }
    }

    /// Something that can be done now, with a tree with which nothing else is done.
    pub(crate) fn any(known: &Known, trees: &[Tree], chance: &mut Chance) -> Self {
        let is_yes = |known: Option<bool>| known == Some(true);
        let act = match chance.below(100) {
            0..35 => {
                pick(known, trees, chance, |tree, state| tree.is_fetched && !is_yes(state.here)).map(Act::Get)
            }
            35..58 => Self::any_add(known, trees, chance),
            58..74 => pick(known, trees, chance, |_, state| is_yes(state.pinned)).map(Act::Unpin),
            74..78 => pick(known, trees, chance, |_, _| true).map(Act::Pin),
            78..90 if !known.is_evicting() => Some(Act::Evict),
            78..95 => Some(Act::Collect),
            _ => None,
        };
        let is_there =
            |tree: &Tree, state: &State| !tree.is_fetched && is_yes(state.here) && is_yes(state.pinned);
        act.or_else(|| pick(known, trees, chance, is_there).map(Act::Read)).unwrap_or(Act::Collect)
    }

    /// Adds a tree, rather one that is not here.
    pub(crate) fn any_add(known: &Known, trees: &[Tree], chance: &mut Chance) -> Option<Self> {
        let absent = pick(known, trees, chance, |tree, state| !tree.is_fetched && state.here != Some(true));
        let any = pick(known, trees, chance, |tree, _| !tree.is_fetched);
        let tree = if chance.below(4) == 0 { any } else { absent.or(any) }?;
        Some(Act::Add { tree, in_place: chance.coin(), share: chance.coin(), rehash: chance.coin() })
    }
}

/// One of the trees that nothing is done with just now.
fn pick(
    known: &Known,
    trees: &[Tree],
    chance: &mut Chance,
    is_fit: impl Fn(&Tree, &State) -> bool,
) -> Option<usize> {
    let is_free = |number: &usize| {
        let state = known.state(*number);
        !state.is_busy && is_fit(&trees[*number], state)
    };
    let free: Vec<usize> = (0..trees.len()).filter(is_free).collect();
    chance.one_of(&free)
}
