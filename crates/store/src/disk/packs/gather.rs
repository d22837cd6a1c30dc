//! Records that come to a pack with one write.

use super::super::place::{PACK_HEAD, PACK_HEAD_BYTES};

/// With so many bytes gathered they are to be written: much more costs memory and saves nothing.
pub(in super::super) const GATHER_BYTES: usize = 1 << 20;

/// Records one behind another, as they are to lie in a pack.
///
/// A pack's head stands before them, for where they begin a pack: so nothing is moved when that turns out.
#[derive(Debug)]
pub(in super::super) struct Gathered {
    bytes: Vec<u8>,
    /// Where each begins behind the head.
    starts: Vec<u32>,
    /// How long the longest is.
    longest: u64,
}

impl Gathered {
    pub(in super::super) fn new() -> Self {
        Self { bytes: PACK_HEAD.to_vec(), starts: Vec::new(), longest: 0 }
    }

    /// Adds a record, given in parts. To be [written](Gathered::is_full) before it is more than a pack can take.
    pub(in super::super) fn push(&mut self, parts: &[&[u8]]) {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        self.bytes.reserve(length);
        // What does not fit here does not fit a pack either, and its length is refused.
        self.starts.push(u32::try_from(self.records().len()).unwrap_or(u32::MAX));
        parts.iter().for_each(|part| self.bytes.extend_from_slice(part));
        self.longest = self.longest.max(length as u64);
    }

    /// Whether there is so much that it should be written.
    pub(in super::super) fn is_full(&self) -> bool {
        self.bytes.len() >= GATHER_BYTES
    }

    pub(super) fn longest(&self) -> u64 {
        self.longest
    }

    /// All of them, without a head.
    pub(super) fn records(&self) -> &[u8] {
        self.bytes.get(PACK_HEAD_BYTES as usize..).unwrap_or_default()
    }

    /// All of them as the beginning of a pack.
    pub(super) fn with_head(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn starts(&self) -> &[u32] {
        &self.starts
    }

    /// Begins anew, and keeps the memory.
    pub(in super::super) fn clear(&mut self) {
        self.bytes.truncate(PACK_HEAD_BYTES as usize);
        self.starts.clear();
        self.longest = 0;
    }
}
