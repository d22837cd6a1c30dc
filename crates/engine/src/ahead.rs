//! How far to read ahead of whoever takes a NAR.

use std::time::Duration;

/// How many chunks are being read, or have been read and are not taken yet, besides the one that is being taken.
const AHEAD_MAX: usize = 2;
/// After so many chunks it is judged anew.
const CHUNKS: u32 = 16;

/// Whether to read ahead, as reading and taking have shown.
///
/// A taker that is slow has a socket's buffer full before it, and finds each chunk in time although reading begins when it
/// is asked for. What is read ahead would only take turns with it on the cores, and make it slower.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    is_slow: bool,
    chunks: u32,
    reading: Duration,
    taking: Duration,
}

impl Ahead {
    /// How many chunks to read ahead.
    pub(crate) fn chunks(&self) -> usize {
        if self.is_slow { 0 } else { AHEAD_MAX }
    }

    /// A chunk took so long to be read, and the one before it so long to be taken.
    pub(crate) fn saw(&mut self, reading: Duration, taking: Duration) {
        self.chunks += 1;
        self.reading += reading;
        self.taking += taking;
        if self.chunks < CHUNKS {
            return;
        }
        self.is_slow = match self.is_slow {
            // While nothing is read ahead what is taken has been read before: it takes as long as both.
            true => self.taking > self.reading,
            false => self.taking > 2 * self.reading,
        };
        *self = Self { is_slow: self.is_slow, ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ahead_after(ahead: &mut Ahead, reading: u64, taking: u64) -> usize {
        (0..CHUNKS).for_each(|_| ahead.saw(Duration::from_micros(reading), Duration::from_micros(taking)));
        ahead.chunks()
    }

    #[test]
    fn a_slow_taker_has_nothing_read_ahead_until_it_is_fast() {
        let mut ahead = Ahead::default();
        assert_eq!(ahead.chunks(), AHEAD_MAX);
        assert_eq!(ahead_after(&mut ahead, 600, 1000), AHEAD_MAX);
        // It takes 2.1 ms for each chunk, and then as much less as reading takes.
        assert_eq!(ahead_after(&mut ahead, 600, 2100), 0);
        assert_eq!(ahead_after(&mut ahead, 900, 1200), 0);
        // It waits for nothing but what is read.
        assert_eq!(ahead_after(&mut ahead, 600, 300), AHEAD_MAX);
    }

    #[test]
    fn one_chunk_that_is_taken_late_is_not_yet_slow() {
        let mut ahead = Ahead::default();
        ahead.saw(Duration::from_micros(600), Duration::from_secs(1));
        assert_eq!(ahead.chunks(), AHEAD_MAX);
    }
}
