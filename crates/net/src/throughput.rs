//! How fast a connection is.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use firn_exchange::Micros;
use iroh::endpoint::Connection;
use tokio::time::Instant;

/// What is less than this tells more of the time there and back than of the rate.
const SAMPLE_BYTES_MIN: u64 = 16 << 10;
/// A sample is closed after so long, though more is under way.
const SAMPLE_TIME_MAX: Micros = Micros::from_millis(1000);
/// A sample of so long replaces half of what was known.
const SAMPLE_TIME_HALF: Micros = Micros::from_millis(200);
/// No clock or schedule is better than this.
const SAMPLE_TIME_MIN: Micros = Micros::from_millis(1);

/// Which way bytes go.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Way {
    Out,
    In,
}

/// Measures one connection, one way.
pub(crate) struct Gauge {
    connection: Connection,
    way: Way,
    since: Instant,
    throughput: Mutex<Throughput>,
    /// Bytes of replies, all streams together.
    moved: AtomicU64,
}

/// Something is under way for as long as this lives.
pub(crate) struct UnderWay<'a>(&'a Gauge);

impl Gauge {
    pub(crate) fn new(connection: Connection, way: Way) -> Self {
        Self {
            connection,
            way,
            since: Instant::now(),
            throughput: Mutex::default(),
            moved: AtomicU64::new(0),
        }
    }

    /// Something is under way from now on that only this connection holds up.
    pub(crate) fn begin(&self) -> UnderWay<'_> {
        let (now, bytes) = self.look();
        self.lock().begin(now, bytes);
        UnderWay(self)
    }

    /// So many bytes of a reply went over it, on any of its streams.
    pub(crate) fn count(&self, bytes: usize) {
        self.moved.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// How many bytes of replies have gone over it.
    pub(crate) fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    /// Bytes a second while anything was under way; `None` while that is not known.
    pub(crate) fn rate(&self) -> Option<u64> {
        self.lock().rate
    }

    /// What has gone over the wire, with what QUIC adds; what was lost is counted again, which is how the wire sees it.
    pub(crate) fn wire_bytes(&self) -> u64 {
        let stats = self.connection.stats();
        match self.way {
            Way::Out => stats.udp_tx.bytes,
            Way::In => stats.udp_rx.bytes,
        }
    }

    fn look(&self) -> (Micros, u64) {
        (self.since.elapsed().into(), self.wire_bytes())
    }

    fn lock(&self) -> MutexGuard<'_, Throughput> {
        self.throughput.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let (now, bytes) = self.0.look();
        self.0.lock().end(now, bytes);
    }
}

/// The rate while anything was under way. Pure: the time and a count of bytes that only grows come in.
#[derive(Debug, Default)]
struct Throughput {
    under_way: usize,
    /// The sample that is open while anything is under way: when it began, and the count then.
    begun: (Micros, u64),
    rate: Option<u64>,
}

impl Throughput {
    fn begin(&mut self, now: Micros, bytes: u64) {
        if self.under_way == 0 {
            self.begun = (now, bytes);
        }
        self.under_way += 1;
        self.close(now, bytes);
    }

    fn end(&mut self, now: Micros, bytes: u64) {
        self.under_way -= 1;
        self.close(now, bytes);
    }

    fn close(&mut self, now: Micros, bytes: u64) {
        let (begun, bytes_then) = self.begun;
        let took = Micros(now.0.saturating_sub(begun.0).max(SAMPLE_TIME_MIN.0));
        if self.under_way > 0 && took < SAMPLE_TIME_MAX {
            return;
        }
        self.begun = (now, bytes);
        let moved = bytes.saturating_sub(bytes_then);
        if moved < SAMPLE_BYTES_MIN && took < SAMPLE_TIME_MAX {
            return;
        }
        let sample = took.per_second(moved);
        self.rate = Some(match self.rate {
            None => sample,
            Some(rate) => {
                let (new, old) = (u128::from(took.0), u128::from(SAMPLE_TIME_HALF.0));
                let mixed = (u128::from(rate) * old + u128::from(sample) * new) / (old + new);
                u64::try_from(mixed).unwrap_or(u64::MAX)
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Micros {
        Micros::from_millis(ms)
    }

    #[test]
    fn idle_time_does_not_count() {
        let mut throughput = Throughput::default();
        for second in 0..10 {
            throughput.begin(ms(second * 1000), second * 100_000);
            throughput.end(ms(second * 1000 + 100), (second + 1) * 100_000);
        }
        assert_eq!(throughput.rate, Some(1_000_000));
    }

    #[test]
    fn several_at_once_are_one() {
        let mut throughput = Throughput::default();
        throughput.begin(ms(0), 0);
        throughput.begin(ms(0), 0);
        throughput.end(ms(50), 50_000);
        assert_eq!(throughput.rate, None);
        throughput.end(ms(100), 100_000);
        assert_eq!(throughput.rate, Some(1_000_000));
    }

    #[test]
    fn what_takes_long_is_looked_at_meanwhile() {
        let mut throughput = Throughput::default();
        throughput.begin(ms(0), 0);
        throughput.begin(ms(2000), 4_000_000);
        assert_eq!(throughput.rate, Some(2_000_000));
        throughput.end(ms(2100), 4_000_000);
        throughput.end(ms(4000), 4_000_000);
        assert!(throughput.rate.unwrap() < 200_000, "nothing came for two seconds: {throughput:?}");
    }

    #[test]
    fn a_short_answer_tells_nothing() {
        let mut throughput = Throughput::default();
        throughput.begin(ms(0), 0);
        throughput.end(ms(100), 1000);
        assert_eq!(throughput.rate, None);
    }
}
