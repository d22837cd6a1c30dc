//! What of a tree is still to be asked for.

use std::collections::VecDeque;

use firn_bao::Span;
use firn_castore::{BlobDigest, BlobRef};
use firn_store::MissingBlob;

use crate::{BATCH_BLOBS_MAX, INLINE_BYTES_MAX, SPAN_GROUPS_MAX};

/// How far into the queue one looks for something that a peer may have.
const LOOK_AHEAD: usize = 8192;
/// How many runs of large blobs that are wanted are passed over to fill a batch.
const PASSED_MAX: usize = 64;
/// The length of a blob of more groups than this is proven before the rest of it is asked for: by its last group.
const TAIL_GROUPS: u64 = 64;

/// A piece of work for one peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Work {
    /// Small blobs.
    Batch(Vec<BlobRef>),
    /// Groups of a large blob.
    Span(BlobRef, Span),
}

impl Work {
    /// How many bytes of contents it is.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Work::Batch(blobs) => blobs.iter().map(|blob| blob.size).sum(),
            Work::Span(blob, span) => length(blob, *span),
        }
    }

    /// Its parts: each a run of groups of one blob.
    pub(super) fn parts(&self) -> Vec<(BlobRef, Span)> {
        match self {
            Work::Batch(blobs) => blobs.iter().map(|blob| (*blob, Span::whole(blob.size))).collect(),
            Work::Span(blob, span) => vec![(*blob, *span)],
        }
    }
}

fn length(blob: &BlobRef, span: Span) -> u64 {
    let bytes = span.bytes(blob.size);
    bytes.end - bytes.start
}

/// From which end of the queue something is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Front,
    Back,
}

/// Runs of groups of blobs, in the order in which a reader of the NAR needs them.
pub(super) struct Queue {
    runs: VecDeque<(BlobRef, Span)>,
    /// A tree may claim more than fits into 64 bits.
    bytes: u128,
    edition: u64,
}

/// What a queue was at some time: while it is this, less may be in it than then, and nothing new or in another order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Edition(u64);

impl Queue {
    pub(super) fn new(missing: impl Iterator<Item = MissingBlob>) -> Self {
        let mut queue = Self { runs: VecDeque::new(), bytes: 0, edition: 0 };
        for MissingBlob { blob, mut spans } in missing {
            let last = Span::last(blob.size);
            if last.groups().end > TAIL_GROUPS
                && let Some(span) = spans.pop_if(|span| span.groups().end == last.groups().end)
            {
                queue.push(End::Back, (blob, last));
                spans.extend(Span::from_groups(span.groups().start..last.groups().start));
            }
            spans.into_iter().for_each(|span| queue.push(End::Back, (blob, span)));
        }
        queue
    }

    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// How many runs there are.
    pub(super) fn len(&self) -> usize {
        self.runs.len()
    }

