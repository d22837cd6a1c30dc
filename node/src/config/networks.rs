//! Where addresses that peers claim may lie.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use firn_net::DialRules;
use ipnet::{IpNet, Ipv4Subnets, Ipv6Net};

/// Text that names no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a network is public, private, loopback, or an address with a prefix length such as 10.1.0.0/16")]
pub struct NetworkError;

/// What lies between the special ranges of the IANA registry (RFC 6890), first and last address.
const PUBLIC_V4: [([u8; 4], [u8; 4]); 12] = [
    ([1, 0, 0, 0], [9, 255, 255, 255]),
    ([11, 0, 0, 0], [100, 63, 255, 255]),
    ([100, 128, 0, 0], [126, 255, 255, 255]),
    ([128, 0, 0, 0], [169, 253, 255, 255]),
    ([169, 255, 0, 0], [172, 15, 255, 255]),
    ([172, 32, 0, 0], [191, 255, 255, 255]),
    ([192, 0, 1, 0], [192, 0, 1, 255]),
    ([192, 0, 3, 0], [192, 167, 255, 255]),
    ([192, 169, 0, 0], [198, 17, 255, 255]),
    ([198, 20, 0, 0], [198, 51, 99, 255]),
    ([198, 51, 101, 0], [203, 0, 112, 255]),
    ([203, 0, 114, 0], [223, 255, 255, 255]),
];

const PUBLIC_V6: IpNet = IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3));

/// Neighbours' addresses.
pub fn private() -> Vec<IpNet> {
    DialRules::near().networks().to_vec()
}

/// This machine's own addresses.
pub fn loopback() -> Vec<IpNet> {
    DialRules::loopback().networks().to_vec()
}

/// The internet's addresses.
pub fn public() -> Vec<IpNet> {
    let v4 = PUBLIC_V4.iter().flat_map(|(first, last)| {
        Ipv4Subnets::new(Ipv4Addr::from(*first), Ipv4Addr::from(*last), 0).map(IpNet::from)
    });
    v4.chain([PUBLIC_V6]).collect()
}

/// The networks that one word of `--dial` names.
pub(super) fn parse(text: &str) -> Result<Vec<IpNet>, NetworkError> {
    match text {
        "public" => Ok(public()),
        "private" => Ok(private()),
        "loopback" => Ok(loopback()),
        _ => text.parse().map(|network| vec![network]).map_err(|_| NetworkError),
    }
}

/// Those of the private and loopback networks in which one of these addresses lies.
///
/// Who names a bootstrap node in a private network has a private network, and its peers are there.
pub(super) fn around(addresses: &[IpAddr]) -> Vec<IpNet> {
    let lies_in = |networks: &[IpNet]| addresses.iter().any(|ip| networks.iter().any(|net| net.contains(ip)));
    [private(), loopback()].into_iter().filter(|networks| lies_in(networks)).flatten().collect()
}

/// The IPv4 addresses of this machine's interfaces; none where the system does not tell.
pub(super) fn own_addresses() -> Vec<Ipv4Addr> {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    interfaces.iter().filter_map(|interface| as_v4(interface.ip())).collect()
}

/// Whether this machine knows IPv6 at all.
pub(super) fn has_ipv6() -> bool {
    UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok()
}

fn as_v4(ip: IpAddr) -> Option<Ipv4Addr> {
    match ip {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    }
}

/// The networks in which a machine with these addresses is at home. One that is on the internet is at home there: a
/// private network besides, such as that of its containers, is nobody else's.
pub(super) fn home(own: &[Ipv4Addr]) -> Vec<IpNet> {
    let means_something = |ip: &&Ipv4Addr| !ip.is_loopback() && !ip.is_link_local();
    let own: Vec<IpAddr> = own.iter().filter(means_something).map(|ip| IpAddr::V4(*ip)).collect();
    let public = public();
    match own.iter().any(|ip| public.iter().any(|network| network.contains(ip))) {
        true => Vec::new(),
        false => around(&own),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(networks: &[IpNet], ip: &str) -> bool {
        networks.iter().any(|network| network.contains(&ip.parse::<IpAddr>().unwrap()))
    }

    #[test]
    fn public_private_and_loopback_do_not_overlap() {
        for ip in ["1.1.1.1", "9.9.9.9", "100.128.0.1", "172.32.0.1", "192.0.1.9", "223.1.1.1", "2a00::1"] {
            assert!(names(&public(), ip), "{ip}");
            assert!(!names(&private(), ip) && !names(&loopback(), ip), "{ip}");
        }
        for ip in ["10.2.3.4", "172.16.0.1", "172.31.9.9", "192.168.1.1", "169.254.7.7", "fd00::1", "fe80::1"]
        {
            assert!(names(&private(), ip), "{ip}");
            assert!(!names(&public(), ip) && !names(&loopback(), ip), "{ip}");
        }
        for ip in ["127.0.0.1", "127.9.9.9", "::1"] {
            assert!(names(&loopback(), ip), "{ip}");
            assert!(!names(&public(), ip) && !names(&private(), ip), "{ip}");
        }
        for ip in ["0.0.0.0", "100.64.0.1", "192.0.0.1", "192.0.2.1", "198.18.0.1", "198.51.100.1"] {
            assert!(!names(&public(), ip) && !names(&private(), ip), "{ip}");
        }
        for ip in ["203.0.113.9", "224.0.0.1", "255.255.255.255", "ff02::1", "::"] {
            assert!(!names(&public(), ip) && !names(&private(), ip), "{ip}");
        }
    }

    #[test]
    fn a_word_or_a_network_names_a_network() {
        assert_eq!(parse("private").unwrap(), private());
        assert_eq!(parse("10.1.0.0/16").unwrap(), ["10.1.0.0/16".parse().unwrap()]);
        assert_eq!(parse("everywhere"), Err(NetworkError));
        assert_eq!(parse("10.0.0.1/33"), Err(NetworkError));
    }
}
