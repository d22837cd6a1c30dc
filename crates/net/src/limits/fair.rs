//! Whose turn it is to use what is limited. Pure: the time comes in.

use std::{
    collections::{BTreeMap, VecDeque},
    num::NonZeroU64,
};

use firn_exchange::{Micros, PeerId};

use super::bucket::Bucket;

/// The longest piece that is given out, in bytes.
const PIECE_BYTES_MAX: u64 = 128 << 10;
/// The shortest piece: about what a packet holds.
const PIECE_BYTES_MIN: u64 = 1 << 10;
/// All who wait shall have had a piece after this part of a second: a stream on which nothing comes for some seconds is
/// given up by its asker.
const ROUNDS_A_SECOND: u64 = 2;
/// As if a peer always had so many streams: the first of them does not know yet how many will come right after.
const STREAMS_MIN: u64 = 32;
/// Peers that are remembered although they wait for nothing.
const PEERS_MAX: usize = 1024;

/// A queue in front of one bucket for all and one for each peer.
///
/// The next one is always a piece of the peer that has had the least since it began to wait, so all peers that wait have
/// equal shares, however many streams each of them has (start-time fair queueing: Goyal, Vin and Cheng, 1996).
#[derive(Debug)]
pub(super) struct Fair<T> {
    rate: Option<NonZeroU64>,
    peer_rate: Option<NonZeroU64>,
    all: Option<Bucket>,
    peers: BTreeMap<PeerId, OfPeer<T>>,
    /// How much the peer had whose turn it was last. Who begins to wait begins there.
    round: u64,
}

#[derive(Debug)]
struct OfPeer<T> {
    bucket: Option<Bucket>,
    queue: VecDeque<(u64, T)>,
    had: u64,
}

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next<T> {
    /// It is this one's turn.
    Go(T),
    /// Nobody's before this time.
    At(Micros),
    /// Nobody waits.
    Nobody,
}

impl<T> Fair<T> {
    /// So many bytes a second for all, and for each peer. `None`: there is nothing to limit.
    pub(super) fn new(rate: Option<NonZeroU64>, peer_rate: Option<NonZeroU64>, now: Micros) -> Option<Self> {
        rate.or(peer_rate)?;
        let all = rate.map(|rate| Bucket::new(rate, now));
        Some(Self { rate, peer_rate, all, peers: BTreeMap::new(), round: 0 })
    }

    /// How long this peer's next piece should be, so that the turns of all its streams come often enough.
    pub(super) fn piece_bytes(&self, peer: PeerId) -> u64 {
        let is_waiting = |of_peer: &&OfPeer<T>| !of_peer.queue.is_empty();
        let streams = self.peers.get(&peer).map_or(0, |of_peer| of_peer.queue.len() as u64);
        let pieces = (streams + 1).max(STREAMS_MIN) * ROUNDS_A_SECOND;
        let share = |rate: Option<NonZeroU64>, peers: u64| {
            rate.map_or(u64::MAX, |rate| rate.get() / peers.max(1) / pieces)
        };
        let of_all = share(self.rate, self.peers.values().filter(is_waiting).count() as u64);
        of_all.min(share(self.peer_rate, 1)).clamp(PIECE_BYTES_MIN, PIECE_BYTES_MAX)
    }

    /// Waits for so many bytes.
    pub(super) fn push(&mut self, peer: PeerId, bytes: u64, ticket: T, now: Micros) {
        if self.peers.len() >= PEERS_MAX {
            self.forget(now);
        }
        let (peer_rate, round) = (self.peer_rate, self.round);
        let of_peer = self.peers.entry(peer).or_insert_with(|| OfPeer {
            bucket: peer_rate.map(|rate| Bucket::new(rate, now)),
            queue: VecDeque::new(),
            had: round,
        });
        if of_peer.queue.is_empty() {
            of_peer.had = of_peer.had.max(round);
        }
        of_peer.queue.push_back((bytes, ticket));
    }

    /// The next one, which has then taken what it waited for. Those who are gone take nothing.
    pub(super) fn pop(&mut self, now: Micros, is_gone: impl Fn(&T) -> bool) -> Next<T> {
        for of_peer in self.peers.values_mut() {
            while of_peer.queue.pop_front_if(|(_, ticket)| is_gone(ticket)).is_some() {}
        }
        let mut earliest = None;
        let mut next: Option<&mut OfPeer<T>> = None;
        let all_ready_at = self.all.as_mut().map_or(now, |all| all.ready_at(now));
        for of_peer in self.peers.values_mut().filter(|of_peer| !of_peer.queue.is_empty()) {
            let ready_at =
                of_peer.bucket.as_mut().map_or(now, |bucket| bucket.ready_at(now)).max(all_ready_at);
            if ready_at > now {
                earliest = Some(earliest.map_or(ready_at, |earliest: Micros| earliest.min(ready_at)));
            } else if next.as_ref().is_none_or(|next| of_peer.had < next.had) {
                next = Some(of_peer);
            }
        }
        let Some(of_peer) = next else { return earliest.map_or(Next::Nobody, Next::At) };
        let Some((bytes, ticket)) = of_peer.queue.pop_front() else { return Next::Nobody };
        self.round = of_peer.had;
        of_peer.had += bytes;
        of_peer.bucket.iter_mut().chain(&mut self.all).for_each(|bucket| bucket.take(bytes, now));
        Next::Go(ticket)
    }

