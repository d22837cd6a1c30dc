//! A token bucket. Pure: the time comes in.

use std::num::NonZeroU64;

use firn_exchange::Micros;

const MICROS_A_SECOND: i128 = 1_000_000;
/// What was not used is saved up for so long.
const BURST: Micros = Micros::from_millis(250);

/// So many bytes a second, on average. It may be overdrawn by one piece, which is then waited for afterwards: so a piece
/// never has to fit into a bucket.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    rate: i128,
    /// Bytes times microseconds: nothing is lost however often it is looked at.
    balance: i128,
    at: Micros,
}

impl Bucket {
    /// A full one of so many bytes a second.
    pub(super) fn new(rate: NonZeroU64, now: Micros) -> Self {
        let rate = i128::from(rate.get());
        Self { rate, balance: rate * i128::from(BURST.0), at: now }
    }

    /// When something may be taken; now or earlier if it may be now.
    pub(super) fn ready_at(&mut self, now: Micros) -> Micros {
        self.fill(now);
        let missing = (-self.balance).max(0);
        let wait = missing / self.rate + i128::from(missing % self.rate != 0);
        Micros(now.0.saturating_add(u64::try_from(wait).unwrap_or(u64::MAX)))
    }

    /// Takes this many bytes, whether they are there or not.
    pub(super) fn take(&mut self, bytes: u64, now: Micros) {
        self.fill(now);
        self.balance -= i128::from(bytes) * MICROS_A_SECOND;
    }

    /// Whether it is as if nothing had ever been taken.
    pub(super) fn is_full(&mut self, now: Micros) -> bool {
        self.fill(now);
        self.balance == self.rate * i128::from(BURST.0)
    }

    fn fill(&mut self, now: Micros) {
        let passed = i128::from(now.0.saturating_sub(self.at.0));
        self.balance = (self.balance + passed * self.rate).min(self.rate * i128::from(BURST.0));
        self.at = self.at.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many bytes are taken in pieces of this length until then.
    fn taken(rate: u64, piece: u64, until: Micros) -> u64 {
        let mut bucket = Bucket::new(rate.try_into().unwrap(), Micros(0));
        let (mut now, mut taken) = (Micros(0), 0);
        loop {
            now = bucket.ready_at(now);
            if now >= until {
                return taken;
            }
            bucket.take(piece, now);
            taken += piece;
        }
    }

    #[test]
    fn the_rate_holds_for_pieces_of_any_length() {
        for rate in [RATE_MIN, 1_000_003, 100 << 20] {
            for piece in [1000, 16 << 10, 128 << 10, 4 << 20] {
                let taken = taken(rate, piece, Micros::from_millis(60_000));
                let (least, most) = (60 * rate, 60 * rate + rate / 4 + piece);
                assert!((least..=most).contains(&taken), "{taken} at {rate} in pieces of {piece}");
            }
        }
    }

    #[test]
    fn looking_often_loses_nothing() {
        let mut bucket = Bucket::new(RATE_MIN.try_into().unwrap(), Micros(0));
        bucket.take(RATE_MIN, Micros(0));
        for now in 0..750_000 {
            assert!(bucket.ready_at(Micros(now)) > Micros(now), "not before 0.75 s: 0.25 s was saved up");
        }
        assert_eq!(bucket.ready_at(Micros(750_000)), Micros(750_000));
        assert!(!bucket.is_full(Micros(999_999)));
        assert!(bucket.is_full(Micros(1_000_000)));
    }

    const RATE_MIN: u64 = crate::limits::RATE_MIN;
}
