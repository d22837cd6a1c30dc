//! Who has a connection, and who gives it up where others come.
//!
//! Whoever comes is let in. Where that is one too many, a connection over which nothing is under way is closed for it, the
//! longest idle one first; then one whose client does not take its answer. The client that has the most of them loses one.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::{AbortHandle, Id};
use tokio::time::Instant;

/// The most connections at once. Nix opens up to 25. Each may have a request under way, for which its NAR takes at least
/// [`NAR_PIECE_BYTES`](firn_engine::NAR_PIECE_BYTES) of memory or two.
pub const CONNECTIONS_MAX: usize = 1024;

/// How much of all connections the clients at one address elsewhere may have. Those of this machine may have all.
const SHARE_OF_A_CLIENT: usize = 2;

/// How long an answer must have stood still before its connection is closed for another.
const STILL_MIN: Duration = Duration::from_secs(1);

/// Clients that count as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Client {
    /// This machine.
    Here,
    V4(Ipv4Addr),
    /// A network of 64 bits: a host chooses the rest as it likes.
    V6(u64),
}

impl Client {
    pub(crate) fn at(address: IpAddr) -> Self {
        match address.to_canonical() {
            address if address.is_loopback() => Self::Here,
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => Self::V6((address.to_bits() >> 64) as u64),
        }
    }
}

/// What goes on over one connection: written by who serves it, read where room is wanted.
#[derive(Debug, Clone)]
pub(crate) struct Activity(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// Since when no request is under way; one of which the head has not come whole is none.
    idle: Option<Instant>,
    /// Since when the client takes nothing of what waits for it.
    still: Option<Instant>,
}

/// What a connection is at that may be closed for another; the least goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Dispensable {
    Idle(Instant),
    Still(Instant),
}

impl Activity {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(State { idle: Some(Instant::now()), still: None })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request is under way until what this gives is dropped.
    pub(crate) fn begin(&self) -> UnderWay {
        self.state().idle = None;
        UnderWay(self.clone())
    }

    /// The client takes nothing, or takes again.
    pub(crate) fn set_still(&self, is_still: bool) {
        self.state().still = is_still.then(Instant::now);
    }

    fn dispensable(&self) -> Option<Dispensable> {
        let State { idle, still } = *self.state();
        match still {
            Some(since) => (since.elapsed() >= STILL_MIN).then_some(Dispensable::Still(since)),
            None => idle.map(Dispensable::Idle),
        }
    }
}

/// A request that is under way.
pub(crate) struct UnderWay(Activity);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.state().idle = Some(Instant::now());
    }
}

/// All connections that are open.
pub(crate) struct Connections {
    connections_max: usize,
    open: HashMap<Id, Open>,
    counts: BTreeMap<Client, usize>,
}

pub(crate) struct Open {
    client: Client,
    activity: Activity,
    task: AbortHandle,
}

impl Connections {
    pub(crate) fn new(connections_max: usize) -> Self {
        Self { connections_max: connections_max.max(1), open: HashMap::new(), counts: BTreeMap::new() }
    }

    /// Whether there is room for one more, if need be by closing one.
    pub(crate) fn has_room(&self) -> bool {
        self.open.len() < self.connections_max
            || self.open.values().any(|open| open.activity.dispensable().is_some())
    }

    /// Whether a client elsewhere has all the connections that it may have.
    pub(crate) fn is_past_share(&self, client: Client) -> bool {
        client != Client::Here && self.count(client) >= self.connections_max.div_ceil(SHARE_OF_A_CLIENT)
    }

    /// Makes room for a client, if need be by closing a connection; false where none can be closed.
    pub(crate) fn make_room(&mut self, client: Client) -> bool {
        if self.is_past_share(client) {
            return self.close_one(|open| open.client == client);
        }
        self.open.len() < self.connections_max || self.close_one(|_| true)
    }

    /// Closes the one of these that can be spared the most; false where none can.
    pub(crate) fn close_one(&mut self, of: impl Fn(&Open) -> bool) -> bool {
        let candidates = self.open.iter().filter(|(_, open)| of(open));
        let candidates = candidates.filter_map(|(id, open)| {
            Some((Reverse(self.count(open.client)), open.client, open.activity.dispensable()?, *id))
        });
        let first = candidates.min_by_key(|(count, client, dispensable, _)| (*count, *client, *dispensable));
        let Some((_, _, _, id)) = first else { return false };
        if let Some(open) = self.remove(id) {
            open.task.abort();
        }
        true
    }

    pub(crate) fn insert(&mut self, client: Client, activity: Activity, task: AbortHandle) {
        *self.counts.entry(client).or_default() += 1;
        self.open.insert(task.id(), Open { client, activity, task });
    }

