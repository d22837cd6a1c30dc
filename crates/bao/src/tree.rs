//! The shape of a blob's hash tree: BLAKE3's left-balanced binary tree, with groups for leaves.
//!
//! A subtree of n leaves has n - 1 parents, which stand side by side in a pre-order outboard, its root first.

use std::ops::Range;

use blake3::hazmat::ChainingValue;

use crate::{GROUP_BYTES, PAIR_BYTES, Span, hash, span};

/// Some groups under one root.
#[derive(Clone, Copy)]
struct Subtree {
    /// The first group.
    start: u64,
    groups: u64,
    /// Where its parents begin in the outboard, counted in parents.
    index: u64,
}

impl Subtree {
    fn whole(size: u64) -> Self {
        Self { start: 0, groups: span::group_count(size), index: 0 }
    }

    fn children(self) -> Option<(Self, Self)> {
        let groups = (self.groups > 1).then(|| left_leaves(self.groups))?;
        let left = Self { start: self.start, groups, index: self.index + 1 };
        let right =
            Self { start: self.start + groups, groups: self.groups - groups, index: self.index + groups };
        Some((left, right))
    }

    fn touches(self, groups: &Range<u64>) -> bool {
        self.start < groups.end && groups.start < self.start + self.groups
    }

    fn is_within(self, groups: &Range<u64>) -> bool {
        groups.start <= self.start && self.start + self.groups <= groups.end
    }
}

/// How many of some leaves, two or more, are under the left child: the largest power of two that leaves one to the right.
fn left_leaves(leaves: u64) -> u64 {
    1 << (leaves - 1).ilog2()
}

/// A part of a proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// A parent, and whether its left and its right child are parts of the proof too.
    Parent { is_root: bool, left: bool, right: bool },
    /// A group's bytes. It is not the root: a tree of one group has no parts worth a walk.
    Group { offset: u64, length: usize },
}

/// The parts of a span's proof, in pre-order.
pub(crate) struct Parts {
    size: u64,
    groups: Range<u64>,
    /// What is yet to come, the next one last; as many as the tree is high.
    stack: Vec<Subtree>,
}

/// Walks the part of a tree that touches the span.
pub(crate) fn parts(size: u64, span: Span) -> Parts {
    let groups = span.groups();
    let stack = [Subtree::whole(size)].into_iter().filter(|whole| whole.touches(&groups)).collect();
    Parts { size, groups, stack }
}

impl Iterator for Parts {
    type Item = Part;

    fn next(&mut self) -> Option<Part> {
        let subtree = self.stack.pop()?;
        let Some((left, right)) = subtree.children() else {
            let offset = subtree.start * GROUP_BYTES;
            return Some(Part::Group { offset, length: (self.size - offset).min(GROUP_BYTES) as usize });
        };
        let touches = (left.touches(&self.groups), right.touches(&self.groups));
        if touches.1 {
            self.stack.push(right);
        }
        if touches.0 {
            self.stack.push(left);
        }
        Some(Part::Parent { is_root: subtree.index == 0, left: touches.0, right: touches.1 })
    }
}

/// The parents that touch a span, as runs of places in the pre-order outboard which neither overlap nor touch.
pub(crate) fn parents(size: u64, span: Span) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    let mut stack = vec![Subtree::whole(size)];
    let groups = span.groups();
    while let Some(subtree) = stack.pop() {
        let Some((left, right)) = subtree.children() else { continue };
        if !subtree.touches(&groups) {
            continue;
        }
        let is_within = subtree.is_within(&groups);
        let end = subtree.index + if is_within { subtree.groups - 1 } else { 1 };
        match runs.last_mut() {
            Some(last) if last.end == subtree.index => last.end = end,
            _ => runs.push(subtree.index..end),
        }
        if !is_within {
            stack.extend([right, left]);
        }
    }
    runs
}

/// Appends the parents of a tree of so many leaves to `encoded`, in pre-order, and gives the tree's value.
///
/// `leaf` gives the values of the leaves from left to right, and may append what parents are within each.
pub(crate) fn fold(
    leaves: u64,
    is_root: bool,
    encoded: &mut Vec<u8>,
    leaf: &mut impl FnMut(&mut Vec<u8>) -> ChainingValue,
) -> ChainingValue {
    if leaves < 2 {
        return leaf(encoded);
    }
    let at = encoded.len();
    encoded.extend([0; PAIR_BYTES]);
    let left_leaves = left_leaves(leaves);
    let left = fold(left_leaves, false, encoded, leaf);
    let right = fold(leaves - left_leaves, false, encoded, leaf);
    encoded[at..at + 32].copy_from_slice(&left);
    encoded[at + 32..at + PAIR_BYTES].copy_from_slice(&right);
    hash::parent(&left, &right, is_root)
}
