//! Who else has this node's identity: a machine that was cloned after it had made its key.
//!
//! Two such nodes cannot speak to each other, and others reach one of them at most. It shows where a neighbour says this
//! node's name, where a handshake meets this node's own key, where somebody else signs this node's addresses, and where
//! the configuration names this node at an address that is not its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

/// Addresses of others with this identity; further ones tell nothing new.
const DUPLICATES_MAX: usize = 8;
/// Addresses that this node has or has had.
const OWN_MAX: usize = 1024;
/// Times of this node's own records that are remembered: far more than its addresses change while others keep them.
const SIGNED_MAX: usize = 256;
/// Between two log lines on the same one.
const TELL_INTERVAL: Duration = Duration::from_secs(600);
/// One that has not shown itself for so long is gone.
const FORGET_AFTER: Duration = Duration::from_secs(7200);
/// A node that dials itself hears both ends of the handshake within this.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);

/// Which end of a handshake with its own key a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Dialled,
    Accepted,
}

/// When one was seen last, and when it was told of.
struct Seen {
    last: Instant,
    told: Instant,
}

/// What has shown itself.
#[derive(Default)]
pub(crate) struct Duplicates {
    own: BTreeSet<SocketAddr>,
    seen: BTreeMap<SocketAddr, Seen>,
    /// A handshake with this node's key, of which the other end has not been heard of.
    half: Option<(End, SocketAddr, Instant)>,
    met_itself: u64,
    /// When this node has signed its addresses, in microseconds.
    signed: BTreeSet<u64>,
}

impl Duplicates {
    /// This node listens here.
    pub(crate) fn listens(&mut self, address: SocketAddr) {
        if self.own.len() < OWN_MAX {
            self.own.insert(address);
        }
    }

    /// A node of this identity says that it is at this address. True if that is another one and is to be told.
    pub(crate) fn seen_at(&mut self, address: SocketAddr, now: Instant) -> bool {
        self.seen.retain(|_, seen| now < seen.last + FORGET_AFTER);
        if self.own.contains(&address) {
            return false;
        }
        if let Some(seen) = self.seen.get_mut(&address) {
            seen.last = now;
            let is_due = now >= seen.told + TELL_INTERVAL;
            if is_due {
                seen.told = now;
            }
            return is_due;
        }
        let is_new = self.seen.len() < DUPLICATES_MAX;
        if is_new {
            self.seen.insert(address, Seen { last: now, told: now });
        }
        is_new
    }

    /// A handshake met this node's own key at this address. If this node dialled itself, the other end tells, too.
    pub(crate) fn handshake(&mut self, end: End, address: SocketAddr, now: Instant) {
        let is_other_end = |half: &(End, SocketAddr, Instant)| half.0 != end && now < half.2 + HANDSHAKE_MAX;
        self.half = match self.half {
            Some(half) if is_other_end(&half) => {
                self.met_itself += 1;
                None
            }
            Some(half) if now < half.2 + HANDSHAKE_MAX => Some(half),
            _ => Some((end, address, now)),
        };
    }

    /// The address behind a handshake whose other end was not this node.
    pub(crate) fn take_met(&mut self, now: Instant) -> Option<SocketAddr> {
        let met = self.half.take_if(|half| now >= half.2 + HANDSHAKE_MAX);
        met.map(|(_, address, _)| address)
    }

    /// How often this node has dialled itself.
    pub(crate) fn met_itself(&self) -> u64 {
        self.met_itself
    }

    /// This node signs its addresses.
    pub(crate) fn signs(&mut self, at_us: u64) {
        self.signed.insert(at_us);
        // The first one tells since when this node has signed.
        let second = self.signed.iter().nth(1).copied().filter(|_| self.signed.len() > SIGNED_MAX);
        if let Some(second) = second {
            self.signed.remove(&second);
        }
    }

    /// Has another node with this identity signed a record with this time? One that is older than this node's first is
    /// of an earlier run, and a time in the future tells nothing.
    pub(crate) fn is_anothers(&self, at_us: u64, now_us: u64) -> bool {
        let is_since_the_start = self.signed.first().is_some_and(|first| *first < at_us);
        is_since_the_start && at_us <= now_us && !self.signed.contains(&at_us)
    }

    /// Where the others are.
    pub(crate) fn addresses(&self) -> BTreeSet<SocketAddr> {
        self.seen.keys().copied().collect()
    }
}

