//! A tree as a flat sequence of steps.

use std::collections::btree_map;

use crate::{BlobRef, Closure, Node, PathComponent, SymlinkTarget};

/// One step of a [`Walk`]. The topmost node has no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<'a> {
    /// A directory begins.
    Open {
        /// Its name.
        name: Option<&'a PathComponent>,
    },
    /// The directory that was opened last and is not closed yet ends.
    Close,
    /// A regular file.
    File {
        /// Its name.
        name: Option<&'a PathComponent>,
        /// Its contents.
        blob: BlobRef,
        /// The owner's executable bit.
        executable: bool,
    },
    /// A symlink.
    Symlink {
        /// Its name.
        name: Option<&'a PathComponent>,
        /// Where it points.
        target: &'a SymlinkTarget,
    },
}

/// Goes through a [`Closure`] depth first, names in order, as a NAR has them.
#[derive(Debug)]
pub struct Walk<'a> {
    closure: &'a Closure,
    /// The topmost node, until it has been visited.
    top: Option<&'a Node>,
    /// What is left of each open directory.
    open: Vec<btree_map::Iter<'a, PathComponent, Node>>,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(closure: &'a Closure) -> Self {
        Self { closure, top: Some(closure.root().node()), open: Vec::new() }
    }

    fn visit(&mut self, name: Option<&'a PathComponent>, node: &'a Node) -> Step<'a> {
        match node {
            Node::File { blob, executable } => Step::File { name, blob: *blob, executable: *executable },
            Node::Symlink { target } => Step::Symlink { name, target },
            Node::Directory { digest, .. } => {
                self.open.push(self.closure.child(digest).iter());
                Step::Open { name }
            }
        }
    }
}

impl<'a> Iterator for Walk<'a> {
    type Item = Step<'a>;

    fn next(&mut self) -> Option<Step<'a>> {
        if let Some(top) = self.top.take() {
            return Some(self.visit(None, top));
        }
        match self.open.last_mut()?.next() {
            Some((name, node)) => Some(self.visit(Some(name), node)),
            None => {
                self.open.pop();
                Some(Step::Close)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ClosureBuilder, Directory};

    #[test]
    fn depth_first_in_the_order_of_names() {
        let name = |text: &str| PathComponent::try_from(text).unwrap();
        let blob = BlobRef::of(b"1");
        let file = Node::File { blob, executable: true };
        let inner = Directory::build([(name("f"), file.clone())]).unwrap();
        let top = Directory::build([
            (name("z"), Node::Symlink { target: "t".try_into().unwrap() }),
            (name("b"), inner.node()),
            (name("a"), file),
        ])
        .unwrap();
        let mut builder = ClosureBuilder::new(top.node().into()).unwrap();
        builder.insert(top).unwrap();
        builder.insert(inner).unwrap();
        let closure = builder.finish().unwrap();
        let (a, b, f, z) = (name("a"), name("b"), name("f"), name("z"));
        let target = "t".try_into().unwrap();
        let steps: Vec<_> = closure.walk().collect();
        assert_eq!(
            steps,
            [
                Step::Open { name: None },
                Step::File { name: Some(&a), blob, executable: true },
                Step::Open { name: Some(&b) },
                Step::File { name: Some(&f), blob, executable: true },
                Step::Close,
                Step::Symlink { name: Some(&z), target: &target },
                Step::Close,
            ]
        );
    }
}
