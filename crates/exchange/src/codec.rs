//! Whether a reply is worth compressing, and how hard. Pure: what was measured comes in.

use crate::Micros;

/// Whether bodies are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compress {
    /// Where the link is slower than the codec, as both were measured.
    #[default]
    Auto,
    /// Wherever the asker takes it.
    Always,
    /// Never.
    Never,
}

/// The levels that are used, and how many bytes of text a second each takes in until that has been measured: about what one
/// slow core does.
const LEVELS: [(i32, u64); 5] =
    [(1, 300_000_000), (3, 150_000_000), (6, 60_000_000), (9, 40_000_000), (12, 20_000_000)];
/// The codec takes in so many bytes for each one that the link takes. Text shrinks to a third or a quarter, so it is about
/// three times ahead of the link, and leaves as much of the processor to others.
const AHEAD: u64 = 10;
/// For links of which nothing is known.
const USUAL_LEVEL: i32 = 3;
/// The same in a private network, where links are faster.
const USUAL_LEVEL_NEAR: i32 = LEVELS[0].0;
/// What is shorter tells more of the disk and the schedule than of the codec.
const SAMPLE_BYTES_MIN: u64 = 64 << 10;
/// Of what was measured one sample makes this part, so that one that was disturbed does little.
const SAMPLE_PART: u64 = 8;
/// A level that is not used comes back by this part to what it is supposed to do: else it would never be tried again.
const FORGET_PART: u64 = 64;

/// Chooses levels, and learns how fast they are here.
#[derive(Debug, Clone)]
pub struct Codec {
    when: Compress,
    /// Bytes a second taken in, for each level.
    rates: [u64; LEVELS.len()],
}

impl Codec {
    /// Knows nothing yet.
    pub fn new(when: Compress) -> Self {
        Self { when, rates: LEVELS.map(|(_, rate)| rate) }
    }

    /// The level for a connection that takes so many bytes a second, if that is known; `is_near` says what is supposed where
    /// it is not. `None`: plain.
    pub fn level(&self, drain: Option<u64>, is_near: bool) -> Option<i32> {
        let fast_enough = |drain: u64| {
            let rates = LEVELS.iter().zip(&self.rates).rev();
            rates.into_iter().find(|(_, rate)| **rate / AHEAD >= drain).map(|((level, _), _)| *level)
        };
        let usual = match drain {
            Some(drain) => fast_enough(drain),
            None => Some(if is_near { USUAL_LEVEL_NEAR } else { USUAL_LEVEL }),
        };
        match self.when {
            Compress::Auto => usual,
            Compress::Always => usual.or(Some(LEVELS[0].0)),
            Compress::Never => None,
        }
    }

    /// At this level so many bytes were taken in within this time.
    pub fn worked(&mut self, level: i32, bytes: u64, took: Micros) {
        if bytes < SAMPLE_BYTES_MIN {
            return;
        }
        let sample = took.per_second(bytes);
        for ((of_level, usual), rate) in LEVELS.iter().zip(&mut self.rates) {
            *rate = match *of_level == level {
                true => mix(*rate, sample, SAMPLE_PART),
                false => mix(*rate, *usual, FORGET_PART),
            };
        }
    }
}

fn mix(old: u64, new: u64, part: u64) -> u64 {
    old - old / part + new / part
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes a second of a link of so many Mbit/s.
    fn mbit(mbit: u64) -> Option<u64> {
        Some(mbit * 125_000)
    }

    #[test]
    fn the_slower_the_link_the_higher_the_level() {
        let codec = Codec::new(Compress::Auto);
        let levels = [1, 10, 20, 100, 200, 1000].map(|rate| codec.level(mbit(rate), true));
        assert_eq!(levels, [Some(12), Some(12), Some(9), Some(3), Some(1), None]);
    }

    #[test]
    fn of_strangers_the_near_are_faster() {
        let codec = Codec::new(Compress::Auto);
        assert_eq!((codec.level(None, true), codec.level(None, false)), (Some(1), Some(3)));
    }

    #[test]
    fn the_setting_forces_it() {
        let (always, never) = (Codec::new(Compress::Always), Codec::new(Compress::Never));
        for (drain, is_near) in [(None, true), (None, false), (mbit(1), false), (mbit(100_000), true)] {
            assert!(always.level(drain, is_near).is_some());
            assert_eq!(never.level(drain, is_near), None);
        }
    }

    #[test]
    fn a_level_that_is_slow_here_gives_way_and_is_tried_again() {
        let mut codec = Codec::new(Compress::Auto);
        let second = Micros::from_millis(1000);
        for _ in 0..20 {
            codec.worked(9, 5_000_000, second);
        }
        assert_eq!(codec.level(mbit(20), true), Some(6));
        codec.worked(6, 100, second);
        assert_eq!(codec.level(mbit(20), true), Some(6), "a short one tells nothing");
        for _ in 0..500 {
            codec.worked(6, 60_000_000, second);
        }
        assert_eq!(codec.level(mbit(20), true), Some(9));
    }

    #[test]
    fn no_measure_is_too_odd() {
        let mut codec = Codec::new(Compress::Auto);
        for (bytes, took) in [(u64::MAX, Micros(0)), (u64::MAX, Micros(u64::MAX)), (0, Micros(0))] {
            (0..1000).for_each(|_| codec.worked(3, bytes, took));
            codec.level(Some(u64::MAX), true);
            codec.level(Some(0), true);
        }
    }
}
