//! Which addresses may be dialled because a peer claims them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use libp2p::{Multiaddr, multiaddr::Protocol};

/// The networks that may be dialled because a peer said so. What the user names himself needs no leave.
///
/// Loopback is dialled only where a network that lies within loopback is listed: `0.0.0.0/0` doesn't cover it, so a
/// stranger can't make a node on the internet talk to its own machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DialRules {
    networks: Vec<IpNet>,
}

impl DialRules {
    /// Exactly these networks.
    pub fn new(networks: Vec<IpNet>) -> Self {
        Self { networks }
    }

    /// Private and link-local networks: what a LAN is made of.
    pub fn near() -> Self {
        let v4 = [([10, 0, 0, 0], 8), ([172, 16, 0, 0], 12), ([192, 168, 0, 0], 16), ([169, 254, 0, 0], 16)];
        let v6 = [(0xfc00, 7), (0xfe80, 10)];
        let v4 = v4.map(|(ip, bits)| IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::from(ip), bits)));
        let v6 = v6
            .map(|(top, bits)| IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(top, 0, 0, 0, 0, 0, 0, 0), bits)));
        Self::new(v4.into_iter().chain(v6).collect())
    }

    /// This machine's own addresses.
    pub fn loopback() -> Self {
        Self::new(Vec::new()).with_loopback()
    }

    /// Everything except loopback: what a node of a public DHT needs.
    pub fn anywhere() -> Self {
        Self::new(vec![IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())])
    }

    /// These, and loopback: for a node that was itself told to be on loopback.
    pub fn with_loopback(mut self) -> Self {
        self.networks.push(IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)));
        self.networks.push(IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128)));
        self
    }

    /// The networks.
    pub fn networks(&self) -> &[IpNet] {
        &self.networks
    }

    /// May this address, that some peer claims, be dialled?
    pub fn allows(&self, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        if address.port() == 0 || !is_host(ip) || lacks_interface(address) {
            return false;
        }
        self.networks
            .iter()
            .any(|network| network.contains(&ip) && (!ip.is_loopback() || network.addr().is_loopback()))
    }

    /// May this address be dialled, if the peer that claims it for itself is seen at `seen_at`?
    ///
    /// Only what agrees with what is seen counts: a peer can't send others to a victim, nor to their own loopback.
    pub fn allows_own_claim(&self, claimed: SocketAddr, seen_at: IpAddr) -> bool {
        claimed.ip().to_canonical() == seen_at.to_canonical() && self.allows(claimed)
    }
}

/// Is this an address of this machine, or of a network that is private or link-local?
pub fn is_private(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_private() || ip.is_link_local() || ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_unicast_link_local() || ip.is_loopback(),
    }
}

/// Does this address mean nothing without the interface that it was seen on?
pub(crate) fn is_v6_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

fn lacks_interface(address: SocketAddr) -> bool {
    is_v6_link_local(address.ip()) && matches!(address, SocketAddr::V6(ip) if ip.scope_id() == 0)
}

/// Why an address that the user named can never be dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Undialable {
    /// Port 0.
    #[error("nobody has port 0")]
    Port,
    /// The address of none or of many.
    #[error("{0} is not the address of one machine")]
    Host(IpAddr),
    /// IPv4 in the clothes of IPv6.
    #[error("it is an IPv4 address: write {0}")]
    Mapped(IpAddr),
    /// Link-local, without the interface.
    #[error("a link-local address needs the number of its interface, as in [fe80::1%2]:7334")]
    Interface,
    /// Nothing is bound in its family.
    #[error("it is an {to} address, and this node has {bound} sockets only: see --iroh and --libp2p")]
    Family {
        /// Of the address.
        to: &'static str,
        /// Of what is bound.
        bound: &'static str,
    },
    /// Only loopback is bound.
    #[error("it is another machine's, and this node listens on loopback only: see --iroh and --libp2p")]
    Loopback,
}

