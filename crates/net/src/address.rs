//! Where a node can be reached, as it says itself: a signed record in the DHT, and the book of those that are known.
//!
//! The record is a pkarr packet: `public key (32) ‖ Ed25519 signature (64) ‖ microseconds (8, big-endian) ‖ DNS packet`
//! with one TXT record for each address (`addr=<ip:port>`, `relay=<url>`), as `iroh_dns` writes it. It stands in the DHT
//! under `/firn/address/` and the 32 bytes of the key, so nobody else can put anything there.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::{Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use firn_exchange::PeerId;
use iroh::{RelayUrl, TransportAddr};
use iroh_dns::{endpoint_info::EndpointInfo, pkarr};
use libp2p::kad::RecordKey;
use tokio::time::Instant;

use crate::{
    dial::{DialRules, is_private, is_v6_link_local},
    hints::Hints,
    identity::{Identity, endpoint_id, peer_of_endpoint},
};

/// What stands before a node's key in the DHT key of its address record.
const RECORD_KEY_PREFIX: &[u8] = b"/firn/address/";
/// The longest address record, in bytes.
pub(crate) const RECORD_BYTES_MAX: usize = 1104;
/// Addresses in one record, both written and read.
const ADDRESSES_MAX: usize = 10;
/// Of those, addresses of one host: a record does not send many packets to somebody else.
const ADDRESSES_OF_A_HOST_MAX: usize = 2;
/// Peers in the book besides those that the user named.
const BOOK_PEERS_MAX: usize = 4096;
/// pkarr's own time to live; nothing here looks at it.
const PKARR_TTL_S: u32 = 3600;

/// Where a node is, signed by its key.
#[derive(Debug, Clone)]
pub(crate) struct AddressRecord {
    packet: pkarr::SignedPacket,
    addresses: Vec<TransportAddr>,
}

