//! Cubic that is never slower than Reno.
//!
//! noq's cubic follows RFC 8312, whose estimate of what Reno's window would be begins below the window that a loss has
//! left if the one before was not long ago: on a link that loses packets the window stands still for some round trips.
//! RFC 9438 mended it. Here its estimate, section 4.3, runs beside noq's cubic, and the larger window counts.

use std::{any::Any, sync::Arc, time::Instant};

use iroh::endpoint::RttEstimator;
use noq_proto::congestion::{Controller, ControllerFactory, ControllerMetrics, CubicConfig};

/// What is left of the window after a loss (section 4.6).
const BETA: f64 = 0.7;
/// How many packets the estimate grows by in a round trip, so that on the whole it sends what Reno would, that halves its
/// window and grows by one.
const ALPHA: f64 = 3.0 * (1.0 - BETA) / (1.0 + BETA);

/// Makes the controller of each path.
#[derive(Debug)]
pub(crate) struct CubicOrReno(Arc<CubicConfig>);

impl CubicOrReno {
    /// With so many bytes in flight before anything was acknowledged.
    pub(crate) fn new(initial_window: u64) -> Self {
        let mut cubic = CubicConfig::default();
        cubic.initial_window(initial_window);
        Self(Arc::new(cubic))
    }
}

impl ControllerFactory for CubicOrReno {
    fn build(self: Arc<Self>, now: Instant, mtu: u16) -> Box<dyn Controller> {
        let cubic = self.0.clone().build(now, mtu);
        Box::new(Congestion { cubic, mtu, reno: None, reno_before_loss: None, lost_at: None })
    }
}

#[derive(Debug)]
struct Congestion {
    cubic: Box<dyn Controller>,
    mtu: u16,
    /// Nothing before the first loss, and while all has to begin anew.
    reno: Option<Reno>,
    /// What it was, should the last loss turn out to be none.
    reno_before_loss: Option<Reno>,
    /// What was sent before that has its loss behind it already.
    lost_at: Option<Instant>,
}

impl Congestion {
    fn is_of_last_loss(&self, sent: Instant) -> bool {
        self.lost_at.is_some_and(|lost_at| sent <= lost_at)
    }
}

impl Controller for Congestion {
    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        packet: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        let window = self.window();
        self.cubic.on_ack(now, sent, bytes, packet, app_limited, rtt);
        let is_of_last_loss = self.is_of_last_loss(sent);
        if let Some(reno) = &mut self.reno
            && !app_limited
            && !is_of_last_loss
        {
            reno.acknowledged(bytes, window, self.mtu);
        }
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent: bool,
        is_ecn: bool,
        lost_bytes: u64,
        largest_lost: u64,
    ) {
        let window = self.window();
        self.cubic.on_congestion_event(now, sent, is_persistent, is_ecn, lost_bytes, largest_lost);
        if self.is_of_last_loss(sent) {
            return;
        }
        self.lost_at = Some(now);
        self.reno_before_loss = self.reno.filter(|_| !is_ecn);
        self.reno = (!is_persistent).then(|| Reno::after_loss(window));
    }

    fn on_spurious_congestion_event(&mut self) {
        self.cubic.on_spurious_congestion_event();
        self.reno = self.reno_before_loss.take().or(self.reno);
    }

    fn on_mtu_update(&mut self, mtu: u16) {
        self.mtu = mtu;
        self.cubic.on_mtu_update(mtu);
    }

    fn window(&self) -> u64 {
        self.reno.map_or(0, |reno| reno.window as u64).max(self.cubic.window())
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = self.cubic.metrics();
        metrics.congestion_window = self.window();
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self { cubic: self.cubic.clone_box(), ..*self })
    }

    fn initial_window(&self) -> u64 {
        self.cubic.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// What Reno's window would be, in bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Reno {
    window: f64,
    /// The window before the loss.
    before_loss: f64,
}

impl Reno {
    fn after_loss(window: u64) -> Self {
        let before_loss = window as f64;
        Self { window: before_loss * BETA, before_loss }
    }

    /// So many bytes have arrived of those that `in_flight_max`, which is not 0, lets be under way.
    fn acknowledged(&mut self, bytes: u64, in_flight_max: u64, mtu: u16) {
        let alpha = if self.window < self.before_loss { ALPHA } else { 1.0 };
        self.window += alpha * f64::from(mtu) * bytes as f64 / in_flight_max as f64;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MTU: u16 = 1000;

    /// The growth over a round trip in which a whole window arrives.
    fn round_trip(reno: &mut Reno) -> f64 {
        let (before, window) = (reno.window, reno.window as u64);
        for _ in 0..window / u64::from(MTU) {
            reno.acknowledged(MTU.into(), window, MTU);
        }
        (reno.window - before) / f64::from(MTU)
    }

    #[test]
    fn it_grows_by_half_a_packet_up_to_the_old_window_and_by_a_whole_one_from_there() {
        let mut reno = Reno::after_loss(20_000);
        assert_eq!(reno.window, 14_000.0);
        let grown = round_trip(&mut reno);
        assert!((0.5..0.54).contains(&grown), "{grown}");
        let round_trips = (1..).take_while(|_| reno.window < 20_000.0 && round_trip(&mut reno) > 0.0).count();
        assert!((10..=12).contains(&round_trips), "{round_trips}");
        let grown = round_trip(&mut reno);
        assert!((0.9..=1.0).contains(&grown), "{grown}");
    }

    #[test]
    fn of_two_losses_in_short_order_each_takes_three_tenths_of_the_window() {
        let begun = Instant::now();
        let at = |ms| begun + Duration::from_millis(ms);
        let mut congestion = Arc::new(CubicOrReno::new(100_000)).build(begun, MTU);
        assert_eq!(congestion.window(), 100_000);
        congestion.on_congestion_event(at(20), at(10), false, false, MTU.into(), 1);
        assert_eq!(congestion.window(), 70_000);
        // It was sent before the first was known.
        congestion.on_congestion_event(at(21), at(15), false, false, MTU.into(), 2);
        assert_eq!(congestion.window(), 70_000);
        congestion.on_congestion_event(at(40), at(30), false, false, MTU.into(), 3);
        assert_eq!(congestion.window(), 49_000);
        congestion.on_spurious_congestion_event();
        assert_eq!(congestion.window(), 70_000);
    }

    #[test]
    fn after_a_silence_all_begins_anew() {
        let begun = Instant::now();
        let at = |ms| begun + Duration::from_millis(ms);
        let mut congestion = Arc::new(CubicOrReno::new(100_000)).build(begun, MTU);
        congestion.on_congestion_event(at(20), at(10), true, false, MTU.into(), 1);
        assert_eq!(congestion.window(), 2 * u64::from(MTU));
    }
}
