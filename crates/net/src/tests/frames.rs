//! Peers that put frames of their own making into packets that are otherwise QUIC's.
//!
//! A client of noq runs with keys that overwrite what a packet says just before it is encrypted, so that everything below
//! the frames is as it must be. One seed is one row of packets; `FIRN_FRAMES_SECONDS` makes it go on for longer.

mod raw_key;

use std::{any::Any, net::SocketAddr, sync::atomic::AtomicU64, sync::atomic::Ordering};

use iroh::SecretKey;
use noq::{TransportConfig, VarInt, crypto::rustls::QuicClientConfig};
use noq_proto::{
    ConnectError, ConnectionId, PathId, Side, TransportError,
    crypto::{self, CryptoError, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, Session},
    transport_parameters::TransportParameters,
};

use super::*;
use crate::ALPN;

/// Connections that are open at once.
const TOGETHER: usize = 8;
/// How long a connection may go on.
const CONNECTION_TIMEOUT: Duration = Duration::from_millis(400);
/// How many connections are made where no time is given.
const CONNECTIONS: u64 = 400;

/// Types of frames, of QUIC and of its extensions that iroh speaks (acknowledgement frequency, multipath, addresses).
const FRAMES: [u64; 44] = [
    0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x0a, 0x0c, 0x0e, 0x0f, 0x10, 0x11, 0x12, 0x13,
    0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1a, 0x1b, 0x1c, 0x1d, 0x1e, 0x1f, 0x30, 0x31, 0xaf, 0x3e, 0x3f,
    0x3e75, 0x3e76, 0x3e77, 0x3e78, 0x3e79, 0x3e7a, 0x3e7b, 0x3e7c, 0x3d7f90, 0x3d7f92,
];
const PATH_ABANDON: u64 = 0x3e75;

/// Numbers from a seed (splitmix64).
struct Numbers(AtomicU64);

impl Numbers {
    fn next(&self) -> u64 {
        let mut z =
            self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&self, end: u64) -> u64 {
        self.next() % end
    }

    fn of<T: Copy>(&self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }
}

/// What stands in the packets of one connection.
#[derive(Clone, Copy)]
enum Plan {
    /// The packet with this number says that the only path is abandoned.
    AbandonAt(u64),
    /// Of all packets one in so many is made up.
    MakeUpOneIn(u64),
}

/// A variable-length integer of QUIC (RFC 9000, section 16).
fn varint(value: u64) -> Vec<u8> {
    match value {
        0..0x40 => vec![value as u8],
        0x40..0x4000 => (value as u16 | 0x4000).to_be_bytes().to_vec(),
        0x4000..0x4000_0000 => (value as u32 | 0x8000_0000).to_be_bytes().to_vec(),
        _ => (value & 0x3fff_ffff_ffff_ffff | 0xc000_0000_0000_0000).to_be_bytes().to_vec(),
    }
}

/// A frame of a known type with fields that are likely to matter.
fn frame(numbers: &Numbers) -> Vec<u8> {
    let mut frame = varint(numbers.of(&FRAMES));
    for _ in 0..numbers.below(7) {
        frame.extend(match numbers.below(5) {
            0 => varint(numbers.below(4)),
            1 => varint(numbers.below(2000)),
            2 => varint(u64::MAX >> numbers.below(64)),
            3 => vec![numbers.next() as u8; numbers.below(40) as usize],
            _ => numbers.next().to_le_bytes().to_vec(),
        });
    }
    frame
}

/// Writes over what a packet says; what is left of it is padding.
fn overwrite(payload: &mut [u8], plan: Plan, packet: u64, numbers: &Numbers) {
    let frames = match plan {
        Plan::AbandonAt(at) if at == packet => [varint(PATH_ABANDON), varint(0), varint(0)].concat(),
        Plan::MakeUpOneIn(count) if numbers.below(count) == 0 => {
            (0..=numbers.below(4)).flat_map(|_| frame(numbers)).collect()
        }
        _ => return,
    };
    let length = frames.len().min(payload.len());
    payload.fill(0);
    payload[..length].copy_from_slice(&frames[..length]);
}

struct ForgingKey {
    key: Box<dyn PacketKey>,
    plan: Plan,
    numbers: Numbers,
}

impl PacketKey for ForgingKey {
    fn encrypt(&self, path_id: PathId, packet: u64, buf: &mut [u8], header_len: usize) {
        let end = buf.len() - self.key.tag_len();
        overwrite(&mut buf[header_len..end], self.plan, packet, &self.numbers);
        self.key.encrypt(path_id, packet, buf, header_len);
    }

    fn decrypt(
        &self,
        path_id: PathId,
        packet: u64,
        header: &[u8],
        payload: &mut bytes::BytesMut,
    ) -> Result<(), CryptoError> {
        self.key.decrypt(path_id, packet, header, payload)
    }

    fn tag_len(&self) -> usize {
        self.key.tag_len()
    }

    fn confidentiality_limit(&self) -> u64 {
        self.key.confidentiality_limit()
    }

    fn integrity_limit(&self) -> u64 {
        self.key.integrity_limit()
    }
}

