//! What this node keeps of the DHT for others: who provides what, and address records.
//!
//! Everything is bounded and nothing here reads a clock: `now` comes with what is to be kept.

use std::{
    borrow::Cow,
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use ipnet::IpNet;
use libp2p::{
    Multiaddr, PeerId,
    kad::{
        ProviderRecord, Record, RecordKey,
        store::{Error, RecordStore, Result},
    },
};

use crate::{
    address::{AddressRecord, RECORD_BYTES_MAX, peer_of_record_key},
    dial::quic_address,
    identity::peer_of_libp2p,
    routing::public_network,
};

/// Provider records of others.
pub(crate) const PROVIDER_RECORDS_MAX: usize = 1 << 18;
/// So many go at once where there is no room for one more, since finding those that go means looking at all.
const ROOM_RECORDS: usize = PROVIDER_RECORDS_MAX / 64;
/// Provider records of one of the others: nobody takes all the room.
pub(crate) const RECORDS_OF_A_PROVIDER_MAX: usize = PROVIDER_RECORDS_MAX / 4;
/// Providers of one key.
pub(crate) const PROVIDERS_OF_A_KEY_MAX: usize = 32;
/// Addresses kept of one provider.
const ADDRESSES_OF_A_PROVIDER_MAX: usize = 8;
/// Address records.
const VALUE_RECORDS_MAX: usize = 1 << 14;
/// Two records of one peer that come within this may have overtaken each other: what puts one gives up after 8 s.
const OVERTAKING_MAX: Duration = Duration::from_secs(10);
/// The longest key, in bytes.
const KEY_BYTES_MAX: usize = 64;

type KeyBytes = Box<[u8]>;
/// Who provides one key, and until when. Mostly it is one: a map would take a kilobyte for it.
type OfKey = Vec<(PeerId, Option<Instant>)>;

/// One of the others, for all its records together.
#[derive(Default)]
struct Provider {
    addresses: Vec<Multiaddr>,
    records: usize,
}

/// The record store of Kademlia.
pub(crate) struct Records {
    local: PeerId,
    /// What this node provides; neither counted nor bounded, since the announcer chose it.
    provided: BTreeSet<KeyBytes>,
    keys: BTreeMap<KeyBytes, OfKey>,
    providers: BTreeMap<PeerId, Provider>,
    records: usize,
    values: BTreeMap<KeyBytes, Value>,
}

/// An address record.
struct Value {
    record: Record,
    /// Where it came from.
    network: Option<IpNet>,
    /// When it came; `None` for this node's own.
    kept: Option<Instant>,
}

impl Records {
    pub(crate) fn new(local: PeerId) -> Self {
        Self {
            local,
            provided: BTreeSet::new(),
            keys: BTreeMap::new(),
            providers: BTreeMap::new(),
            records: 0,
            values: BTreeMap::new(),
        }
    }

    /// Keeps that another provides something; what has expired makes room first.
    pub(crate) fn keep_provider(&mut self, record: ProviderRecord, now: Instant) -> Result<()> {
        if self.records >= PROVIDER_RECORDS_MAX {
            self.purge(now);
        }
        self.add_provider(record)
    }

    /// Keeps an address record that its signer itself, `source`, has sent from one of these addresses: what it says last
    /// holds, whatever the clocks say. Nobody else can put an old record in the place of a new one.
    ///
    /// Two that come at almost the same time may have overtaken each other, and are told apart by when they were signed.
    pub(crate) fn keep_value(
        &mut self,
        source: PeerId,
        addresses: &[Multiaddr],
        record: Record,
        now: Instant,
        now_us: u64,
    ) -> Result<()> {
        let verified = |record: &Record| {
            let peer = peer_of_record_key(&record.key)?;
            AddressRecord::verify(peer, &record.value).ok()
        };
        let is_of_source = |record: &AddressRecord| peer_of_libp2p(&source) == Ok(record.peer());
        let Some(offered) = verified(&record).filter(is_of_source) else {
            tracing::debug!(%source, "a forged or relayed address record was not kept");
            return Ok(());
        };
        let known = self.values.get(record.key.as_ref());
        let just_kept = known.filter(|known| known.kept.is_some_and(|kept| now < kept + OVERTAKING_MAX));
        let known = just_kept.and_then(|known| verified(&known.record));
        if known.is_some_and(|known| known.believed_at_us(now_us) > offered.signed_at_us()) {
            return Ok(());
        }
        if self.values.len() >= VALUE_RECORDS_MAX {
            self.purge(now);
        }
        self.put_value(record, network(addresses), Some(now))
    }

    fn put_value(&mut self, record: Record, network: Option<IpNet>, kept: Option<Instant>) -> Result<()> {
        if record.value.len() > RECORD_BYTES_MAX || record.key.as_ref().len() > KEY_BYTES_MAX {
            return Err(Error::ValueTooLarge);
        }
        if self.values.len() >= VALUE_RECORDS_MAX && !self.values.contains_key(record.key.as_ref()) {
            let crowded = self.crowded_value(network);
            crowded.and_then(|key| self.values.remove(&key));
        }
        self.values.insert(record.key.as_ref().into(), Value { record, network, kept });
        Ok(())
    }

    /// The address record that makes room for one from this network, chosen as in [`Self::crowd`]. This node's own is the last.
    fn crowded_value(&self, new: Option<IpNet>) -> Option<KeyBytes> {
        let mut crowds = BTreeMap::from([(new, 1)]);
        self.values.values().for_each(|value| *crowds.entry(value.network).or_default() += 1);
        let place = |value: &Value| {
            let crowd = crowds.get(&value.network).copied().unwrap_or_default();
            (value.kept.is_none(), Reverse(crowd), expiry(value.record.expires))
        };
        self.values.iter().min_by_key(|(_, value)| place(value)).map(|(key, _)| key.clone())
    }

    /// Drops what has expired.
    pub(crate) fn purge(&mut self, now: Instant) {
        self.values.retain(|_, value| !value.record.is_expired(now));
        let Self { keys, providers, records, .. } = self;
        keys.retain(|_, of_key| {
            of_key.retain(|(provider, expires)| {
                let keep = expires.is_none_or(|expires| now < expires);
                if !keep {
                    forget(providers, records, provider);
                }
                keep
            });
            !of_key.is_empty()
        });
    }

    /// The provider of a key that makes room for another one: the one that expires first of those from the network that most
    /// come from. So a flood from one network pushes out itself alone.
    fn crowd(&self, new: &ProviderRecord) -> Option<PeerId> {
        let of_key = self.keys.get(new.key.as_ref())?;
        let place =
            |peer: &PeerId| self.providers.get(peer).and_then(|provider| network(&provider.addresses));
        let mut crowds: BTreeMap<Option<IpNet>, usize> = BTreeMap::from([(network(&new.addresses), 1)]);
        of_key.iter().for_each(|(peer, _)| *crowds.entry(place(peer)).or_default() += 1);
        let crowded = |peer: &PeerId| crowds.get(&place(peer)).copied().unwrap_or_default();
        let first = of_key.iter().min_by_key(|(peer, expires)| (Reverse(crowded(peer)), expiry(*expires)));
        first.map(|(peer, _)| *peer)
    }

    /// Drops [`ROOM_RECORDS`] of the network that most records are from: those of the providers that have most there.
    fn make_room(&mut self) {
        let mut networks: BTreeMap<Option<IpNet>, usize> = BTreeMap::new();
        for provider in self.providers.values() {
            *networks.entry(network(&provider.addresses)).or_default() += provider.records;
        }
        let most = networks.into_iter().max_by_key(|(_, records)| *records).map(|(network, _)| network);
        let is_there = |provider: &Provider| Some(network(&provider.addresses)) == most;
        let there = self.providers.iter().filter(|(_, provider)| is_there(provider));
        let mut there: Vec<(usize, PeerId)> =
            there.map(|(peer, provider)| (provider.records, *peer)).collect();
        there.sort_unstable_by_key(|of_provider| Reverse(*of_provider));
        let mut found = 0;
        let enough = |(records, peer): &(usize, PeerId)| {
            let is_wanted = found < ROOM_RECORDS;
            found += records;
            is_wanted.then_some(*peer)
        };
        let those: BTreeSet<PeerId> = there.iter().map_while(enough).collect();
        let Self { keys, providers, records, .. } = self;
        let mut left = ROOM_RECORDS;
        keys.retain(|_, of_key| {
            of_key.retain(|(peer, _)| {
                let goes = left > 0 && those.contains(peer);
                if goes {
                    left -= 1;
                    forget(providers, records, peer);
                }
                !goes
            });
            !of_key.is_empty()
        });
    }

    /// How many provider records of others are here.
    pub(crate) fn provider_records(&self) -> usize {
        self.records
    }
}

/// The public network, or the private address, that a provider was seen in.
fn network(addresses: &[Multiaddr]) -> Option<IpNet> {
    let ip = addresses.iter().find_map(quic_address)?.ip();
    Some(public_network(ip).unwrap_or_else(|| IpNet::from(ip.to_canonical())))
}

/// The first to expire comes first, what never does last.
fn expiry(expires: Option<Instant>) -> (bool, Option<Instant>) {
    (expires.is_none(), expires)
}

fn forget(providers: &mut BTreeMap<PeerId, Provider>, records: &mut usize, peer: &PeerId) {
    *records -= 1;
    if let Some(provider) = providers.get_mut(peer) {
        provider.records -= 1;
        if provider.records == 0 {
            providers.remove(peer);
        }
    }
}

impl RecordStore for Records {
    type RecordsIter<'a> = Box<dyn Iterator<Item = Cow<'a, Record>> + 'a>;
    type ProvidedIter<'a> = Box<dyn Iterator<Item = Cow<'a, ProviderRecord>> + 'a>;

    fn get(&self, key: &RecordKey) -> Option<Cow<'_, Record>> {
        self.values.get(key.as_ref()).map(|value| Cow::Borrowed(&value.record))
    }

    fn put(&mut self, record: Record) -> Result<()> {
        self.put_value(record, None, None)
    }

    fn remove(&mut self, key: &RecordKey) {
        self.values.remove(key.as_ref());
    }

    fn records(&self) -> Self::RecordsIter<'_> {
        Box::new(self.values.values().map(|value| Cow::Borrowed(&value.record)))
    }

    fn add_provider(&mut self, record: ProviderRecord) -> Result<()> {
        let key = record.key.as_ref();
        if key.len() > KEY_BYTES_MAX {
            return Err(Error::ValueTooLarge);
        }
        if record.provider == self.local {
            self.provided.insert(key.into());
            return Ok(());
        }
        let of_key = self.keys.get(key);
        let known = of_key.and_then(|of_key| of_key.iter().position(|(peer, _)| *peer == record.provider));
        let is_new = known.is_none();
        if is_new {
            let of_provider = self.providers.get(&record.provider).map_or(0, |provider| provider.records);
            if of_provider >= RECORDS_OF_A_PROVIDER_MAX {
                return Err(Error::MaxProvidedKeys);
            }
            if self.records >= PROVIDER_RECORDS_MAX {
                self.make_room();
            }
            if self.keys.get(key).is_some_and(|of_key| of_key.len() >= PROVIDERS_OF_A_KEY_MAX) {
                let crowd = self.crowd(&record);
                crowd.into_iter().for_each(|provider| self.remove_provider(&record.key, &provider));
            }
            self.records += 1;
        }
        let provider = self.providers.entry(record.provider).or_default();
        provider.records += usize::from(is_new);
        provider.addresses = record.addresses;
        provider.addresses.truncate(ADDRESSES_OF_A_PROVIDER_MAX);
        let of_key = self.keys.entry(key.into()).or_default();
        match known.and_then(|at| of_key.get_mut(at)) {
            Some((_, expires)) => *expires = record.expires,
            None => {
                of_key.reserve_exact(1);
                of_key.push((record.provider, record.expires));
            }
        }
        Ok(())
    }

    fn providers(&self, key: &RecordKey) -> Vec<ProviderRecord> {
        let local = self.provided.contains(key.as_ref()).then_some((&self.local, None));
        let others =
            self.keys.get(key.as_ref()).into_iter().flatten().map(|(peer, expires)| (peer, *expires));
        let record = |(peer, expires): (&PeerId, Option<Instant>)| ProviderRecord {
            key: key.clone(),
            provider: *peer,
            expires,
            addresses: self.providers.get(peer).map_or_else(Vec::new, |provider| provider.addresses.clone()),
        };
        local.into_iter().chain(others).map(record).collect()
    }

    /// Empty: Kademlia's own republishing is off, the announcer sweeps.
    fn provided(&self) -> Self::ProvidedIter<'_> {
        Box::new(std::iter::empty())
    }

    fn remove_provider(&mut self, key: &RecordKey, peer: &PeerId) {
        if *peer == self.local {
            self.provided.remove(key.as_ref());
            return;
        }
        let Some(of_key) = self.keys.get_mut(key.as_ref()) else { return };
        if let Some(at) = of_key.iter().position(|(provider, _)| provider == peer) {
            of_key.remove(at);
            forget(&mut self.providers, &mut self.records, peer);
        }
        if of_key.is_empty() {
            self.keys.remove(key.as_ref());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use iroh::TransportAddr;

    use super::*;
    use crate::{address::record_key, identity::Identity};

    fn key(number: u32) -> RecordKey {
        RecordKey::new(&number.to_le_bytes())
    }

    fn provider(number: u32, peer: PeerId, expires: Option<Instant>) -> ProviderRecord {
        let addresses = vec!["/ip4/10.0.0.1/udp/1/quic-v1".parse().unwrap(); 100];
        ProviderRecord { key: key(number), provider: peer, expires, addresses }
    }

    #[test]
    fn providers_expire_and_leave_nothing() {
        let (now, later) = (Instant::now(), Instant::now() + Duration::from_secs(10));
        let mut records = Records::new(PeerId::random());
        let peers = [PeerId::random(), PeerId::random()];
        records.keep_provider(provider(1, peers[0], Some(later)), now).unwrap();
        records.keep_provider(provider(1, peers[1], None), now).unwrap();
        records.keep_provider(provider(2, peers[0], Some(later)), now).unwrap();
        assert_eq!((records.providers(&key(1)).len(), records.provider_records()), (2, 3));
        assert_eq!(records.providers(&key(1))[0].addresses.len(), ADDRESSES_OF_A_PROVIDER_MAX);
        records.purge(later);
        assert_eq!(
            records.providers(&key(1)).iter().map(|record| record.provider).collect::<Vec<_>>(),
            [peers[1]]
        );
        assert_eq!((records.keys.len(), records.providers.len(), records.provider_records()), (1, 1, 1));
        records.remove_provider(&key(1), &peers[1]);
        assert_eq!((records.keys.len(), records.providers.len(), records.provider_records()), (0, 0, 0));
    }

    #[test]
    fn a_flood_from_one_network_pushes_out_itself_alone() {
        let now = Instant::now();
        let mut records = Records::new(PeerId::random());
        let mut keep = |peer: PeerId, address: &str, seconds: u64| {
            let addresses = vec![format!("/ip4/{address}/udp/1/quic-v1").parse().unwrap()];
            let expires = Some(now + Duration::from_secs(seconds));
            let record = ProviderRecord { key: key(1), provider: peer, expires, addresses };
            records.keep_provider(record, now).unwrap();
            let of_key = records.providers(&key(1));
            assert_eq!(of_key.len(), records.provider_records());
            of_key.into_iter().map(|record| record.provider).collect::<BTreeSet<_>>()
        };
        let honest: Vec<PeerId> = (0..8).map(|_| PeerId::random()).collect();
        for (number, peer) in honest.iter().enumerate() {
            keep(*peer, &format!("9.9.{number}.1"), 1);
        }
        let flood: Vec<PeerId> = (0..200).map(|_| PeerId::random()).collect();
        let mut kept = BTreeSet::new();
        for (number, peer) in flood.iter().enumerate() {
            kept = keep(*peer, &format!("8.8.8.{number}"), 100 + number as u64);
        }
        assert_eq!(kept.len(), PROVIDERS_OF_A_KEY_MAX);
        assert!(honest.iter().all(|peer| kept.contains(peer)));
        assert!(kept.contains(&flood[199]) && !kept.contains(&flood[0]), "those that expire first go");
        let (neighbour, newcomer) = (PeerId::random(), PeerId::random());
        keep(neighbour, "192.168.0.1", 1);
        let kept = keep(newcomer, "7.7.7.7", 1);
        assert!(honest.iter().chain([&neighbour, &newcomer]).all(|peer| kept.contains(peer)));
    }

    #[test]
    fn the_first_to_expire_makes_room_for_an_address() {
        let now = Instant::now();
        let mut records = Records::new(PeerId::random());
        for number in 0..=VALUE_RECORDS_MAX as u32 {
            let expires = Some(now + Duration::from_secs(u64::from(number) + 1));
            records.put(Record { expires, ..Record::new(key(number), vec![7]) }).unwrap();
        }
        assert_eq!(records.records().count(), VALUE_RECORDS_MAX);
        assert!(records.get(&key(0)).is_none() && records.get(&key(VALUE_RECORDS_MAX as u32)).is_some());
    }

    #[test]
    fn a_flood_of_address_records_from_one_network_pushes_out_itself_alone() {
        let now = Instant::now();
        let mut records = Records::new(PeerId::random());
        let mut keep = |number: u32, address: &str, seconds: u64| {
            let expires = Some(now + Duration::from_secs(seconds));
            let record = Record { expires, ..Record::new(key(number), vec![7]) };
            let at: Multiaddr = format!("/ip4/{address}/udp/1/quic-v1").parse().unwrap();
            records.put_value(record, network(&[at]), Some(now)).unwrap();
        };
        keep(0, "9.9.9.9", 1);
        for number in 1..VALUE_RECORDS_MAX as u32 + 100 {
            keep(number, &format!("8.8.8.{}", number % 256), 1000);
        }
        assert!(records.get(&key(0)).is_some());
        assert_eq!(records.records().count(), VALUE_RECORDS_MAX);
    }

    #[test]
    fn many_providers_of_one_network_do_not_push_out_one_who_has_more_than_each_of_them() {
        let now = Instant::now();
        let mut records = Records::new(PeerId::random());
        let mut keep = |number: u32, provider: PeerId, address: &str| {
            let addresses = vec![format!("/ip4/{address}/udp/1/quic-v1").parse().unwrap()];
            let record = ProviderRecord { key: key(number), provider, expires: None, addresses };
            records.keep_provider(record, now).unwrap();
        };
        let honest = PeerId::random();
        let of_honest = 10_000;
        for number in 0..of_honest {
            keep(number, honest, "9.9.9.9");
        }
        let flood: Vec<PeerId> = (0..100).map(|_| PeerId::random()).collect();
        for number in 0..PROVIDER_RECORDS_MAX as u32 {
            let liar = number as usize % flood.len();
            keep(of_honest + number, flood[liar], &format!("8.8.8.{liar}"));
        }
        assert_eq!(records.providers[&honest].records, of_honest as usize);
        let (most, least) = (PROVIDER_RECORDS_MAX, PROVIDER_RECORDS_MAX - ROOM_RECORDS);
        assert!((least..=most).contains(&records.provider_records()));
    }

    #[test]
    fn nobody_takes_all_the_room_and_own_records_need_none() {
        let now = Instant::now();
        let local = PeerId::random();
        let mut records = Records::new(local);
        let greedy = PeerId::random();
        for number in 0..RECORDS_OF_A_PROVIDER_MAX as u32 {
            records.keep_provider(provider(number, greedy, None), now).unwrap();
        }
        assert!(records.keep_provider(provider(u32::MAX, greedy, None), now).is_err());
        records.keep_provider(provider(u32::MAX, PeerId::random(), None), now).unwrap();
        records.add_provider(provider(7, local, None)).unwrap();
        assert_eq!(records.provider_records(), RECORDS_OF_A_PROVIDER_MAX + 1);
        assert_eq!(records.providers(&key(7)).len(), 2);
        records.remove_provider(&key(7), &local);
        assert_eq!(records.providers(&key(7)).len(), 1);
    }

    /// The record store of a node, and records of one other: at port n the nth that was signed.
    fn signed(count: u16) -> (Records, Identity, Vec<AddressRecord>) {
        let identity = Identity::from_seed([1; 32]);
        let at = |port| vec![TransportAddr::Ip(([10, 0, 0, 1], port).into())];
        let records = (1..=count).map(|port| AddressRecord::sign(&identity, at(port)).unwrap()).collect();
        (Records::new(PeerId::random()), identity, records)
    }

    fn record(key: &RecordKey, address: &AddressRecord) -> Record {
        Record::new(key.clone(), address.as_bytes().to_vec())
    }

    #[test]
    fn an_address_record_is_put_by_its_signer_alone() {
        let (mut records, identity, signed) = signed(2);
        let (key, now, now_us) = (record_key(identity.peer_id()), Instant::now(), signed[1].signed_at_us());
        let (signer, other) = (identity.libp2p_peer_id(), Identity::from_seed([2; 32]));
        let nowhere = vec![TransportAddr::Ip(([10, 0, 0, 1], 9).into())];
        let forged = AddressRecord::sign(&other, nowhere).unwrap();
        for (source, offered) in [
            (signer, &forged),
            (other.libp2p_peer_id(), &forged),
            (signer, &signed[1]),
            (other.libp2p_peer_id(), &signed[0]),
            (PeerId::random(), &signed[0]),
        ] {
            records.keep_value(source, &[], record(&key, offered), now + OVERTAKING_MAX, now_us).unwrap();
        }
        assert_eq!(records.get(&key).unwrap().value, signed[1].as_bytes());
        let anything = Record::new(RecordKey::new(b"anything"), vec![1, 2, 3]);
        records.keep_value(signer, &[], anything, now, now_us).unwrap();
        assert_eq!(records.records().count(), 1);
    }

    #[test]
    fn what_a_node_says_last_of_its_address_holds_whatever_its_clock_said_before() {
        let now = Instant::now();
        // Which two come, how long after each other, and what this node's clock says: which of them stands then.
        let second = Duration::from_secs(1);
        for (order, between, clock, stands, why) in [
            ([0, 1], second, 1, 1, "a later one"),
            ([1, 0], second, 1, 1, "an earlier one that was overtaken"),
            ([1, 0], second, 0, 0, "the other one is of the future"),
            ([1, 0], OVERTAKING_MAX, 1, 0, "the clock was set back long after"),
            ([1, 1], OVERTAKING_MAX, 1, 1, "the same again"),
        ] {
            let (mut records, identity, signed) = signed(2);
            let (key, now_us) = (record_key(identity.peer_id()), signed[clock].signed_at_us());
            for (at, which) in [(now, order[0]), (now + between, order[1])] {
                let offered = record(&key, &signed[which]);
                records.keep_value(identity.libp2p_peer_id(), &[], offered, at, now_us).unwrap();
            }
            assert_eq!(records.get(&key).unwrap().value, signed[stands].as_bytes(), "{why}");
        }
    }
}