/// Of the addresses at which a configuration names this node, those that are not its own: it is bound to `bound`, on a
/// machine with the addresses `own`.
pub(crate) fn elsewhere(
    named: impl Iterator<Item = SocketAddr>,
    bound: &[SocketAddr],
    own: &[IpAddr],
) -> BTreeSet<SocketAddr> {
    let is_own = |address: SocketAddr| {
        bound.iter().any(|bound| {
            let is_at =
                bound.ip() == address.ip() || (bound.ip().is_unspecified() && own.contains(&address.ip()));
            bound.port() == address.port() && is_at
        })
    };
    named.filter(|address| !is_own(*address)).collect()
}

/// Says it in the log, with what helps.
pub(crate) fn tell(address: SocketAddr) {
    tracing::error!(
        %address,
        "another node has this node's identity: delete node.key in the data directory of one of the two, and restart it"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], port))
    }

    #[test]
    fn another_one_is_told_of_once_in_a_while_and_forgotten_when_it_is_gone() {
        let (mut duplicates, now) = (Duplicates::default(), Instant::now());
        duplicates.listens(address(1));
        assert!(!duplicates.seen_at(address(1), now), "it is this node");
        assert!(duplicates.seen_at(address(2), now));
        assert!(!duplicates.seen_at(address(2), now + TELL_INTERVAL / 2));
        assert!(duplicates.seen_at(address(2), now + TELL_INTERVAL));
        assert_eq!(duplicates.addresses(), BTreeSet::from([address(2)]));
        let told = (3..100).filter(|port| duplicates.seen_at(address(*port), now)).count();
        assert_eq!(told, DUPLICATES_MAX - 1);
        assert!(duplicates.seen_at(address(200), now + TELL_INTERVAL + FORGET_AFTER));
        assert_eq!(duplicates.addresses(), BTreeSet::from([address(200)]));
    }

    #[test]
    fn a_node_that_dials_itself_is_told_from_another_one() {
        let now = Instant::now();
        for (first, second) in [(End::Dialled, End::Accepted), (End::Accepted, End::Dialled)] {
            let mut duplicates = Duplicates::default();
            duplicates.handshake(first, address(1), now);
            duplicates.handshake(second, address(2), now + HANDSHAKE_MAX / 2);
            assert_eq!(duplicates.take_met(now + 2 * HANDSHAKE_MAX), None);
            assert_eq!(duplicates.met_itself(), 1);

            duplicates.handshake(first, address(1), now);
            duplicates.handshake(first, address(3), now + HANDSHAKE_MAX / 2);
            assert_eq!(duplicates.take_met(now + HANDSHAKE_MAX / 2), None, "the other end may come");
            assert_eq!(duplicates.take_met(now + HANDSHAKE_MAX), Some(address(1)));
            assert_eq!(duplicates.take_met(now + 2 * HANDSHAKE_MAX), None);
        }
    }

    #[test]
    fn what_this_key_signed_elsewhere_is_anothers() {
        let mut duplicates = Duplicates::default();
        assert!(!duplicates.is_anothers(5, 100), "this node has signed nothing yet");
        [10, 20].into_iter().for_each(|at| duplicates.signs(at));
        assert_eq!(
            [5, 10, 15, 20, 101].map(|at| duplicates.is_anothers(at, 100)),
            [false, false, true, false, false]
        );
        (30..1000).for_each(|at| duplicates.signs(at));
        assert_eq!(duplicates.signed.len(), SIGNED_MAX);
        assert!(!duplicates.is_anothers(10, 2000) && !duplicates.is_anothers(999, 2000));
    }

    #[test]
    fn a_list_of_all_peers_may_name_the_node_itself() {
        let own = ["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        let named = ["10.0.0.1:7", "10.0.0.2:7", "10.0.0.1:8", "[fd00::1]:7", "127.0.0.1:9", "127.0.0.1:7"];
        let others = |bound: &[&str]| {
            let bound: Vec<SocketAddr> = bound.iter().map(|address| address.parse().unwrap()).collect();
            let named = named.iter().map(|address| address.parse().unwrap());
            elsewhere(named, &bound, &own).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let all_but_own = ["10.0.0.1:8", "10.0.0.2:7", "127.0.0.1:7", "127.0.0.1:9"];
        assert_eq!(others(&["0.0.0.0:7", "[::]:7"]), all_but_own);
        assert_eq!(others(&["127.0.0.1:9"]).len(), named.len() - 1);
    }
}