struct Forger {
    tls: Arc<QuicClientConfig>,
    plan: Plan,
    seed: u64,
}

impl crypto::ClientConfig for Forger {
    fn start_session(
        &self,
        version: u32,
        server_name: &str,
        params: &TransportParameters,
    ) -> Result<Box<dyn Session>, ConnectError> {
        let session = self.tls.start_session(version, server_name, params)?;
        Ok(Box::new(Forged { session, keys: 0, plan: self.plan, seed: self.seed }))
    }
}

struct Forged {
    session: Box<dyn Session>,
    keys: usize,
    plan: Plan,
    seed: u64,
}

impl Session for Forged {
    fn initial_keys(&self, dst_cid: ConnectionId, side: Side) -> Keys {
        self.session.initial_keys(dst_cid, side)
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.session.handshake_data()
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.session.peer_identity()
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        self.session.early_crypto()
    }

    fn early_data_accepted(&self) -> Option<bool> {
        self.session.early_data_accepted()
    }

    fn is_handshaking(&self) -> bool {
        self.session.is_handshaking()
    }

    fn read_handshake(&mut self, buf: &[u8]) -> Result<bool, TransportError> {
        self.session.read_handshake(buf)
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        self.session.transport_parameters()
    }

    /// The first keys are those of the handshake, the second those of everything after it.
    fn write_handshake(&mut self, buf: &mut Vec<u8>) -> Option<Keys> {
        let mut keys = self.session.write_handshake(buf)?;
        self.keys += 1;
        if self.keys == 2 {
            let numbers = Numbers(AtomicU64::new(self.seed));
            keys.packet.local = Box::new(ForgingKey { key: keys.packet.local, plan: self.plan, numbers });
        }
        Some(keys)
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        self.session.next_1rtt_keys()
    }

    fn is_valid_retry(&self, orig_dst_cid: ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        self.session.is_valid_retry(orig_dst_cid, header, payload)
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        self.session.export_keying_material(output, label, context)
    }
}

/// One connection: it asks for something, in packets of its own making. Says whether it came about.
async fn connect(endpoint: &noq::Endpoint, to: SocketAddr, plan: Plan, seed: u64) -> bool {
    let mut transport = TransportConfig::default();
    transport.max_concurrent_multipath_paths(8);
    let tls = raw_key::client(&SecretKey::from_bytes(&[(seed % 200) as u8 + 1; 32]), ALPN);
    let mut config = noq::ClientConfig::new(Arc::new(Forger { tls: Arc::new(tls), plan, seed }));
    config.transport_config(Arc::new(transport));
    let connecting = endpoint.connect_with(config, to, "peer.iroh.invalid").unwrap();
    let Ok(Ok(connection)) = timeout(CONNECTION_TIMEOUT, connecting).await else { return false };
    let exchange = async {
        for _ in 0..20 {
            let Ok((mut send, mut receive)) = connection.open_bi().await else { return };
            let _ = send.write_all(&request().encode(false)).await;
            let _ = send.finish();
            let _ = receive.read_to_end(1 << 20).await;
        }
    };
    // What the other side does not end, this one does.
    let _ = timeout(CONNECTION_TIMEOUT, exchange).await;
    connection.close(VarInt::from_u32(0), b"");
    true
}

/// A node is attacked, and gives an honest peer an answer afterwards; `of` is one connection's plan and seed.
async fn survives(of: impl Fn(u64) -> (Plan, u64), connections: u64, until: Option<Instant>) {
    let giver = start(near(1), Manner::Echo).await;
    let to = giver.status().iroh[0];
    let endpoint = noq::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let (mut done, mut connected) = (0, 0);
    while until.map_or(done < connections, |until| Instant::now() < until) {
        let next = (done..done + TOGETHER as u64).map(&of);
        let all =
            futures::future::join_all(next.map(|(plan, seed)| connect(&endpoint, to, plan, seed))).await;
        connected += all.into_iter().filter(|is_connected| *is_connected).count() as u64;
        done += TOGETHER as u64;
    }
    assert!(connected > done / 2, "{connected} of {done} connections came about");
    let asker = start(NetConfig { peers: vec![named(&giver)], ..near(2) }, Manner::Echo).await;
    let deadline = Instant::now() + DEADLINE;
    let answered = loop {
        match ask(&asker, giver.status().peer, request()).await {
            Ok(reply) => break reply,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
    };
    assert_eq!(answered, echo(&asker, &request()));
    shut_down([asker, giver]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_abandons_its_only_path_ends_nothing_but_its_connection() {
    survives(|number| (Plan::AbandonAt(1 + number), number), 24, None).await;
}

#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::print_stdout, reason = "it tells its seeds")]
async fn frames_that_are_made_up_end_nothing_but_their_connection() {
    let seconds = std::env::var("FIRN_FRAMES_SECONDS").ok().map(|seconds| seconds.parse().unwrap());
    let from = seconds.map_or(0, |_| std::process::id() as u64 * 1_000_000);
    println!("seeds from {from}");
    let plan = |number| (Plan::MakeUpOneIn(1 + number % 5), from + number);
    let until = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    survives(plan, CONNECTIONS, until).await;
}
