//! Memory that those who read NARs share.
//!
//! A client that takes its NAR slowly keeps what was read for it. Few such clients may have much read for them, as a fast
//! one is best served; where there are many, each has little.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use firn_castore::Root;
use firn_nix::NarLayout;

/// How many bytes all readers of NARs hold before each is given [`NAR_PIECE_BYTES`] at a time. A fast reader holds four
/// chunks of 1 MiB.
pub const NAR_BYTES_MAX: u64 = 64 << 20;

/// How many bytes a reader is given at a time however many there are; it holds two such pieces at most.
pub const NAR_PIECE_BYTES: u64 = 64 << 10;

/// Counts what readers hold.
#[derive(Debug, Clone, Default)]
pub(crate) struct NarMemory(Arc<AtomicU64>);

impl NarMemory {
    /// Whether so little is held that one may read ahead.
    pub(crate) fn is_ample(&self) -> bool {
        self.bytes() < NAR_BYTES_MAX / 2
    }

    /// Reserves this much, or a piece of it where that would be too much.
    pub(crate) fn reserve(&self, wanted: u64) -> Reserved {
        let granted = |held: u64| match held.saturating_add(wanted) <= NAR_BYTES_MAX {
            true => wanted,
            false => wanted.min(NAR_PIECE_BYTES),
        };
        let mut held = self.bytes();
        loop {
            let bytes = granted(held);
            match self.0.compare_exchange_weak(held, held + bytes, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Reserved { memory: self.clone(), bytes },
                Err(now) => held = now,
            }
        }
    }

    /// How much is held.
    pub(crate) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Memory that is counted until this is dropped.
#[derive(Debug)]
pub(crate) struct Reserved {
    memory: NarMemory,
    bytes: u64,
}

impl Reserved {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What was read into it; it is counted as long as anybody holds the bytes.
    pub(crate) fn hold(self, bytes: Bytes) -> Bytes {
        if bytes.is_empty() { bytes } else { Bytes::from_owner(Held { bytes, _reserved: self }) }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.memory.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

struct Held {
    bytes: Bytes,
    _reserved: Reserved,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The trees that are being read, each once in memory however many read it.
#[derive(Debug, Default)]
pub(crate) struct Layouts(Mutex<BTreeMap<Root, Weak<NarLayout>>>);

impl Layouts {
    /// The same layout as others have who read this tree now.
    pub(crate) fn share(&self, layout: NarLayout) -> Arc<NarLayout> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(same) = known.get(layout.closure().root()).and_then(Weak::upgrade) {
            return same;
        }
        known.retain(|_, layout| layout.strong_count() > 0);
        let layout = Arc::new(layout);
        known.insert(layout.closure().root().clone(), Arc::downgrade(&layout));
        layout
    }
}

#[cfg(test)]
mod tests {
    use firn_castore::{BlobRef, ClosureBuilder, Node};

    use super::*;

    #[test]
    fn a_tree_is_laid_out_once_for_all_who_read_it() {
        let layout = |contents: &[u8]| {
            let root = Root::from(Node::File { blob: BlobRef::of(contents), executable: false });
            NarLayout::new(Arc::new(ClosureBuilder::new(root).unwrap().finish().unwrap())).unwrap()
        };
        let layouts = Layouts::default();
        let (first, other) = (layouts.share(layout(b"a")), layouts.share(layout(b"b")));
        assert!(Arc::ptr_eq(&first, &layouts.share(layout(b"a"))));
        assert_ne!(first.closure().root(), other.closure().root());
        drop((first, other));
        layouts.share(layout(b"c"));
        assert_eq!(layouts.0.lock().unwrap().len(), 1, "what nobody reads is forgotten");
    }

    #[test]
    fn few_have_much_and_many_have_little_each() {
        const CHUNK: u64 = 1 << 20;
        let memory = NarMemory::default();
        let mut held: Vec<_> = (0..64).map(|_| memory.reserve(CHUNK)).collect();
        assert!(held.iter().all(|reserved| reserved.bytes() == CHUNK));
        assert!(!memory.is_ample());
        let more: Vec<_> = (0..100).map(|_| memory.reserve(CHUNK)).collect();
        assert!(more.iter().all(|reserved| reserved.bytes() == NAR_PIECE_BYTES));
        assert_eq!(memory.reserve(10).bytes(), 10);
        assert_eq!(memory.bytes(), NAR_BYTES_MAX + 100 * NAR_PIECE_BYTES);
        drop(more);
        held.truncate(31);
        assert!(memory.is_ample());
        assert_eq!(memory.reserve(CHUNK).bytes(), CHUNK);
    }

    #[test]
    fn bytes_count_until_the_last_of_them_goes() {
        let memory = NarMemory::default();
        let bytes = memory.reserve(5).hold(Bytes::from_static(b"bytes"));
        let part = bytes.slice(1..3);
        drop(bytes);
        assert_eq!((&part[..], memory.bytes()), (&b"yt"[..], 5));
        drop(part);
        assert_eq!(memory.bytes(), 0);
        assert!(memory.reserve(5).hold(Bytes::new()).is_empty());
        assert_eq!(memory.bytes(), 0);
    }
}
