//! The bytes of a file on a fake disk, and which of them are durable.

use crate::dice::Dice;

#[derive(Debug, Clone)]
enum Change {
    Write { at: usize, bytes: Vec<u8> },
    Size(usize),
}

impl Change {
    fn byte_count(&self) -> usize {
        match self {
            Change::Write { bytes, .. } => bytes.len(),
            Change::Size(_) => 0,
        }
    }
}

/// A file's contents as the process sees them, and as the disk has them.
#[derive(Debug, Default)]
pub(super) struct Contents {
    durable: Vec<u8>,
    current: Vec<u8>,
    unsynced: Vec<Change>,
    /// A sync has failed: what the process sees may be neither durable nor on its way to the disk.
    has_lost: bool,
}

/// What of the unsynced comes to the disk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Survival {
    /// Of a hundred blocks so many.
    pub(super) chance: u64,
    /// What is written at once, in bytes.
    pub(super) block_bytes: usize,
    /// The last block that comes to the disk stops in its middle.
    pub(super) is_torn: bool,
}

impl Survival {
    pub(super) fn any(dice: &mut Dice) -> Self {
        Self {
            chance: dice.pick(&[0, 10, 50, 90, 100]),
            block_bytes: dice.pick(&[512, 4096]),
            is_torn: dice.percent(30),
        }
    }
}

impl Contents {
    pub(super) fn current(&self) -> &[u8] {
        &self.current
    }

    /// How many bytes this takes of the simulating machine's memory beside the contents themselves.
    pub(super) fn unsynced_bytes(&self) -> usize {
        self.unsynced.iter().map(Change::byte_count).sum()
    }

    pub(super) fn write(&mut self, at: usize, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        put(&mut self.current, at, bytes);
        self.unsynced.push(Change::Write { at, bytes: bytes.to_vec() });
    }

    pub(super) fn set_size(&mut self, size: usize) {
        self.current.resize(size, 0);
        self.unsynced.push(Change::Size(size));
    }

    pub(super) fn sync(&mut self) {
        for change in self.unsynced.drain(..) {
            match change {
                Change::Write { at, bytes } => put(&mut self.durable, at, &bytes),
                Change::Size(size) => self.durable.resize(size, 0),
            }
        }
    }

    /// What does not come to the disk now never will. Some systems let the process go on seeing it, some do not.
    pub(super) fn fail_to_sync(&mut self, dice: &mut Dice, survival: Survival) {
        self.settle(dice, survival);
        self.has_lost = true;
        if dice.percent(50) {
            self.kill();
        }
    }

    /// What a process sees that starts after another was killed: after a failed sync the system has read the file anew.
    pub(super) fn kill(&mut self) {
        if std::mem::take(&mut self.has_lost) {
            self.current = self.durable.clone();
            for change in &self.unsynced {
                match change {
                    Change::Write { at, bytes } => put(&mut self.current, *at, bytes),
                    Change::Size(size) => self.current.resize(*size, 0),
                }
            }
        }
    }

    /// Loses what was not durable, or not, each block for itself.
    pub(super) fn crash(&mut self, dice: &mut Dice, survival: Survival) {
        self.settle(dice, survival);
        self.has_lost = false;
        self.current = self.durable.clone();
    }

    /// Flips one bit for good.
    pub(super) fn flip(&mut self, at: usize, bit: u8) {
        for bytes in [&mut self.durable, &mut self.current] {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << (bit % 8);
            }
        }
    }

    fn settle(&mut self, dice: &mut Dice, survival: Survival) {
        if self.unsynced.is_empty() {
            return;
        }
        let mut lengths = vec![self.durable.len()];
        let mut length = self.durable.len();
        let mut last = None;
        for change in self.unsynced.drain(..) {
            match change {
                Change::Size(size) => {
                    length = size;
                    if dice.percent(survival.chance) {
                        self.durable.resize(size, 0);
                    }
                }
                Change::Write { at, bytes } => {
                    length = length.max(at + bytes.len());
                    for (at, block) in blocks(at, &bytes, survival.block_bytes) {
                        if dice.percent(survival.chance) {
                            let replaced = self.durable.get(at..).unwrap_or_default();
                            let mut replaced = replaced[..replaced.len().min(block.len())].to_vec();
                            replaced.resize(block.len(), 0);
                            put(&mut self.durable, at, block);
                            last = Some((at, replaced));
                        }
                    }
                }
            }
            lengths.push(length);
        }
        if let Some((at, replaced)) = last.filter(|_| survival.is_torn) {
            let kept = dice.between(0..replaced.len() as u64) as usize;
            if at + replaced.len() <= self.durable.len() {
                put(&mut self.durable, at + kept, &replaced[kept..]);
            }
        }
        self.settle_length(dice, &lengths);
    }

    /// A length comes to the disk by a way of its own: without the bytes, or they without it.
    fn settle_length(&mut self, dice: &mut Dice, lengths: &[usize]) {
        let latest = lengths[lengths.len() - 1];
        let length = match dice.between(0..4) {
            0 => dice.pick(lengths),
            1 => latest,
            _ => return,
        };
        self.durable.resize(length, 0);
    }
}

fn put(contents: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let end = at + bytes.len();
    if contents.len() < end {
        contents.resize(end, 0);
    }
    contents[at..end].copy_from_slice(bytes);
}

/// Cuts what is written where the disk's blocks end.
fn blocks(at: usize, bytes: &[u8], block_bytes: usize) -> impl Iterator<Item = (usize, &[u8])> {
    let mut at = at;
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = (block_bytes - at % block_bytes).min(rest.len());
        let (block, left) = rest.split_at(length);
        let place = at;
        (at, rest) = (at + length, left);
        (length > 0).then_some((place, block))
    })
}