    /// Forgets those about whom there is nothing to remember.
    fn forget(&mut self, now: Micros) {
        self.peers.retain(|_, of_peer| {
            let is_full = of_peer.bucket.as_mut().is_none_or(|bucket| bucket.is_full(now));
            !of_peer.queue.is_empty() || !is_full
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    fn peer(byte: u8) -> PeerId {
        PeerId::from([byte; 32])
    }

    fn rate(bytes: u64) -> Option<NonZeroU64> {
        NonZeroU64::new(bytes)
    }

    /// A piece of a peer, and since when it waits.
    type Piece = (u8, u64, Micros);

    fn push(fair: &mut Fair<Piece>, number: u8, now: Micros) {
        let bytes = fair.piece_bytes(peer(number));
        fair.push(peer(number), bytes, (number, bytes, now), now);
    }

    /// So many seconds with peers that have so many streams each; every stream waits for its next piece as soon as it has
    /// had one. Gives what each peer had, and the longest that any stream waited.
    fn shares(mut fair: Fair<Piece>, streams: &[u64], seconds: u64) -> (Vec<u64>, Micros) {
        let (mut had, mut longest, mut now) = (vec![0; streams.len()], Micros(0), Micros(0));
        for (number, streams) in streams.iter().enumerate() {
            (0..*streams).for_each(|_| push(&mut fair, number as u8, now));
        }
        while now < Micros(seconds * SECOND) {
            match fair.pop(now, |_| false) {
                Next::Go((number, bytes, since)) => {
                    had[usize::from(number)] += bytes;
                    longest = longest.max(Micros(now.0 - since.0));
                    push(&mut fair, number, now);
                }
                Next::At(then) => now = then,
                Next::Nobody => panic!("all wait"),
            }
        }
        (had, longest)
    }

    #[test]
    fn one_stream_has_as_much_as_thirty_two() {
        let fair = Fair::new(rate(1 << 20), None, Micros(0)).unwrap();
        let (had, longest) = shares(fair, &[32, 1, 4], 10);
        let sum: u64 = had.iter().sum();
        assert!((10 << 20..(10 << 20) + (1 << 19)).contains(&sum), "{sum}");
        assert!(had.iter().all(|had| had.abs_diff(sum / 3) < sum / 20), "{had:?}");
        assert!(longest < Micros(2 * SECOND), "{longest:?}");
    }

    #[test]
    fn a_peer_has_its_own_limit_and_leaves_the_rest_to_others() {
        let fair = Fair::new(rate(1 << 20), rate(700 << 10), Micros(0)).unwrap();
        let (had, _) = shares(fair, &[8], 10);
        assert!((7000 << 10..7400 << 10).contains(&had[0]), "{had:?}");
        let fair = Fair::new(None, rate(100 << 10), Micros(0)).unwrap();
        let (had, longest) = shares(fair, &[32, 1, 1], 10);
        assert!(had.iter().all(|had| (1000 << 10..1200 << 10).contains(had)), "{had:?}");
        assert!(longest < Micros(2 * SECOND), "{longest:?}");
    }

    #[test]
    fn who_was_away_saves_up_no_turns() {
        let mut fair = Fair::new(rate(1 << 20), None, Micros(0)).unwrap();
        let mut now = Micros(0);
        for _ in 0..100 {
            fair.push(peer(1), 1 << 16, 1, now);
            while let Next::At(then) = fair.pop(now, |_| false) {
                now = then;
            }
        }
        for _ in 0..4 {
            fair.push(peer(1), 1 << 16, 1, now);
            fair.push(peer(2), 1 << 16, 2, now);
        }
        let mut turns = Vec::new();
        loop {
            match fair.pop(now, |_| false) {
                Next::Go(ticket) => turns.push(ticket),
                Next::At(then) => now = then,
                Next::Nobody => break,
            }
        }
        assert_eq!(turns, [2, 1, 2, 1, 2, 1, 2, 1]);
    }

    #[test]
    fn who_is_gone_takes_nothing() {
        let mut fair = Fair::new(rate(1 << 20), None, Micros(0)).unwrap();
        fair.push(peer(1), 1 << 30, "gone", Micros(0));
        fair.push(peer(1), 1, "here", Micros(0));
        fair.push(peer(2), 1 << 30, "gone", Micros(0));
        let is_gone = |ticket: &&str| *ticket == "gone";
        assert_eq!(fair.pop(Micros(0), is_gone), Next::Go("here"));
        assert_eq!(fair.pop(Micros(0), is_gone), Next::Nobody);
        assert!(fair.peers.values().all(|of_peer| of_peer.queue.is_empty()));
    }

    #[test]
    fn strangers_are_forgotten() {
        let mut fair = Fair::new(rate(1 << 30), rate(1 << 20), Micros(0)).unwrap();
        for number in 0..10 * PEERS_MAX as u64 {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&number.to_le_bytes());
            let now = Micros(number * 1000);
            fair.push(id.into(), 1000, (), now);
            assert_eq!(fair.pop(now, |_| false), Next::Go(()));
            assert!(fair.peers.len() <= PEERS_MAX);
        }
    }

    #[test]
    fn without_limits_there_is_no_queue() {
        assert!(Fair::<()>::new(None, None, Micros(0)).is_none());
    }
}
