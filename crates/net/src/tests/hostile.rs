//! Peers that do what none of this version does, over connections of iroh itself.

use firn_exchange::{Lie, check};
use iroh::{
    Endpoint, EndpointAddr, RelayMode, SecretKey, TransportAddr,
    endpoint::{self, Connection, QuicTransportConfig, RecvStream, SendStream, VarInt, presets},
};

use super::*;
use crate::{
    ALPN, CONNECTIONS_OF_A_PEER_MAX, NetStatus, REQUESTS_OF_A_PEER_MAX, endpoint_id, link::STREAMS_MAX,
    peer_of_endpoint,
};

/// What a peer brings that keeps to nothing. Its streams' windows have so many bytes.
async fn raw_endpoint(stream_window: u32) -> Endpoint {
    bind(raw(stream_window)).await
}

fn raw(stream_window: u32) -> endpoint::Builder {
    let transport = QuicTransportConfig::builder()
        .max_concurrent_bidi_streams(VarInt::from_u32(10_000))
        .stream_receive_window(VarInt::from_u32(stream_window))
        .build();
    Endpoint::builder(presets::Minimal)
        .alpns(vec![ALPN.to_vec()])
        .transport_config(transport)
        .relay_mode(RelayMode::Disabled)
        .clear_ip_transports()
}

async fn bind(builder: endpoint::Builder) -> Endpoint {
    builder.bind_addr("127.0.0.1:0").unwrap().bind().await.unwrap()
}

async fn connect(endpoint: &Endpoint, net: &Net) -> Connection {
    connect_to(endpoint, net.status()).await
}

async fn connect_to(endpoint: &Endpoint, status: NetStatus) -> Connection {
    let addresses = status.iroh.into_iter().map(TransportAddr::Ip);
    let address = EndpointAddr::from_parts(endpoint_id(status.peer).unwrap(), addresses);
    endpoint.connect(address, ALPN).await.unwrap()
}

/// Sends a request on a stream of its own.
async fn open(connection: &Connection, request: &[u8]) -> (SendStream, RecvStream) {
    let (mut send, receive) = connection.open_bi().await.unwrap();
    send.write_all(request).await.unwrap();
    send.finish().unwrap();
    (send, receive)
}

fn status_of(reply: &[u8]) -> Option<firn_exchange::Verified> {
    check(&request(), Bytes::copy_from_slice(reply), &nobody()).ok()
}

