//! Which groups of a blob are here.

use std::{collections::BTreeMap, ops::Range};

use firn_bao::Span;

/// A set of groups as disjoint runs that do not touch: as large as what was kept, never as what was claimed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Groups(BTreeMap<u64, u64>);

impl Groups {
    /// Adds a run.
    pub(crate) fn insert(&mut self, run: Range<u64>) {
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
    pub(crate) fn remove(&mut self, run: Range<u64>) {
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

    /// Whether all of this run is in the set.
    pub(crate) fn covers(&self, run: &Range<u64>) -> bool {
        self.0.range(..=run.start).next_back().is_some_and(|(_, end)| run.end <= *end)
    }

    /// How many runs there are.
    pub(crate) fn run_count(&self) -> usize {
        self.0.len()
    }

    /// The runs, in order.
    pub(crate) fn spans(&self) -> Vec<Span> {
        self.0.iter().filter_map(|(start, end)| Span::from_groups(*start..*end)).collect()
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
        }
    }
}
