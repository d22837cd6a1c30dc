//! Asking and answering at one place.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    time::Duration,
};

use libp2p::{Multiaddr, PeerId};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};
use tokio::{
    net::UdpSocket,
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use super::{
    Mdns, Sighting,
    message::{self, PACKET_BYTES_MAX, Said},
    place::{Addresses, Place},
};
use crate::{dial::quic_address, discovery::View};

const PORT: u16 = 5353;
const V4_GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const V6_GROUP: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);
/// What is sent has this many hops to live, so that a receiver knows that it is from its own link.
const HOPS: u32 = 255;
/// Between two questions: at first, and at most, which is well within the time that an answer holds.
const ASK_INTERVAL_FIRST: Duration = Duration::from_millis(500);
const ASK_INTERVAL_MAX: Duration = Duration::from_secs(120);
/// Between two answers, however many ask.
const ANSWER_INTERVAL: Duration = Duration::from_secs(1);

/// One place's sockets.
pub(super) struct Station {
    local: PeerId,
    place: Place,
    view: watch::Receiver<View>,
    sightings: mpsc::Sender<Sighting>,
    /// Hears the group, of this interface alone.
    hears: UdpSocket,
    speaks: UdpSocket,
    group: SocketAddr,
    /// What was told last.
    told: Vec<Multiaddr>,
    ask_at: Instant,
    ask_interval: Duration,
    answer_at: Option<Instant>,
    answered: Option<Instant>,
}

impl Station {
    pub(super) fn open(mdns: &Mdns, place: &Place) -> io::Result<Self> {
        let (hears, speaks, group) = sockets(place)?;
        Ok(Self {
            local: mdns.local,
            place: place.clone(),
            view: mdns.view.clone(),
            sightings: mdns.sightings.clone(),
            hears: asynchronous(hears)?,
            speaks: asynchronous(speaks)?,
            group,
            told: Vec::new(),
            ask_at: Instant::now(),
            ask_interval: ASK_INTERVAL_FIRST,
            answer_at: None,
            answered: None,
        })
    }

    /// Runs until it is aborted, or a socket fails.
    pub(super) async fn run(mut self) {
        let mut packet = vec![0; PACKET_BYTES_MAX];
        self.look_at_listeners();
        loop {
            let answer_at = self.answer_at;
            tokio::select! {
                () = sleep_until(self.ask_at) => self.ask().await,
                () = sleep_until(answer_at.unwrap_or(self.ask_at)), if answer_at.is_some() => self.answer().await,
                Ok(()) = self.view.changed() => self.look_at_listeners(),
                heard = self.hears.recv_from(&mut packet) => match heard {
                    Ok((bytes, from)) => self.heard(&packet[..bytes], from.ip()),
                    Err(error) => {
                        tracing::debug!(place = ?self.place, %error, "neighbours are no longer heard");
                        return;
                    }
                },
            }
        }
    }

    async fn ask(&mut self) {
        self.ask_at = Instant::now() + self.ask_interval;
        self.ask_interval = (self.ask_interval * 2).min(ASK_INTERVAL_MAX);
        self.say(&message::question()).await;
    }

    async fn answer(&mut self) {
        (self.answer_at, self.answered) = (None, Some(Instant::now()));
        if let Some(answer) = message::answer(self.local, &self.told) {
            self.say(&answer).await;
        }
    }

    async fn say(&self, packet: &[u8]) {
        if let Err(error) = self.speaks.send_to(packet, self.group).await {
            tracing::debug!(place = ?self.place, %error, "neighbours are not told");
        }
    }

    /// What is new is told without being asked.
    fn look_at_listeners(&mut self) {
        let told = self.place.told(&self.view.borrow_and_update().listeners);
        if told != self.told {
            self.told = told;
            self.answer_soon();
        }
    }

    fn answer_soon(&mut self) {
        let now = Instant::now();
        let at = self.answered.map_or(now, |answered| now.max(answered + ANSWER_INTERVAL));
        self.answer_at.get_or_insert(at);
    }

    fn heard(&mut self, packet: &[u8], from: IpAddr) {
        match message::read(packet) {
            Some(Said::Question) => self.answer_soon(),
            Some(Said::Answer(seen)) => {
                let now = std::time::Instant::now();
                for (peer, address, ttl) in seen.into_iter().filter(|(_, address, _)| agrees(address, from)) {
                    // One that is lost comes again.
                    _ = self.sightings.try_send(Sighting { peer, address, until: now + ttl });
                }
            }
            None => {}
        }
    }
}

/// An IPv4 address is told by whoever has it. One of IPv6 cannot be compared: it is told from a link-local one.
fn agrees(address: &Multiaddr, from: IpAddr) -> bool {
    match (quic_address(address).map(|address| address.ip()), from) {
        (Some(IpAddr::V4(told)), IpAddr::V4(from)) => told == from,
        (Some(IpAddr::V6(_)), IpAddr::V6(_)) => true,
        _ => false,
    }
}

fn asynchronous(socket: Socket) -> io::Result<UdpSocket> {
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket.into())
}

/// The socket that hears, the one that speaks, and where it speaks to. What is said is heard by other nodes of this
/// machine, too.
fn sockets(place: &Place) -> io::Result<(Socket, Socket, SocketAddr)> {
    let index = place.index;
    let domain = match place.addresses {
        Addresses::V4(_) => Domain::IPV4,
        Addresses::V6(_) => Domain::IPV6,
    };
    let hears = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    let speaks = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    hears.set_reuse_address(true)?;
    hears.set_reuse_port(true)?;
    // Bound to the group, it hears nothing that is sent to this machine alone.
    let group = match &place.addresses {
        Addresses::V4(own) => {
            let own = own.first().ok_or(io::ErrorKind::AddrNotAvailable)?;
            let group = SocketAddr::from((V4_GROUP, PORT));
            hears.set_multicast_all_v4(false)?;
            hears.join_multicast_v4_n(&V4_GROUP, &InterfaceIndexOrAddress::Index(index))?;
            hears.bind(&group.into())?;
            speaks.set_multicast_if_v4(own)?;
            speaks.set_multicast_ttl_v4(HOPS)?;
            speaks.set_multicast_loop_v4(true)?;
            speaks.bind(&SocketAddr::from((*own, 0)).into())?;
            group
        }
        Addresses::V6(_) => {
            let group = SocketAddr::from(SocketAddrV6::new(V6_GROUP, PORT, 0, index));
            hears.set_only_v6(true)?;
            hears.set_multicast_all_v6(false)?;
            hears.join_multicast_v6(&V6_GROUP, index)?;
            hears.bind(&group.into())?;
            speaks.set_only_v6(true)?;
            speaks.set_multicast_if_v6(index)?;
            speaks.set_multicast_hops_v6(HOPS)?;
            speaks.set_multicast_loop_v6(true)?;
            speaks.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)).into())?;
            group
        }
    };
    Ok((hears, speaks, group))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_told_by_whoever_has_it() {
        let agrees = |address: &str, from: &str| agrees(&address.parse().unwrap(), from.parse().unwrap());
        assert!(agrees("/ip4/10.0.0.1/udp/1/quic-v1", "10.0.0.1"));
        assert!(!agrees("/ip4/10.0.0.2/udp/1/quic-v1", "10.0.0.1"));
        assert!(!agrees("/ip4/10.0.0.1/udp/1/quic-v1", "fe80::1"));
        assert!(agrees("/ip6/fd00::1/udp/1/quic-v1", "fe80::1"));
        assert!(!agrees("/ip4/10.0.0.1/tcp/1", "10.0.0.1"));
    }
}
