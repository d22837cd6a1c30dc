//! libp2p's transport, which dials nothing that the dial rules or the user don't allow.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use libp2p::{
    Multiaddr, Transport,
    core::transport::{DialOpts, ListenerId, TransportError, TransportEvent},
};

use crate::dial::{DialRules, quic_address};

/// An address that didn't answer is not dialled again for so long, unless the user named it: nodes that are gone stand
/// in others' routing tables for a while, and each look-up would wait for them.
const SILENCE: Duration = Duration::from_secs(20);
/// Silent addresses that are remembered.
const SILENT_MAX: usize = 4096;

/// Addresses that didn't answer of late.
#[derive(Clone, Default)]
pub(crate) struct Silent(Arc<Mutex<BTreeMap<SocketAddr, Instant>>>);

impl Silent {
    /// This one didn't answer.
    pub(crate) fn add(&self, address: SocketAddr, now: Instant) {
        let mut silent = self.lock();
        if silent.len() >= SILENT_MAX {
            silent.retain(|_, since| now < *since + SILENCE);
        }
        if silent.len() < SILENT_MAX {
            silent.insert(address, now);
        }
    }

    fn contains(&self, address: SocketAddr, now: Instant) -> bool {
        self.lock().get(&address).is_some_and(|since| now < *since + SILENCE)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SocketAddr, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Every dial of libp2p passes here, whoever asked for it: Kademlia, identify, mDNS or the user.
pub(crate) struct RuledTransport<T> {
    pub(crate) inner: T,
    pub(crate) rules: DialRules,
    /// What the user named: dialled whatever the rules say.
    pub(crate) named: BTreeSet<SocketAddr>,
    pub(crate) silent: Silent,
}

impl<T> RuledTransport<T> {
    fn allows(&self, address: &Multiaddr) -> bool {
        quic_address(address).is_some_and(|address| {
            let is_silent = || self.silent.contains(address, Instant::now());
            self.named.contains(&address) || (self.rules.allows(address) && !is_silent())
        })
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
            tracing::debug!(%address, "not dialled: silent, or outside of the networks that may be dialled");
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
    fn silence_is_forgotten() {
        let (silent, now) = (Silent::default(), Instant::now());
        let address = "10.0.0.1:1".parse().unwrap();
        silent.add(address, now);
        assert!(silent.contains(address, now) && !silent.contains(address, now + SILENCE));
        for host in 0..2 * SILENT_MAX as u32 {
            silent.add(SocketAddr::from((host.to_be_bytes(), 1)), now);
        }
        assert_eq!(silent.lock().len(), SILENT_MAX);
        silent.add(address, now + SILENCE);
        assert_eq!(silent.lock().len(), 1);
    }

    #[test]
    fn a_dial_needs_the_rules_or_the_user() {
        let mut transport = RuledTransport {
            inner: DummyTransport::<()>::new(),
            rules: DialRules::near(),
            named: BTreeSet::from(["8.8.8.8:5".parse().unwrap()]),
            silent: Silent::default(),
        };
        for silent in ["10.0.0.9:5", "8.8.8.8:5"] {
            transport.silent.add(silent.parse().unwrap(), Instant::now());
        }
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
        assert!(refused_here("/ip4/10.0.0.9/udp/5/quic-v1"), "silent");
        assert!(refused_here("/ip4/8.8.8.8/udp/6/quic-v1"));
        assert!(refused_here("/ip4/127.0.0.1/udp/5/quic-v1"));
        assert!(refused_here("/ip4/10.0.0.1/tcp/5"));
    }
}
