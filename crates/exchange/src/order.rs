//! In which order the Directories of a tree are sent, and which of them are still to be sent.
//!
//! A parent has more entries beneath it than any of its children, so a tree sorted by size, the largest first, has parents
//! before children. All replies about a tree share one such list, and each takes a bit for each Directory.

use std::cmp::Reverse;
use std::sync::Arc;

use firn_castore::{Closure, DirectoryDigest};

/// The Directories of a tree, each once, parents first.
#[derive(Debug)]
pub(crate) struct Order {
    /// With how many entries are beneath each: a tree has at most `ENTRIES_MAX`.
    directories: Box<[(u32, DirectoryDigest)]>,
    /// The longest of them, in bytes.
    longest_bytes: usize,
}

impl Order {
    pub(crate) fn of(closure: &Closure) -> Self {
        let entry = |directory: &firn_castore::Directory| {
            let size = u32::try_from(directory.size()).expect("a closure has at most ENTRIES_MAX entries");
            (size, directory.digest())
        };
        let mut directories: Box<[_]> = closure.directories().map(entry).collect();
        directories.sort_unstable_by_key(|(size, digest)| (Reverse(*size), *digest));
        let longest = closure.directories().map(|directory| directory.encoded().len()).max();
        Self { directories, longest_bytes: longest.unwrap_or(0) }
    }

    /// The longest of the Directories, in bytes.
    pub(crate) fn longest_bytes(&self) -> usize {
        self.longest_bytes
    }

    fn place(&self, digest: &DirectoryDigest, size: u64) -> Option<usize> {
        let wanted = (Reverse(u32::try_from(size).ok()?), *digest);
        self.directories.binary_search_by_key(&wanted, |(size, digest)| (Reverse(*size), *digest)).ok()
    }
}

/// What of a tree is still to be sent: what was named by what was sent.
pub(crate) struct Pending {
    order: Arc<Order>,
    /// A bit for each Directory.
    named: Box<[u64]>,
    /// All before this one was sent, or will not be.
    place: usize,
}

impl Pending {
    /// Nothing but the root is named yet.
    pub(crate) fn new(order: Arc<Order>) -> Self {
        let mut named: Box<[u64]> = vec![0; order.directories.len().div_ceil(64)].into();
        if let Some(first) = named.first_mut() {
            *first = 1;
        }
        Self { order, named, place: 0 }
    }

    /// A Directory that was sent names this one; false: the tree has no such.
    pub(crate) fn name(&mut self, digest: &DirectoryDigest, size: u64) -> bool {
        let place = self.order.place(digest, size).filter(|place| *place >= self.place);
        if let Some(place) = place {
            self.named[place / 64] |= 1 << (place % 64);
        }
        place.is_some()
    }

    /// The next one to be sent.
    pub(crate) fn next(&mut self) -> Option<DirectoryDigest> {
        while let Some(word) = self.named.get(self.place / 64) {
            match (word >> (self.place % 64)).trailing_zeros() as usize {
                64 => self.place = (self.place / 64 + 1) * 64,
                zeros => {
                    self.place += zeros + 1;
                    return self.order.directories.get(self.place - 1).map(|(_, digest)| *digest);
                }
            }
        }
        None
    }

    /// What it takes in memory besides the list that all share.
    pub(crate) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.named)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use firn_castore::{BlobRef, ClosureBuilder, Directory, Node, PathComponent};
    use proptest::prelude::*;

    use super::*;

    fn name(text: String) -> PathComponent {
        PathComponent::try_from(text.as_str()).unwrap()
    }

    /// A tree in which each Directory names some of those before it, and the last one all that nobody names.
    fn tree(children: &[Vec<prop::sample::Index>]) -> Closure {
        let mut all: Vec<Directory> = Vec::new();
        let mut orphans = BTreeSet::new();
        let mark = |number: usize| {
            let blob = BlobRef::of(&number.to_le_bytes());
            (name(format!("f{number}")), Node::File { blob, executable: false })
        };
        for (number, children) in children.iter().enumerate() {
            let places = children.iter().filter(|_| number > 0).map(|child| child.index(number.max(1)));
            // What has much beneath it is named by the last one alone, or there would be too many entries.
            let places: BTreeSet<usize> = places.filter(|place| all[*place].size() < 1_000).collect();
            let entries = places.iter().map(|place| (name(format!("d{place}")), all[*place].node()));
            let directory = Directory::build(entries.chain([mark(number)])).unwrap();
            orphans.retain(|place| !places.contains(place));
            orphans.insert(number);
            all.push(directory);
        }
        let entries = orphans.iter().map(|place| (name(format!("d{place}")), all[*place].node()));
        all.push(Directory::build(entries).unwrap());
        let mut builder = ClosureBuilder::new(all.last().unwrap().node().into()).unwrap();
        all.iter().rev().for_each(|directory| builder.insert(directory.clone()).unwrap());
        builder.finish().unwrap()
    }

    fn sent(closure: &Closure, without: &[DirectoryDigest]) -> Vec<DirectoryDigest> {
        let mut pending = Pending::new(Arc::new(Order::of(closure)));
        let mut sent = Vec::new();
        while let Some(digest) = pending.next() {
            for (_, node) in closure.get(&digest).unwrap() {
                if let Node::Directory { digest, size } = node
                    && !without.contains(digest)
                {
                    assert!(pending.name(digest, *size));
                }
            }
            sent.push(digest);
        }
        sent
    }

    proptest! {
        #[test]
        fn each_once_and_parents_before_children(
            children in prop::collection::vec(prop::collection::vec(any::<prop::sample::Index>(), 0..4), 1..90),
            without in any::<prop::sample::Index>()
        ) {
            let closure = tree(&children);
            let all: BTreeSet<_> = closure.directories().map(Directory::digest).collect();
            let order = sent(&closure, &[]);
            prop_assert_eq!(order.len(), all.len());
            prop_assert_eq!(order.iter().copied().collect::<BTreeSet<_>>(), all);
            let Node::Directory { digest: root, .. } = closure.root().node() else { panic!() };
            prop_assert_eq!(order[0], *root);
            let mut builder = ClosureBuilder::new(closure.root().clone()).unwrap();
            for digest in &order {
                builder.insert(closure.get(digest).unwrap().clone()).unwrap();
            }
            prop_assert!(builder.finish().is_ok());

            // What is left out, and what only it names, is not sent; all else is.
            let gone = order[without.index(order.len())];
            let mut reached = BTreeSet::from([*root]);
            for digest in &order {
                if reached.contains(digest) {
                    let below = closure.get(digest).unwrap().iter().filter_map(|(_, node)| match node {
                        Node::Directory { digest, .. } if *digest != gone => Some(*digest),
                        _ => None,
                    });
                    reached.extend(below);
                }
            }
            prop_assert_eq!(sent(&closure, &[gone]).into_iter().collect::<BTreeSet<_>>(), reached);
        }
    }

    #[test]
    fn a_reply_takes_a_bit_for_each() {
        let none = vec![Vec::new(); 6_399];
        let pending = Pending::new(Arc::new(Order::of(&tree(&none))));
        assert_eq!(pending.memory_bytes(), 800);
    }
}