    /// How many bytes of contents are in it.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.try_into().unwrap_or(u64::MAX)
    }

    pub(super) fn edition(&self) -> Edition {
        Edition(self.edition)
    }

    /// Whether it is no longer than one looks into it.
    pub(super) fn is_seen_whole(&self) -> bool {
        self.runs.len() <= LOOK_AHEAD
    }

    /// Goes to the front.
    pub(super) fn put_back(&mut self, work: &Work) {
        self.edition += 1;
        for part in work.parts().into_iter().rev() {
            self.push(End::Front, part);
        }
    }

    /// This blob, and what follows it, comes first.
    pub(super) fn bring_forward(&mut self, digest: &BlobDigest) {
        if let Some(at) = self.runs.iter().position(|(blob, _)| blob.digest == *digest) {
            self.edition += 1;
            self.runs.rotate_left(at);
        }
    }

    /// The blobs of the runs at this end that are wanted, of so many runs at most.
    pub(super) fn first_blobs(
        &self,
        end: End,
        count_max: usize,
        wants: impl Fn(&BlobRef, Span) -> bool,
    ) -> Vec<BlobRef> {
        let len = self.runs.len();
        let place = |at| if end == End::Front { at } else { len - 1 - at };
        let runs = (0..len.min(LOOK_AHEAD)).filter_map(|at| self.runs.get(place(at)));
        let wanted = runs.filter(|(blob, span)| wants(blob, *span)).take(count_max);
        wanted.map(|(blob, _)| *blob).collect()
    }

    /// How many bytes are in it of what `wants` wants.
    pub(super) fn bytes_of(&self, wants: impl Fn(&BlobRef, Span) -> Option<Span>) -> u64 {
        self.runs
            .iter()
            .take(LOOK_AHEAD)
            .filter_map(|(blob, run)| Some(length(blob, wants(blob, *run)?)))
            .sum()
    }

    /// Whether there is anything of which `wants` wants a part.
    pub(super) fn has(&self, mut wants: impl FnMut(&BlobRef, Span) -> Option<Span>) -> bool {
        self.runs.iter().take(LOOK_AHEAD).any(|(blob, span)| wants(blob, *span).is_some())
    }

    /// The next piece of about this many bytes (of at least one blob or group), made of what `wants` wants. It gives the
    /// first part of a run that is wanted; of a small blob all or nothing.
    pub(super) fn take(
        &mut self,
        end: End,
        bytes_max: u64,
        mut wants: impl FnMut(&BlobRef, Span) -> Option<Span>,
    ) -> Option<Work> {
        let mut passed = Vec::new();
        let mut batch: Vec<BlobRef> = Vec::new();
        let mut bytes = 0;
        let mut found = None;
        let mut passed_since = 0;
        while passed.len() < LOOK_AHEAD && passed_since < PASSED_MAX && batch.len() < BATCH_BLOBS_MAX {
            let Some((blob, span)) = self.pop(end) else { break };
            match wants(&blob, span) {
                Some(_) if is_small(&blob) && !batch.is_empty() && bytes + blob.size > bytes_max => {
                    passed.push((blob, span));
                    break;
                }
                Some(_) if is_small(&blob) => {
                    bytes += blob.size;
                    batch.push(blob);
                }
                Some(wanted) if batch.is_empty() => {
                    let (part, rest) = cut(blob, span, wanted, bytes_max);
                    // What is left of the run stays in its place, which at the back is the other way round.
                    match end {
                        End::Front => rest.into_iter().rev().for_each(|rest| self.push(end, (blob, rest))),
                        End::Back => rest.into_iter().for_each(|rest| self.push(end, (blob, rest))),
                    }
                    found = Some(Work::Span(blob, part));
                    break;
                }
                wanted => {
                    passed.push((blob, span));
                    passed_since += usize::from(wanted.is_some());
                }
            }
        }
        passed.into_iter().rev().for_each(|item| self.push(end, item));
        found.or_else(|| (!batch.is_empty()).then_some(Work::Batch(batch)))
    }

    fn pop(&mut self, end: End) -> Option<(BlobRef, Span)> {
        let item = match end {
            End::Front => self.runs.pop_front(),
            End::Back => self.runs.pop_back(),
        };
        self.bytes -= item.map_or(0, |(blob, span)| length(&blob, span).into());
        item
    }

    fn push(&mut self, end: End, item: (BlobRef, Span)) {
        self.bytes += u128::from(length(&item.0, item.1));
        match end {
            End::Front => self.runs.push_front(item),
            End::Back => self.runs.push_back(item),
        }
    }
}

pub(super) fn is_small(blob: &BlobRef) -> bool {
    blob.size <= INLINE_BYTES_MAX
}

