//! Who gives what while a fetch goes on, and the picture of it.

use std::{
    collections::BTreeMap,
    pin::pin,
    time::{Duration, Instant},
};

use firn_engine::Engine;
use firn_exchange::PeerId;
use firn_proto::control::Progress;
use tokio::sync::watch;

use crate::operations::Report;

/// Intervals of equal length into which the time of a fetch is cut.
pub(super) const INTERVALS: usize = 8;

/// Bytes of one peer in each interval.
pub(super) type Row = [u64; INTERVALS];

/// From nothing to the most.
const LEVELS: [char; 9] = ['·', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// What a peer has given since it was last looked.
#[derive(Debug, Clone, Copy)]
struct Gift {
    peer: PeerId,
    at: Instant,
    bytes: u64,
}

/// Runs a fetch and looks, whenever it has come on, what each peer has given to this engine.
pub(super) async fn watched<T>(engine: &Engine, fetch: impl AsyncFnOnce(Report) -> T) -> (T, Picture) {
    let (report, mut progress) = watch::channel(Progress::default());
    let mut fetch = pin!(fetch(report));
    let (mut had, mut gifts) = (BTreeMap::new(), Vec::new());
    let mut look = || {
        for (peer, entry) in engine.peers() {
            let had: &mut u64 = had.entry(peer).or_default();
            if entry.bytes > *had {
                gifts.push(Gift { peer, at: Instant::now(), bytes: entry.bytes - *had });
                *had = entry.bytes;
            }
        }
    };
    let result = loop {
        tokio::select! {
            biased;
            result = &mut fetch => break result,
            Ok(()) = progress.changed() => look(),
        }
    };
    look();
    (result, Picture::of(&gifts))
}

/// Bytes by peer and interval, from the first gift to the last.
#[derive(Debug, Default)]
pub(super) struct Picture {
    /// How long an interval is.
    pub(super) interval: Duration,
    rows: BTreeMap<PeerId, Row>,
}

impl Picture {
    /// Gifts come in the order of their time.
    fn of(gifts: &[Gift]) -> Self {
        let ([first, ..], [.., last]) = (gifts, gifts) else { return Self::default() };
        let interval = (last.at - first.at) / INTERVALS as u32;
        let mut rows: BTreeMap<PeerId, Row> = BTreeMap::new();
        for gift in gifts {
            let number = (gift.at - first.at).as_nanos() / interval.as_nanos().max(1);
            let number = usize::try_from(number).unwrap_or(INTERVALS).min(INTERVALS - 1);
            rows.entry(gift.peer).or_default()[number] += gift.bytes;
        }
        Self { interval, rows }
    }

    /// What a peer gave.
    pub(super) fn row(&self, peer: &PeerId) -> Row {
        self.rows.get(peer).copied().unwrap_or_default()
    }

    /// The most peers, of those that pass the test, that gave something in one interval.
    pub(super) fn givers_at_once(&self, test: impl Fn(&PeerId) -> bool) -> usize {
        let rows: Vec<&Row> = self.rows.iter().filter(|(peer, _)| test(peer)).map(|(_, row)| row).collect();
        let givers = |number: usize| rows.iter().filter(|row| row[number] > 0).count();
        (0..INTERVALS).map(givers).max().unwrap_or(0)
    }

    /// A peer's row, a sign for each interval: the higher the more, by the most that anybody gave in one.
    pub(super) fn drawn(&self, peer: &PeerId) -> String {
        let most = self.rows.values().flatten().copied().max().unwrap_or(0).max(1);
        let top = LEVELS.len() as u64 - 1;
        let level = |bytes: u64| (u128::from(bytes) * u128::from(top)).div_ceil(u128::from(most));
        let sign = |bytes: u64| LEVELS[usize::try_from(level(bytes)).unwrap_or(0).min(LEVELS.len() - 1)];
        self.row(peer).into_iter().map(sign).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gifts of (peer, milliseconds, bytes).
    fn picture(gifts: &[(u8, u64, u64)]) -> Picture {
        let begun = Instant::now();
        let gifts = gifts.iter().map(|&(number, at_ms, bytes)| Gift {
            peer: peer(number),
            at: begun + Duration::from_millis(at_ms),
            bytes,
        });
        Picture::of(&gifts.collect::<Vec<_>>())
    }

    fn peer(number: u8) -> PeerId {
        PeerId::from([number; 32])
    }

    #[test]
    fn time_is_cut_into_equal_intervals() {
        let picture = picture(&[(1, 1000, 16), (1, 1099, 16), (2, 1100, 1), (1, 1750, 4), (2, 1800, 8)]);
        assert_eq!(picture.interval, Duration::from_millis(100));
        assert_eq!(picture.row(&peer(1)), [32, 0, 0, 0, 0, 0, 0, 4]);
        assert_eq!(picture.row(&peer(2)), [0, 1, 0, 0, 0, 0, 0, 8]);
        assert_eq!(picture.row(&peer(3)), Row::default());
        assert_eq!(
            (picture.drawn(&peer(1)), picture.drawn(&peer(2))),
            ("█······▁".into(), "·▁·····▂".into())
        );
        assert_eq!(picture.drawn(&peer(3)), "········");
    }

    #[test]
    fn those_who_give_in_one_interval_give_at_once() {
        let picture = picture(&[(1, 0, 1), (2, 40, 1), (3, 45, 1), (1, 70, 1), (2, 80, 1)]);
        assert_eq!(picture.givers_at_once(|_| true), 2);
        assert_eq!(picture.givers_at_once(|giver| *giver != peer(2)), 1);
    }

    #[test]
    fn nothing_and_a_single_gift_have_a_picture_too() {
        assert_eq!(picture(&[]).givers_at_once(|_| true), 0);
        assert_eq!(picture(&[]).drawn(&peer(1)), "········");
        let picture = picture(&[(1, 5, u64::MAX)]);
        assert_eq!((picture.interval, picture.drawn(&peer(1))), (Duration::ZERO, "█·······".into()));
    }
}
