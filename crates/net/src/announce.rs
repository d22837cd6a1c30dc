//! When each key is announced: at once, and again before others forget it. Pure: `now` comes in.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

/// How often a key is announced. Others keep it for [`RECORD_TTL`].
pub(crate) const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(3600);
/// How long others keep what was announced: two announcements may be lost.
pub(crate) const RECORD_TTL: Duration = Duration::from_secs(3 * 3600);
/// How soon a key is tried again that could not be announced.
const RETRY_INTERVAL: Duration = Duration::from_secs(15);
/// Between two announcements of everything because the network came back.
const RENEW_INTERVAL: Duration = Duration::from_secs(60);

/// The 32 bytes under which something stands in the DHT.
pub(crate) type DhtKey = [u8; 32];

/// What is announced, and when next.
#[derive(Default)]
pub(crate) struct Schedule {
    next: BTreeMap<DhtKey, Instant>,
    by_time: BTreeSet<(Instant, DhtKey)>,
    renewed: Option<Instant>,
}

impl Schedule {
    /// Exactly these keys are to be announced; new ones at once. Gives those that no longer are.
    pub(crate) fn replace(&mut self, keys: impl IntoIterator<Item = DhtKey>, now: Instant) -> Vec<DhtKey> {
        let keys: BTreeSet<DhtKey> = keys.into_iter().collect();
        let gone: Vec<DhtKey> = self.next.keys().filter(|key| !keys.contains(*key)).copied().collect();
        for key in &gone {
            if let Some(at) = self.next.remove(key) {
                self.by_time.remove(&(at, *key));
            }
        }
        for key in keys {
            if !self.next.contains_key(&key) {
                self.set(key, now);
            }
        }
        gone
    }

    /// A key that is due; it is taken to be announced from now on.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<DhtKey> {
        let (at, key) = *self.by_time.first()?;
        (at <= now).then(|| self.set(key, now + ANNOUNCE_INTERVAL))?;
        Some(key)
    }

    /// This key could not be announced.
    pub(crate) fn failed(&mut self, key: DhtKey, now: Instant) {
        if self.next.contains_key(&key) {
            self.set(key, now + RETRY_INTERVAL);
        }
    }

    /// The network came back, maybe another one: everything is due again, now or a little later.
    pub(crate) fn renew(&mut self, now: Instant) {
        let at = match self.renewed {
            Some(renewed) if renewed > now => return,
            Some(renewed) => now.max(renewed + RENEW_INTERVAL),
            None => now,
        };
        self.renewed = Some(at);
        let keys: Vec<DhtKey> =
            self.next.iter().filter(|(_, next)| **next > at).map(|(key, _)| *key).collect();
        for key in keys {
            self.set(key, at);
        }
    }

    /// The network begins anew: everything is due at once, and again when it has come.
    pub(crate) fn restart(&mut self, now: Instant) {
        self.renewed = None;
        for key in self.next.keys().copied().collect::<Vec<_>>() {
            self.set(key, now);
        }
    }

    /// How many keys are announced.
    pub(crate) fn len(&self) -> usize {
        self.next.len()
    }

    fn set(&mut self, key: DhtKey, at: Instant) {
        if let Some(before) = self.next.insert(key, at) {
            self.by_time.remove(&(before, key));
        }
        self.by_time.insert((at, key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(schedule: &mut Schedule, now: Instant) -> Vec<u8> {
        std::iter::from_fn(|| schedule.take_due(now)).map(|key| key[0]).collect()
    }

    #[test]
    fn each_key_is_announced_at_once_and_then_each_interval() {
        let start = Instant::now();
        let mut schedule = Schedule::default();
        assert!(schedule.replace([[1; 32], [2; 32]], start).is_empty());
        assert_eq!(due(&mut schedule, start), [1, 2]);
        assert_eq!(schedule.replace([[2; 32], [3; 32]], start), [[1; 32]]);
        assert_eq!(due(&mut schedule, start), [3]);
        assert_eq!(due(&mut schedule, start + ANNOUNCE_INTERVAL / 2), [0; 0]);
        assert_eq!(due(&mut schedule, start + ANNOUNCE_INTERVAL), [2, 3]);
        assert_eq!(schedule.len(), 2);
    }

    #[test]
    fn a_failed_one_is_tried_again_soon_unless_it_is_gone() {
        let start = Instant::now();
        let mut schedule = Schedule::default();
        schedule.replace([[1; 32], [2; 32]], start);
        assert_eq!(due(&mut schedule, start), [1, 2]);
        schedule.failed([1; 32], start);
        schedule.replace([[1; 32]], start);
        schedule.failed([2; 32], start);
        assert_eq!(due(&mut schedule, start + RETRY_INTERVAL), [1]);
    }

    #[test]
    fn a_network_that_begins_anew_is_told_at_once_and_when_it_has_come() {
        let start = Instant::now();
        let mut schedule = Schedule::default();
        schedule.replace([[1; 32]], start);
        schedule.renew(start);
        assert_eq!(due(&mut schedule, start), [1]);
        schedule.restart(start);
        assert_eq!(due(&mut schedule, start), [1]);
        schedule.renew(start + Duration::from_secs(1));
        assert_eq!(due(&mut schedule, start + Duration::from_secs(1)), [1]);
    }

    #[test]
    fn a_network_that_flaps_is_not_flooded() {
        let start = Instant::now();
        let mut schedule = Schedule::default();
        schedule.replace([[1; 32]], start);
        assert_eq!(due(&mut schedule, start), [1]);
        schedule.renew(start);
        assert_eq!(due(&mut schedule, start), [1]);
        schedule.renew(start + Duration::from_secs(1));
        schedule.renew(start + Duration::from_secs(2));
        assert_eq!(due(&mut schedule, start + Duration::from_secs(3)), [0; 0]);
        assert_eq!(due(&mut schedule, start + 2 * RENEW_INTERVAL), [1]);
    }
}
