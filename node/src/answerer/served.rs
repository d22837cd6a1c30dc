//! What each peer was given of late.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use firn_exchange::PeerId;

/// The most peers whose gifts are remembered; of more, the one that was given something longest ago is forgotten.
const PEERS_MAX: usize = 1_000;
/// The most names of paths that are remembered for one peer, in bytes; of more, the oldest are forgotten.
const NAMES_OF_A_PEER_BYTES_MAX: usize = 64 << 10;
/// The most names that are remembered for all, in bytes; of more, those of the peer that was given something longest ago
/// are forgotten.
const NAMES_BYTES_MAX: usize = 4 << 20;
/// What a name takes besides its text, in bytes, about.
const NAME_BYTES: usize = 40;

/// What one peer was given, as far as it is remembered.
#[derive(Debug, Clone, Default)]
pub struct Given {
    /// Requests that were answered with something.
    pub answered: u64,
    /// Bytes of replies.
    pub sent_bytes: u64,
    /// When it was given something last: the higher, the later.
    pub last: u64,
    /// Store paths, or roots, as text, and when each was asked for first.
    names: BTreeMap<Box<str>, u64>,
    names_bytes: usize,
}

impl Given {
    /// Store paths, or roots, as text: the latest that there is room for.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.keys().map(|name| &**name)
    }

    fn remember(&mut self, name: String) {
        if self.names.contains_key(&*name) {
            return;
        }
        self.names_bytes += name.len() + NAME_BYTES;
        self.names.insert(name.into(), self.last);
        while self.names_bytes > NAMES_OF_A_PEER_BYTES_MAX {
            let oldest = self.names.iter().min_by_key(|(_, at)| **at).map(|(name, _)| name.clone());
            let Some(oldest) = oldest else { break };
            self.names.remove(&oldest);
            self.names_bytes -= oldest.len() + NAME_BYTES;
        }
    }
}

/// What each peer was given.
#[derive(Debug, Default)]
pub struct Served(Mutex<Book>);

#[derive(Debug, Default)]
struct Book {
    peers: BTreeMap<PeerId, Given>,
    names_bytes: usize,
    /// How often anybody was given something.
    count: u64,
}

impl Served {
    /// All of it.
    pub fn all(&self) -> BTreeMap<PeerId, Given> {
        self.book().peers.clone()
    }

    /// A request was answered with something, which has this name.
    pub(super) fn answered(&self, peer: PeerId, name: Option<String>) {
        self.book().note(peer, |given| {
            given.answered += 1;
            name.into_iter().for_each(|name| given.remember(name));
        });
    }

    /// So many bytes of a reply were sent.
    pub(super) fn sent(&self, peer: PeerId, bytes: u64) {
        self.book().note(peer, |given| given.sent_bytes += bytes);
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    fn note(&mut self, peer: PeerId, change: impl FnOnce(&mut Given)) {
        self.count += 1;
        let given = self.peers.entry(peer).or_default();
        given.last = self.count;
        let before = given.names_bytes;
        change(given);
        self.names_bytes = self.names_bytes - before + given.names_bytes;
        if self.peers.len() > PEERS_MAX
            && let Some(oldest) = self.oldest(|_| true)
            && let Some(gone) = self.peers.remove(&oldest)
        {
            self.names_bytes -= gone.names_bytes;
        }
        while self.names_bytes > NAMES_BYTES_MAX
            && let Some(oldest) = self.oldest(|given| given.names_bytes > 0)
            && let Some(given) = self.peers.get_mut(&oldest)
        {
            self.names_bytes -= std::mem::take(&mut given.names_bytes);
            given.names.clear();
        }
    }

    /// Of these, the peer that was given something longest ago.
    fn oldest(&self, of: impl Fn(&Given) -> bool) -> Option<PeerId> {
        let those = self.peers.iter().filter(|(_, given)| of(given));
        those.min_by_key(|(_, given)| given.last).map(|(peer, _)| *peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u32) -> PeerId {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&number.to_le_bytes());
        id.into()
    }

    fn name(number: u32) -> String {
        format!("/nix/store/{number:032}-a-name-of-usual-length-1.2.3")
    }

    #[test]
    fn what_one_peer_had_takes_so_much_and_is_the_latest() {
        let served = Served::default();
        for number in 0..2_000 {
            served.answered(peer(1), Some(name(number)));
            served.answered(peer(1), Some(name(number)));
        }
        let given = served.all().remove(&peer(1)).unwrap();
        assert_eq!(given.answered, 4_000);
        assert!(given.names_bytes <= NAMES_OF_A_PEER_BYTES_MAX && given.names.len() > 300);
        let latest: Vec<String> = (2_000 - given.names.len() as u32..2_000).map(name).collect();
        assert!(given.names().eq(latest.iter().map(String::as_str)));
    }

    #[test]
    fn what_all_had_takes_so_much_and_those_of_late_are_known() {
        let served = Served::default();
        let many = PEERS_MAX as u32 + 100;
        for number in 0..many {
            (0..60).for_each(|path| served.answered(peer(number), Some(name(path))));
            served.sent(peer(number), 7);
        }
        let all = served.all();
        let names_bytes: usize = all.values().map(|given| given.names_bytes).sum();
        assert_eq!((all.len(), names_bytes), (PEERS_MAX, served.book().names_bytes));
        assert!(names_bytes <= NAMES_BYTES_MAX && names_bytes > NAMES_BYTES_MAX / 2);
        assert!(!all.contains_key(&peer(0)) && all[&peer(100)].names().count() == 0);
        let last = &all[&peer(many - 1)];
        assert_eq!((last.answered, last.sent_bytes, last.names().count()), (60, 7, 60));
    }
}