    /// Forgets a connection, if it is known.
    pub(crate) fn remove(&mut self, id: Id) -> Option<Open> {
        let open = self.open.remove(&id)?;
        if let Some(count) = self.counts.get_mut(&open.client) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&open.client);
            }
        }
        Some(open)
    }

    fn count(&self, client: Client) -> usize {
        self.counts.get(&client).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::task::JoinHandle;
    use tokio::time::advance;

    use super::*;

    /// Connections whose tasks do nothing.
    struct World(Connections);

    struct Connection {
        activity: Activity,
        task: JoinHandle<()>,
    }

    impl Connection {
        async fn is_open(&self) -> bool {
            tokio::task::yield_now().await;
            !self.task.is_finished()
        }
    }

    impl World {
        fn come(&mut self, address: &str) -> Option<Connection> {
            let client = Client::at(address.parse().unwrap());
            self.0.make_room(client).then(|| {
                let (activity, task) = (Activity::new(), tokio::spawn(pending()));
                self.0.insert(client, activity.clone(), task.abort_handle());
                Connection { activity, task }
            })
        }
    }

    #[test]
    fn a_client_is_an_address_a_network_or_this_machine() {
        let at = |address: &str| Client::at(address.parse().unwrap());
        for here in ["127.0.0.1", "127.3.2.1", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(at(here), Client::Here, "{here}");
        }
        assert_eq!(at("::ffff:10.0.0.1"), at("10.0.0.1"));
        assert_ne!(at("10.0.0.1"), at("10.0.0.2"));
        assert_eq!(at("2001:db8:0:1::1"), at("2001:db8:0:1:ffff::2"));
        assert_ne!(at("2001:db8:0:1::1"), at("2001:db8:0:2::1"));
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_idle_one_gives_way_and_one_that_is_asked_something_does_not() {
        let mut world = World(Connections::new(3));
        let first = world.come("127.0.0.1").unwrap();
        advance(Duration::from_secs(1)).await;
        let second = world.come("127.0.0.1").unwrap();
        advance(Duration::from_secs(1)).await;
        let third = world.come("127.0.0.1").unwrap();
        let under_way = first.activity.begin();
        let fourth = world.come("127.0.0.1").unwrap();
        assert!(first.is_open().await && !second.is_open().await && third.is_open().await);

        let others = [third.activity.begin(), fourth.activity.begin()];
        assert!(!world.0.has_room() && world.come("127.0.0.1").is_none());
        advance(Duration::from_secs(60)).await;
        drop(under_way);
        assert!(world.0.has_room() && world.come("127.0.0.1").is_some());
        assert!(!first.is_open().await && third.is_open().await && fourth.is_open().await);
        drop(others);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_stands_still_gives_way_after_all_that_are_idle() {
        let mut world = World(Connections::new(2));
        let (still, idle) = (world.come("127.0.0.1").unwrap(), world.come("127.0.0.1").unwrap());
        let _under_way = still.activity.begin();
        still.activity.set_still(true);
        advance(STILL_MIN).await;
        let third = world.come("127.0.0.1").unwrap();
        assert!(still.is_open().await && !idle.is_open().await);
        let _under_way = third.activity.begin();
        assert!(world.come("127.0.0.1").is_some());
        assert!(!still.is_open().await && third.is_open().await);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_moves_does_not_give_way() {
        let mut world = World(Connections::new(1));
        let slow = world.come("127.0.0.1").unwrap();
        let under_way = slow.activity.begin();
        for _ in 0..10 {
            slow.activity.set_still(true);
            advance(STILL_MIN - Duration::from_millis(1)).await;
            assert!(world.come("127.0.0.1").is_none());
            slow.activity.set_still(false);
        }
        // Its end is written, though it is not taken.
        slow.activity.set_still(true);
        drop(under_way);
        assert!(world.come("127.0.0.1").is_none());
    }

    #[tokio::test]
    async fn one_client_does_not_take_all_the_room() {
        let mut world = World(Connections::new(10));
        let mut under_way = Vec::new();
        let mut ask = |connection: Option<Connection>| {
            let connection = connection?;
            under_way.push(connection.activity.begin());
            Some(connection)
        };
        for _ in 0..5 {
            assert!(ask(world.come("10.0.0.1")).is_some());
        }
        assert!(world.come("10.0.0.1").is_none() && world.0.has_room());
        for _ in 0..5 {
            assert!(ask(world.come("127.0.0.1")).is_some());
        }
        assert!(!world.0.has_room());
    }

    #[tokio::test]
    async fn who_has_the_most_gives_one_up() {
        let mut world = World(Connections::new(10));
        let lone = world.come("10.0.0.2").unwrap();
        let many: Vec<_> = (0..9).map(|_| world.come("127.0.0.1").unwrap()).collect();
        let new: Vec<_> = (0..4).map(|_| world.come("10.0.0.3").unwrap()).collect();
        assert!(lone.is_open().await);
        let mut left = 0;
        for connection in &many {
            left += usize::from(connection.is_open().await);
        }
        assert_eq!(left, 5);
        for connection in &new {
            assert!(connection.is_open().await);
        }
        let ids: Vec<_> = world.0.open.keys().copied().collect();
        ids.into_iter().for_each(|id| _ = world.0.remove(id));
        assert!(world.0.counts.is_empty());
    }
}
