//! A run of groups.

use std::ops::Range;

use crate::tree;

/// The unit of proof: 16 KiB. Only a blob's last group may be shorter.
pub const GROUP_BYTES: u64 = 16 * 1024;
/// The longest blob that is believed to exist, in bytes: whole groups, and a length of six bytes.
pub const BLOB_BYTES_MAX: u64 = (1 << 48) - GROUP_BYTES;

/// A non-empty, half-open range of a blob's groups. An empty blob has one group, which is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    start: u64,
    end: u64,
}

impl Span {
    /// All groups of a blob of this many bytes.
    pub fn whole(size: u64) -> Self {
        Self { start: 0, end: group_count(size) }
    }

    /// The last group of a blob of this many bytes.
    pub fn last(size: u64) -> Self {
        let end = group_count(size);
        Self { start: end - 1, end }
    }

    /// The fewest groups that cover these bytes of a blob of `size` bytes; `None` where there is nothing to cover.
    pub fn covering(bytes: Range<u64>, size: u64) -> Option<Self> {
        let end = bytes.end.min(size);
        (bytes.start < end).then(|| Self { start: bytes.start / GROUP_BYTES, end: end.div_ceil(GROUP_BYTES) })
    }

    /// These groups, if the range is not empty and within [`BLOB_BYTES_MAX`].
    pub fn from_groups(groups: Range<u64>) -> Option<Self> {
        let Range { start, end } = groups;
        (start < end && end <= BLOB_BYTES_MAX / GROUP_BYTES).then_some(Self { start, end })
    }

    /// The groups.
    pub fn groups(&self) -> Range<u64> {
        self.start..self.end
    }

    /// The bytes of these groups in a blob of `size` bytes.
    pub fn bytes(&self, size: u64) -> Range<u64> {
        let at = |group: u64| group.saturating_mul(GROUP_BYTES).min(size);
        at(self.start)..at(self.end)
    }

    /// Whether a blob of `size` bytes has all these groups.
    pub fn fits(&self, size: u64) -> bool {
        self.end <= group_count(size)
    }

    /// The first `groups_max` groups (at least one), and what is left.
    pub fn split(self, groups_max: u64) -> (Self, Option<Self>) {
        let middle = self.end.min(self.start.saturating_add(groups_max.max(1)));
        let rest = (middle < self.end).then_some(Self { start: middle, end: self.end });
        (Self { end: middle, ..self }, rest)
    }

    /// Pieces of at most `groups_max` groups.
    pub fn pieces(self, groups_max: u64) -> impl Iterator<Item = Span> {
        let mut left = Some(self);
        std::iter::from_fn(move || {
            let (first, rest) = left?.split(groups_max);
            left = rest;
            Some(first)
        })
    }

    /// Which parents a proof of this span needs, by their places in the pre-order outboard of the blob, which has `size`
    /// bytes: parent n is at byte 64 n there. The runs are in order and do not touch.
    pub fn parents(&self, size: u64) -> Vec<Range<u64>> {
        tree::parents(size, *self)
    }
}

/// How many groups a blob of this many bytes has.
pub(crate) fn group_count(size: u64) -> u64 {
    size.div_ceil(GROUP_BYTES).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_blob_has_one_empty_group() {
        assert_eq!(Span::whole(0), Span::last(0));
        assert_eq!(Span::whole(0).groups(), 0..1);
        assert_eq!(Span::whole(0).bytes(0), 0..0);
        assert_eq!(Span::covering(0..0, 0), None);
    }

    #[test]
    fn covering_rounds_outwards_to_groups() {
        let size = 40_000;
        assert_eq!(Span::covering(0..1, size), Span::from_groups(0..1));
        assert_eq!(Span::covering(16_383..16_385, size), Span::from_groups(0..2));
        assert_eq!(Span::covering(32_768..99_999, size), Some(Span::last(size)));
        assert_eq!(Span::covering(40_000..40_001, size), None);
        assert_eq!(Span::last(size).bytes(size), 32_768..40_000);
        assert!(Span::last(size).fits(size));
        assert!(!Span::last(size).fits(32_768));
    }

    #[test]
    fn cuts_are_seamless() {
        for size in [0, 1, 16_384, 16_385, 1_000_000] {
            let spans: Vec<_> = Span::whole(size).pieces(4).collect();
            assert_eq!(spans[0].groups().start, 0);
            assert_eq!(spans.last().unwrap().groups().end, Span::whole(size).groups().end);
            assert!(spans.windows(2).all(|pair| pair[0].groups().end == pair[1].groups().start));
        }
    }
}
