//! What is said: DNS packets, as libp2p's mDNS defines them.
//!
//! A question asks for the PTR records of `_p2p._udp.local`. An answer has one PTR record, from that name to a name of
//! the node's own, and for each address one TXT record of that name: `dnsaddr=<multiaddr>/p2p/<id>`.

use std::time::Duration;

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{PTR, TXT},
    },
};
use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};

const SERVICE: &str = "_p2p._udp.local.";
const TEXT_PREFIX: &[u8] = b"dnsaddr=";
/// The longest packet that is read.
pub(super) const PACKET_BYTES_MAX: usize = 4096;
/// Addresses told in one answer: they fit into one frame.
const ADDRESSES_TOLD_MAX: usize = 6;
/// Addresses read from one answer.
const ADDRESSES_READ_MAX: usize = 32;
/// How long an answer holds, and the longest time that is believed of another's.
pub(super) const TTL: Duration = Duration::from_secs(360);

/// A packet, read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// Who is there?
    Question,
    /// These are, for so long.
    Answer(Vec<(PeerId, Multiaddr, Duration)>),
}

fn service() -> Name {
    Name::from_ascii(SERVICE).expect("it is a name")
}

/// The question.
pub(super) fn question() -> Vec<u8> {
    let mut message = Message::new(0, MessageType::Query, OpCode::Query);
    let mut query = Query::new();
    query.set_name(service()).set_query_type(RecordType::PTR);
    message.add_query(query);
    message.to_vec().expect("a short name can be written")
}

/// The answer of a node at these addresses; none without an address.
pub(super) fn answer(local: PeerId, addresses: &[Multiaddr]) -> Option<Vec<u8>> {
    let ttl = TTL.as_secs() as u32;
    let name = Name::from_ascii(format!("{local}.")).expect("an id of Ed25519 is a label of 52 characters");
    let mut message = Message::new(0, MessageType::Response, OpCode::Query);
    message.metadata.authoritative = true;
    message.add_answer(Record::from_rdata(service(), ttl, RData::PTR(PTR(name.clone()))));
    for address in addresses.iter().take(ADDRESSES_TOLD_MAX) {
        let text = format!("dnsaddr={address}/p2p/{local}");
        message.add_additional(Record::from_rdata(name.clone(), ttl, RData::TXT(TXT::new(vec![text]))));
    }
    message.to_vec().ok().filter(|_| !addresses.is_empty())
}

/// Reads a packet; nothing if it is of something else.
pub(super) fn read(packet: &[u8]) -> Option<Said> {
    let message = Message::from_vec(packet).ok()?;
    let service = service();
    if !message.queries.is_empty() {
        return message.queries.iter().any(|query| *query.name() == service).then_some(Said::Question);
    }
    let mut seen = Vec::new();
    for record in message.answers.iter().filter(|record| record.name == service) {
        let RData::PTR(PTR(name)) = &record.data else { continue };
        let ttl = Duration::from_secs(record.ttl.into()).min(TTL);
        let of_name = message.additionals.iter().filter(|record| record.name == *name);
        let addresses = of_name.filter_map(|record| match &record.data {
            RData::TXT(text) => address(text),
            _ => None,
        });
        seen.extend(
            addresses.map(|(peer, address)| (peer, address, ttl)).take(ADDRESSES_READ_MAX - seen.len()),
        );
    }
    (!seen.is_empty()).then_some(Said::Answer(seen))
}

/// The multiaddress in a text, without the id that it ends in.
fn address(text: &TXT) -> Option<(PeerId, Multiaddr)> {
    let text = text.txt_data.first()?.strip_prefix(TEXT_PREFIX)?;
    let mut address: Multiaddr = str::from_utf8(text).ok()?.parse().ok()?;
    match address.pop()? {
        Protocol::P2p(peer) => Some((peer, address)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;

    fn peer(seed: u8) -> PeerId {
        Identity::from_seed([seed; 32]).libp2p_peer_id()
    }

    fn addresses(count: u16) -> Vec<Multiaddr> {
        let longest = "ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        (0..count).map(|at| format!("/ip6/{at:x}:{longest}/udp/65535/quic-v1").parse().unwrap()).collect()
    }

    #[test]
    fn what_is_said_is_read() {
        assert_eq!(read(&question()), Some(Said::Question));
        let want = addresses(2).into_iter().map(|address| (peer(1), address, TTL)).collect();
        assert_eq!(read(&answer(peer(1), &addresses(2)).unwrap()), Some(Said::Answer(want)));
        assert_eq!(answer(peer(1), &[]), None);
    }

    #[test]
    fn an_answer_fits_into_a_frame() {
        let packet = answer(peer(1), &addresses(100)).unwrap();
        assert!(packet.len() <= 1232, "{}", packet.len());
        let Some(Said::Answer(read)) = read(&packet) else { panic!("no answer") };
        assert_eq!(read.len(), ADDRESSES_TOLD_MAX);
    }

    #[test]
    fn what_libp2p_says_is_understood() {
        // Its name is of random letters, and its TXT records have the bit that flushes caches.
        let name = b"\x05abcde\x00";
        let text = format!("dnsaddr=/ip4/10.0.0.1/udp/7/quic-v1/p2p/{}", peer(2));
        let mut packet =
            b"\x12\x34\x84\x00\0\0\0\x01\0\0\0\x01\x04_p2p\x04_udp\x05local\0\0\x0c\0\x01".to_vec();
        packet.extend([0, 0, 0, 9, 0, name.len() as u8]);
        packet.extend(name);
        packet.extend(name);
        packet.extend([0, 16, 0x80, 1, 0, 0, 0, 9, 0, text.len() as u8 + 1, text.len() as u8]);
        packet.extend(text.as_bytes());
        let address = "/ip4/10.0.0.1/udp/7/quic-v1".parse().unwrap();
        let want = Said::Answer(vec![(peer(2), address, Duration::from_secs(9))]);
        assert_eq!(read(&packet), Some(want));
        for length in 0..packet.len() {
            assert_eq!(read(&packet[..length]), None, "{length} bytes of it");
        }
    }

    #[test]
    fn what_is_of_something_else_says_nothing() {
        let mut message = Message::new(0, MessageType::Response, OpCode::Query);
        let name = Name::from_ascii("x.").unwrap();
        message.add_answer(Record::from_rdata(service(), 1_000_000, RData::PTR(PTR(name.clone()))));
        for text in ["dnsaddr=", "dnsaddr=/ip4/1.2.3.4/udp/1/quic-v1", "dnsaddr=x", "", "other=1"] {
            message.add_additional(Record::from_rdata(
                name.clone(),
                1,
                RData::TXT(TXT::new(vec![text.into()])),
            ));
        }
        assert_eq!(read(&message.to_vec().unwrap()), None);
        let text = format!("dnsaddr=/ip4/1.2.3.4/udp/1/quic-v1/p2p/{}", peer(1));
        let good = Record::from_rdata(name, 1, RData::TXT(TXT::new(vec![text])));
        for _ in 0..2 * ADDRESSES_READ_MAX {
            message.add_additional(good.clone());
        }
        let Some(Said::Answer(seen)) = read(&message.to_vec().unwrap()) else { panic!("no answer") };
        assert_eq!(seen.len(), ADDRESSES_READ_MAX);
        assert!(seen.iter().all(|(_, _, ttl)| *ttl == TTL), "no time is believed that is longer");
    }
}
