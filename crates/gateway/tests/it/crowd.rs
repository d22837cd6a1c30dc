//! Many clients at once: idle ones, slow ones, and one that asks.

use firn_engine::{Engine, NAR_BYTES_MAX, NAR_PIECE_BYTES};
use firn_gateway::{HEAD_TIMEOUT, WRITE_TIMEOUT};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::fakes::net::Net;
use crate::fakes::tree::{file, noise};
use crate::fakes::{DEADLINE, Signed, node, publish};
use crate::http::{gateway, nar_url, router};
use crate::server::{Server, ask_again, read, read_head, read_to_end};

const FEW: usize = 8;

async fn small_server(engine: &Engine) -> Server {
    let mut gateway = gateway(engine);
    gateway.config.connections_max = FEW;
    Server::serve(gateway).await
}

#[tokio::test]
async fn who_is_idle_gives_way_to_who_asks() {
    let server = small_server(&node(&Net::default()).await).await;
    let (begun, mut held) = (Instant::now(), Vec::new());
    for _ in 0..5 * FEW {
        let silent = TcpStream::connect(server.address).await.unwrap();
        let mut slow = TcpStream::connect(server.address).await.unwrap();
        slow.write_all(b"GET /healthz HTTP/1.1\r\nHost: loc").await.unwrap();
        let mut answered = server.ask("/healthz").await;
        assert_eq!(read(&mut answered).await.1, b"ok\n");
        held.extend([silent, slow, answered]);
    }
    assert!(begun.elapsed() < HEAD_TIMEOUT, "nobody has to wait for a connection to end by itself");
    let mut first = held.remove(0);
    assert!(read_to_end(&mut first).await.is_empty());
    // One that was answered last may ask again over the same connection.
    let mut last = held.pop().unwrap();
    ask_again(&mut last, "/healthz").await;
    assert_eq!(read(&mut last).await.1, b"ok\n");
    server.stop().await;
}

#[tokio::test]
async fn who_takes_nothing_gives_way_to_who_asks() {
    let engine = node(&Net::default()).await;
    let tree = file(noise(1, 24 << 20));
    let hash = publish(&engine, "here", &tree, Signed::Not).await;
    let url = nar_url(&router(&engine), hash).await;
    let server = small_server(&engine).await;
    let mut slow = Vec::new();
    for _ in 0..FEW {
        let mut stream = server.ask(&url).await;
        read_head(&mut stream).await;
        slow.push(stream);
    }
    let begun = Instant::now();
    let mut asking = server.ask("/healthz").await;
    assert_eq!(read(&mut asking).await.1, b"ok\n");
    assert!(begun.elapsed() < WRITE_TIMEOUT / 2, "{:?}", begun.elapsed());
    let mut broken = 0;
    for mut stream in slow {
        let body = read_to_end_of_body(&mut stream, tree.nar.len()).await;
        assert!(tree.nar.starts_with(&body));
        broken += usize::from(body.len() < tree.nar.len());
    }
    assert_eq!(broken, 1, "one connection was wanted");
    server.stop().await;
}

/// As much of a body as comes.
async fn read_to_end_of_body(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    let (mut body, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
    while body.len() < length {
        match timeout(DEADLINE, stream.read(&mut buffer)).await.unwrap() {
            Ok(count @ 1..) => body.extend_from_slice(&buffer[..count]),
            Ok(0) | Err(_) => break,
        }
    }
    body
}

#[tokio::test]
async fn slow_readers_share_the_memory_and_another_is_served() {
    const READERS: usize = 120;
    let engine = node(&Net::default()).await;
    let tree = file(noise(1, 16 << 20));
    let hash = publish(&engine, "here", &tree, Signed::Not).await;
    let url = nar_url(&router(&engine), hash).await;
    let server = Server::start(&engine).await;
    let mut slow = Vec::new();
    for _ in 0..READERS {
        let mut stream = server.ask(&url).await;
        read_head(&mut stream).await;
        slow.push(stream);
    }
    let mut fast = server.ask(&url).await;
    assert!(read(&mut fast).await.1 == tree.nar);
    let is_short = async {
        while engine.nar_bytes_held() < NAR_BYTES_MAX - (2 << 20) {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, is_short).await.unwrap();
    let held = engine.nar_bytes_held();
    assert!(held <= NAR_BYTES_MAX + (READERS as u64 + 1) * 2 * NAR_PIECE_BYTES, "{held}");
    // Each gets all in the end.
    for stream in &mut slow[..4] {
        let mut body = vec![0; tree.nar.len()];
        timeout(DEADLINE, stream.read_exact(&mut body)).await.unwrap().unwrap();
        assert!(body == tree.nar);
    }
    drop((slow, fast));
    let given_back = async {
        while engine.nar_bytes_held() > 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, given_back).await.unwrap();
    server.stop().await;
}