/// May this address, that the user named, be dialled from sockets that are bound to these?
pub fn check_dialable(address: SocketAddr, bound: &[SocketAddr]) -> Result<(), Undialable> {
    let ip = address.ip();
    if address.port() == 0 {
        return Err(Undialable::Port);
    }
    if ip.is_ipv6() && ip.to_canonical().is_ipv4() {
        return Err(Undialable::Mapped(ip.to_canonical()));
    }
    if !is_host(ip) {
        return Err(Undialable::Host(ip));
    }
    if lacks_interface(address) {
        return Err(Undialable::Interface);
    }
    let mut of_family = bound.iter().filter(|bound| bound.is_ipv4() == ip.is_ipv4()).peekable();
    if of_family.peek().is_none() {
        let (v4, v6) = ("IPv4", "IPv6");
        let (to, bound) = if ip.is_ipv4() { (v4, v6) } else { (v6, v4) };
        return Err(Undialable::Family { to, bound });
    }
    if !ip.is_loopback() && of_family.all(|bound| bound.ip().is_loopback()) {
        return Err(Undialable::Loopback);
    }
    Ok(())
}

/// An address that one host can have, rather than none or many.
fn is_host(ip: IpAddr) -> bool {
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast() || ip.octets()[0] == 0);
    !(ip.is_unspecified() || ip.is_multicast() || broadcast)
}

/// The UDP address of a QUIC multiaddress; nothing for any other kind.
pub(crate) fn quic_address(address: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = address.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => IpAddr::V4(ip),
        Protocol::Ip6(ip) => IpAddr::V6(ip),
        _ => return None,
    };
    match (parts.next()?, parts.next()?) {
        (Protocol::Udp(port), Protocol::QuicV1) => Some(SocketAddr::new(ip, port)),
        _ => None,
    }
}

/// Where the node is that a bootstrap address names: QUIC, and the id of whoever is there, `/p2p/<id>`.
pub fn bootstrap_address(address: &Multiaddr) -> Option<SocketAddr> {
    let names_a_node = matches!(address.iter().nth(3), Some(Protocol::P2p(_))) && address.iter().count() == 4;
    quic_address(address).filter(|_| names_a_node)
}

