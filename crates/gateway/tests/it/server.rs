//! Connections: what goes over a real socket, and how it ends.

use std::net::SocketAddr;
use std::time::Duration;

use firn_engine::Engine;
use firn_exchange::Request;
use firn_gateway::{Gateway, HEAD_BYTES_MAX, HEAD_TIMEOUT, SHUTDOWN_TIMEOUT, WRITE_TIMEOUT};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::fakes::net::{Net, dies_after, silent_on, waits_with_contents};
use crate::fakes::tree::{file, noise, varied};
use crate::fakes::{DEADLINE, Signed, node, peer, publish};
use crate::http::{gateway, nar_url, router};

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    shutdown: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start(engine: &Engine) -> Self {
        Self::serve(gateway(engine)).await
    }

    pub(crate) async fn serve(gateway: Gateway) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (shutdown, ended) = oneshot::channel();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(gateway.serve(listener, async { ended.await.unwrap() }));
        Self { address, shutdown, task }
    }

    /// A connection over which this was asked for; it stays open.
    pub(crate) async fn ask(&self, url: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        ask_again(&mut stream, url).await;
        stream
    }

    pub(crate) async fn stop(self) {
        self.shutdown.send(()).unwrap();
        timeout(DEADLINE, self.task).await.unwrap().unwrap();
    }
}

