//! What a peer has shown that it can do, and how much it is therefore asked for at once.

use super::Micros;

/// What a peer is asked for that has given nothing yet. With proofs and headers it is less than one lie may cost: 64 KiB.
const PROBE_BYTES: u64 = 32 << 10;
/// The least that one request asks for: what a connection that has just begun brings in one round trip.
const PIECE_BYTES_MIN: u64 = 16 << 10;
/// The most that one request asks for.
const PIECE_BYTES_MAX: u64 = 1 << 20;
/// How many requests of a second's work there are.
const PIECES_A_SECOND: u64 = 10;
/// So many pieces are asked for at once, however short the way is: one is read, one sent, one checked, one kept.
const PIECES_AHEAD: u64 = 6;
/// Where they come so slowly that they are shorter than they may be, a tenth of a second each, so many do.
const SLOW_PIECES_AHEAD: u64 = 3;
/// And so many where others fetch the same: what is under way they do not know of, and may ask for as well.
const SHARED_PIECES_AHEAD: u64 = 2;
/// The least that a peer may be asked for at once that has given as much: its rate is known badly in the beginning.
const WINDOW_BYTES_MIN: u64 = 96 << 10;
/// The most that one peer is asked for at once.
const WINDOW_BYTES_MAX: u64 = 16 << 20;
/// Of an estimate of the rate, what one lower sample leaves.
const RATE_KEPT: (u64, u64) = (7, 8);

/// What had been delivered when a request was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    at: Micros,
    delivered: u64,
}

/// Rate and round trip of a peer, from what it has answered, and its window.
///
/// A sample of the rate is what came between a request and its answer, of all that was under way (as BBR counts it:
/// draft-cardwell-iccrg-bbr-congestion-control, section 4.1), so that many requests at once do not look like a slow peer.
#[derive(Debug, Clone)]
pub(super) struct Pace {
    delivered: u64,
    in_flight: u64,
    /// Bytes a second.
    rate: Option<u64>,
    round_trip: Option<Micros>,
    window: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self { delivered: 0, in_flight: 0, rate: None, round_trip: None, window: PROBE_BYTES }
    }
}

impl Pace {
    /// How many bytes one request should ask for now; `None` while enough is under way. Less may be where others fetch the
    /// same.
    pub(super) fn room(&self, is_shared: bool) -> Option<u64> {
        let piece = self.piece_bytes();
        let window = if is_shared { self.window.min(self.target(SHARED_PIECES_AHEAD)) } else { self.window };
        (self.in_flight == 0 || self.in_flight + piece <= window).then_some(piece)
    }

    /// Bytes that were asked for and have not been answered.
    pub(super) fn in_flight(&self) -> u64 {
        self.in_flight
    }

    pub(super) fn rate(&self) -> Option<u64> {
        self.rate
    }

    /// So many bytes were asked for.
    pub(super) fn asked(&mut self, bytes: u64, now: Micros) -> Mark {
        self.in_flight += bytes;
        Mark { at: now, delivered: self.delivered }
    }

    /// They are not under way any longer.
    pub(super) fn settled(&mut self, bytes: u64) {
        self.in_flight = self.in_flight.saturating_sub(bytes);
    }

    /// An answer has brought so many bytes.
    pub(super) fn answered(&mut self, mark: Mark, bytes: u64, now: Micros) {
        let took = Micros(now.0.saturating_sub(mark.at.0).max(1));
        self.round_trip = Some(self.round_trip.map_or(took, |least| least.min(took)));
        if bytes == 0 {
            return;
        }
        self.delivered += bytes;
        let sample = took.per_second(self.delivered - mark.delivered);
        self.rate = Some(match self.rate {
            Some(rate) if sample < rate => (rate / RATE_KEPT.1 * RATE_KEPT.0 + sample / RATE_KEPT.1).max(1),
            _ => sample.max(1),
        });
        self.window = self.target(SLOW_PIECES_AHEAD).min(self.window + bytes);
    }

    /// It had to be asked elsewhere: it begins anew.
    pub(super) fn failed(&mut self) {
        self.window = PROBE_BYTES.max(self.window / 4);
    }

    /// How long this many bytes take from the request to the last of them; `None` if nothing is known of that.
    pub(super) fn time_for(&self, bytes: u64) -> Option<Micros> {
        let rate = self.rate?;
        let round_trip = self.round_trip.unwrap_or_default();
        Some(Micros(round_trip.0.saturating_add(bytes.saturating_mul(1_000_000) / rate)))
    }

    /// How much it gives in this time, the way there and back not counted; of a stranger, what it may be asked for.
    pub(super) fn gives_in(&self, time: Micros) -> u64 {
        self.rate.map_or(PROBE_BYTES, |rate| rate.saturating_mul(time.0) / 1_000_000)
    }

    /// How long all that may be asked for at once takes; `None` if nothing is known of that.
    pub(super) fn time_for_window(&self) -> Option<Micros> {
        self.time_for(self.window)
    }

    fn piece_bytes(&self) -> u64 {
        match self.rate {
            Some(rate) => (rate / PIECES_A_SECOND).clamp(PROBE_BYTES, PIECE_BYTES_MAX),
            None => PIECE_BYTES_MIN,
        }
    }

    /// Twice what fits into the way there and back, so that a rate that was held down by the window can grow.
    fn target(&self, slow_pieces_ahead: u64) -> u64 {
        let round_trip = self.round_trip.unwrap_or_default();
        let on_the_way = self.rate.unwrap_or(0).saturating_mul(round_trip.0) / 1_000_000;
        let piece = self.piece_bytes();
        let ahead = if piece < PIECE_BYTES_MAX { slow_pieces_ahead } else { PIECES_AHEAD };
        (2 * on_the_way).max(ahead * piece).clamp(WINDOW_BYTES_MIN, WINDOW_BYTES_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A peer behind a way of this rate and round trip, asked for as much as its pace allows, for so many seconds. How
    /// many bytes a second it gave in the last one.
    fn settled_rate(rate: u64, round_trip_ms: u64, seconds: u64) -> u64 {
        let mut pace = Pace::default();
        let (mut now, mut free_at) = (Micros(0), Micros(0));
        let mut under_way = std::collections::VecDeque::new();
        let mut last_second = 0;
        while now.0 < seconds * 1_000_000 {
            while let Some(bytes) = pace.room(false) {
                let mark = pace.asked(bytes, now);
                free_at = Micros(free_at.0.max(now.0) + bytes * 1_000_000 / rate);
                under_way.push_back((Micros(free_at.0 + round_trip_ms * 1000), mark, bytes));
            }
            let (at, mark, bytes) = under_way.pop_front().unwrap();
            now = at;
            pace.settled(bytes);
            pace.answered(mark, bytes, now);
            if now.0 >= (seconds - 1) * 1_000_000 {
                last_second += bytes;
            }
        }
        last_second
    }

    #[test]
    fn any_way_is_filled() {
        for (rate, round_trip) in
            [(1 << 20, 1), (12 << 20, 40), (12 << 20, 200), (100 << 20, 5), (200_000, 300)]
        {
            let reached = settled_rate(rate, round_trip, 6);
            assert!(reached * 10 >= rate * 9, "{reached} of {rate} at {round_trip} ms");
        }
    }

    #[test]
    fn a_stranger_is_asked_for_little() {
        let mut pace = Pace::default();
        let asked = std::iter::from_fn(|| {
            let bytes = pace.room(false)?;
            pace.asked(bytes, Micros(0));
            Some(bytes)
        });
        assert_eq!(asked.sum::<u64>(), PROBE_BYTES);
    }
}
