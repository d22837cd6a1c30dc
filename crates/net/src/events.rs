//! What the swarm tells, and what follows from it.

use std::{collections::HashSet, io, net::SocketAddr, time::Instant};

use libp2p::{
    Multiaddr, TransportError, identify,
    kad::{
        self, GetProvidersOk, GetRecordOk, InboundRequest, ProviderRecord, QueryId, QueryResult, Record,
        RoutingUpdate,
    },
    swarm::{ConnectionId, DialError, ListenError, SwarmEvent},
};

use crate::{
    address::{AddressRecord, now_us, peer_of_record_key},
    dial::quic_address,
    driver::Driver,
    duplicates::{self, End},
    identity::peer_of_libp2p,
    mdns::Sighting,
    swarm::BehaviourEvent,
};

impl Driver {
    pub(crate) fn heard(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Kad(event)) => self.heard_kad(event),
            SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received {
                connection_id,
                peer_id,
                info,
            })) => self.identified(peer_id, connection_id, &info),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.peers.connected(
                    peer_id,
                    connection_id,
                    endpoint.get_remote_address(),
                    endpoint.is_dialer(),
                );
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, .. } => {
                self.peers.disconnected(&peer_id, connection_id);
            }
            SwarmEvent::OutgoingConnectionError { peer_id, error: DialError::Transport(failed), .. } => {
                self.dial_failed(peer_id, &failed);
            }
            SwarmEvent::OutgoingConnectionError { error: DialError::LocalPeerId { address }, .. } => {
                self.met_own_key(End::Dialled, &address);
            }
            SwarmEvent::IncomingConnectionError { error: ListenError::LocalPeerId { address }, .. } => {
                self.met_own_key(End::Accepted, &address);
            }
            SwarmEvent::NewListenAddr { address, .. } => self.listens(address),
            SwarmEvent::ExpiredListenAddr { address, .. } => self.swarm.remove_external_address(&address),
            SwarmEvent::ListenerClosed { addresses, reason, .. } => {
                let error = reason.err().map(tracing::field::display);
                tracing::error!(?addresses, error, "libp2p no longer listens");
                self.is_broken = true;
            }
            _ => {}
        }
    }

    /// Others are told of the addresses that somebody may dial, so that what this node announces can be found where no
    /// one else confirms them, as on a LAN.
    fn listens(&mut self, address: Multiaddr) {
        tracing::info!(%address, "libp2p listens");
        let Some(at) = quic_address(&address) else { return };
        self.duplicates.listens(at);
        if self.is_server() && self.peers.may_be_dialled(at) {
            self.swarm.add_external_address(address);
        }
    }

    fn met_own_key(&mut self, end: End, address: &Multiaddr) {
        if let Some(address) = quic_address(address) {
            self.duplicates.handshake(end, address, Instant::now());
        }
    }

    /// mDNS saw somebody near.
    pub(crate) fn saw(&mut self, seen: Sighting) {
        let peer = seen.peer;
        if peer == *self.swarm.local_peer_id() {
            if let Some(address) = quic_address(&seen.address) {
                self.seen_elsewhere(address);
            }
        } else if let Some(addresses) = self.peers.nearby(seen) {
            self.dial_neighbour(peer, addresses);
        }
    }

    /// A node of this identity is at this address.
    pub(crate) fn seen_elsewhere(&mut self, address: SocketAddr) {
        if self.duplicates.seen_at(address, Instant::now()) {
            duplicates::tell(address);
        }
    }

    fn dial_failed(
        &mut self,
        peer: Option<libp2p::PeerId>,
        failed: &[(Multiaddr, TransportError<io::Error>)],
    ) {
        let tried = failed.iter().filter(|(_, error)| matches!(error, TransportError::Other(_)));
        for address in tried.filter_map(|(address, _)| quic_address(address)) {
            self.silent.add(address, Instant::now());
        }
        if let Some(peer) = peer {
            self.gone(&peer);
        }
    }

    fn identified(&mut self, peer: libp2p::PeerId, connection: ConnectionId, info: &identify::Info) {
        let (spoke_with_none, spoke_with_it) = (self.peers.speaks_with_none(), self.peers.speaks_with(&peer));
        let addresses = self.peers.identified(peer, connection, &info.protocols, &info.listen_addrs);
        let kad = &mut self.swarm.behaviour_mut().kad;
        let updates: Vec<RoutingUpdate> =
            addresses.into_iter().map(|address| kad.add_address(&peer, address)).collect();
        if updates.iter().all(|update| *update == RoutingUpdate::Failed) {
            self.peers.not_in_table(&peer);
        }
        self.count_table();
        let is_new = !spoke_with_it && self.peers.speaks_with(&peer);
        if is_new && (spoke_with_none || self.is_bootstrap(&peer)) {
            self.joined();
        }
    }

    fn heard_kad(&mut self, event: kad::Event) {
        match event {
            kad::Event::OutboundQueryProgressed { id, result, step, .. } => {
                self.progressed(id, result, step.last)
            }
            kad::Event::InboundRequest { request: InboundRequest::AddProvider { record: Some(record) } } => {
                self.keep_provider(record);
            }
            kad::Event::InboundRequest {
                request: InboundRequest::PutRecord { source, record: Some(record), .. },
            } => {
                self.keep_value(source, record);
            }
            kad::Event::RoutingUpdated { old_peer, .. } => {
                if let Some(old) = old_peer {
                    self.peers.not_in_table(&old);
                }
                self.count_table();
            }
            _ => {}
        }
    }

    fn progressed(&mut self, query: QueryId, result: QueryResult, is_last: bool) {
        match result {
            QueryResult::GetProviders(result) => {
                if let Ok(GetProvidersOk::FoundProviders { providers, .. }) = result {
                    self.found_providers(query, &providers);
                }
                if is_last {
                    self.searches.end(query);
                }
            }
            QueryResult::GetRecord(result) => {
                if let Ok(GetRecordOk::FoundRecord(found)) = result {
                    self.found_record(query, &found.record);
                }
                if is_last {
                    self.resolves.end(query);
                }
            }
            QueryResult::StartProviding(result) => self.announced(query, result.is_ok()),
            QueryResult::PutRecord(Err(error)) => self.address_not_put(&error),
            _ => {}
        }
    }

    /// Their addresses are looked for at once: whoever searches will want to ask them.
    fn found_providers(&mut self, query: QueryId, providers: &HashSet<libp2p::PeerId>) {
        let local = self.local;
        let peers =
            providers.iter().filter_map(|peer| peer_of_libp2p(peer).ok()).filter(|peer| *peer != local);
        let (new, is_over) = self.searches.found(query, peers);
        for peer in new {
            if self.book.signed_at_us(peer).is_none() {
                self.resolve(peer);
            }
        }
        if is_over {
            self.searches.end(query);
            self.finish(query);
        }
    }

    fn found_record(&mut self, query: QueryId, record: &Record) {
        let Some(peer) = self.resolves.peer(query) else { return };
        if peer_of_record_key(&record.key) != Some(peer) {
            return;
        }
        match AddressRecord::verify(peer, &record.value) {
            Ok(record) if peer == self.local => self.found_own_record(&record),
            Ok(record) => {
                let is_new = self.book.keep(record.clone(), now_us());
                self.resolves.found(&record, is_new);
            }
            Err(error) => tracing::debug!(%peer, %error, "a forged address record was found"),
        }
    }

    fn found_own_record(&mut self, record: &AddressRecord) {
        if self.duplicates.is_anothers(record.signed_at_us(), now_us())
            && let Some(address) = record.direct().next()
        {
            self.seen_elsewhere(address);
        }
    }

    fn keep_provider(&mut self, mut record: ProviderRecord) {
        if peer_of_libp2p(&record.provider).is_err() {
            return;
        }
        record.addresses = self.peers.provider_addresses(&record.provider, &record.addresses);
        if let Err(error) = self.swarm.behaviour_mut().kad.store_mut().keep_provider(record, Instant::now()) {
            tracing::debug!(%error, "a provider record was not kept");
        }
    }

    fn keep_value(&mut self, source: libp2p::PeerId, record: Record) {
        let addresses = self.peers.provider_addresses(&source, &[]);
        let (records, now) = (self.swarm.behaviour_mut().kad.store_mut(), Instant::now());
        if let Err(error) = records.keep_value(source, &addresses, record, now, now_us()) {
            tracing::debug!(%error, "an address record was not kept");
        }
    }
}
