//! libp2p's transport, which dials nothing that the dial rules or the user don't allow.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, Transport,
    core::transport::{DialOpts, ListenerId, TransportError, TransportEvent},
};

use crate::dial::{DialRules, quic_address};

/// Every dial of libp2p passes here, whoever asked for it: Kademlia, identify, mDNS or the user.
pub(crate) struct RuledTransport<T> {
    pub(crate) inner: T,
    pub(crate) rules: DialRules,
    /// What the user named: dialled whatever the rules say.
    pub(crate) named: BTreeSet<SocketAddr>,
}

impl<T> RuledTransport<T> {
    fn allows(&self, address: &Multiaddr) -> bool {
        quic_address(address)
            .is_some_and(|address| self.named.contains(&address) || self.rules.allows(address))
    }
}

impl<T: Transport + Unpin> Transport for RuledTransport<T> {
    type Output = T::Output;
    type Error = T::Error;
    type ListenerUpgrade = T::ListenerUpgrade;
    type Dial = T::Dial;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<Self::Error>> {
        self.inner.listen_on(id, address)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(
        &mut self,
        address: Multiaddr,
        options: DialOpts,
    ) -> Result<Self::Dial, TransportError<Self::Error>> {
        if !self.allows(&address) {
            tracing::debug!(%address, "not dialled: outside of the networks that may be dialled");
            return Err(TransportError::MultiaddrNotSupported(address));
        }
        self.inner.dial(address, options)
    }

    fn poll(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
        Pin::new(&mut self.inner).poll(context)
    }
}

#[cfg(test)]
mod tests {
    use libp2p::core::{Endpoint, transport::PortUse, transport::dummy::DummyTransport};

    use super::*;

    #[test]
    fn a_dial_needs_the_rules_or_the_user() {
        let mut transport = RuledTransport {
            inner: DummyTransport::<()>::new(),
            rules: DialRules::near(),
            named: BTreeSet::from(["8.8.8.8:5".parse().unwrap()]),
        };
        let mut refused_here = |address: &str| {
            let options = DialOpts { role: Endpoint::Dialer, port_use: PortUse::Reuse };
            let address: Multiaddr = address.parse().unwrap();
            // The dummy refuses everything too, so what counts is whether it was asked.
            let allowed = transport.allows(&address);
            assert!(transport.dial(address, options).is_err());
            !allowed
        };
        assert!(!refused_here("/ip4/10.0.0.1/udp/5/quic-v1"));
        assert!(!refused_here("/ip4/8.8.8.8/udp/5/quic-v1"));
        assert!(refused_here("/ip4/8.8.8.8/udp/6/quic-v1"));
        assert!(refused_here("/ip4/127.0.0.1/udp/5/quic-v1"));
        assert!(refused_here("/ip4/10.0.0.1/tcp/5"));
    }
}
