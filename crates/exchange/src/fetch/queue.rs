//! What of a tree is still to be asked for.

use std::collections::{BTreeSet, VecDeque};

use firn_bao::Span;
use firn_castore::{BlobDigest, BlobRef};
use firn_store::MissingBlob;

use crate::INLINE_BYTES_MAX;

/// The most blobs that are asked for in one batch.
const BATCH_BLOBS: usize = 256;
/// A batch is full at so many bytes.
const BATCH_BYTES: u64 = 1 << 20;
/// How many groups are asked for at once: 1 MiB.
const SPAN_GROUPS: u64 = 64;
/// How far into the queue a peer looks for something that it may have.
const LOOK_AHEAD: usize = 256;

/// A piece of work for one peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Work {
    /// Small blobs.
    Batch(Vec<BlobRef>),
    /// Groups of a large blob. In the queue this is all that is left of a run; a peer gets its first part.
    Span(BlobRef, Span),
}

impl Work {
    fn may_be_had(&self, lacks: &BTreeSet<BlobDigest>) -> bool {
        match self {
            Work::Batch(blobs) => blobs.iter().any(|blob| !lacks.contains(&blob.digest)),
            Work::Span(blob, _) => !lacks.contains(&blob.digest),
        }
    }
}

/// Work in the order in which a reader of the NAR needs it.
pub(super) struct Queue(VecDeque<Work>);

impl Queue {
    pub(super) fn new(missing: impl Iterator<Item = MissingBlob>) -> Self {
        let mut queue = VecDeque::new();
        let mut batch = Vec::new();
        let mut bytes = 0;
        for MissingBlob { blob, spans } in missing {
            if blob.size > INLINE_BYTES_MAX {
                queue.extend(spans.into_iter().map(|span| Work::Span(blob, span)));
                continue;
            }
            bytes += blob.size;
            batch.push(blob);
            if batch.len() == BATCH_BLOBS || bytes >= BATCH_BYTES {
                queue.push_back(Work::Batch(std::mem::take(&mut batch)));
                bytes = 0;
            }
        }
        if !batch.is_empty() {
            queue.push_back(Work::Batch(batch));
        }
        Self(queue)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn put_back(&mut self, work: Work) {
        self.0.push_front(work);
    }

    /// Whether there is anything for a peer that lacks these blobs.
    pub(super) fn has_for(&self, lacks: &BTreeSet<BlobDigest>) -> bool {
        self.0.iter().take(LOOK_AHEAD).any(|work| work.may_be_had(lacks))
    }

    /// The next piece for a peer that lacks these blobs.
    pub(super) fn take(&mut self, lacks: &BTreeSet<BlobDigest>) -> Option<Work> {
        let at = self.0.iter().take(LOOK_AHEAD).position(|work| work.may_be_had(lacks))?;
        let (given, left) = match self.0.remove(at)? {
            Work::Batch(blobs) => {
                let (left, given): (Vec<_>, Vec<_>) =
                    blobs.into_iter().partition(|blob| lacks.contains(&blob.digest));
                (Work::Batch(given), (!left.is_empty()).then_some(Work::Batch(left)))
            }
            Work::Span(blob, span) => {
                let (first, rest) = span.split(SPAN_GROUPS);
                (Work::Span(blob, first), rest.map(|rest| Work::Span(blob, rest)))
            }
        };
        if let Some(left) = left {
            self.0.insert(at, left);
        }
        Some(given)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(byte: u8, size: u64) -> BlobRef {
        BlobRef { digest: [byte; 32].into(), size }
    }

    fn queue_of(blobs: impl IntoIterator<Item = BlobRef>) -> Queue {
        let whole = |blob: BlobRef| MissingBlob { blob, spans: vec![Span::whole(blob.size)] };
        Queue::new(blobs.into_iter().map(whole))
    }

    #[test]
    fn what_is_here_of_a_blob_is_not_asked_for() {
        let large = blob(3, 3 << 20);
        let spans: Vec<_> = [10..20, 100..192].map(|run| Span::from_groups(run).unwrap()).into();
        let mut queue = Queue::new([MissingBlob { blob: large, spans }].into_iter());
        let all = std::iter::from_fn(|| queue.take(&BTreeSet::new())).collect::<Vec<_>>();
        let span = |start, end| Work::Span(large, Span::from_groups(start..end).unwrap());
        assert_eq!(all, [span(10, 20), span(100, 164), span(164, 192)]);
    }

    #[test]
    fn a_peer_gets_what_it_may_have_and_the_rest_stays() {
        let (a, b, large) = (blob(1, 10), blob(2, 20), blob(3, 3 << 20));
        let mut queue = queue_of([a, large, b]);
        let lacks = BTreeSet::from([large.digest, a.digest]);
        assert_eq!(queue.take(&lacks), Some(Work::Batch(vec![b])));
        assert_eq!(queue.take(&lacks), None);
        assert!(!queue.has_for(&lacks) && !queue.is_empty());
        let all = std::iter::from_fn(|| queue.take(&BTreeSet::new())).collect::<Vec<_>>();
        let span = |start, end| Work::Span(large, Span::from_groups(start..end).unwrap());
        assert_eq!(all, [span(0, 64), span(64, 128), span(128, 192), Work::Batch(vec![a])]);
        assert!(queue.is_empty());
    }

    #[test]
    fn there_is_work_for_a_peer_only_if_it_can_be_given() {
        let large = |i: usize| BlobRef { digest: BlobDigest::of(&i.to_le_bytes()), size: 1 << 20 };
        let mut queue = queue_of((0..=LOOK_AHEAD).map(large));
        let lacks = (0..LOOK_AHEAD).map(|i| large(i).digest).collect();
        assert!(!queue.has_for(&lacks));
        assert_eq!(queue.take(&lacks), None);
    }

    #[test]
    fn batches_are_bounded_by_count_and_bytes() {
        let mut queue = queue_of((0..600).map(|_| blob(1, 1)));
        let mut counts = Vec::new();
        while let Some(Work::Batch(blobs)) = queue.take(&BTreeSet::new()) {
            counts.push(blobs.len());
        }
        assert_eq!(counts, [256, 256, 88]);
        let mut queue = queue_of((0..40).map(|_| blob(1, INLINE_BYTES_MAX)));
        let Some(Work::Batch(first)) = queue.take(&BTreeSet::new()) else { panic!("a batch comes first") };
        assert_eq!(first.len(), 16);
    }

    #[test]
    fn a_blob_of_a_petabyte_is_one_piece_of_work() {
        let queue = queue_of([blob(1, firn_bao::BLOB_BYTES_MAX)]);
        assert_eq!(queue.0.len(), 1);
    }
}
