//! Sets of groups of a blob.

use std::{collections::BTreeMap, ops::Range};

use crate::Span;

/// A set of groups of a blob, as disjoint runs that do not touch: as large as what was put in, never as the blob.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Groups(BTreeMap<u64, u64>);

impl Groups {
    /// Adds a run.
    pub fn insert(&mut self, run: Range<u64>) {
        let Range { mut start, mut end } = run;
        // Runs that overlap or touch are taken out, the last of them first, and become one with the new.
        while let Some((&before, &before_end)) = self.0.range(..=end).next_back() {
            if before_end < start {
                break;
            }
            self.0.remove(&before);
            start = start.min(before);
            end = end.max(before_end);
        }
        self.0.insert(start, end);
    }

    /// Takes a run out.
    pub fn remove(&mut self, run: Range<u64>) {
        let touched: Vec<_> = self.0.range(..run.end).filter(|(_, end)| **end > run.start).collect();
        let touched: Vec<(u64, u64)> = touched.into_iter().map(|(start, end)| (*start, *end)).collect();
        for (start, end) in touched {
            self.0.remove(&start);
            if start < run.start {
                self.0.insert(start, run.start);
            }
            if run.end < end {
                self.0.insert(run.end, end);
            }
        }
    }

    /// Whether there is nothing in the set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether all of this run is in the set.
    pub fn covers(&self, run: &Range<u64>) -> bool {
        self.0.range(..=run.start).next_back().is_some_and(|(_, end)| run.end <= *end)
    }

    /// How many runs there are.
    pub fn run_count(&self) -> usize {
        self.0.len()
    }

    /// The runs, in order.
    pub fn spans(&self) -> Vec<Span> {
        self.0.iter().filter_map(|(start, end)| Span::from_groups(*start..*end)).collect()
    }

    /// What of a run is in the set, in order.
    pub fn within(&self, run: &Range<u64>) -> Vec<Range<u64>> {
        let Range { start, end } = *run;
        let first = self.0.range(..=start).next_back().map_or(start, |(first, _)| *first);
        let touching = self.0.range(first..end).filter(|(_, to)| **to > start);
        touching.map(|(from, to)| (*from).max(start)..(*to).min(end)).collect()
    }

    /// One bit a group, least significant first; bits past `bytes_max` bytes are left out.
    pub fn to_bitmap(&self, bytes_max: usize) -> Vec<u8> {
        let bits_max = bytes_max as u64 * 8;
        let last = self.0.last_key_value().map_or(0, |(_, end)| (*end).min(bits_max));
        let mut bitmap = vec![0; last.div_ceil(8) as usize];
        let groups = self.0.iter().flat_map(|(start, end)| *start..(*end).min(bits_max));
        for group in groups {
            bitmap[(group / 8) as usize] |= 1 << (group % 8);
        }
        bitmap
    }

    /// The set that a bitmap stands for, as far as its first `runs_max` runs go.
    pub fn from_bitmap(bitmap: &[u8], runs_max: usize) -> Self {
        let mut groups = Self::default();
        let is_set = |bit: u64| bitmap[(bit / 8) as usize] >> (bit % 8) & 1 == 1;
        let end = bitmap.len() as u64 * 8;
        let mut bit = 0;
        while bit < end && groups.run_count() < runs_max {
            let start = bit;
            while bit < end && is_set(bit) {
                bit += 1;
            }
            if start < bit {
                groups.0.insert(start, bit);
            }
            bit += 1;
        }
        groups
    }
}

impl FromIterator<Span> for Groups {
    fn from_iter<T: IntoIterator<Item = Span>>(runs: T) -> Self {
        let mut groups = Self::default();
        runs.into_iter().for_each(|run| groups.insert(run.groups()));
        groups
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_taken_out_is_gone(runs in prop::collection::vec((any::<bool>(), 0u64..60, 1u64..9), 0..20)) {
            let mut groups = Groups::default();
            let mut plain = BTreeSet::new();
            for (comes, start, length) in runs {
                if comes {
                    groups.insert(start..start + length);
                    plain.extend(start..start + length);
                } else {
                    groups.remove(start..start + length);
                    plain.retain(|group| !(start..start + length).contains(group));
                }
            }
            let left: BTreeSet<u64> = groups.spans().iter().flat_map(Span::groups).collect();
            prop_assert_eq!(left, plain);
        }

        #[test]
        fn as_a_plain_set(runs in prop::collection::vec((0u64..60, 1u64..9), 0..20), at in 0u64..60, length in 1u64..9) {
            let mut groups = Groups::default();
            let mut plain = BTreeSet::new();
            for (start, length) in runs {
                groups.insert(start..start + length);
                plain.extend(start..start + length);
                let runs: Vec<_> = groups.0.iter().collect();
                prop_assert!(runs.windows(2).all(|pair| pair[0].1 < pair[1].0), "{runs:?}");
            }
            let spanned: BTreeSet<u64> = groups.spans().iter().flat_map(Span::groups).collect();
            prop_assert_eq!(&spanned, &plain);
            prop_assert_eq!(groups.covers(&(at..at + length)), (at..at + length).all(|group| plain.contains(&group)));
            let within: Vec<u64> = groups.within(&(at..at + length)).into_iter().flatten().collect();
            let expected: Vec<u64> = (at..at + length).filter(|group| plain.contains(group)).collect();
            prop_assert_eq!(within, expected);
            prop_assert_eq!(&Groups::from_bitmap(&groups.to_bitmap(100), usize::MAX), &groups);
            let cut: BTreeSet<u64> = Groups::from_bitmap(&groups.to_bitmap(3), usize::MAX).spans().iter().flat_map(Span::groups).collect();
            prop_assert_eq!(cut, plain.into_iter().filter(|group| *group < 24).collect());
        }
    }
}