/// Bytes that are no address record of this peer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AddressError {
    #[error("not signed by the key that it carries: {0}")]
    Signature(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("signed by {signer}, but stands for {peer}")]
    OfAnother { signer: PeerId, peer: PeerId },
    #[error("holds no addresses that can be read: {0}")]
    Contents(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl AddressRecord {
    /// Signs that this node is at these addresses; of too many, public ones go first.
    pub(crate) fn sign(identity: &Identity, mut addresses: Vec<TransportAddr>) -> Result<Self, AddressError> {
        addresses.retain(
            |address| !matches!(address, TransportAddr::Ip(address) if is_v6_link_local(address.ip())),
        );
        addresses.sort_by_key(|address| match address {
            TransportAddr::Relay(_) => 0,
            TransportAddr::Ip(ip) if !is_private(ip.ip()) => 1,
            _ => 2,
        });
        addresses.truncate(ADDRESSES_MAX);
        let endpoint = iroh::EndpointAddr::from_parts(identity.secret().public(), addresses.iter().cloned());
        let packet = EndpointInfo::from(endpoint)
            .to_pkarr_signed_packet(identity.secret(), PKARR_TTL_S)
            .map_err(|error| AddressError::Contents(Box::new(error)))?;
        Ok(Self { packet, addresses })
    }

    /// Reads what came for this peer; only what its own key signed is a record.
    pub(crate) fn verify(peer: PeerId, bytes: &[u8]) -> Result<Self, AddressError> {
        let packet = pkarr::SignedPacket::from_bytes(bytes)
            .map_err(|error| AddressError::Signature(Box::new(error)))?;
        let signer = peer_of_endpoint(packet.public_key());
        if signer != peer {
            return Err(AddressError::OfAnother { signer, peer });
        }
        let info = EndpointInfo::from_pkarr_signed_packet(&packet)
            .map_err(|error| AddressError::Contents(Box::new(error)))?;
        let addresses = info.addrs().take(ADDRESSES_MAX).cloned().collect();
        Ok(Self { packet, addresses })
    }

    pub(crate) fn peer(&self) -> PeerId {
        peer_of_endpoint(self.packet.public_key())
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.packet.as_bytes()
    }

    /// When it was signed, in microseconds of the signer's clock.
    pub(crate) fn signed_at_us(&self) -> u64 {
        self.packet.timestamp().as_micros()
    }

    /// Whether the node was at an address, by its earlier record, at which it is no longer, whatever the port.
    pub(crate) fn has_left(&self, earlier: &Self) -> bool {
        let here: BTreeSet<IpAddr> = self.direct().map(|at| at.ip()).collect();
        earlier.direct().any(|at| !here.contains(&at.ip()))
    }

    /// The same as far as it can be believed at `now_us`: a time in the future says only that one of two clocks is wrong,
    /// and counts as the earliest.
    pub(crate) fn believed_at_us(&self, now_us: u64) -> u64 {
        let signed_at_us = self.signed_at_us();
        if signed_at_us > now_us { 0 } else { signed_at_us }
    }

    /// The addresses that need no relay.
    pub(crate) fn direct(&self) -> impl Iterator<Item = SocketAddr> {
        self.addresses.iter().filter_map(|address| match address {
            TransportAddr::Ip(address) => Some(*address),
            _ => None,
        })
    }

    /// What of it may be dialled.
    fn dialable(&self, rules: &DialRules, relays: &[RelayUrl]) -> Vec<TransportAddr> {
        let mut of_a_host: BTreeMap<IpAddr, usize> = BTreeMap::new();
        let allowed = |address: &&TransportAddr| match address {
            TransportAddr::Ip(ip) if rules.allows(*ip) => {
                let count = of_a_host.entry(ip.ip()).or_default();
                *count += 1;
                *count <= ADDRESSES_OF_A_HOST_MAX
            }
            TransportAddr::Relay(url) => relays.contains(url),
            _ => false,
        };
        self.addresses.iter().filter(allowed).cloned().collect()
    }
}

/// What the clock on the wall says, in microseconds since 1970.
pub(crate) fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// Where the address record of this peer stands in the DHT.
pub(crate) fn record_key(peer: PeerId) -> RecordKey {
    RecordKey::from([RECORD_KEY_PREFIX, peer.as_bytes()].concat())
}

/// Whose address record stands at this key of the DHT.
pub(crate) fn peer_of_record_key(key: &RecordKey) -> Option<PeerId> {
    let peer: [u8; 32] = key.as_ref().strip_prefix(RECORD_KEY_PREFIX)?.try_into().ok()?;
    endpoint_id(PeerId::from(peer)).ok().map(peer_of_endpoint)
}

/// What one peer has said of where it is.
struct Known {
    /// The record with the latest time that can be believed.
    latest: AddressRecord,
    /// The last record that came and has no later time. Its signer's clock may have been set back since, so both are
    /// dialled: a peer proves who it is.
    other: Option<AddressRecord>,
}

impl Known {
    /// Takes a record in; false if it is here already.
    fn keep(&mut self, record: AddressRecord, now_us: u64) -> bool {
        let is_here = |known: &AddressRecord| known.as_bytes() == record.as_bytes();
        if is_here(&self.latest) || self.other.as_ref().is_some_and(is_here) {
            return false;
        }
        if record.believed_at_us(now_us) > self.latest.believed_at_us(now_us) {
            let before = std::mem::replace(&mut self.latest, record);
            // It was there first, but nobody knows when.
            self.other = Some(before).filter(|before| before.believed_at_us(now_us) == 0);
        } else {
            self.other = Some(record);
        }
        true
    }

    fn records(&self) -> impl Iterator<Item = &AddressRecord> {
        [&self.latest].into_iter().chain(&self.other)
    }
}

/// The peers whose addresses are known: from the user, or by a record of their own.
pub(crate) struct AddressBook {
    rules: DialRules,
    relays: Vec<RelayUrl>,
    named: BTreeMap<PeerId, BTreeSet<SocketAddr>>,
    records: Mutex<BTreeMap<PeerId, Known>>,
    /// What others have said of where a peer is, and where it was seen.
    hints: Mutex<Hints>,
}

impl AddressBook {
    pub(crate) fn new(
        rules: DialRules,
        relays: Vec<RelayUrl>,
        named: impl IntoIterator<Item = (PeerId, SocketAddr)>,
    ) -> Self {
        let (records, hints) = Default::default();
        let mut book = Self { rules, relays, named: BTreeMap::new(), records, hints };
        for (peer, address) in named {
            book.named.entry(peer).or_default().insert(address);
        }
        book
    }

    /// Takes a record in that came at `now_us`; false if it is here already.
    pub(crate) fn keep(&self, record: AddressRecord, now_us: u64) -> bool {
        let mut records = self.records();
        if let Some(known) = records.get_mut(&record.peer()) {
            return known.keep(record, now_us);
        }
        if records.len() >= BOOK_PEERS_MAX {
            // Whoever signed longest ago is least likely to be where it said.
            let oldest = records.iter().min_by_key(|(_, known)| known.latest.believed_at_us(now_us));
            let oldest = oldest.map(|(peer, _)| *peer);
            oldest.and_then(|peer| records.remove(&peer));
        }
        records.insert(record.peer(), Known { latest: record, other: None });
        true
    }

    /// Remembers what somebody else says of where a peer is, as far as the rules allow to dial it.
    pub(crate) fn hint(&self, peer: PeerId, addresses: &[SocketAddr], now: Instant) {
        let allowed = addresses.iter().copied().filter(|address| self.rules.allows(*address));
        self.hints().hear(peer, allowed, now);
    }

    /// A peer has connected from this address. It may be reached there: it has one socket for both.
    pub(crate) fn seen(&self, peer: PeerId, at: SocketAddr, now: Instant) {
        if self.rules.allows(at) {
            self.hints().seen(peer, at, now);
        }
    }

    /// A peer was found where it was said to be.
    pub(crate) fn found(&self, peer: PeerId, at: SocketAddr) {
        self.hints().found(peer, at);
    }

    /// A peer was not where others say that it is.
    pub(crate) fn not_found(&self, peer: &PeerId) {
        self.hints().not_found(peer);
    }

    /// When the latest record of this peer was signed, if there is one.
    pub(crate) fn signed_at_us(&self, peer: PeerId) -> Option<u64> {
        self.records().get(&peer).map(|known| known.latest.signed_at_us())
    }

    /// What may be dialled to reach this peer.
    pub(crate) fn dialable(&self, peer: PeerId) -> BTreeSet<TransportAddr> {
        let named = self.named.get(&peer).into_iter().flatten().copied().map(TransportAddr::Ip);
        let dialable = |record: &AddressRecord| record.dialable(&self.rules, &self.relays);
        let claimed: Option<Vec<TransportAddr>> =
            self.records().get(&peer).map(|known| known.records().flat_map(dialable).collect());
        let hints = self.hints();
        let hinted = hints.of(&peer).map(TransportAddr::Ip);
        named.chain(claimed.into_iter().flatten()).chain(hinted).collect()
    }

    fn hints(&self) -> MutexGuard<'_, Hints> {
        self.hints.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn records(&self) -> MutexGuard<'_, BTreeMap<PeerId, Known>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> TransportAddr {
        TransportAddr::Ip(text.parse().unwrap())
    }

    #[test]
    fn a_record_says_what_was_signed() {
        let identity = Identity::from_seed([1; 32]);
        let signed = AddressRecord::sign(&identity, vec![ip("10.0.0.1:7"), ip("8.8.8.8:7")]).unwrap();
        let read = AddressRecord::verify(identity.peer_id(), signed.as_bytes()).unwrap();
        assert_eq!(
            BTreeSet::from_iter(read.addresses.clone()),
            BTreeSet::from([ip("10.0.0.1:7"), ip("8.8.8.8:7")])
        );
        assert_eq!(peer_of_record_key(&record_key(identity.peer_id())), Some(identity.peer_id()));
        assert!(read.as_bytes().len() <= RECORD_BYTES_MAX);
    }

    #[test]
    fn who_is_at_another_address_has_left_the_earlier_one() {
        let identity = Identity::from_seed([1; 32]);
        let record = |addresses: &[&str]| {
            let addresses = addresses.iter().map(|address| ip(address)).collect();
            AddressRecord::sign(&identity, addresses).unwrap()
        };
        let earlier = record(&["10.0.0.1:7", "8.8.8.8:7"]);
        assert!(!record(&["10.0.0.1:9", "8.8.8.8:7", "10.0.0.2:7"]).has_left(&earlier));
        assert!(record(&["10.0.0.2:7", "8.8.8.8:7"]).has_left(&earlier));
        assert!(!earlier.has_left(&record(&[])));
    }

    #[test]
    fn too_many_addresses_fit_with_the_public_ones_kept() {
        let identity = Identity::from_seed([1; 32]);
        let far = "[2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff]:65535";
        let many = (0..250).map(|host| ip(&format!("10.0.0.{host}:65535"))).chain([ip(far)]).collect();
        let record = AddressRecord::sign(&identity, many).unwrap();
        assert_eq!(record.addresses.len(), ADDRESSES_MAX);
        assert!(record.addresses.contains(&ip(far)));
        let long: Vec<_> = (0..20)
            .map(|host| ip(&format!("[2001:db8:aaaa:bbbb:cccc:dddd:eeee:f{host:03}]:65535")))
            .collect();
        assert!(AddressRecord::sign(&identity, long).unwrap().as_bytes().len() <= RECORD_BYTES_MAX);
    }

    #[test]
    fn a_forged_record_is_none() {
        let honest = Identity::from_seed([1; 32]);
        let forger = Identity::from_seed([2; 32]);
        let forged = AddressRecord::sign(&forger, vec![ip("10.0.0.66:7")]).unwrap();
        let error = AddressRecord::verify(honest.peer_id(), forged.as_bytes()).unwrap_err();
        assert!(matches!(error, AddressError::OfAnother { .. }), "{error}");
        // The forger's packet under the honest key.
        let mut bytes = forged.as_bytes().to_vec();
        bytes[..32].copy_from_slice(honest.peer_id().as_bytes());
        let error = AddressRecord::verify(honest.peer_id(), &bytes).unwrap_err();
        assert!(matches!(error, AddressError::Signature(_)), "{error}");
        let signed = AddressRecord::sign(&honest, vec![ip("10.0.0.1:7")]).unwrap();
        for at in 0..signed.as_bytes().len() {
            let mut bytes = signed.as_bytes().to_vec();
            bytes[at] ^= 1;
            assert!(AddressRecord::verify(honest.peer_id(), &bytes).is_err(), "byte {at}");
        }
    }

    #[test]
    fn the_book_obeys_the_rules() {
        let identity = Identity::from_seed([1; 32]);
        let peer = identity.peer_id();
        let relay: RelayUrl = "https://relay.example/".parse().unwrap();
        let other: RelayUrl = "https://other.example/".parse().unwrap();
        let named: SocketAddr = "8.8.4.4:1".parse().unwrap();
        let book = AddressBook::new(DialRules::near(), vec![relay.clone()], [(peer, named)]);
        assert_eq!(book.dialable(peer), BTreeSet::from([TransportAddr::Ip(named)]));
        let claims = vec![
            ip("10.0.0.2:1"),
            ip("8.8.8.8:1"),
            TransportAddr::Relay(relay.clone()),
            TransportAddr::Relay(other),
        ];
        assert!(book.keep(AddressRecord::sign(&identity, claims).unwrap(), now_us()));
        let want = [TransportAddr::Ip(named), ip("10.0.0.2:1"), TransportAddr::Relay(relay)];
        assert_eq!(book.dialable(peer), BTreeSet::from(want));
    }

    /// A book, and records of one peer: at port n the nth that was signed.
    fn signed(count: u16) -> (AddressBook, PeerId, Vec<AddressRecord>) {
        let identity = Identity::from_seed([1; 32]);
        let sign = |port| AddressRecord::sign(&identity, vec![ip(&format!("10.0.0.1:{port}"))]).unwrap();
        let records: Vec<AddressRecord> = (1..=count).map(sign).collect();
        assert!(records.is_sorted_by(|a, b| a.signed_at_us() < b.signed_at_us()));
        (AddressBook::new(DialRules::near(), vec![], []), identity.peer_id(), records)
    }

    fn ports(book: &AddressBook, peer: PeerId) -> Vec<u16> {
        let port = |address: &TransportAddr| match address {
            TransportAddr::Ip(ip) => ip.port(),
            _ => 0,
        };
        book.dialable(peer).iter().map(port).collect()
    }

    #[test]
    fn a_later_record_takes_the_place_of_what_was_before() {
        let (book, peer, records) = signed(3);
        let now = records[2].signed_at_us();
        for record in &records {
            assert!(book.keep(record.clone(), now), "it is new");
            assert!(!book.keep(record.clone(), now), "it is not");
        }
        assert_eq!((ports(&book, peer), book.signed_at_us(peer)), (vec![3], Some(now)));
    }

    #[test]
    fn a_record_of_the_future_gives_way_to_one_that_can_be_believed_whichever_came_first() {
        // The clock of the signer was ahead when it signed the second, and is right again.
        for order in [[1, 0], [0, 1]] {
            let (book, peer, records) = signed(2);
            let now = records[0].signed_at_us();
            for at in order {
                book.keep(records[at].clone(), now);
            }
            assert_eq!(book.signed_at_us(peer), Some(now), "{order:?}");
            assert_eq!(ports(&book, peer), [1, 2], "both are tried, {order:?}");
        }
        let (book, peer, records) = signed(3);
        let now = records[1].signed_at_us();
        for at in [2, 0, 1, 2] {
            book.keep(records[at].clone(), now);
        }
        assert_eq!((book.signed_at_us(peer), ports(&book, peer)), (Some(now), vec![2, 3]));
    }

    #[test]
    fn a_clock_that_is_behind_takes_what_came_last() {
        // All records are of the future here.
        let (book, peer, records) = signed(3);
        for record in &records {
            assert!(book.keep(record.clone(), 1));
        }
        assert!(ports(&book, peer).contains(&3));
    }

    #[test]
    fn one_whose_clock_was_set_back_is_found_at_its_new_address_and_what_is_replayed_hides_nothing() {
        let (book, peer, records) = signed(4);
        let now = records[3].signed_at_us();
        for at in [3, 0, 1, 2] {
            book.keep(records[at].clone(), now);
            assert!(ports(&book, peer).contains(&4), "the latest stays");
            assert!(ports(&book, peer).contains(&(at as u16 + 1)), "what came last is tried");
        }
        assert_eq!(book.signed_at_us(peer), Some(now));
    }

    #[test]
    fn a_record_names_a_host_a_few_times_and_a_hint_obeys_the_rules() {
        let identity = Identity::from_seed([1; 32]);
        let peer = identity.peer_id();
        let book = AddressBook::new(DialRules::near(), vec![], []);
        let claims = (1..=8).map(|port| ip(&format!("10.0.0.2:{port}"))).chain([ip("10.0.0.3:1")]).collect();
        assert!(book.keep(AddressRecord::sign(&identity, claims).unwrap(), now_us()));
        assert_eq!(book.dialable(peer).len(), ADDRESSES_OF_A_HOST_MAX + 1);
        let other = PeerId::from([7; 32]);
        let said = ["8.8.8.8:1", "10.0.0.4:1"].map(|address| address.parse().unwrap());
        book.hint(other, &said, Instant::now());
        assert_eq!(book.dialable(other), BTreeSet::from([ip("10.0.0.4:1")]));
    }

    #[test]
    fn the_book_is_bounded() {
        let book = AddressBook::new(DialRules::near(), vec![], []);
        let mut first = None;
        for number in 0..BOOK_PEERS_MAX as u32 + 1 {
            let mut seed = [0; 32];
            seed[..4].copy_from_slice(&number.to_le_bytes());
            let identity = Identity::from_seed(seed);
            first.get_or_insert(identity.peer_id());
            book.keep(AddressRecord::sign(&identity, vec![ip("10.0.0.1:1")]).unwrap(), now_us());
        }
        assert_eq!(book.records().len(), BOOK_PEERS_MAX);
        assert_eq!(book.signed_at_us(first.unwrap()), None);
    }
}