/// The multiaddress of QUIC at this UDP address.
pub(crate) fn quic_multiaddr(address: SocketAddr) -> Multiaddr {
    Multiaddr::empty().with(address.ip().into()).with(Protocol::Udp(address.port())).with(Protocol::QuicV1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(rules: &DialRules, addresses: &[&str]) -> Vec<bool> {
        addresses.iter().map(|address| rules.allows(address.parse().unwrap())).collect()
    }

    #[test]
    fn near_is_private_and_link_local() {
        let inside =
            ["10.1.2.3:1", "172.31.0.1:1", "192.168.7.7:1", "169.254.1.1:1", "[fd00::1]:1", "[fe80::1%2]:1"];
        assert_eq!(allowed(&DialRules::near(), &inside), [true; 6]);
        let outside =
            ["8.8.8.8:1", "172.32.0.1:1", "100.64.0.1:1", "[2001:db8::1]:1", "127.0.0.1:1", "[::1]:1"];
        assert_eq!(allowed(&DialRules::near(), &outside), [false; 6]);
    }

    #[test]
    fn anywhere_is_not_loopback_unless_told() {
        let loopback = ["127.0.0.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1"];
        assert_eq!(allowed(&DialRules::anywhere(), &loopback), [false; 3]);
        assert_eq!(allowed(&DialRules::anywhere().with_loopback(), &loopback), [true; 3]);
        assert_eq!(allowed(&DialRules::anywhere(), &["8.8.8.8:1", "[2001:db8::1]:1"]), [true; 2]);
    }

    #[test]
    fn what_is_no_host_is_never_dialled() {
        let nobody = [
            "0.0.0.0:1",
            "0.1.2.3:1",
            "224.0.0.1:1",
            "255.255.255.255:1",
            "[::]:1",
            "[ff02::1]:1",
            "8.8.8.8:0",
            "[fe80::1]:1",
        ];
        assert_eq!(allowed(&DialRules::anywhere().with_loopback(), &nobody), [false; 8]);
    }

    #[test]
    fn what_is_named_has_to_be_in_reach_of_a_socket() {
        let (v4, v6) = ("0.0.0.0:0", "[::]:0");
        let (to_v4, to_v6) = (
            Err(Undialable::Family { to: "IPv4", bound: "IPv6" }),
            Err(Undialable::Family { to: "IPv6", bound: "IPv4" }),
        );
        let host = |ip: &str| Err(Undialable::Host(ip.parse().unwrap()));
        for (address, bound, want) in [
            ("8.8.8.8:1", &[v4][..], Ok(())),
            ("8.8.8.8:1", &[v6, v4], Ok(())),
            ("127.0.0.1:1", &[v4], Ok(())),
            ("127.0.0.1:1", &["10.0.0.1:5"], Ok(())),
            ("127.0.0.1:1", &["127.0.0.1:5"], Ok(())),
            ("[2001:db8::1]:1", &[v6], Ok(())),
            ("[::1]:1", &["[::1]:0"], Ok(())),
            ("[fe80::1%3]:1", &[v6], Ok(())),
            ("8.8.8.8:1", &[v6], to_v4),
            ("[2001:db8::1]:1", &[v4], to_v6),
            ("[::1]:1", &[v4, "127.0.0.1:9"], to_v6),
            ("8.8.8.8:1", &["127.0.0.1:5", v6], Err(Undialable::Loopback)),
            ("[fd00::1]:1", &[v4, "[::1]:5"], Err(Undialable::Loopback)),
            ("8.8.8.8:0", &[v4], Err(Undialable::Port)),
            ("0.0.0.0:1", &[v4], host("0.0.0.0")),
            ("255.255.255.255:1", &[v4], host("255.255.255.255")),
            ("224.0.0.251:1", &[v4], host("224.0.0.251")),
            ("[::]:1", &[v6], host("::")),
            ("[ff02::1]:1", &[v6], host("ff02::1")),
            ("[fe80::1]:1", &[v6], Err(Undialable::Interface)),
            ("[::ffff:1.2.3.4]:1", &[v4, v6], Err(Undialable::Mapped([1, 2, 3, 4].into()))),
        ] {
            let bound: Vec<SocketAddr> = bound.iter().map(|address| address.parse().unwrap()).collect();
            assert_eq!(check_dialable(address.parse().unwrap(), &bound), want, "{address} from {bound:?}");
        }
    }

    #[test]
    fn only_the_configured_networks_are_dialled() {
        let rules = DialRules::new(vec!["10.9.0.0/16".parse().unwrap()]);
        assert_eq!(
            allowed(&rules, &["10.9.1.1:1", "10.8.1.1:1", "[::ffff:10.9.1.1]:1"]),
            [true, false, true]
        );
    }

    #[test]
    fn a_claim_has_to_agree_with_where_the_peer_is_seen() {
        let rules = DialRules::anywhere().with_loopback();
        let claim = |claimed: &str, seen: &str| {
            rules.allows_own_claim(claimed.parse().unwrap(), seen.parse().unwrap())
        };
        assert!(claim("1.2.3.4:7", "1.2.3.4"));
        assert!(!claim("127.0.0.1:7", "1.2.3.4"));
        assert!(!claim("5.6.7.8:7", "1.2.3.4"));
        assert!(claim("127.0.0.1:7", "127.0.0.1"));
    }

    #[test]
    fn private_addresses_are_told_from_public_ones() {
        let private = |ip: &str| is_private(ip.parse().unwrap());
        assert!(
            private("192.168.1.1")
                && private("fe80::1")
                && private("::ffff:10.0.0.1")
                && private("127.0.0.1")
        );
        assert!(!private("8.8.8.8") && !private("2001:db8::1") && !private("100.64.0.1"));
    }

    #[test]
    fn multiaddresses_of_quic_alone_are_understood() {
        let address: SocketAddr = "127.0.0.1:7335".parse().unwrap();
        assert_eq!(quic_multiaddr(address).to_string(), "/ip4/127.0.0.1/udp/7335/quic-v1");
        assert_eq!(quic_address(&quic_multiaddr(address)), Some(address));
        for other in ["/ip4/1.2.3.4/tcp/1", "/dns4/example.org/udp/1/quic-v1", "/ip4/1.2.3.4"] {
            assert_eq!(quic_address(&other.parse().unwrap()), None, "{other}");
        }
    }

    #[test]
    fn a_bootstrap_address_names_a_node_and_nothing_beyond_it() {
        const ID: &str = "/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
        let address = |text: String| bootstrap_address(&text.parse().unwrap());
        let quic = "/ip4/127.0.0.1/udp/7335/quic-v1";
        assert_eq!(address(format!("{quic}{ID}")), Some("127.0.0.1:7335".parse().unwrap()));
        for other in
            [quic.to_owned(), format!("/ip4/1.2.3.4/tcp/1{ID}"), format!("{quic}{ID}/p2p-circuit{ID}")]
        {
            assert_eq!(address(other.clone()), None, "{other}");
        }
    }
}
