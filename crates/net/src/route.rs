//! By which route a peer is reached.

use std::{fmt, net::IpAddr};

use crate::dial::is_private;

/// By which route a peer is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Route {
    /// At an address of a private or link-local network, or of this machine.
    Lan,
    /// At any other address.
    Direct,
    /// Through a relay.
    Relayed,
}

impl Route {
    /// That of a path to this address; a path without one leads through a relay.
    pub(crate) fn to(address: Option<IpAddr>) -> Self {
        match address {
            Some(address) if is_private(address) => Route::Lan,
            Some(_) => Route::Direct,
            None => Route::Relayed,
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Route::Lan => "LAN",
            Route::Direct => "direct",
            Route::Relayed => "relayed",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_told_by_the_address() {
        let route = |address: &str| Route::to(Some(address.parse().unwrap())).to_string();
        for lan in ["192.168.1.7", "169.254.1.1", "127.0.0.1", "fe80::1", "fd00::1", "::ffff:10.0.0.1"] {
            assert_eq!(route(lan), "LAN", "{lan}");
        }
        for far in ["8.8.8.8", "100.64.0.1", "2001:db8::1"] {
            assert_eq!(route(far), "direct", "{far}");
        }
        assert_eq!(Route::to(None).to_string(), "relayed");
    }
}