/// The first part of what is wanted, and what else there is of the run, in order.
fn cut(blob: BlobRef, run: Span, wanted: Span, bytes_max: u64) -> (Span, Vec<Span>) {
    let groups_max = (bytes_max / firn_bao::GROUP_BYTES).min(SPAN_GROUPS_MAX);
    let (part, _) = wanted.split(groups_max);
    let (run, groups) = (run.groups(), part.groups());
    debug_assert!(
        run.start <= groups.start && groups.end <= run.end,
        "{blob:?}: {groups:?} is not within {run:?}"
    );
    let rest = [run.start..groups.start, groups.end..run.end];
    (part, rest.into_iter().filter_map(Span::from_groups).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn blob(byte: u8, size: u64) -> BlobRef {
        BlobRef { digest: [byte; 32].into(), size }
    }

    fn span(start: u64, end: u64) -> Span {
        Span::from_groups(start..end).unwrap()
    }

    fn queue_of(blobs: impl IntoIterator<Item = BlobRef>) -> Queue {
        let whole = |blob: BlobRef| MissingBlob { blob, spans: vec![Span::whole(blob.size)] };
        Queue::new(blobs.into_iter().map(whole))
    }

    fn all(queue: &mut Queue) -> Vec<Work> {
        std::iter::from_fn(|| queue.take(End::Front, MIB, |_, span| Some(span))).collect()
    }

    #[test]
    fn what_is_here_of_a_blob_is_not_asked_for_and_its_length_is_proven_first() {
        let large = blob(3, 3 << 20);
        let spans: Vec<_> = [10..20, 100..192].map(|run| Span::from_groups(run).unwrap()).into();
        let mut queue = Queue::new([MissingBlob { blob: large, spans }].into_iter());
        let expected = [span(191, 192), span(10, 20), span(100, 164), span(164, 191)];
        assert_eq!(all(&mut queue), expected.map(|span| Work::Span(large, span)));
        let end_is_here = MissingBlob { blob: large, spans: vec![span(0, 5)] };
        assert_eq!(all(&mut Queue::new([end_is_here].into_iter())), [Work::Span(large, span(0, 5))]);
    }

    #[test]
    fn a_peer_gets_what_it_may_have_and_the_rest_stays() {
        let (a, b, large) = (blob(1, 10), blob(2, 20), blob(3, MIB));
        let mut queue = queue_of([a, large, b]);
        let only_b = |blob: &BlobRef, span| (*blob == b).then_some(span);
        assert_eq!(queue.take(End::Front, MIB, only_b), Some(Work::Batch(vec![b])));
        assert_eq!(queue.take(End::Front, MIB, only_b), None);
        assert!(!queue.has(only_b) && !queue.is_empty());
        assert_eq!(all(&mut queue), [Work::Batch(vec![a]), Work::Span(large, span(0, 64))]);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_part_of_a_run_leaves_what_is_around_it() {
        let large = blob(3, MIB);
        for end in [End::Front, End::Back] {
            let mut queue = queue_of([large]);
            let middle = |_: &BlobRef, _| Some(span(10, 20));
            assert_eq!(queue.take(end, MIB, middle), Some(Work::Span(large, span(10, 20))));
            assert_eq!(all(&mut queue), [span(0, 10), span(20, 64)].map(|span| Work::Span(large, span)));
        }
    }

    #[test]
    fn batches_are_bounded_by_count_and_bytes_and_pass_over_large_blobs() {
        let mut queue = queue_of((0..1500).map(|_| blob(1, 1)).chain([blob(2, MIB)]).chain([blob(3, 1)]));
        let counts: Vec<usize> = all(&mut queue).iter().map(|work| work.parts().len()).collect();
        assert_eq!(counts, [1024, 477, 1]);
        let mut queue = queue_of((0..40).map(|_| blob(1, INLINE_BYTES_MAX)));
        assert_eq!(all(&mut queue).first().map(Work::bytes), Some(MIB));
    }

    #[test]
    fn what_is_given_back_comes_first_and_a_reader_changes_the_order() {
        let blobs = [1, 2, 3, 4].map(|byte| blob(byte, INLINE_BYTES_MAX));
        let mut queue = queue_of(blobs);
        let first = queue.take(End::Front, 1, |_, span| Some(span)).unwrap();
        assert_eq!(first, Work::Batch(vec![blobs[0]]));
        let edition = queue.edition();
        queue.put_back(&first);
        assert_ne!(queue.edition(), edition);
        assert_eq!(queue.first_blobs(End::Front, 2, |_, _| true), blobs[..2]);
        queue.bring_forward(&blobs[2].digest);
        assert_eq!(queue.first_blobs(End::Front, 9, |_, _| true), [blobs[2], blobs[3], blobs[0], blobs[1]]);
        let all_but_one = |blob: &BlobRef, _| *blob != blobs[0];
        assert_eq!(queue.first_blobs(End::Back, 2, all_but_one), [blobs[1], blobs[3]]);
    }

    #[test]
    fn it_knows_its_length_however_long_it_is() {
        let mut queue = queue_of([blob(1, 10), blob(2, MIB)]);
        let middle = |blob: &BlobRef, run: Span| {
            (blob.size == MIB).then(|| if run == span(0, 64) { span(8, 9) } else { run })
        };
        let part = queue.take(End::Back, MIB, middle).unwrap();
        assert_eq!(queue.bytes() + firn_bao::GROUP_BYTES, 10 + MIB);
        queue.put_back(&part);
        assert_eq!(queue.bytes(), 10 + MIB);
        assert_eq!(all(&mut queue).iter().map(Work::bytes).sum::<u64>(), 10 + MIB);
        assert_eq!(queue.bytes(), 0);
        let longest = (0..1 << 17).map(|_| blob(1, firn_bao::BLOB_BYTES_MAX));
        assert_eq!(queue_of(longest).bytes(), u64::MAX);
    }

    #[test]
    fn a_blob_of_a_petabyte_is_two_pieces_of_work() {
        assert_eq!(queue_of([blob(1, firn_bao::BLOB_BYTES_MAX)]).runs.len(), 2);
    }
}