fn nobody() -> firn_trust::Policy {
    firn_trust::Policy::new(Vec::new())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fifth_connection_supersedes_the_first() {
    let giver = start(near(1), Manner::Echo).await;
    let endpoint = raw_endpoint(1 << 20).await;
    let mut connections = Vec::new();
    for _ in 0..=CONNECTIONS_OF_A_PEER_MAX {
        let connection = connect(&endpoint, &giver).await;
        let (_, mut receive) = open(&connection, b"x").await;
        receive.read_to_end(1000).await.unwrap();
        connections.push(connection);
    }
    timeout(DEADLINE, connections[0].closed()).await.unwrap();
    assert!(connections[1..].iter().all(|connection| connection.close_reason().is_none()));
    assert_eq!(giver.status().traffic.all.connections, CONNECTIONS_OF_A_PEER_MAX);
    shut_down([giver]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_that_the_end_of_a_node_cuts_off_do_not_end_as_if_they_were_whole() {
    let giver = start(near(1), Manner::Long(4 << 20)).await;
    let endpoint = raw_endpoint(16 << 10).await;
    let connection = connect(&endpoint, &giver).await;
    let mut streams = Vec::new();
    for _ in 0..STREAMS_MAX {
        let (_, mut receive) = open(&connection, b"x").await;
        receive.read_exact(&mut [0; 1000]).await.unwrap();
        streams.push(receive);
    }
    let read_on = async {
        for mut receive in streams {
            let read = timeout(DEADLINE, receive.read_to_end(8 << 20)).await.unwrap();
            assert!(read.is_err(), "{:?}", read.map(|reply| reply.len()));
        }
    };
    tokio::join!(shut_down([giver]), read_on);
}

/// A process that was killed and has come again: what it left behind may hold all that the peer may have.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_have_died_do_not_keep_their_peer_waiting() {
    let giver = start(near(1), Manner::Long(4 << 20)).await;
    let killed = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    for round in 1..=REQUESTS_OF_A_PEER_MAX / STREAMS_MAX {
        let status = giver.status();
        let asking = killed.spawn(async move {
            let endpoint = bind(raw(1 << 10).secret_key(SecretKey::from_bytes(&[77; 32]))).await;
            let connection = connect_to(&endpoint, status).await;
            let mut streams = Vec::new();
            for _ in 0..STREAMS_MAX {
                streams.push(open(&connection, &request().encode(false)).await);
            }
            (endpoint, connection, streams)
        });
        std::mem::forget(asking.await.unwrap());
        until("they are being answered", || giver.status().traffic.all.requests == round * STREAMS_MAX).await;
    }
    // Nothing of it says good-bye.
    killed.shutdown_background();

    let endpoint = bind(raw(1 << 20).secret_key(SecretKey::from_bytes(&[77; 32]))).await;
    let connection = connect(&endpoint, &giver).await;
    let begun = Instant::now();
    let answered = async {
        loop {
            let (_, mut receive) = open(&connection, &request().encode(false)).await;
            if receive.read_to_end(5 << 20).await.unwrap().len() == 4 << 20 {
                break;
            }
        }
    };
    timeout(DEADLINE, answered).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    until("what was left behind is given up", || giver.status().traffic.all.requests == 0).await;
    shut_down([giver]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_streams_at_once_are_answered_or_told_to_come_again() {
    let giver = start(near(1), Manner::Long(1 << 20)).await;
    let endpoint = raw_endpoint(64 << 10).await;
    let mut streams = Vec::new();
    for _ in 0..CONNECTIONS_OF_A_PEER_MAX {
        let connection = connect(&endpoint, &giver).await;
        for _ in 0..250 {
            // More than the node lets be open wait here, at the cost of whoever opens them.
            let connection = connection.clone();
            streams.push(tokio::spawn(async move {
                let (_, mut receive) = open(&connection, &request().encode(false)).await;
                receive.read_to_end(2 << 20).await
            }));
        }
    }
    let most = Mutex::new(0);
    let ended = async {
        let replies = futures::future::join_all(streams).await;
        replies.into_iter().map(|reply| reply.unwrap().unwrap()).collect::<Vec<_>>()
    };
    tokio::pin!(ended);
    let replies = loop {
        tokio::select! {
            replies = &mut ended => break replies,
            () = tokio::time::sleep(Duration::from_millis(5)) => {
                let mut most = most.lock().unwrap();
                *most = giver.status().traffic.all.requests.max(*most);
            }
        }
    };
    let (answered, turned_away): (Vec<_>, Vec<_>) = replies.iter().partition(|reply| reply.len() == 1 << 20);
    let is_busy =
        |reply: &&Vec<u8>| matches!(status_of(reply), Some(firn_exchange::Verified::Busy { after: Some(_) }));
    assert!(turned_away.iter().all(is_busy));
    assert!(*most.lock().unwrap() <= REQUESTS_OF_A_PEER_MAX);
    assert_eq!(giver.status().traffic.turned_away as usize, turned_away.len());
    assert!(answered.len() >= REQUESTS_OF_A_PEER_MAX, "{} answered", answered.len());
    shut_down([giver]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_asker_that_takes_a_byte_a_second_is_given_up_and_in_nobodys_way() {
    let giver = start(near(1), Manner::Long(4 << 20)).await;
    let endpoint = raw_endpoint(1 << 10).await;
    let connection = connect(&endpoint, &giver).await;
    let mut dripping = Vec::new();
    for _ in 0..32 {
        let (_, mut receive) = open(&connection, &request().encode(false)).await;
        dripping.push(tokio::spawn(async move {
            let mut byte = [0];
            while receive.read_exact(&mut byte).await.is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }));
    }
    until("all are being answered", || giver.status().traffic.all.requests == 32).await;
    let asker = start(NetConfig { peers: vec![named(&giver)], ..near(2) }, Manner::Echo).await;
    let begun = Instant::now();
    assert_eq!(ask(&asker, giver.status().peer, request()).await.unwrap().len(), 4 << 20);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    until("they are given up", || giver.status().traffic.all.requests == 0).await;
    shut_down([asker, giver]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_never_finished_are_given_up() {
    let giver = start(near(1), Manner::Echo).await;
    let endpoint = raw_endpoint(1 << 20).await;
    let connection = connect(&endpoint, &giver).await;
    let mut unfinished = Vec::new();
    for _ in 0..32 {
        let (mut send, receive) = connection.open_bi().await.unwrap();
        send.write_all(&[1; 1000]).await.unwrap();
        unfinished.push((send, receive));
    }
    until("all are being read", || giver.status().traffic.all.requests == 32).await;
    until("they are given up", || giver.status().traffic.all.requests == 0).await;
    let (_, receive) = &mut unfinished[0];
    assert!(receive.read_to_end(1000).await.is_err());
    shut_down([giver]).await;
}

/// A node that answers everything with these bytes, each time after so long, until it is dropped.
struct Liar {
    endpoint: Endpoint,
    _task: tokio::task::JoinSet<()>,
}

impl Liar {
    async fn new(pieces: Vec<Bytes>, between: Duration) -> Self {
        let endpoint = raw_endpoint(1 << 20).await;
        let mut task = tokio::task::JoinSet::new();
        let accepting = endpoint.clone();
        task.spawn(async move {
            while let Some(incoming) = accepting.accept().await {
                let Ok(connection) = incoming.await else { continue };
                while let Ok((mut send, mut receive)) = connection.accept_bi().await {
                    let pieces = pieces.clone();
                    tokio::spawn(async move {
                        let _ = receive.read_to_end(1 << 20).await;
                        for piece in pieces {
                            if send.write_chunk(piece).await.is_err() {
                                return;
                            }
                            tokio::time::sleep(between).await;
                        }
                        let _ = send.finish();
                        let _ = send.stopped().await;
                    });
                }
            }
        });
        Self { endpoint, _task: task }
    }

    /// Asks it, as a node does.
    async fn ask(&self, request: &Request) -> Result<Bytes, AskError> {
        let id = peer_of_endpoint(self.endpoint.id());
        let address = self.endpoint.addr().ip_addrs().next().copied().unwrap();
        let config = NetConfig { peers: vec![StaticPeer { id, address }], ..near(2) };
        let asker = start(config, Manner::Echo).await;
        let reply = ask(&asker, id, request.clone()).await;
        shut_down([asker]).await;
        reply
    }
}

fn blob(bytes: &[u8]) -> firn_castore::BlobRef {
    firn_castore::BlobRef::of(bytes)
}

/// The header of a reply with a body, and that of one whose body is one zstd frame.
const OK: &[u8] = &[0];
const OK_ZSTD: &[u8] = &[2, 0x10, 1];

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_for_other_bytes_is_a_lie() {
    let (mine, other) = (vec![1; 100_000], vec![2; 100_000]);
    let whole =
        |bytes: &[u8]| firn_bao::VerifiedSpan::whole(blob(bytes), Bytes::copy_from_slice(bytes)).unwrap();
    let proof = |bytes: &[u8]| Bytes::from([OK, &whole(bytes).to_proof()].concat());
    let request = Request::Ranges { blob: blob(&mine), span: firn_bao::Span::whole(100_000) };
    for (bytes, is_true) in [(&mine, true), (&other, false)] {
        let reply = Liar::new(vec![proof(bytes)], Duration::ZERO).await.ask(&request).await.unwrap();
        match check(&request, reply, &nobody()) {
            Ok(_) => assert!(is_true),
            Err(Lie::Blob { blob: of, .. }) => assert!(!is_true && of == blob(&mine)),
            Err(lie) => panic!("{lie}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_was_asked_for_is_not_taken() {
    let request = Request::Batch(vec![blob(b"a")]);
    let pieces = (0..1000).map(|_| Bytes::from(vec![0; 1 << 20])).collect();
    let error = Liar::new(pieces, Duration::ZERO).await.ask(&request).await.unwrap_err();
    assert!(
        matches!(error, AskError::TooMuch { bytes_max } if bytes_max == request.reply_bytes_max()),
        "{error}"
    );
    // So little more that only whoever looks into it sees it.
    let item = |contents: &[u8]| [&[contents.len() as u8 + 2, 0x12, contents.len() as u8], contents].concat();
    let twice = Bytes::from([OK, &item(b"a"), &item(b"b")].concat());
    let reply = Liar::new(vec![twice], Duration::ZERO).await.ask(&request).await.unwrap();
    assert_eq!(check(&request, reply, &nobody()).unwrap_err(), Lie::NotAsked);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zstd_bomb_is_too_much() {
    let request = Request::Batch(vec![blob(b"a")]);
    let zeros = std::io::Read::take(std::io::repeat(0), 1 << 30);
    let frame = zstd::stream::encode_all(std::io::BufReader::with_capacity(1 << 17, zeros), 1).unwrap();
    assert!(frame.len() < request.reply_bytes_max());
    let bomb = Bytes::from([OK_ZSTD, &frame].concat());
    let reply = Liar::new(vec![bomb], Duration::ZERO).await.ask(&request).await.unwrap();
    let before = resident_bytes_max();
    let lie = check(&request, reply, &nobody()).unwrap_err();
    assert!(matches!(lie, Lie::Blob { .. }), "expanded no further than to what is false: {lie}");
    let grown = resident_bytes_max().saturating_sub(before);
    assert!(grown < 24 << 20, "{grown} bytes");
}

fn varint(number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut left = number;
    while left >= 0x80 {
        bytes.push(left as u8 | 0x80);
        left >>= 7;
    }
    bytes.push(left as u8);
    bytes
}

/// An item of so many bytes: this, and then the unit again and again.
fn item(length: usize, first: &[u8], unit: &[u8]) -> Vec<u8> {
    let rest = unit.repeat((length - first.len()) / unit.len());
    [&varint(first.len() + rest.len())[..], first, &rest].concat()
}

fn squeezed(parts: impl IntoIterator<Item = Vec<u8>>) -> Bytes {
    let mut encoder = zstd::stream::write::Encoder::new(OK_ZSTD.to_vec(), 1).unwrap();
    parts.into_iter().for_each(|part| std::io::Write::write_all(&mut encoder, &part).unwrap());
    encoder.finish().unwrap().into()
}

/// Sixteen of each at once: of empty signatures, of `Have` bitmaps and of empty Directories there would be gigabytes.
#[tokio::test(flavor = "multi_thread")]
async fn replies_that_are_small_on_the_wire_are_small_in_memory() {
    let signatures = 2 << 20;
    let path_info = [&[0x0a][..], &varint(signatures + 5), &[0x1a], &varint(signatures)].concat();
    let claim = item(path_info.len() + signatures, &path_info, b"\x1a\0");
    let huge = firn_castore::BlobRef { size: 1 << 47, ..blob(b"huge") };
    let in_part = [&[0x10][..], &varint(1 << 47), &[0x18, 1, 0x22], &varint(1 << 19)].concat();
    let have = item(in_part.len() + (1 << 19), &in_part, b"\xaa");
    let root: firn_castore::Root =
        firn_castore::Node::Directory { digest: [1; 32].into(), size: 1 << 20 }.into();
    let cases = [
        (Request::Path([7; 20].into()), squeezed([claim])),
        (Request::Have { root: None, blobs: vec![huge; 8] }, squeezed((0..8).map(|_| have.clone()))),
        (
            Request::Closure { root, known: firn_exchange::Known::default() },
            squeezed((0..200).map(|_| vec![0; 1 << 20])),
        ),
    ];
    let mut replies = Vec::new();
    for (request, bomb) in cases {
        assert!(bomb.len() < 40_000, "{}", bomb.len());
        let reply = Liar::new(vec![bomb], Duration::ZERO).await.ask(&request).await.unwrap();
        replies.push((request, reply));
    }
    let before = resident_bytes_max();
    let checks = (0..16)
        .flat_map(|_| replies.clone())
        .map(|(request, reply)| tokio::task::spawn_blocking(move || check(&request, reply, &nobody()).err()));
    let lies: Vec<Option<Lie>> =
        futures::future::join_all(checks).await.into_iter().map(Result::unwrap).collect();
    assert!(lies[0].is_none() && matches!(lies[2], Some(Lie::Directory(_))), "{lies:?}");
    let grown = resident_bytes_max().saturating_sub(before);
    assert!(grown < 150 << 20, "{grown} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_of_nothing_but_empty_hints_is_not_waited_for() {
    let length = 10 << 20;
    let header = [varint(length), b"\x22\0".repeat(length / 2)].concat();
    let request = Request::Path([7; 20].into());
    let pieces = Bytes::from(header).chunks(1 << 20).map(Bytes::copy_from_slice).collect();
    // All but the first come later than the test waits.
    let liar = Liar::new(pieces, Duration::from_secs(30)).await;
    let error = timeout(Duration::from_secs(20), liar.ask(&request)).await.unwrap().unwrap_err();
    assert!(matches!(error, AskError::TooMuch { .. }), "{error}");
}

/// Answers as a node does, that has nothing.
struct Honest(firn_exchange::SharedView);

struct HonestReply(firn_exchange::Reply);

impl ReplyBody for HonestReply {
    fn next(&mut self) -> Result<Option<Bytes>, BrokenOff> {
        self.0.next().map_err(|_| BrokenOff)
    }
}

impl Answerer for Honest {
    fn answer(&self, _: Peer, request: Bytes) -> Box<dyn ReplyBody> {
        Box::new(HonestReply(firn_exchange::answer(&self.0, request)))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_nothing_but_empty_digests_are_refused_and_small_in_memory() {
    let store = Arc::new(firn_store::MemoryStore::new());
    let view = firn_exchange::SharedView::new(store, Arc::default());
    let giver = Net::start(near(1), Arc::new(Honest(view))).await.unwrap();
    let of_digests = |bytes: usize| {
        let digests = b"\x0a\0".repeat(bytes / 2);
        let message = [&[0x1a][..], &varint(digests.len()), &digests].concat();
        [varint(message.len()), message].concat()
    };
    let longest = of_digests(firn_exchange::REQUEST_BYTES_MAX - 16);
    let mut connections = Vec::new();
    for _ in 0..16 {
        let endpoint = raw_endpoint(1 << 20).await;
        connections.push((connect(&endpoint, &giver).await, endpoint));
    }
    let before = resident_bytes_max();
    let asked = connections.iter().flat_map(|(connection, _)| [connection; 4]).map(|connection| {
        let request = &longest;
        async move {
            let (_, mut receive) = open(connection, request).await;
            receive.read_to_end(1000).await.unwrap()
        }
    });
    let replies = timeout(DEADLINE, futures::future::join_all(asked)).await.unwrap();
    let refused =
        replies.iter().filter(|reply| matches!(status_of(reply), Some(firn_exchange::Verified::Refused)));
    assert!(refused.count() >= 16, "one of each peer is always let in");
    let grown = resident_bytes_max().saturating_sub(before);
    assert!(grown < 120 << 20, "{grown} bytes");
    // What is longer than any request is not even read.
    let (mut send, mut receive) = connections[0].0.open_bi().await.unwrap();
    let _ = send.write_all(&of_digests(1 << 20)).await;
    assert!(timeout(DEADLINE, receive.read_to_end(1000)).await.unwrap().is_err());
    shut_down([giver]).await;
}

/// The most that this process has had in memory.
fn resident_bytes_max() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_of_a_byte_a_second_is_given_up() {
    let pieces = (0..100).map(|_| Bytes::from_static(&[7])).collect();
    let liar = Liar::new(pieces, Duration::from_secs(1)).await;
    let begun = Instant::now();
    let error = liar.ask(&request()).await.unwrap_err();
    assert!(matches!(error, AskError::Stalled), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(35), "{:?}", begun.elapsed());
}