pub(crate) async fn ask_again(stream: &mut TcpStream, url: &str) {
    stream.write_all(format!("GET {url} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await.unwrap();
}

/// Reads the head of a response, and its `Content-Length`.
pub(crate) async fn read_head(stream: &mut TcpStream) -> (String, usize) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(DEADLINE, stream.read_u8()).await.unwrap().unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length = length.unwrap().parse().unwrap();
    (head, length)
}

/// Reads one response whole.
pub(crate) async fn read(stream: &mut TcpStream) -> (String, Vec<u8>) {
    let (head, length) = read_head(stream).await;
    let mut body = vec![0; length];
    timeout(DEADLINE, stream.read_exact(&mut body)).await.unwrap().unwrap();
    (head, body)
}

/// All that comes before the connection ends; how it ends does not matter.
pub(crate) async fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let (mut bytes, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
    while let Ok(count @ 1..) = timeout(DEADLINE, stream.read(&mut buffer)).await.unwrap() {
        bytes.extend_from_slice(&buffer[..count]);
    }
    bytes
}

#[tokio::test]
async fn one_connection_serves_many_requests() {
    let engine = node(&Net::default()).await;
    let tree = varied(1);
    let hash = publish(&engine, "here", &tree, Signed::Not).await;
    let server = Server::start(&engine).await;
    let mut stream = server.ask(&format!("/{hash}.narinfo")).await;
    let (head, narinfo) = read(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    let narinfo = firn_nix::NarInfo::parse(std::str::from_utf8(&narinfo).unwrap()).unwrap();
    for _ in 0..2 {
        ask_again(&mut stream, &format!("/{}", narinfo.url)).await;
        assert!(read(&mut stream).await.1 == tree.nar);
    }
    ask_again(&mut stream, "/nowhere").await;
    assert!(read(&mut stream).await.0.starts_with("HTTP/1.1 404 Not Found\r\n"));
    server.stop().await;
    assert!(read_to_end(&mut stream).await.is_empty());
}

#[tokio::test]
async fn a_broken_nar_is_shorter_than_its_head_says() {
    let net = Net::default();
    let (gate, opened) = watch::channel(false);
    let (_, seeder) = peer(&net, 1, dies_after(2, opened)).await;
    let tree = varied(1);
    let hash = publish(&seeder, "there", &tree, Signed::Attested).await;
    let engine = node(&net).await;
    let url = nar_url(&router(&engine), hash).await;
    let server = Server::start(&engine).await;
    let mut stream = server.ask(&url).await;
    let (head, length) = read_head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && length == tree.nar.len(), "{head}");
    assert!(!head.contains("chunked"));
    gate.send(true).unwrap();
    let body = read_to_end(&mut stream).await;
    assert!(body.len() < length && tree.nar.starts_with(&body));
    server.stop().await;
}

#[tokio::test]
async fn a_reader_that_goes_away_ends_the_fetch() {
    for how in [Signed::Attested, Signed::ByNix] {
        let net = Net::default();
        let (_gate, opened) = watch::channel(false);
        let (_, seeder) = peer(&net, 1, waits_with_contents(opened)).await;
        let hash = publish(&seeder, "there", &varied(1), how).await;
        let engine = node(&net).await;
        let url = nar_url(&router(&engine), hash).await;
        let server = Server::start(&engine).await;
        let (first, second) = (server.ask(&url).await, server.ask(&url).await);
        net.until_under_way(|count| *count > 0).await;
        drop((first, second));
        net.until_under_way(|count| *count == 0).await;
        server.stop().await;
    }
}

#[tokio::test]
async fn a_slow_reader_gets_all_in_the_end() {
    let engine = node(&Net::default()).await;
    let tree = file(noise(1, 24 << 20));
    let hash = publish(&engine, "here", &tree, Signed::Not).await;
    let server = Server::start(&engine).await;
    let url = nar_url(&router(&engine), hash).await;
    let mut slow = server.ask(&url).await;
    let (_, length) = read_head(&mut slow).await;
    // While one reader takes nothing, others are served.
    let mut fast = server.ask(&url).await;
    assert!(read(&mut fast).await.1 == tree.nar);
    let mut body = vec![0; length];
    timeout(DEADLINE, slow.read_exact(&mut body)).await.unwrap().unwrap();
    assert!(body == tree.nar);
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_takes_nothing_is_cut_off_and_one_that_pauses_is_not() {
    let engine = node(&Net::default()).await;
    let tree = file(noise(1, 64 << 20));
    let hash = publish(&engine, "here", &tree, Signed::Not).await;
    let server = Server::start(&engine).await;
    let url = nar_url(&router(&engine), hash).await;
    let mut pausing = server.ask(&url).await;
    let (_, length) = read_head(&mut pausing).await;
    let mut body = vec![0; length];
    for part in body.chunks_mut(16 << 20) {
        tokio::time::sleep(WRITE_TIMEOUT - Duration::from_secs(1)).await;
        pausing.read_exact(part).await.unwrap();
    }
    assert!(body == tree.nar);

    let mut still = server.ask(&url).await;
    read_head(&mut still).await;
    tokio::time::sleep(WRITE_TIMEOUT + Duration::from_secs(1)).await;
    let got = read_to_end(&mut still).await;
    assert!(got.len() < length && tree.nar.starts_with(&got));
    server.stop().await;
}

#[tokio::test]
async fn an_open_stream_does_not_hold_up_the_end() {
    let net = Net::default();
    let (_, seeder) = peer(&net, 1, silent_on(|request| matches!(request, Request::Ranges { .. }))).await;
    let hash = publish(&seeder, "there", &varied(1), Signed::Attested).await;
    let engine = node(&net).await;
    let url = nar_url(&router(&engine), hash).await;
    let server = Server::start(&engine).await;
    let mut stream = server.ask(&url).await;
    let (_, length) = read_head(&mut stream).await;
    let begun = tokio::time::Instant::now();
    server.stop().await;
    assert!(begun.elapsed() >= SHUTDOWN_TIMEOUT && begun.elapsed() < SHUTDOWN_TIMEOUT * 2);
    assert!(read_to_end(&mut stream).await.len() < length);
    net.until_under_way(|count| *count == 0).await;
}

#[tokio::test]
async fn silent_connections_do_not_hold_up_the_end() {
    let server = Server::start(&node(&Net::default()).await).await;
    let silent = TcpStream::connect(server.address).await.unwrap();
    let mut idle = server.ask("/healthz").await;
    read(&mut idle).await;
    server.stop().await;
    drop(silent);
}

#[tokio::test(start_paused = true)]
async fn whoever_never_ends_its_request_is_cut_off() {
    let server = Server::start(&node(&Net::default()).await).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let begun = tokio::time::Instant::now();
    stream.write_all(b"GET /healthz HTTP/1.1\r\n").await.unwrap();
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes).await;
    assert!(begun.elapsed() >= HEAD_TIMEOUT && begun.elapsed() < HEAD_TIMEOUT + Duration::from_secs(1));
    server.stop().await;
}

#[tokio::test]
async fn a_request_without_end_is_refused() {
    let server = Server::start(&node(&Net::default()).await).await;
    for head in [
        format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(HEAD_BYTES_MAX)),
        format!("GET /healthz HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(HEAD_BYTES_MAX)),
        "garbage\r\n\r\n".to_owned(),
    ] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let answer = read_to_end(&mut stream).await;
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{}", answer.escape_ascii());
    }
    let mut stream = server.ask("/healthz").await;
    assert_eq!(read(&mut stream).await.1, b"ok\n");
    server.stop().await;
}
